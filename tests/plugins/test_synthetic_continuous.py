"""Embedded data of time series, tables and pictures: pure functions of seed, split and index; balanced; not linear."""

from __future__ import annotations

import pickle
import time
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ssl_core import Continuous, Dataset
from ssl_plugins.datasets.public.sklearn_bundled import BreastCancer, Digits
from ssl_plugins.datasets.synthetic.synthetic_image import NAMES as PATTERNS
from ssl_plugins.datasets.synthetic.synthetic_image import SyntheticImage, weave
from ssl_plugins.datasets.synthetic.synthetic_medical_image import SyntheticMedicalImage
from ssl_plugins.datasets.synthetic.synthetic_multispectral import SyntheticMultispectral
from ssl_plugins.datasets.synthetic.synthetic_tabular import SyntheticTabular
from ssl_plugins.datasets.synthetic.synthetic_time_series import SyntheticTimeSeries
from ssl_plugins.datasets.synthetic.synthetic_wafer import BAD, NAMES, NO_DIE, SyntheticWafer

MADE = (
    SyntheticTimeSeries,
    SyntheticTabular,
    SyntheticImage,
    SyntheticMultispectral,
    SyntheticMedicalImage,
    SyntheticWafer,
)
CLASSES = tuple(cls for cls in MADE if cls is not SyntheticMedicalImage)


def make(cls: type[Dataset], split: str = "train", **options: Any) -> Any:
    return cls(cls.Options(**options), split)  # type: ignore[arg-type]


def contents(dataset: Dataset, index: int) -> bytes:
    inputs = dataset[index]["inputs"]
    return b"".join(inputs[name].tobytes() for name in sorted(inputs))


@pytest.mark.parametrize("cls", MADE)
def test_a_sample_is_a_function_of_seed_split_and_index(cls):
    dataset = make(cls, n_train=50)
    forth = [contents(dataset, i) for i in range(6)]
    again = pickle.loads(pickle.dumps(dataset))
    assert forth == [contents(again, i) for i in reversed(range(6))][::-1]
    assert forth == [contents(make(cls, n_train=5000), i) for i in range(6)]
    test, reseeded = make(cls, "test"), make(cls, seed=1)
    for i in range(6):
        assert forth[i] not in (contents(test, i), contents(reseeded, i))
    assert len(set(forth)) == 6


@pytest.mark.parametrize("cls", MADE)
def test_size_bounds_and_default(cls):
    assert cls.is_default
    assert cls.name == "synthetic"
    assert len(make(cls)) == 2000
    assert len(make(cls, "test")) == 500
    assert len(make(cls, "test", n_test=3)) == 3
    for index in (7, -1):
        with pytest.raises(IndexError):
            make(cls, n_train=7)[index]


@pytest.mark.parametrize("cls", CLASSES)
def test_classes_are_balanced_and_described(cls):
    dataset = make(cls, "test")
    size = dataset.task.size
    assert dataset.task.kind == "classes"
    labels = [dataset[i]["label"] for i in range(5 * size)]
    assert set(np.bincount(labels, minlength=size)) == {5}
    if dataset.task.names:
        assert all(dataset.task.names[labels[i]] in dataset.describe(i) for i in range(size))


def test_findings_are_balanced_and_independent():
    dataset = make(SyntheticMedicalImage)
    assert (dataset.task.kind, dataset.task.metric, dataset.task.size) == ("labels", "auroc", 4)
    labels = np.stack([dataset[i]["label"] for i in range(32)])
    assert (labels.sum(axis=0) == 16).all()
    assert len({tuple(row) for row in labels}) == 16


@pytest.mark.parametrize(
    ("cls", "options", "field", "shape"),
    [
        (SyntheticTimeSeries, {"channels": 7, "steps": 111}, "series", (7, 111)),
        (SyntheticImage, {"height": 20, "width": 36}, "image", (3, 20, 36)),
        (SyntheticMultispectral, {"bands": 4, "height": 24, "width": 40}, "image", (4, 24, 40)),
        (SyntheticMedicalImage, {"height": 40, "width": 50}, "image", (1, 40, 50)),
        (SyntheticTabular, {"numeric": 5, "categorical": 0}, "numeric", (5,)),
    ],
)
def test_any_shape(cls, options, field, shape):
    dataset = make(cls, **options)
    assert dataset.fields[field].shape == shape
    for i in range(6):
        assert dataset[i]["inputs"][field].shape == shape
        assert np.isfinite(dataset[i]["inputs"][field]).all()


