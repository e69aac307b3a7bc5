"""SelfSupervisedEncoder: the conventions of scikit-learn, and that its features are those of the encoder."""

from __future__ import annotations

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import sslx
from ssl_core.errors import SslxError
from ssl_core.estimator.tables import TableColumns
from sslx import SelfSupervisedEncoder

DECODER = {"objective.width": 8, "objective.depth": 1, "objective.heads": 1}
TINY = {
    "objective": "mae", "steps": 3, "dim": 8, "depth": 1, "heads": 1, "batch_size": 16, "random_state": 0,
    "options": DECODER,
}  # fmt: skip
EXCUSED: dict[str, str] = {}
"""Checks of scikit-learn that the estimator cannot pass, with reasons. All pass."""


def table(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Rows of six columns, three of them sums of the others, and a class."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 3))
    return np.concatenate([x, x + x[:, ::-1]], axis=1), (x[:, 0] > 0).astype(int)


def mixed(count: int = 40) -> pandas.DataFrame:
    """Numbers with gaps, categories with gaps, a bool."""
    rng = np.random.default_rng(1)
    frame = pandas.DataFrame(
        {
            "height": rng.standard_normal(count), "count": rng.integers(0, 9, count),
            "colour": rng.choice(["red", "green", "blue"], count), "on": rng.random(count) < 0.5,
        }
    )  # fmt: skip
    frame.loc[::7, "height"] = np.nan
    frame.loc[3, "colour"] = None
    return frame


def test_it_passes_the_checks_of_scikit_learn():
    results = check_estimator(SelfSupervisedEncoder(**TINY), on_skip=None, on_fail=None, expected_failed_checks=EXCUSED)
    failed = {
        result["check_name"]: repr(result["exception"]) for result in results if result["status"] in ("failed", "xpass")
    }
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) > 40


def test_features_are_those_of_the_encoder_and_learn_from_the_data():
    x, _ = table()
    model = SelfSupervisedEncoder(**{**TINY, "steps": 30, "lr": 1e-2}).fit(x)
    features = model.transform(x)
    assert features.shape == (40, 8)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, sslx.embed(model.encoder_, x), atol=1e-6)
    np.testing.assert_allclose(features, model.encoder_.embed(x), atol=1e-6)
    assert len(model.loss_curve_) == 3
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.n_steps_ == 30


def test_the_random_state_decides_and_leaves_other_generators_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    x, _ = table()
    torch.manual_seed(7)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (SelfSupervisedEncoder(**TINY).fit_transform(x) for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert not np.allclose(SelfSupervisedEncoder(**{**TINY, "random_state": 1}).fit_transform(x), first)
    generator = np.random.RandomState(0)
    by_generator = [SelfSupervisedEncoder(**{**TINY, "random_state": generator}).fit_transform(x) for _ in range(2)]
    assert not np.allclose(*by_generator)
    assert list(tmp_path.iterdir()) == []  # neither runs/ nor a cache


def test_threads_that_fit_at_once_do_not_disturb_each_other():
    x, _ = table()
    alone = SelfSupervisedEncoder(**TINY).fit_transform(x)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda _: SelfSupervisedEncoder(**TINY).fit_transform(x), range(3)))
    for features in together:
        assert np.array_equal(features, alone)


@pytest.mark.slow
def test_processes_of_joblib_give_the_same():
    x, _ = table()
    alone = SelfSupervisedEncoder(**TINY).fit(x)
    (there,) = joblib.Parallel(n_jobs=2)([joblib.delayed(alone.transform)(x)])
    np.testing.assert_allclose(there, alone.transform(x), atol=1e-6)


def test_a_pickled_estimator_holds_files_and_no_module(tmp_path):
    model = SelfSupervisedEncoder(**TINY).fit(mixed())
    content = pickle.dumps(model)
    assert b"torch" not in content.replace(b'"torch', b"")  # versions are named in its JSON
    assert b"PretrainedEncoder" not in content
    again = pickle.loads(content)
    assert np.array_equal(again.transform(mixed()), model.transform(mixed()))
    joblib.dump(again, tmp_path / "model.joblib")
    third = joblib.load(tmp_path / "model.joblib")
    assert np.array_equal(third.transform(mixed()), model.transform(mixed()))
    assert third.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()
    unfitted = pickle.loads(pickle.dumps(SelfSupervisedEncoder(**TINY)))
    assert unfitted.get_params() == SelfSupervisedEncoder(**TINY).get_params()


