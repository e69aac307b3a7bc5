"""The figures of whole runs: classes, numbers, unlabelled data, skipped samples, names of columns, a broken plugin."""

import json
import re

import numpy as np
import pandas
import pytest

import sslx
from ssl_core.pipeline.preprocess import sample_digest
from ssl_core.runs import figures as figures_module
from ssl_core.runs.pictured import dataset_index
from tests.core.test_report import Elements

SET = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "evaluate.max_iter": 20,
}  # fmt: skip
CHOICE = {"objective": "mae", "steps": 1, "batch_size": 8, "preset": "none"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache of preprocessed data for all tests here."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "figures-cache"))


def series(count=40):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = np.sin(np.arange(32) * (1 + y[:, None, None]) / 3) + 0.1 * rng.standard_normal((count, 2, 32))
    return x.astype(np.float32), y


def page_of(run):
    return (run.folder / "report.html").read_text()


def test_predictions_neighbours_and_map_agree_with_the_scores(tmp_path):
    x, y = series()
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=SET, **CHOICE)
    shown = run.figures
    assert shown.notes == []
    confusion = np.array(run.report.figures.confusion)
    (score,) = [s for s in run.report.scores if (s.probe, s.features, s.metric) == ("linear", "trained", "accuracy")]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(score.value)
    assert confusion.sum() == score.n_test == shown.report.map_samples == 8
    # neighbours: the nearest of all training samples by cosine, computed by hand
    test, train = run.data["test"], run.data["train"]
    z = {name: run.encoder.eval().features([{k: v[i] for k, v in part.arrays.items()} for i in range(len(part))])
         for name, part in (("test", test), ("train", train))}  # fmt: skip
    unit = {name: value / np.linalg.norm(value, axis=1, keepdims=True) for name, value in z.items()}
    query, found = shown.neighbours.queries[0]
    row = int(re.search(r"\d+", query.name)[0]) if query.name.startswith("sample") else None
    distances = np.sort(1 - unit["test"] @ unit["train"].T, axis=1)[:, :4]
    got = np.array([one.distance for one in found])
    assert np.abs(distances - got).max(axis=1).min() < 1e-4
    assert row is None or np.abs(distances[row] - got).max() < 1e-4
    content = json.loads((run.folder / "report.json").read_text())["figures"]
    assert content["probe"] == "linear"
    assert content["neighbours"] == 32
    html = page_of(run)
    for title in ("Map of the features", "Nearest neighbours", "Confusions of"):
        assert title in html
    assert len(html) < 3_000_000


def test_figures_can_be_left_out(tmp_path):
    x, y = series()
    options = {**SET, "evaluate.figures": False}
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=options, **CHOICE)
    assert run.figures is None
    assert run.report.figures is None
    assert "Nearest neighbours" not in page_of(run)


def test_data_without_labels_has_a_map_and_neighbours(tmp_path):
    run = sslx.pretrain(series()[0], modality="time-series", out=tmp_path / "run", set=SET, **CHOICE)
    assert run.report.scores == ()
    assert run.report.figures.map_samples == 8
    assert run.report.figures.neighbours == 32
    assert run.figures.predicted is None
    assert set(run.report.figures.explained) == {"trained", "random_init", "raw_input"}
    assert run.figures.maps.groups == ()


def test_tables_have_names_units_and_categories(tmp_path):
    rng = np.random.default_rng(0)
    evil = "<script>x</script>"
    frame = pandas.DataFrame({
        "height": 1e6 + rng.normal(0, 5, 60), "job": rng.choice(["cook", evil], 60), "age": rng.normal(0, 1, 60),
    })  # fmt: skip
    y = frame["age"].to_numpy() * 2 + 1
    run = sslx.pretrain(frame, y=y, modality="tabular", out=tmp_path / "run", set=SET, **CHOICE)
    html = page_of(run)
    assert not Elements(html).all("script")
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.*?)</tr>', html)
    cells = {name: re.sub(r"<[^>]*>", " ", row).split() for name, row in rows}
    assert {"height", "job", "age"} <= set(cells)
    assert all(abs(float(text) - 1e6) < 100 for text in cells["height"] if text != "▢")
    assert {"cook", "&lt;script&gt;x&lt;/script&gt;"} & set(cells["job"])
    assert run.figures.predicted.kind == "number"
    assert "Predicted against true" in html
    assert run.figures.maps.ordered


def test_a_plugin_that_cannot_draw_costs_no_scores(tmp_path, monkeypatch):
    def broken(run, batch):
        raise RuntimeError("no picture today")

    monkeypatch.setattr(figures_module, "sample_values", broken)
    x, y = series()
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=SET, **CHOICE)
    assert run.report.scores
    assert run.report.notes[-1] == "warning: the report has no neighbours: RuntimeError: no picture today"
    assert run.figures.maps is not None


def test_raw_samples_are_found_where_bad_ones_were_skipped(tmp_path):
    x, y = series()
    x[[3, 4, 20]] = np.inf
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=SET, **CHOICE)
    assert sum(part.bad for part in run.data.values()) == 3
    for split, part in run.data.items():
        for row in range(len(part)):
            index = dataset_index(run, split, row)
            prepared = run.learner.tokenizer.preprocess(run.splits[split][index]["inputs"])
            assert sample_digest(prepared) == int(part.digests[row])
