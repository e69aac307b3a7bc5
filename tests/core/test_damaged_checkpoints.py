"""A checkpoint that is not as it was written is found and named, and a stopped run goes on from the one before."""

from __future__ import annotations

import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

import sslx
from ssl_core.errors import CheckpointError
from ssl_core.runs import run_dir
from ssl_core.training import checkpoint
from ssl_core.training.checkpoint import MODEL, OPTIMIZER, STATE
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.utils.console import Console
from ssl_core.utils.digests import file_digest, json_digest
from ssl_plugins.objectives.mae import MAE

SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "train.checkpoint_every": 2, "dataset.n_train": 24,
    "dataset.n_test": 8, "evaluate.figures": False,
}  # fmt: skip
CHOICE = {"modality": "time-series", "objective": "mae", "batch_size": 8, "preset": "none", "set": SMALL}
STEPS = "step-00000004", "step-00000006"


def flip(path, place=0.5):
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_page(path):
    content = bytearray(path.read_bytes())
    content[-512:] = bytes(512)
    path.write_bytes(content)


def delete(path):
    path.unlink()


DAMAGE = [flip, cut, empty_page, delete]
FILES = [MODEL, OPTIMIZER, STATE]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps with checkpoints at four and six."""
    folder = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        sslx.pretrain(out=folder / "run", steps=6, **CHOICE)
        yield folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def weights(folder):
    return load_file(checkpoint.latest(folder).folder / MODEL)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_the_newest_checkpoint_that_is_whole_is_found(run, damage, file):
    damage(run / "checkpoints" / STEPS[1] / file)
    found = checkpoint.newest_whole([run])
    assert found.step == 4
    assert found.skipped == (run / "checkpoints" / STEPS[1],)
    assert checkpoint.is_latest(found, run)
    damage(run / "checkpoints" / STEPS[0] / file)
    with pytest.raises(CheckpointError, match=f"{STEPS[1]} is damaged .*no other checkpoint.*--overwrite"):
        checkpoint.newest_whole([run])


def test_an_undamaged_checkpoint_is_taken(run):
    found = checkpoint.newest_whole([run])
    assert (found.step, found.skipped) == (6, ())


@pytest.mark.parametrize("file", FILES)
def test_a_resumed_run_goes_on_from_the_one_before_with_one_warning(run, trained, file):
    flip(run / "checkpoints" / STEPS[1] / file, 0.9)
    lines = []

    class Lines(Console):
        def info(self, text):
            lines.append(text)

    again = sslx.pretrain(out=run, resume=True, steps=6, console=Lines(), **CHOICE)
    assert [line for line in lines if "damaged" in line] == [
        f"warning: {run / 'checkpoints' / STEPS[1]} is damaged, so the run goes on from the checkpoint of step 4; the "
        f"steps after it are repeated"
    ]
    one, other = weights(trained), weights(run)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again.steps == 6


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", [MODEL, STATE])
def test_an_evaluation_scores_no_older_step(run, damage, file):
    before = (run / "report.json").read_bytes()
    damage(run / "checkpoints" / STEPS[1] / file)
    with pytest.raises(CheckpointError, match=rf"{STEPS[1]} is damaged \(.*{file}.*\).*--resume"):
        sslx.evaluate(run)
    with pytest.raises(CheckpointError, match=f"{STEPS[1]} is damaged"):
        sslx.load(run)
    assert (run / "report.json").read_bytes() == before
    assert run_dir.summary(run)["state"] == ("damaged" if file == STATE else "finished")


def test_a_state_whose_numbers_were_changed_is_refused(run):
    path = run / "checkpoints" / STEPS[1] / STATE
    path.write_text(path.read_text().replace('"step": 6', '"step": 5'))
    with pytest.raises(CheckpointError, match="state.json is not as it was written"):
        checkpoint.latest(run)


@pytest.mark.parametrize("text", ["[]", "7", "null", "[" * 10**5])
def test_a_state_that_is_no_table_is_named(run, text):
    (run / "checkpoints" / STEPS[1] / STATE).write_text(text)
    with pytest.raises(CheckpointError, match=f"{STEPS[1]} is damaged"):
        checkpoint.latest(run)


def rewrite(folder, change):
    """Change the optimiser's tensors and their digest, as another program may do."""
    tensors = load_file(folder / OPTIMIZER)
    change(tensors)
    save_file(tensors, folder / OPTIMIZER)
    state = json.loads((folder / STATE).read_text())
    del state["digest"]
    state["file_digests"][OPTIMIZER] = file_digest(folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps({**state, "digest": json_digest(state)}))


NAME = "encoder.transformer.norm.weight"


AVERAGE, SQUARES = f"{NAME}|exp_avg", f"{NAME}|exp_avg_sq"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.update({AVERAGE: t[AVERAGE][:1].clone()}), r"shape of exp_avg is \(1,\).*\(16,\)"),
        (lambda t: t.update({SQUARES: t[SQUARES].half()}), "type of exp_avg_sq is torch.float16"),
        (lambda t: t.pop(AVERAGE), "it has exp_avg_sq, step, and the optimiser keeps exp_avg, exp_avg_sq, step"),
        (lambda t: t.update({f"{NAME}|more": torch.zeros(1)}), "it has exp_avg, exp_avg_sq, more, step"),
        (lambda t: t.update({f"{NAME}|step": torch.zeros(3)}), r"shape of step is \(3,\)"),
    ],
)
def test_a_state_that_the_optimiser_does_not_keep_is_refused(toy, tmp_path, change, problem):
    """A fused step reads beyond a tensor that is too short."""
    learner, options = toy.make_learner(MAE), TrainOptions()
    optimizer = make_optimizer(learner, options)
    learner({"x": torch.randn(8, 2, 16)}, learner.draw(8, torch.Generator().manual_seed(0))).loss.backward()
    optimizer.step()
    folder = checkpoint.save(tmp_path, 1, learner, optimizer, {})
    assert f"{NAME}|exp_avg" in load_file(folder / OPTIMIZER)
    fresh = make_optimizer(learner, options)
    checkpoint.load_optimizer(checkpoint.latest(tmp_path), learner, fresh)
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=f"does not fit this configuration: state of '{NAME}': {problem}"):
        checkpoint.load_optimizer(checkpoint.latest(tmp_path), learner, make_optimizer(learner, options))


def test_all_files_have_the_mode_of_new_files(run):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (run / "checkpoints" / STEPS[1]).iterdir()}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {0o666 & ~mask}


def test_json_digests_are_the_same_before_writing_and_after_reading():
    entries = {"a": (1, 2), "b": float("nan"), 3: 0.1, "path": run_dir.Path("x"), "é": "\ud800"}
    again = json.loads(json.dumps(entries, default=str))
    assert json_digest(entries) == json_digest(again)
    assert json_digest(entries) != json_digest({**entries, "a": (1, 3)})
