"""The report: JSON round trip, table for the terminal, and a web page that is complete, safe and accessible."""

import base64
import io
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from ssl_core.errors import CheckpointError, SslxError
from ssl_core.report import (
    LayoutRow,
    Point,
    Report,
    Score,
    format_score,
    read,
    score_rows,
    score_table,
    write_html,
    write_json,
)  # fmt: skip
from ssl_core.report import page as page_module
from ssl_core.report.page import curves, duration, page, sentence
from ssl_core.report.reconstruction import Reconstruction
from ssl_core.report.schema import ColumnRow, DataReport, FiguresReport, InitReport

DOCS = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def score(features, value, probe="linear", task="word", metric="accuracy", error=0.01, **details):
    return Score(
        dataset="speech/synthetic", task=task, probe=probe, metric=metric, features=features, value=value,
        n_train=2000, n_test=1000, seed=0, standard_error=error, details=details,
    )  # fmt: skip


def make_report(**changes):
    values = {
        "run": "runs/one", "created": "2025-03-01T10:11:12+00:00", "command": "sslx run --objective mae",
        "objective": "mae", "modality": "speech", "dataset": "synthetic", "tokenizer": "speech", "masking": "random",
        "seed": 3, "steps": 600, "wall_seconds": 143.2, "pretrain_seconds": 110.0, "samples_per_second": 347.2,
        "peak_memory_bytes": 912 * 2**20, "parameters": {"encoder": 6_317_000}, "device": "2 cores",
        "precision": "fp32", "layout": [{"name": "spectrogram", "grid": [8, 8], "target": "continuous", "size": 64}],
        "loss_first": 1.21, "loss_last": 0.41, "config": {"train": {"lr": 3e-4}, "preset": None},
        "versions": {"torch": "2.6.0"},
        "origins": {"objectives": {"mae": "sslx:objectives.mae 0.1.0", "other": "else:other 2"}, "maskings": {}},
        "scores": [
            score("trained", 0.712), score("random_init", 0.451), score("raw_input", 0.52),
            score("trained", 0.40, probe="knn", k=20), score("random_init", 0.5, probe="knn", k=20),
        ],
    }  # fmt: skip
    return Report(**(values | changes))


def upsample_mask(space, patches, hidden):
    """A mask over tokens (n, L) as one over values (n, 1, *space)."""
    mask = hidden.reshape(len(hidden), 1, *patches)
    for axis, (size, count) in enumerate(zip(space, patches, strict=True)):
        mask = mask.repeat(size // count, axis=2 + axis)
    return mask


def reconstruction(name, shape, patches, rows=2, seed=0):
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(rows, *shape))
    hidden = rng.random((rows, int(np.prod(patches)))) < 0.6
    hidden[:, 0], hidden[:, -1] = True, False
    mask = np.broadcast_to(upsample_mask(shape[1:], patches, hidden), original.shape)
    predicted = np.where(mask, 0.5 * original, original)
    return Reconstruction(name, "continuous", patches, original, np.where(mask, np.nan, original), predicted, hidden)


def text_reconstruction(tokens, hidden, predicted):
    masked = np.where(hidden, "", tokens)
    return Reconstruction("bases", "discrete", (tokens.shape[1],), tokens, masked, predicted, hidden)