@pytest.mark.parametrize("cls", MADE)
def test_made_quickly(cls):
    """Hundreds of samples a second of processor time, however busy the machine is."""
    dataset = make(cls)
    dataset[0]
    start = time.process_time()
    for i in range(100):
        dataset[i]
    assert time.process_time() - start < 1.0


# --- what tells the classes apart -----------------------------------------------------------------------------------


def flat(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    samples = [dataset[i] for i in range(count)]
    field = next(name for name in ("series", "image", "numeric") if name in samples[0]["inputs"])
    return np.stack([each["inputs"][field].ravel() for each in samples]), np.array([each["label"] for each in samples])


@pytest.mark.parametrize("cls", [SyntheticTimeSeries, SyntheticTabular, SyntheticImage, SyntheticMultispectral])
def test_raw_numbers_do_not_give_the_class_away(cls):
    """Logistic regression on the raw input stays near chance."""
    (x, y), (test_x, test_y) = flat(make(cls), 600), flat(make(cls, "test"), 300)
    scaler = StandardScaler().fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # converged or not: there is nothing to find
        model = LogisticRegression(C=0.01, max_iter=50).fit(scaler.transform(x), y)
    chance = 1 / len(np.unique(y))
    assert model.score(scaler.transform(test_x), test_y) < chance + 0.14


@pytest.mark.parametrize("cls", [SyntheticTimeSeries, SyntheticTabular, SyntheticImage, SyntheticMultispectral])
def test_neighbours_of_raw_numbers_do_not_give_the_class_away(cls):
    """Of two thousand samples the twenty most similar, in all that a sample holds, say little more than chance."""

    def whole(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = flat(dataset, count)
        x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
        if isinstance(dataset, SyntheticTabular):
            codes = np.stack([dataset[i]["inputs"]["codes"] for i in range(count)])
            x = np.concatenate([x, np.eye(dataset.fields["codes"].vocab)[codes].reshape(count, -1)], axis=1)
        return x, y

    (x, y), (test_x, test_y) = whole(make(cls), 2000), whole(make(cls, "test"), 500)
    model = KNeighborsClassifier(20, metric="cosine").fit(x, y)
    assert model.score(test_x, test_y) < 1 / len(np.unique(y)) + 0.19


def test_a_rhythm_has_its_frequencies_and_coupling():
    """Without noise and drift of pace, the spectrum holds the slow rhythm, the fast one, and side bands or none."""
    dataset = make(SyntheticTimeSeries, noise=0.0, channels=2, steps=4096)
    for i in range(12):
        ratio, modulated = (1.5, 2.0, 3.0)[i % 6 // 2], i % 2 == 1
        assert f"{ratio:g}:1" in dataset.describe(i)
        assert ("modulation" in dataset.describe(i)) == modulated
        slow = np.unwrap(np.angle(_analytic(_unmixed(dataset, i)[0])))[1000:3000]
        residual = _unmixed(dataset, i)[1][1000:3000]
        found = _share(residual, slow, ratio)
        sides = _share(residual, slow, ratio - 1) + _share(residual, slow, ratio + 1)
        assert found > (0.5 if modulated else 0.9)
        assert sides > 0.2 if modulated else sides < 0.1


def _unmixed(dataset: Any, index: int) -> np.ndarray:
    series = dataset[index]["inputs"]["series"].astype(np.float64)
    return np.linalg.solve(dataset.mixing, series - series.mean(axis=1, keepdims=True))


def _analytic(x: np.ndarray) -> np.ndarray:
    from scipy.signal import hilbert

    return np.asarray(hilbert(x))


def _share(x: np.ndarray, phase: np.ndarray, multiple: float) -> float:
    """Share of the variance that a sine of so many times the phase explains."""
    basis = np.stack([np.cos(multiple * phase), np.sin(multiple * phase), np.ones_like(phase)], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    return float(fitted.var() / x.var())


def interests_of(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, visits) the interest of each visit's code, and the class."""
    samples = [dataset[i] for i in range(count)]
    interest = np.argsort(dataset.codes.ravel()) // dataset.options.codes
    return interest[np.stack([each["inputs"]["codes"] for each in samples])], np.array([s["label"] for s in samples])


def test_an_account_has_its_interests_and_they_last_as_its_class_says():
    dataset = make(SyntheticTabular, n_train=600, numeric=300, categorical=300, missing=0.0, stray=0.0)
    interest, y = interests_of(dataset, 60)
    assert {len(set(row)) for row in interest} == {dataset.options.own}
    for label, mean in enumerate(dataset.options.lasting):
        changes = (np.diff(interest[y == label]) != 0).mean()
        assert 1 / changes == pytest.approx(mean, rel=0.1)


def test_amounts_are_about_the_level_of_their_interest():
    dataset = make(SyntheticTabular, missing=0.0, noise=0.0)
    interest, _ = interests_of(dataset, 60)
    amounts = np.stack([dataset[i]["inputs"]["numeric"] for i in range(60)])
    assert (amounts - dataset.shift) / dataset.scale == pytest.approx(dataset.levels[interest], abs=1e-3)


def test_no_column_of_a_table_tells_the_class():
    dataset = make(SyntheticTabular, n_train=6000, missing=0.0)
    interest, y = interests_of(dataset, 6000)
    for label in range(3):
        for kind in range(dataset.options.interests):
            share = (interest[y == label] == kind).mean(axis=0)
            assert np.abs(share - 1 / dataset.options.interests).max() < 0.04


def test_share_of_missing_values():
    dataset = make(SyntheticTabular, missing=0.2)
    inputs = [dataset[i]["inputs"] for i in range(400)]
    gone = np.stack([each["missing"] for each in inputs]) == 1
    assert gone.mean() == pytest.approx(0.2, abs=0.02)
    assert (np.stack([each["numeric"] for each in inputs])[gone] == 0).all()
    unknown = dataset.fields["codes"].vocab - 1
    assert np.mean([each["codes"] == unknown for each in inputs]) == pytest.approx(0.2, abs=0.02)


def test_patterns_repeat_and_each_colour_has_half_of_the_cloth():
    y, x = np.mgrid[0:8:160j, 0:8:160j]
    for pattern in range(len(PATTERNS)):
        raised = weave(pattern, x, y)
        down = 2 / np.sqrt(3) if PATTERNS[pattern] == "honeycomb" else 2.0
        np.testing.assert_allclose(weave(pattern, x + 2, y), raised, atol=1e-9)
        np.testing.assert_allclose(weave(pattern, x, y + down), raised, atol=1e-9)
        assert np.clip(0.5 - (raised - np.median(raised)) / 0.35, 0, 1).mean() == pytest.approx(0.5, abs=0.06)
    images = make(SyntheticImage, noise=0.0)
    levels = np.array([[images[i]["inputs"]["image"].mean() for i in range(k, 600, 6)] for k in range(6)])
    assert np.abs(levels.mean(axis=1) - levels.mean()).max() < 3 * levels.std() / 10


def test_wafer_patterns_lie_where_they_belong():
    """The mean share of bad dies near the middle, half way and at the rim."""
    dataset = make(SyntheticWafer, noise=0.0, n_train=900)
    assert isinstance(dataset.fields["map"], Continuous)
    shares: dict[str, np.ndarray] = {}
    sizes = set()
    for label, name in enumerate(NAMES):
        found = []
        for i in range(label, 270, 9):
            dies = dataset[i]["inputs"]["map"][0]
            sizes.add(dies.shape)
            y, x = ((np.arange(n) + 0.5) * 2 / n - 1 for n in dies.shape)
            radius = np.hypot(x[None, :], y[:, None])
            assert ((radius > 1) == (dies == NO_DIE)).all()
            found.append(
                [(dies[(radius >= a) & (radius < b)] == BAD).mean() for a, b in ((0, 0.3), (0.3, 0.7), (0.9, 1))]
            )
        shares[name] = np.mean(found, axis=0)
    assert len(sizes) > 100
    assert shares["none"].max() == 0
    assert shares["center"][0] > 0.3 > 0.05 > shares["center"][2]
    assert shares["donut"][1] > 0.1 > 0.05 > shares["donut"][2]
    assert shares["edge-ring"][2] > 0.4 > 0.05 > shares["edge-ring"][1]
    assert 0.05 < shares["edge-loc"][2] < 0.3
    assert shares["loc"][1] > 0.05 > shares["loc"][2]
    assert np.ptp(shares["random"]) < 0.1
    assert shares["near-full"].min() > 0.75


def test_findings_change_the_scan_where_they_belong():
    """The same patient with and without a finding differs, and stronger findings differ more."""
    from ssl_plugins.datasets.synthetic.synthetic_medical_image import chest

    for finding in range(3):
        label = np.zeros(4, dtype=int)
        changes = []
        for strength in (0.5, 1.0):
            plain = chest(48, 48, label, strength, np.random.default_rng(5))
            label[finding] = 1
            changes.append(np.abs(chest(48, 48, label, strength, np.random.default_rng(5)) - plain).max())
            label[finding] = 0
        assert min(changes) > 0.05


def test_reticulation_is_regular_about_as_strong_and_no_other_brightness():
    """The net has its power in few frequencies, the grain of other lungs in many."""
    from ssl_plugins.datasets.synthetic.synthetic_medical_image import chest, grain

    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    share, strength, level = [], [], []
    for net in (False, True):
        drawn = np.stack([grain(x, y, net, np.random.default_rng(i)) for i in range(100)])
        power = np.sort((np.abs(np.fft.rfft2(drawn)) ** 2).reshape(100, -1))
        share.append((power[:, -12:].sum(axis=1) / power.sum(axis=1)).mean())
        strength.append(drawn.std())
        scans = [chest(64, 64, np.array([0, 0, 0, net]), 1.0, np.random.default_rng(i)).mean() for i in range(200)]
        level.append((np.mean(scans), np.std(scans) / np.sqrt(200)))
    assert share[1] > 1.3 * share[0]
    assert strength == pytest.approx([1, 1], abs=0.15)
    assert abs(level[1][0] - level[0][0]) < 3 * np.hypot(level[0][1], level[1][1])


def test_crowded_ribs_lie_closer_together():
    """Between the lungs, 48 pixels hold about 3 to 4 ribs where they are crowded, 2 to 3 where not."""
    from ssl_plugins.datasets.synthetic.synthetic_medical_image import chest

    ratios = []
    for crowded in (0, 1):
        scans = [chest(64, 64, np.array([0, 0, crowded, 0]), 1.0, np.random.default_rng(i)) for i in range(60)]
        power = np.mean([np.abs(np.fft.rfft(scan[8:56, 31:33].mean(axis=1))) ** 2 for scan in scans], axis=0)
        ratios.append(power[4] / power[2])
    assert ratios[1] > 2 * ratios[0]


# --- bundled with scikit-learn --------------------------------------------------------------------------------------


def test_digits():
    train, test = make(Digits), make(Digits, "test")
    assert (len(train) + len(test), train.task.size) == (1797, 10)
    assert not set(train.rows) & set(test.rows)
    image = train[0]["inputs"]["image"]
    assert (image.shape, image.dtype) == ((1, 8, 8), np.uint8)
    assert max(int(train[i]["inputs"]["image"].max()) for i in range(20)) == 255
    assert np.bincount([test[i]["label"] for i in range(len(test))]).min() >= 34


def test_breast_cancer():
    train, test = make(BreastCancer), make(BreastCancer, "test")
    assert (len(train) + len(test), train.task.names) == (569, ("malignant", "benign"))
    assert train.fields == {"numeric": Continuous((30,))}
    share = [np.mean([data[i]["label"] for i in range(len(data))]) for data in (train, test)]
    assert share[0] == pytest.approx(share[1], abs=0.02)
    other = make(BreastCancer, "test", seed=1, test_fraction=0.5)
    assert len(other) == pytest.approx(284, abs=2)
    assert list(other.rows) != list(make(BreastCancer, "test", test_fraction=0.5).rows)
