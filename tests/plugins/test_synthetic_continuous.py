"""Synthetic series, tables and images, and the sets of scikit-learn: shapes, and what tells the classes apart."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ssl_core import ConfigError, Continuous, Dataset
from ssl_plugins.datasets.public.sklearn_bundled import BreastCancer, Digits
from ssl_plugins.datasets.synthetic.synthetic_image import NAMES as PATTERNS
from ssl_plugins.datasets.synthetic.synthetic_image import SyntheticImage, weave
from ssl_plugins.datasets.synthetic.synthetic_medical_image import SyntheticMedicalImage, draw_chest, lung_texture
from ssl_plugins.datasets.synthetic.synthetic_multispectral import SyntheticMultispectral
from ssl_plugins.datasets.synthetic.synthetic_tabular import SyntheticTabular
from ssl_plugins.datasets.synthetic.synthetic_time_series import SyntheticTimeSeries
from ssl_plugins.datasets.synthetic.synthetic_wafer import BAD, NAMES, NO_DIE, SyntheticWafer


def make(cls: type[Dataset], split: str = "train", **options: Any) -> Any:
    return cls(cls.Options(**options), split)  # type: ignore[arg-type]


def test_findings_are_a_multi_label_task():
    task = make(SyntheticMedicalImage).task
    assert (task.kind, task.metric, task.size) == ("labels", "auroc", 4)


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
def test_options_set_the_shape(cls, options, field, shape):
    dataset = make(cls, **options)
    assert dataset.fields[field].shape == shape
    for i in range(6):
        assert dataset[i]["inputs"][field].shape == shape
        assert np.isfinite(dataset[i]["inputs"][field]).all()


# --- what tells the classes apart ------------------------------------------------------------------------------------


def flat(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    samples = [dataset[i] for i in range(count)]
    field = next(name for name in ("series", "image", "numeric") if name in samples[0]["inputs"])
    return np.stack([each["inputs"][field].ravel() for each in samples]), np.array([each["label"] for each in samples])


@pytest.mark.parametrize("cls", [SyntheticTimeSeries, SyntheticTabular, SyntheticImage, SyntheticMultispectral])
def test_linear_model_on_raw_values_is_near_chance(cls):
    (x, y), (test_x, test_y) = flat(make(cls), 600), flat(make(cls, "test"), 300)
    scaler = StandardScaler().fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge: chance is expected
        model = LogisticRegression(C=0.01, max_iter=50).fit(scaler.transform(x), y)
    chance = 1 / len(np.unique(y))
    assert model.score(scaler.transform(test_x), test_y) < chance + 0.14


@pytest.mark.parametrize("cls", [SyntheticTimeSeries, SyntheticTabular, SyntheticImage, SyntheticMultispectral])
def test_nearest_neighbours_on_raw_values_are_near_chance(cls):
    """20 neighbours of 2,000 training samples, over all fields."""

    def all_fields(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = flat(dataset, count)
        x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
        if isinstance(dataset, SyntheticTabular):
            codes = np.stack([dataset[i]["inputs"]["codes"] for i in range(count)])
            x = np.concatenate([x, np.eye(dataset.fields["codes"].vocab)[codes].reshape(count, -1)], axis=1)
        return x, y

    (x, y), (test_x, test_y) = all_fields(make(cls), 2000), all_fields(make(cls, "test"), 500)
    model = KNeighborsClassifier(20, metric="cosine").fit(x, y)
    assert model.score(test_x, test_y) < 1 / len(np.unique(y)) + 0.19


def test_rhythm_has_the_ratio_and_coupling_of_its_class():
    """The fast oscillation has side bands only where it is modulated."""
    dataset = make(SyntheticTimeSeries, noise=0.0, channels=2, steps=4096)
    for i in range(12):
        ratio, modulated = (1.5, 2.0, 3.0)[i % 6 // 2], i % 2 == 1
        assert f"{ratio:g}:1" in dataset.describe(i)
        assert ("modulation" in dataset.describe(i)) == modulated
        slow = np.unwrap(np.angle(_analytic(_unmixed(dataset, i)[0])))[1000:3000]
        residual = _unmixed(dataset, i)[1][1000:3000]
        carrier = _explained_variance(residual, slow, ratio)
        sides = _explained_variance(residual, slow, ratio - 1) + _explained_variance(residual, slow, ratio + 1)
        assert carrier > (0.5 if modulated else 0.9)
        assert sides > 0.2 if modulated else sides < 0.1


def _unmixed(dataset: Any, index: int) -> np.ndarray:
    series = dataset[index]["inputs"]["series"].astype(np.float64)
    return np.linalg.solve(dataset.mixing, series - series.mean(axis=1, keepdims=True))


def _analytic(x: np.ndarray) -> np.ndarray:
    from scipy.signal import hilbert

    return np.asarray(hilbert(x))


def _explained_variance(x: np.ndarray, phase: np.ndarray, multiple: float) -> float:
    """Share of the variance that a sine of `multiple` times the phase explains."""
    basis = np.stack([np.cos(multiple * phase), np.sin(multiple * phase), np.ones_like(phase)], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    return float(fitted.var() / x.var())


def interests_of(dataset: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, visits) the interest that each visit's code belongs to, and the class of each row."""
    samples = [dataset[i] for i in range(count)]
    interest = np.argsort(dataset.codes.ravel()) // dataset.options.codes
    return interest[np.stack([each["inputs"]["codes"] for each in samples])], np.array([s["label"] for s in samples])