def test_in_a_pipeline_and_a_grid_search():
    x, y = table(60)
    model = make_pipeline(SelfSupervisedEncoder(**TINY), LogisticRegression())
    scores = cross_val_score(model, x, y, cv=2)
    assert scores.shape == (2,)
    grid = {"selfsupervisedencoder__steps": [1, 4], "selfsupervisedencoder__dim": [8]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(x, y)
    best = search.best_estimator_[0]
    assert best.n_steps_ == search.best_params_["selfsupervisedencoder__steps"]
    assert search.predict(x).shape == (60,)
    copy = clone(search.best_estimator_)
    assert not hasattr(copy[0], "encoder_")
    assert copy[0].get_params() == best.get_params()


def test_names_of_features_and_pandas_output():
    model = SelfSupervisedEncoder(**TINY).set_output(transform="pandas")
    frame = mixed()
    frame.index = np.arange(len(frame)) + 100
    features = model.fit_transform(frame)
    assert list(features.columns) == [f"selfsupervisedencoder{number}" for number in range(8)]
    assert list(features.index) == list(frame.index)
    assert model.feature_names_in_.tolist() == ["height", "count", "colour", "on"]
    assert model.n_features_in_ == 4
    layers = SelfSupervisedEncoder(**{**TINY, "depth": 2, "layers": (1, 2)}).fit(table()[0])
    assert layers.transform(table()[0]).shape == (40, 16)
    assert len(layers.get_feature_names_out()) == 16


def test_a_table_of_numbers_and_categories():
    frame = mixed()
    model = SelfSupervisedEncoder(**TINY).fit(frame)
    features = model.transform(frame)
    assert np.isfinite(features).all()
    other = frame.assign(colour="violet")  # not seen: as missing
    np.testing.assert_allclose(model.transform(other), model.transform(frame.assign(colour=None)), atol=1e-6)
    assert not np.allclose(model.transform(other), features)
    as_category = frame.assign(colour=frame["colour"].astype("category"))
    np.testing.assert_allclose(model.transform(as_category), features, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array has no names
        np.testing.assert_allclose(model.transform(frame.to_numpy(dtype=object)), features, atol=1e-6)
    backwards = model.transform(frame.iloc[::-1])
    np.testing.assert_allclose(backwards[::-1], features, atol=1e-6)


def test_missing_numbers_that_were_not_seen_in_fit():
    x, _ = table()
    model = SelfSupervisedEncoder(**TINY).fit(x)
    gaps = x.copy()
    gaps[2, 1] = np.nan
    gaps[5] = np.nan
    features = model.transform(gaps)
    assert np.isfinite(features).all()
    untouched = [row for row in range(40) if row not in (2, 5)]
    np.testing.assert_allclose(features[untouched], model.transform(x)[untouched], atol=1e-5)
    assert not np.allclose(features[2], model.transform(x)[2])


def test_columns_far_from_zero_keep_their_differences():
    seconds = 1.7e9 + np.arange(40.0)
    fields = TableColumns.fit(np.stack([seconds, np.arange(40.0)], axis=1)).encode(
        np.stack([seconds, np.arange(40.0)], axis=1)
    )
    np.testing.assert_allclose(np.diff(fields["numeric"][:, 0]), 1.0)
    np.testing.assert_array_equal(fields["numeric"][:, 1], np.arange(40))


def test_series_and_flat_arrays():
    rng = np.random.default_rng(0)
    series = rng.standard_normal((20, 2, 32))
    model = SelfSupervisedEncoder(**TINY).fit(series)
    assert model.modality_ == "time-series"
    assert model.encoder_.fields["series"].shape == (2, 32)
    np.testing.assert_allclose(model.transform(series), sslx.embed(model.encoder_, series), atol=1e-6)
    flat = clone(model).set_params(modality="time-series", sample_shape=(2, 32)).fit(series.reshape(20, 64))
    np.testing.assert_allclose(flat.transform(series.reshape(20, 64)), model.transform(series), atol=1e-6)
    one = clone(model).set_params(modality="time-series").fit(series[:, 0])
    assert one.encoder_.fields["series"].shape == (1, 32)
    image = clone(model).set_params(modality="image", sample_shape=(1, 8, 8)).fit(rng.random((20, 64)))
    assert image.encoder_.fields["image"].shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"samples of shape \(2, 30\), the encoder was fitted on \(2, 32\)"):
        model.transform(series[:, :, :30])


def test_sequences_of_letters():
    rng = np.random.default_rng(0)
    letters = ["".join(rng.choice(list("ACGT"), 40)) for _ in range(20)]
    model = SelfSupervisedEncoder(**{**TINY, "modality": "genomics"}).fit(letters)
    np.testing.assert_allclose(model.transform(letters), sslx.embed(model.encoder_, letters), atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "x", "message"),
    [
        ({"objective": "maee"}, table()[0], "unknown objective 'maee'; did you mean 'mae'"),
        ({"modality": "tables"}, table()[0], "unknown tokenizer 'tables'"),
        ({"steps": "many"}, table()[0], "steps='many': give a whole number, or 'auto'"),
        ({"dim": 9, "heads": 2}, table()[0], "width 9 is not a multiple of 2 heads"),
        ({"options": {"train.stepz": 3}}, table()[0], "unknown option 'train.stepz'; did you mean 'train.steps'"),
        ({}, np.full((10, 4), np.inf), "contains infinity"),
        ({}, np.zeros((10, 1)), "1 feature"),
        ({}, np.zeros((1, 4)), "1 sample"),
        ({"sample_shape": (2, 5)}, table()[0], "sample_shape=.2, 5. is of 10 numbers, and the samples of X have 6"),
        ({}, np.zeros((4, 2, 2, 2, 2)), "X has 5 axes; name its modality"),
        ({}, pandas.DataFrame({"a": [1.0, 2], "when": pandas.to_datetime(["2020", "2021"])}), "'when' holds times"),
        ({}, pandas.DataFrame({"a": [1.0, 2], "b": [[1], [2, 3]]}), "column 'b' holds other values"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(changed, x, message):
    with pytest.raises(ValueError, match=message) as caught:
        SelfSupervisedEncoder(**{**TINY, **changed}).fit(x)
    assert "\n" not in str(caught.value).strip()


def test_errors_are_also_those_of_sslx_and_come_before_fit_only_if_not_fitted():
    with pytest.raises(SslxError, match="unknown objective"):
        SelfSupervisedEncoder(objective="maee").fit(table()[0])
    SelfSupervisedEncoder(objective="maee", steps="x", dim=-1)  # parameters are checked in fit
    with pytest.raises(NotFittedError):
        SelfSupervisedEncoder().transform(table()[0])
    model = SelfSupervisedEncoder(**TINY).fit(mixed())
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(mixed().rename(columns={"height": "size"}))
    with pytest.raises(ValueError, match="column 'height' held numbers when the encoder was fitted"):
        model.transform(mixed().assign(height="tall"))


def test_doubts_about_the_data_are_warnings_and_verbose_prints(capsys):
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="64 channels of 3 steps"):
        SelfSupervisedEncoder(**TINY).fit(rng.standard_normal((20, 64, 3)))
    assert capsys.readouterr().out == ""
    SelfSupervisedEncoder(**TINY, verbose=1).fit(table()[0])
    assert "[SelfSupervisedEncoder] data       tabular/memory (train 40)" in capsys.readouterr().out


def test_steps_grow_with_the_data():
    model = SelfSupervisedEncoder(batch_size=8)
    assert [model._run_options(count, None)["train.steps"] for count in (4, 40, 100_000)] == [20, 100, 1000]


def test_it_is_imported_from_sslx_without_a_circle():
    assert Path(sslx.SelfSupervisedEncoder.__module__.replace(".", "/")).parts[0] == "ssl_core"


def test_a_fit_that_fails_leaves_no_fitted_estimator():
    x, _ = table()
    model = SelfSupervisedEncoder(**TINY).fit(x)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        model.fit(mixed()[["height"]])
    with pytest.raises(NotFittedError):
        model.transform(x)


@pytest.mark.parametrize(
    ("options", "x", "words"),
    [
        ({}, ["a text", "another"], "X holds texts; name their modality, as modality='text'"),
        ({"modality": "tabular"}, ["a text", "another"], "a list of texts, and a table has rows of columns"),
        ({"modality": "text"}, ["a text", None, "another"], "X holds None at 1, which is no text"),
        ({}, mixed()[["count"]], "minimum of 2 is required"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(options, x, words):
    with pytest.raises(ValueError, match=words):
        SelfSupervisedEncoder(**TINY, **options).fit(x)
