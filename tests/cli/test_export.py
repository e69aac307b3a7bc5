"""The command `sslx export`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import sslx
from ssl_core.cli.app import app
from ssl_core.runs.run_dir import find

SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        x = np.random.default_rng(0).standard_normal((24, 2, 32)).astype(np.float32)
        choice = {"objective": "mae", "steps": 2, "batch_size": 8, "preset": "none", "set": SMALL}
        yield sslx.pretrain(x, modality="time-series", out=folder / "run", **choice), x


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_default_folder_lies_in_the_run_and_is_replaced_on_request(run):
    run, x = run
    out = run.folder / "export" / "safetensors"
    assert export(run.folder, "--to", "safetensors").exit_code == 0
    assert np.array_equal(sslx.load(out).embed(x), run.encoder.embed(x))
    again = export(run.folder, "--to", "safetensors")
    assert (again.exit_code, "error: " in again.output, "is not empty" in again.output) == (1, True, True)
    done = export(run.folder, "--to", "safetensors", "--overwrite")
    assert done.exit_code == 0
    assert " ".join(done.output.split()).endswith("(model.safetensors, sslx.json)")
    (out / "config.json").write_text("{}", encoding="utf-8")  # as in a folder for Hugging Face
    assert find(out.parent) == []


def test_a_program_of_a_saved_encoder(run, tmp_path):
    run, _ = run
    run.encoder.save(tmp_path / "saved")
    done = export(tmp_path / "saved", "--to", "torch", "--out", tmp_path / "t", "--per-token", "--layers", "1")
    assert done.exit_code == 0, done.output
    assert "checked: it differs from the encoder by 0 at most" in done.output
    about = json.loads((tmp_path / "t" / "preprocessing.json").read_text(encoding="utf-8"))
    assert list(about["outputs"]) == ["features", "tokens"]
    assert about["steps"][2]["length"] == 32


def test_bad_input_gets_one_line(run, tmp_path):
    run, _ = run
    half = tmp_path / "half"
    shutil.copytree(run.folder, half)
    (half / "report.json").unlink()
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        ((run.folder, "--to", "onx"), "error: unknown format 'onx'; did you mean 'onnx'?"),
        ((half, "--to", "torch"), f"error: {half} is not finished (2 of 2 steps); go on with sslx run --resume"),
        ((empty, "--to", "torch"), f"error: {empty} is not a run folder: it has no config.json"),
        ((run.folder, "--to", "torch", "--layers", "a"), "error: --layers a: give numbers of encoder layers"),
    ]
    for arguments, message in cases:
        done = export(*arguments)
        assert done.exit_code == 1
        assert message in " ".join(done.output.split())
        assert "Traceback" not in done.output
    assert export(run.folder).exit_code == 2
    assert list(empty.iterdir()) == []
    assert not (half / "export" / "torch").exists()