def test_interests_of_a_row_and_their_mean_run_length():
    dataset = make(SyntheticTabular, n_train=600, numeric=300, categorical=300, missing=0.0, stray=0.0)
    interest, y = interests_of(dataset, 60)
    assert {len(set(row)) for row in interest} == {dataset.options.interests_per_row}
    for label, mean in enumerate(dataset.options.run_lengths):
        changes = (np.diff(interest[y == label]) != 0).mean()
        assert 1 / changes == pytest.approx(mean, rel=0.1)


def test_amount_without_noise_is_the_level_of_its_interest():
    dataset = make(SyntheticTabular, missing=0.0, noise=0.0)
    interest, _ = interests_of(dataset, 60)
    amounts = np.stack([dataset[i]["inputs"]["numeric"] for i in range(60)])
    assert (amounts - dataset.shift) / dataset.scale == pytest.approx(dataset.levels[interest], abs=1e-3)


def test_no_single_column_predicts_the_class():
    dataset = make(SyntheticTabular, n_train=6000, missing=0.0)
    interest, y = interests_of(dataset, 6000)
    for label in range(3):
        for kind in range(dataset.options.interests):
            share = (interest[y == label] == kind).mean(axis=0)
            assert np.abs(share - 1 / dataset.options.interests).max() < 0.04


def test_share_of_missing_values():
    dataset = make(SyntheticTabular, missing=0.2)
    inputs = [dataset[i]["inputs"] for i in range(400)]
    missing = np.stack([each["missing"] for each in inputs]) == 1
    assert missing.mean() == pytest.approx(0.2, abs=0.02)
    assert (np.stack([each["numeric"] for each in inputs])[missing] == 0).all()
    missing_code = dataset.fields["codes"].vocab - 1
    assert np.mean([each["codes"] == missing_code for each in inputs]) == pytest.approx(0.2, abs=0.02)


def test_patterns_are_periodic_and_each_colour_covers_half():
    y, x = np.mgrid[0:8:160j, 0:8:160j]
    for pattern in range(len(PATTERNS)):
        relief = weave(pattern, x, y)
        down = 2 / np.sqrt(3) if PATTERNS[pattern] == "honeycomb" else 2.0
        np.testing.assert_allclose(weave(pattern, x + 2, y), relief, atol=1e-9)
        np.testing.assert_allclose(weave(pattern, x, y + down), relief, atol=1e-9)
        assert np.clip(0.5 - (relief - np.median(relief)) / 0.35, 0, 1).mean() == pytest.approx(0.5, abs=0.06)
    images = make(SyntheticImage, noise=0.0)
    levels = np.array([[images[i]["inputs"]["image"].mean() for i in range(k, 600, 6)] for k in range(6)])
    assert np.abs(levels.mean(axis=1) - levels.mean()).max() < 3 * levels.std() / 10


