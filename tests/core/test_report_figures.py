"""Maps, predictions, neighbours, sound and forms of samples: their numbers, and how the page shows them."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile

from ssl_core.contracts import PictureStyle
from ssl_core.data import Task
from ssl_core.errors import ConfigError
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import FeatureSpec, FunctionPredictor
from ssl_core.evaluation.protocols import score as score_probes
from ssl_core.report import plots
from ssl_core.report.audio import MAX_RATE, MAX_SECONDS, Player, wav
from ssl_core.report.figures import Figures, Map, Maps, Neighbour, Neighbours, Predicted
from ssl_core.report.page import page
from ssl_core.report.pictures import MAX_SIDE, panels
from ssl_core.report.plots import MARKERS, mark
from ssl_core.report.reconstruction import Reconstruction, SegmentValues
from ssl_core.report.schema import FiguresReport
from ssl_core.report.views import prediction_view
from ssl_core.runs.figures import label_auroc
from ssl_core.runs.kept import Kept, KeptFeatures
from ssl_core.runs.maps import check_map, group_labels, label_text, make_maps, pca
from tests.core.test_report import METRICS, Elements, make_report, reconstruction

EVIL = "<script>alert(1)</script>"
CLASSES = Task("classes", 3, "accuracy", names=("cat", "dog", EVIL), title=EVIL)


def figures(predicted=None, neighbours=None, maps=None, **numbers):
    return Figures(FiguresReport(seconds=0.1, **numbers), maps, predicted, neighbours)


def text_of(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


# --- maps -----------------------------------------------------------------------------------------------------------


def test_pca_gives_directions_and_shares_of_the_variance():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6)) * np.array([5.0, 2.0, 0.1, 0.1, 0.1, 0.1])
    points, shares = pca((x + 7).astype(np.float32), 0)
    centred = x - x.mean(axis=0)
    expected = np.linalg.svd(centred, compute_uv=False) ** 2
    np.testing.assert_allclose(shares, (expected / expected.sum())[:2], rtol=1e-3)
    assert abs(np.corrcoef(points[:, 0], x[:, 0])[0, 1]) > 0.999
    assert abs(np.corrcoef(points[:, 1], x[:, 1])[0, 1]) > 0.999


@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (5, 1), (3, 8)])
def test_pca_of_few_or_equal_samples_is_finite(shape):
    for x in (np.ones(shape, np.float32), np.arange(np.prod(shape), dtype=np.float32).reshape(shape)):
        points, shares = pca(x, 0)
        assert points.shape == (shape[0], 2)
        assert np.isfinite(points).all()
        assert np.isfinite(shares).all()


def test_groups_of_classes_labels_and_numbers():
    group, names = group_labels(CLASSES, np.array([0, 2, 2, 0]))
    assert names == ["cat", EVIL]
    assert group.tolist() == [0, 1, 1, 0]
    many = Task("classes", 50, "accuracy")
    labels = np.repeat(np.arange(50), np.arange(1, 51))
    group, names = group_labels(many, labels)
    assert names == [str(number) for number in range(49, 30, -1)]  # the nineteen most frequent
    assert (group[labels <= 30] == -1).all()
    several = Task("labels", 2, "auroc", names=("a", "b"))
    group, names = group_labels(several, np.array([[1, 1], [0, 0], [1, 1], [0, 1]]))
    assert names == ["a + b", "none", "b"]
    assert group.tolist() == [0, 1, 0, 2]
    number = Task("number", 1, "r2")
    values = np.arange(100.0)
    group, names = group_labels(number, values)
    assert np.bincount(group).tolist() == [20] * 5
    assert (np.diff(group) >= 0).all()
    assert names[0] == "0 to 19.8"
    group, names = group_labels(number, np.full(4, 2.5))
    assert (group.tolist(), names) == ([0] * 4, ["2.5"])


def test_every_group_has_a_mark_of_its_own_without_colour():
    shapes = [(mark(n, False)["marker"], "markerfacecolor" in mark(n, False)) for n in range(2 * len(MARKERS))]
    assert len(set(shapes)) == 20
    assert len({mark(n, True)["marker"] for n in range(5)}) == 5


def test_maps_join_labels_to_points_by_row():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 50)
    rows = np.sort(rng.choice(50, 30, replace=False))
    x = (10.0 * labels[rows, None] + rng.standard_normal((30, 4))).astype(np.float32)
    maps = make_maps({"trained": KeptFeatures(x, rows)}, labels, CLASSES, EvaluateOptions(), 0)
    names = [maps.groups[number] for number in maps.maps["trained"].group]
    assert names == [CLASSES.names[label] for label in labels[rows]]
    along = maps.maps["trained"].points[:, 0]
    assert abs(np.corrcoef(along, labels[rows])[0, 1]) > 0.98


@pytest.mark.slow
def test_umap_keeps_clusters_apart():
    pytest.importorskip("umap", reason="needs the extra umap")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    x = (rng.standard_normal((60, 60)) + 20 * labels[:, None]).astype(np.float32)
    kept = {"trained": KeptFeatures(x, np.arange(60))}
    maps = make_maps(kept, labels, Task("classes", 2, "accuracy"), EvaluateOptions(map="umap"), 0)
    assert (maps.method, maps.maps["trained"].explained) == ("UMAP", None)
    points = maps.maps["trained"].points
    centres = [points[labels == label].mean(axis=0) for label in (0, 1)]
    spread = max(points[labels == label].std(axis=0).max() for label in (0, 1))
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * spread
    assert "UMAP 1" in page(make_report(), [], [], figures(maps=maps))


def test_data_too_small_for_umap_is_mapped_by_pca():
    options = EvaluateOptions(map="umap")
    few = make_maps({"trained": KeptFeatures(np.eye(6, dtype=np.float32), np.arange(6))}, None, None, options, 0)
    assert few.method == "PCA"


def test_umap_that_is_not_installed_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sslx\[umap\]'"):
        check_map(EvaluateOptions(map="umap"))
    check_map(EvaluateOptions(map="umap", figures=False))
    check_map(EvaluateOptions())


def test_a_map_of_many_points_is_small_and_names_its_axes():
    rng = np.random.default_rng(0)
    maps = {kind: Map(rng.normal(size=(2000, 2)), rng.integers(0, 10, 2000), (0.3, 0.12)) for kind in
            ("trained", "random_init", "raw_input")}  # fmt: skip
    names = [*(f"class {n}" for n in range(9)), EVIL]
    html = page(make_report(), [], METRICS, figures(maps=Maps(maps, "PCA", names, False, EVIL)))
    assert len(html) < 500_000
    assert not Elements(html).all("script")
    for text in ("component 1, 30.0% of the variance", "component 2, 12.0% of the variance", EVIL):
        assert text in Elements(html).words or text in "".join(Elements(html).words)
    plot = re.search(r'<svg[^>]*aria-label="Map of 2,000 samples by PCA, trained.*?</svg>', html, re.DOTALL)[0]
    assert plot.count("<use") > 2000
    labels = [svg["aria-label"] for svg in Elements(html).all("svg")]
    assert any("raw input features, in 10 groups" in label for label in labels)


# --- predictions ----------------------------------------------------------------------------------------------------


def test_confusion_counts_and_shares():
    labels, guesses = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 0])
    predicted = Predicted("linear", "animal", "classes", CLASSES.names, labels, guesses)
    assert predicted.confusion().tolist() == [[3, 1, 0], [0, 1, 0], [1, 0, 0]]
    view = prediction_view(make_report(), figures(predicted))
    assert view.columns == CLASSES.names
    assert [cell.text for cell in view.rows[0][2]] == ["75%", "25%", ""]
    html = page(make_report(), [], METRICS, figures(predicted))
    assert not Elements(html).all("script")
    assert f"{EVIL} taken for cat: 1, 100% of {EVIL}" in Elements(html).words
    assert "6 samples: 4 right" in text_of(html)
    headers = [attributes for attributes in Elements(html).all("th") if "scope" not in attributes]
    assert not headers


def test_many_classes_are_shown_by_their_most_frequent_confusions():
    names = tuple(f"class {n}" for n in range(30))
    labels = np.repeat(np.arange(30), 10)
    guesses = labels.copy()
    guesses[:4] = 7
    view = prediction_view(make_report(), figures(Predicted("linear", "thing", "classes", names, labels, guesses)))
    assert view.rows == ()
    assert view.confusions[0] == ("class 0", "class 7", 4, "40%")
    assert "296 right" in view.lines[0]


def test_predictions_without_arrays_are_those_of_report_json():
    report = make_report(
        figures=FiguresReport(seconds=1, probe="linear", classes=("a", "b"), confusion=((3, 1), (0, 2)))
    )
    view = prediction_view(report, None)
    assert [[cell.count for cell in cells] for _, _, cells in view.rows] == [[3, 1], [0, 2]]
    assert prediction_view(make_report(), None) is None


def test_numbers_are_a_scatter_plot_and_labels_are_bars():
    true = np.linspace(0, 10, 5000)
    html = page(make_report(), [], [], figures(Predicted("linear", "age", "number", (), true, true + 1)))
    assert "Predicted against true age: true from 0 to 10" in html
    assert "mean absolute error 1" in html
    assert "true age" in text_of(html)
    assert "predicted age" in text_of(html)
    several = Predicted("linear", "tags", "labels", (EVIL, "b"), np.zeros((4, 2)), np.zeros((4, 2)), [0.75, None])
    html = page(make_report(), [], [], figures(several))
    assert "0.750" in html
    assert "1 of 2 labels have one value only" in text_of(html)
    assert not Elements(html).all("script")


def test_auroc_of_each_label():
    labels = np.array([[0, 1], [0, 1], [1, 1]])
    scores = np.array([[0.1, 0], [0.4, 0], [0.3, 0]])
    assert label_auroc(labels, scores) == [0.5, None]


def test_predictions_that_are_kept_are_those_that_were_scored():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = np.eye(3, dtype=np.float32)[y]

    class Copy:
        per_token, layers, max_test_rows = False, None, 20

        def fit_groups(self, features, labels, task, groups):
            return FunctionPredictor(lambda test: test[:, [1, 0, 2]])

    kept = Kept(0)
    (row,) = score_probes(CLASSES, (x, y), (x, y), {"copy": Copy()}, (), 0, kept.keep_predictions)
    scores, labels = kept.predictions["copy"]
    assert len(scores) == row["n_test"] == 20
    assert (scores.argmax(axis=1) == labels).mean() == pytest.approx(row["value"])


def test_features_that_are_kept_are_a_bounded_copy_with_their_rows(monkeypatch):
    monkeypatch.setattr("ssl_core.runs.kept.MAP_SAMPLES", 10)
    monkeypatch.setattr("ssl_core.runs.kept.MAP_NUMBERS", 40)
    kept, x, rows = Kept(3), np.arange(200.0).reshape(25, 8), np.arange(100, 125)
    kept.keep_features("trained", FeatureSpec(True, None), (x, rows), (x, rows))
    assert kept.scored == {}
    kept.keep_features("trained", FeatureSpec(False, None), (x, rows), (x, rows))
    assert len(kept.scored["trained"].x) == 5  # 40 numbers of 8 a row
    np.testing.assert_array_equal(kept.scored["trained"].x, x[kept.scored["trained"].rows - 100])


# --- forms of samples -----------------------------------------------------------------------------------------------


def neighbours(values, recordings=None):
    query = Neighbour(0, f"query {EVIL}", "cat")
    found = [Neighbour(1, "one", "cat", 0.0123456), Neighbour(2, EVIL, "dog", 0.5)]
    return Neighbours(values, [(query, found)], recordings or {}, 321)


def test_neighbours_show_labels_distances_and_pictures_of_every_form():
    rng = np.random.default_rng(0)
    values = [
        SegmentValues("photo", "continuous", (2, 2), rng.random((3, 3, 8, 8))),
        SegmentValues("waves", "continuous", (4,), rng.random((3, 2, 40))),
        SegmentValues("words", "discrete", (3,), np.array([[" a", "b", EVIL]] * 3), np.ones((3, 3), bool)),
        SegmentValues("age", "discrete", (1,), np.array([["5"], ["6"], [EVIL]]), style=PictureStyle(names=("age",))),
    ]
    html = page(make_report(), [], METRICS, figures(neighbours=neighbours(values)))
    elements = Elements(html)
    assert not elements.all("script")
    assert len(elements.all("img")) == 3
    text = text_of(html)
    for part in ("of 321 training samples", "neighbour 1, distance 0.0123", "= cat", "≠ dog"):
        assert part in text
    assert all(len(picture["alt"]) > 10 for picture in elements.all("img"))
    assert elements.words.count(EVIL) >= 3


def test_sound_is_embedded_short_and_bounded():
    rate = 44_100
    wave = np.sin(np.arange(rate * 5) / 20)
    data, out_rate = soundfile.read(io.BytesIO(wav(wave, rate)))
    assert out_rate == MAX_RATE
    assert len(data) == pytest.approx(MAX_SECONDS * MAX_RATE, abs=2)
    assert np.abs(data).max() == pytest.approx(0.9, abs=0.01)
    assert len(wav(np.zeros(0), 8000)) < 100
    values = [SegmentValues("photo", "continuous", (2, 2), np.random.default_rng(0).random((3, 1, 8, 8)))]
    html = page(make_report(), [], [], figures(neighbours=neighbours(values, {0: (wave, rate), 1: (wave, rate)})))
    players = Elements(html).all("audio")
    assert len(players) == 2
    for player in players:
        assert player["src"].startswith("data:audio/wav;base64,")
        assert len(player["aria-label"]) > 10
        soundfile.read(io.BytesIO(base64.b64decode(player["src"].split(",")[1])))
    (policy,) = [meta["content"] for meta in Elements(html).all("meta") if "http-equiv" in meta]
    assert "media-src data:" in policy
    tight = Player(len(wav(wave, rate)))
    assert tight.address((wave, rate)) is not None
    assert tight.address((wave, rate)) is None
    assert tight.left_out == 1


def test_rows_of_a_table_show_names_missing_and_wrong_values():
    numbers = np.array([[[1.5, 2.0, 3.0]]])
    hidden = np.array([[False, True, False]])
    numeric = Reconstruction(
        "numeric", "continuous", (3,), numbers, numbers, numbers + 0.25 * hidden, hidden,
        np.array([[True, True, False]]), PictureStyle(names=("age", EVIL, "pay")),
    )  # fmt: skip
    job = Reconstruction(
        "job", "discrete", (1,), np.array([["cook"]]), np.array([[""]]), np.array([["clerk"]]), np.array([[True]]),
        style=PictureStyle(names=("job",)),
    )  # fmt: skip
    html = page(make_report(), [numeric, job], [])
    assert not Elements(html).all("script")
    rows = re.findall(r'<tr><th scope="row">(age|job|pay|&lt;script.*?)</th>(.*?)</tr>', html)
    cells = {name: [text_of(cell) for cell in re.findall(r"<td.*?</td>", row)] for name, row in rows}
    assert cells["age"] == ["1.5"] * 3
    assert cells["pay"] == ["missing"] * 3
    assert cells["job"] == ["cook", "▢", "clerk"]
    assert cells["&lt;script&gt;alert(1)&lt;/script&gt;"] == ["2", "▢", "2.25"]
    assert 'class="wrong">clerk' in html
    assert "67% of the columns hidden" in html  # of the three with a value


def test_padding_is_neither_shown_nor_counted():
    tokens = np.array([["A", "C", "G", "X", "X"]])
    hidden = np.array([[True, False, False, True, True]])
    valid = np.array([[True, True, True, False, False]])
    one = Reconstruction("letters", "discrete", (5,), tokens, tokens, tokens, hidden, valid)
    (panel,) = panels([one], Player())
    assert [len(cell.picture.tokens) for cell in panel.rows[0]] == [3, 3, 3]
    assert panel.caption.startswith("33% of 5 tokens hidden, without those that hold no data")
    assert "1 of 1" in panel.caption


def test_bands_are_colours_and_large_pictures_are_averaged():
    wide = reconstruction("bands", (5, 8, 300), (2, 3))
    coloured = Reconstruction(**{**vars(wide), "style": PictureStyle(rgb=(3, 1, 0))})
    (panel,) = panels([coloured], Player())
    assert "red, green, blue: channel 4, channel 2, channel 1 of 5" in panel.caption
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(base64.b64decode(panel.rows[0][0].picture.address.split(",")[1])))
    assert pixels.shape[1] <= MAX_SIDE
    assert pixels.shape[2] == 4


def test_labels_in_words():
    assert label_text(CLASSES, np.int64(1)) == "dog"
    assert label_text(Task("number", 1, "r2"), np.float64(2.51234)) == "2.512"
    assert label_text(Task("labels", 3, "auroc"), np.array([1, 0, 1])) == "0 + 2"


def test_names_with_dollar_signs_are_no_formulas():
    figure, plot = plots.axes(2, 2)
    plot.plot([0, 1], [0, 1], label="$\\bad{$")
    plot.set_xlabel("$x^^$")
    plot.set_xticks([0, 1], ["$\\mu$", "5 $"])
    plot.legend()
    text = text_of(plots.to_svg(figure, "plot"))
    for name in ("$\\bad{$", "$x^^$", "$\\mu$", "5 $"):
        assert name in text
