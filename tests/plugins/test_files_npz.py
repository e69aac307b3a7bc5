"""Samples in one .npz file: NaN labels, and arrays shared by the splits."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_plugins.datasets._io import npz
from ssl_plugins.datasets.user.files_series import SeriesFiles


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_nan_group_is_missing(tmp_path, assert_refused, step):
    values = np.arange(20) % 2 * step
    values[2] = np.nan
    np.savez(tmp_path / "a.npz", series=np.zeros((20, 2, 9)), groups=values)
    assert_refused(
        SeriesFiles, tmp_path / "a.npz", "a.npz sample 3 has no group; fill it in everywhere or leave it out"
    )


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_nan_is_no_label(tmp_path, open_both, step):
    values = np.arange(20) % 2 * step
    values[2] = np.nan
    np.savez(tmp_path / "a.npz", series=np.random.default_rng(0).normal(size=(20, 2, 9)), labels=values)
    datasets = open_both(SeriesFiles, tmp_path / "a.npz")
    labels = {d.describe(i).rsplit(" ", 1)[1]: d[i]["label"] for d in datasets for i in range(len(d))}
    assert (labels["3"], labels["4"]) == (None, step)


def test_both_splits_share_a_large_array(tmp_path, open_both, monkeypatch):
    monkeypatch.setattr(npz, "MIN_SHARED_BYTES", 1)
    x = np.random.default_rng(0).normal(size=(20, 3, 32))
    np.savez(tmp_path / "a.npz", series=x)
    train, test = open_both(SeriesFiles, tmp_path / "a.npz")
    assert np.shares_memory(train.arrays[0].array, test.arrays[0].array)
    np.savez(tmp_path / "a.npz", series=x[:10] + 1)
    fewer, _ = open_both(SeriesFiles, tmp_path / "a.npz")
    row = int(fewer.describe(0).rsplit(" ", 1)[1]) - 1
    np.testing.assert_array_equal(fewer[0]["inputs"]["series"], (x[row] + 1).astype(np.float32))