def test_wafer_patterns_are_in_the_middle_half_way_or_at_the_rim():
    """Mean share of bad dies in the three zones, by pattern."""
    dataset = make(SyntheticWafer, noise=0.0, n_train=900)
    assert isinstance(dataset.fields["map"], Continuous)
    shares: dict[str, np.ndarray] = {}
    sizes = set()
    for label, name in enumerate(NAMES):
        rows = []
        for i in range(label, 270, 9):
            dies = dataset[i]["inputs"]["map"][0]
            sizes.add(dies.shape)
            y, x = ((np.arange(n) + 0.5) * 2 / n - 1 for n in dies.shape)
            radius = np.hypot(x[None, :], y[:, None])
            assert ((radius > 1) == (dies == NO_DIE)).all()
            rows.append(
                [(dies[(radius >= a) & (radius < b)] == BAD).mean() for a, b in ((0, 0.3), (0.3, 0.7), (0.9, 1))]
            )
        shares[name] = np.mean(rows, axis=0)
    assert len(sizes) > 100
    assert shares["none"].max() == 0
    assert shares["center"][0] > 0.3 > 0.05 > shares["center"][2]
    assert shares["donut"][1] > 0.1 > 0.05 > shares["donut"][2]
    assert shares["edge-ring"][2] > 0.4 > 0.05 > shares["edge-ring"][1]
    assert 0.05 < shares["edge-loc"][2] < 0.3
    assert shares["loc"][1] > 0.05 > shares["loc"][2]
    assert np.ptp(shares["random"]) < 0.1
    assert shares["near-full"].min() > 0.75


def test_findings_change_the_scan_of_the_same_patient():
    for finding in range(3):
        label = np.zeros(4, dtype=int)
        changes = []
        for strength in (0.5, 1.0):
            plain = draw_chest(48, 48, label, strength, np.random.default_rng(5))
            label[finding] = 1
            changes.append(np.abs(draw_chest(48, 48, label, strength, np.random.default_rng(5)) - plain).max())
            label[finding] = 0
        assert min(changes) > 0.05


def test_reticulation_differs_in_regularity_only():
    """The net has its power in few frequencies, other lung texture in many; contrast and brightness are equal."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    share, strength, level = [], [], []
    for net in (False, True):
        drawn = np.stack([lung_texture(x, y, net, np.random.default_rng(i)) for i in range(100)])
        power = np.sort((np.abs(np.fft.rfft2(drawn)) ** 2).reshape(100, -1))
        share.append((power[:, -12:].sum(axis=1) / power.sum(axis=1)).mean())
        strength.append(drawn.std())
        scans = [draw_chest(64, 64, np.array([0, 0, 0, net]), 1.0, np.random.default_rng(i)).mean() for i in range(200)]
        level.append((np.mean(scans), np.std(scans) / np.sqrt(200)))
    assert share[1] > 1.3 * share[0]
    assert strength == pytest.approx([1, 1], abs=0.15)
    assert abs(level[1][0] - level[0][0]) < 3 * np.hypot(level[0][1], level[1][1])


def test_crowded_ribs_have_a_higher_frequency():
    """48 pixels between the lungs hold 3 to 4 crowded ribs, or 2 to 3 others."""
    ratios = []
    for crowded in (0, 1):
        scans = [draw_chest(64, 64, np.array([0, 0, crowded, 0]), 1.0, np.random.default_rng(i)) for i in range(60)]
        power = np.mean([np.abs(np.fft.rfft(scan[8:56, 31:33].mean(axis=1))) ** 2 for scan in scans], axis=0)
        ratios.append(power[4] / power[2])
    assert ratios[1] > 2 * ratios[0]


# --- bundled with scikit-learn ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("cls", [Digits, BreastCancer])
def test_validation_split_is_taken_from_the_training_rows(cls):
    train, test = make(cls), make(cls, "test")
    assert train.splits == ("train", "test")
    parts = {split: make(cls, split, validation_fraction=0.1) for split in ("train", "validation", "test")}
    assert all(part.splits == ("train", "validation", "test") for part in parts.values())
    assert parts["test"].rows.tolist() == test.rows.tolist()
    assert sorted([*parts["train"].rows, *parts["validation"].rows]) == train.rows.tolist()
    assert not set(parts["train"].rows) & set(parts["validation"].rows)
    total = len(train) + len(test)
    assert len(parts["validation"]) == pytest.approx(0.1 * total, abs=train.task.size)
    shares = [np.bincount(part.labels[part.rows]) / len(part) for part in parts.values()]
    assert np.abs(shares[1] - shares[0]).max() < 0.03


def test_validation_split_needs_its_option():
    with pytest.raises(ConfigError, match=r"dataset\.validation_fraction=0\.1"):
        make(Digits, "validation")
    with pytest.raises(ConfigError, match=r"dataset\.validation_fraction=0\.9"):
        make(Digits, "train", validation_fraction=0.9)