METRICS = [
    {"step": step, "train/loss": 2.0 - step / 100, "train/near": 1.0, "train/lr": 1e-3} for step in range(10, 110, 10)
] + [{"step": 100, "eval/trained_linear_accuracy": 0.7}]


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    report = make_report()
    write_json(report, tmp_path)
    assert read(tmp_path) == report
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["schema_version"] == 2
    assert content["scores"][0] | {"details": {}} == {
        "dataset": "speech/synthetic", "task": "word", "probe": "linear", "metric": "accuracy", "features": "trained",
        "higher_is_better": True, "value": 0.712, "n_train": 2000, "n_test": 1000, "seed": 0, "standard_error": 0.01,
        "readout": "last", "postprocess": "none", "details": {},
    }  # fmt: skip
    assert {"wall_seconds", "steps", "samples_per_second", "peak_memory_bytes"} <= content.keys()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    write_json(make_report(loss_last=float("nan"), config={"a": {"b": float("inf")}}), tmp_path)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert content["loss_last"] is None
    assert read(tmp_path).loss_last is None


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    write_json(make_report(), tmp_path)
    before = (tmp_path / "report.json").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SslxError, match=r"cannot write .*report\.json: No space left on device"):
        write_json(make_report(steps=1), tmp_path)
    assert (tmp_path / "report.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no report\.json; finish the run"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"run": "x"}', "is damaged"),
        ('{"schema_version": 3}', "has schema version 3, this sslx reads 2"),
        ('{"schema_version": 1}', "was written by sslx 0.1; make the run anew"),
        ('{"schema_version": 2}', "is damaged at 'run'"),
    ],
)
def test_a_report_that_cannot_be_read_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_ignored(tmp_path):
    write_json(make_report(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text()) | {"later": 1}
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert read(tmp_path) == make_report()


def test_every_key_is_documented_and_the_example_of_the_documentation_is_valid():
    text = DOCS.read_text()
    for model in (Report, Score, LayoutRow, Point, DataReport, FiguresReport, ColumnRow, InitReport):
        for name, info in model.model_fields.items():
            rows = re.findall(rf"^\| `{name}` \|.*\| (.*) \|$", text, re.MULTILINE)
            assert info.description in rows, f"docs/report.md does not describe {name} of {model.__name__} as the code"
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    report = Report.model_validate_json(example[1])
    assert report.scores
    assert set(json.loads(example[1])) == set(Report.model_fields)


def test_import_loads_no_heavy_library():
    code = "import sys, ssl_core.report; print(sorted({'torch', 'matplotlib', 'jinja2', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- table ----------------------------------------------------------------------------------------------------------


def test_gain_is_over_the_better_baseline():
    linear, knn = score_rows(make_report().scores)
    assert linear.baseline == "raw_input"
    assert linear.gain.value == pytest.approx(0.192)
    assert linear.gain.standard_error == pytest.approx(np.hypot(0.01, 0.01))
    assert knn.baseline == "random_init"
    assert format_score("accuracy", knn.gain, sign=True) == "-10.0 ±1.4"


def test_missing_and_undefined_values():
    (alone,) = score_rows([score("trained", 0.7)])
    assert alone.gain is None
    (undefined,) = score_rows([score("trained", None, error=None), score("raw_input", 0.5)])
    assert undefined.gain is None
    assert format_score("accuracy", undefined.values["trained"]) == "undefined"
    assert format_score("auroc", undefined.values["raw_input"]) == "0.500 ±0.010"
    assert format_score("auroc", None) == "-"


def rendered(report, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(score_table(report))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_table_has_every_number(width):
    text = rendered(make_report(), width)
    for number in (
        "71.2 ±1.0",
        "45.1 ±1.0",
        "52.0 ±1.0",
        "+19.2 ±1.4",
        "kNN, k=20",
        "-10.0 ±1.4",
        "accuracy %",
    ):
        assert number in text
    assert "fitted on 2,000, scored on 1,000 others" in text
    assert "…" not in text


def test_remarks_and_names_with_markup_are_shown_verbatim():
    odd = [score("trained", 0.5, task="[red]mood", converged=False), score("raw_input", 0.5, task="[red]mood")]
    odd.append(score("raw_input", 0.0, task="mood", metric="spearman", error=None, notes=["constant"]))
    text = rendered(make_report(scores=odd), 120)
    assert "[red]mood, linear probe, trained: the solver stopped before it converged" in text
    assert "mood, linear probe, raw input: constant" in text


def test_a_task_of_another_data_set_has_its_name():
    other = score("trained", 0.5).model_copy(update={"dataset": "speech/files"})
    assert "word (speech/files)" in rendered(make_report(scores=[other]), 120)


# --- web page -------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def full_page():
    pictures = [
        reconstruction("spectrogram", (1, 8, 8), (4, 4)),
        reconstruction("photo", (3, 4, 6), (2, 3)),
        reconstruction("bands", (12, 4, 4), (2, 2)),
        reconstruction("sensor", (5, 40), (10,)),
        reconstruction("volume", (1, 6, 4, 4), (3, 2, 2)),
        text_reconstruction(np.array([list("ACGTACGT")]), np.arange(8)[None] % 2 == 1, np.array([list("ACGTAAAT")])),
    ]
    notes = ["skipped <script>alert(1)</script>"]
    return page(make_report(notes=notes), pictures, METRICS)


def test_page_is_one_file_that_loads_nothing(full_page, tmp_path):
    elements = Elements(full_page)
    for _, attributes in elements.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", full_page)
    addresses = set(re.findall(r"https?://[^\s\"']*", full_page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    (policy,) = [meta["content"] for meta in elements.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    write_html(make_report(), tmp_path, [], METRICS)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_text_from_a_run_is_escaped(full_page):
    elements = Elements(full_page)
    assert not elements.all("script")
    assert "skipped <script>alert(1)</script>" in elements.words
    evil = '"><script>x</script>$\\frac{'
    odd = page(
        make_report(objective=evil, notes=[evil], scores=[score("trained", 0.5, task=evil)], config={evil: evil}),
        [
            reconstruction(evil, (1, 4), (2,)),
            text_reconstruction(np.array([[evil]]), np.array([[False]]), np.array([[evil]])),
        ],
        [{"step": 1, f"train/{evil}": 1.0}],
    )
    assert not Elements(odd).all("script")


def test_page_is_accessible_to_screen_readers(full_page):
    elements = Elements(full_page)
    assert elements.all("html")[0]["lang"] == "en"
    pictures = elements.all("img")
    assert len(pictures) == 4 * 2 * 3  # four segments as images, two samples, three stages
    assert all(len(picture["alt"]) > 10 for picture in pictures)
    assert len({picture["alt"] for picture in pictures}) == len(pictures)
    plots = elements.all("svg")
    assert len(plots) == 2 + 3 + 2 * 3  # bars, curves, waves
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 10 for plot in plots)
    assert "mae" in "".join(elements.words[:20])
    assert all("scope" in cell for cell in elements.all("th"))
    ids = [attributes["id"] for _, attributes in elements.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', full_page))
    named = {name for _, a in elements.elements for name in a.get("aria-labelledby", "").split()}
    assert used | named <= set(ids)
    levels = [int(tag[1]) for tag, _ in elements.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(full_page, scheme):
    blocks = re.findall(r":root \{(.*?)\}", full_page, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))

    def contrast(one, two):
        light, dark = sorted((luminance(colours[one]), luminance(colours[two])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for ground in ("page", "card"):
        for text in ("ink", "muted", "good", "bad"):
            assert contrast(text, ground) >= 4.5, (text, ground)
        for mark in ("series-1", "series-2", "series-3", "series-4"):
            assert contrast(mark, ground) >= 3.0, (mark, ground)


def test_plots_use_colours_of_the_page(full_page):
    svg = "".join(re.findall(r"<svg.*?</svg>", full_page, re.DOTALL))
    assert "var(--series-1)" in svg
    assert "var(--ink)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(?:href="|id="|url\()#?[^")]*', "", svg))


def pixels(picture):
    return imread(io.BytesIO(base64.b64decode(picture["src"].split(",")[1])))


def picture_of(text, alt):
    (match,) = [picture for picture in Elements(text).all("img") if picture["alt"].startswith(alt)]
    return pixels(match)


def test_hidden_pixels_are_transparent_and_visible_ones_are_the_original(full_page):
    original = picture_of(full_page, "photo, sample 1: original")
    masked = picture_of(full_page, "photo, sample 1: masked")
    reconstructed = picture_of(full_page, "photo, sample 1: reconstruction")
    hidden = upsample_mask((4, 6), (2, 3), reconstruction("photo", (3, 4, 6), (2, 3)).hidden)[0, 0]
    assert original.shape == (4, 6, 4)
    assert (original[..., 3] == 1).all()
    assert (original[..., :3].min(), original[..., :3].max()) == (0, 1)  # colours span the sample's own range
    np.testing.assert_array_equal(masked[..., 3] == 0, hidden)
    np.testing.assert_array_equal(masked[~hidden], original[~hidden])
    np.testing.assert_array_equal(reconstructed[~hidden], original[~hidden])  # one scale of colours for all three
    assert (reconstructed[hidden] != original[hidden]).any()


def test_volumes_show_their_middle_slice_and_many_channels_the_first(full_page):
    volume = reconstruction("volume", (1, 6, 4, 4), (3, 2, 2))
    flat = Reconstruction(
        "flat", "continuous", (2, 2), volume.original[:, :, 3], volume.masked[:, :, 3], volume.reconstruction[:, :, 3],
        volume.hidden[:, 4:8],
    )  # fmt: skip
    alone = page(make_report(), [flat], [])
    for stage in ("original", "masked input", "reconstruction"):
        np.testing.assert_array_equal(
            picture_of(full_page, f"volume, sample 2: {stage}"), picture_of(alone, f"flat, sample 2: {stage}")
        )
    assert "slice 4 of 6" in full_page
    assert "channel 1 of 12" in full_page
    assert "channels 1 to 3 of 5" in full_page


def test_hidden_tokens_are_marked_and_not_shown():
    tokens = np.array([list("ACGTACGT")])
    hidden = np.array([[False, True] * 4])
    predicted = np.array([list("ACGAAAAT")])
    text = page(make_report(), [text_reconstruction(tokens, hidden, predicted)], [])
    cells = re.findall(r'<td class="tokens">(.*?)</td>', text, re.DOTALL)
    plain = [re.sub(r"<[^>]*>", "", cell).strip() for cell in cells]
    assert plain == ["ACGTACGT", "A▢G▢A▢G▢", "ACGAAAAT"]
    assert cells[2].count('class="right"') == 2
    assert cells[2].count('class="wrong"') == 2
    assert "right (underlined): 2 of 4" in text


def test_ids_are_separated_and_long_rows_are_cut():
    tokens = np.arange(1000, 1300)[None]
    text = page(make_report(), [text_reconstruction(tokens, tokens % 2 == 0, tokens)], [])
    assert "1000 1001" in text
    assert "1239" in text
    assert "1240" not in text
    assert "and 60 more" in text


def test_values_without_a_picture_have_no_panel():
    patches = Reconstruction(
        "odd", "continuous", (2, 2), *(np.zeros((1, 4, 3)) for _ in range(3)), np.zeros((1, 4), dtype=bool)
    )
    assert "Reconstructions" not in page(make_report(), [patches], [])


def test_curves_begin_with_the_loss_and_skip_values_that_are_not_finite():
    metrics = [
        {"step": 1, "train/lr": 1e-3, "train/near": float("nan"), "train/loss": 2.0},
        {"step": 2, "train/lr": 1e-3, "train/near": 0.5, "train/loss": 1.0},
        {"step": 2, "eval/x": 1.0},
    ]
    plots = list(curves(metrics))
    assert [name for name, _, _ in plots] == ["loss", "near", "lr"]
    assert 'aria-label="loss: 2 at step 1, 1 at step 2, lowest 1, highest 2"' in plots[0][2]
    assert "near: 0.5 at step 2" in plots[1][2]
    assert list(curves([])) == []


def test_long_curves_are_means_of_neighbours():
    from ssl_core.report.plots import MAX_POINTS, thin

    steps, values = np.arange(10_000.0), np.tile([1.0, 3.0], 5_000)
    few_steps, few = thin(steps, values)
    assert len(few) == MAX_POINTS
    assert few_steps[-1] == steps[-1]
    assert few.mean() == pytest.approx(2.0, abs=0.01)
    assert few.std() < 0.1


def test_page_of_a_run_without_scores_and_metrics():
    text = page(make_report(scores=[], masking=None, loss_first=None, loss_last=None), [], [])
    assert "No scores: the data has no labels." in text
    assert "No training metrics were logged." in text


def test_sentence_of_a_result():
    linear, knn = score_rows(make_report().scores)
    assert sentence(linear) == (
        "word, linear probe: accuracy 71.2 % from the trained features, 45.1 % from a random encoder's and 52.0 % from "
        "the raw input. Gain over the better of the two: +19.2 ±1.4 points."
    )
    assert sentence(knn).endswith("-10.0 ±1.4 points: the random init is ahead.")
    (equal,) = score_rows([score("trained", 0.51, metric="auroc"), score("raw_input", 0.5, metric="auroc")])
    assert sentence(equal).endswith("+0.010 ±0.014: no clear difference.")


def test_used_plugins_are_those_of_the_run():
    assert page_module.used_plugins(make_report()) == [("objective", "mae", "sslx:objectives.mae 0.1.0")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (45.2, "45 s"), (185, "3 min 5 s"), (7830, "2 h 10 min"), (119.7, "2 min 0 s")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# --- metrics of which smaller values are better -----------------------------------------------------------------------


def error_scores():
    """MAE 2.0 with trained features, 3.5 with random ones, 2.5 with the raw input."""
    values = {"trained": 2.0, "random_init": 3.5, "raw_input": 2.5}
    scores = [score(kind, value, task="age", metric="mae", error=0.1) for kind, value in values.items()]
    return [one.model_copy(update={"higher_is_better": False}) for one in scores]


def test_gain_is_positive_for_a_smaller_error():
    (row,) = score_rows(error_scores())
    assert row.baseline == "raw_input"
    assert row.gain.value == pytest.approx(0.5)
    assert row.metric_title == "MAE ↓"
    assert sentence(row).endswith("Gain over the better of the two: +0.500 ±0.141.")
    worse = [one.model_copy(update={"value": 4.0}) if one.features == "trained" else one for one in error_scores()]
    (row,) = score_rows(worse)
    assert row.gain.value == pytest.approx(-1.5)
    assert sentence(row).endswith("-1.500 ±0.141: the raw input is ahead.")


def test_table_and_page_mark_metrics_of_which_smaller_values_are_better():
    report = make_report(scores=[*make_report().scores, *error_scores()])
    text = rendered(report, 120)
    assert "MAE ↓" in text
    assert "↓: smaller is better." in text
    assert "↓" not in rendered(make_report(), 120)
    assert "Higher is better, except for metrics with ↓." in page(report, [], [])
    assert "↓" not in page(make_report(), [], [])


def test_progress_names_the_lowest_error():
    points = [
        Point(step=step, seconds=step, scores={"linear_mae": value}) for step, value in ((0, 3.0), (5, 1.5), (9, 2.0))
    ]
    ((_, plot), *_) = page_module.progress(make_report(scores=error_scores(), curve=points))
    assert "lowest 1.5 at 5" in plot


def test_a_report_without_the_direction_of_a_metric_is_read_as_higher_is_better():
    assert Score.model_validate(score("trained", 0.5).model_dump(exclude={"higher_is_better"})).higher_is_better


def test_probes_are_among_the_plugins_of_the_run():
    report = make_report(origins={"probes": {"knn": "sslx:probes.knn 0.1.0", "unused": "else:other 2"}})
    assert page_module.used_plugins(report) == [("probe", "knn", "sslx:probes.knn 0.1.0")]
