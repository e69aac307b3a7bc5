"""Compiled objects that a killed run left incomplete are deleted, and the step is compiled again."""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_core import Learner
from ssl_core.contracts import PROGRESS
from ssl_core.errors import SslxError
from ssl_core.testing.harness import Setting
from ssl_core.training.accel import compiled_step as module
from ssl_core.training.accel.compiled_step import CompiledStep, is_known
from ssl_core.training.accel.torn_objects import drop_torn, is_load_error, is_torn, set_aside
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.step import step_function
from ssl_plugins.objectives.metamae import MetaMAE

ELF = pytest.mark.skipif(sys.platform != "linux", reason="objects of Linux")


@pytest.fixture(autouse=True)
def environment_without_a_folder_of_code(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(module, "_set_here", set())


def whole_object() -> bytes:
    """A shared object that exists on every installation."""
    return Path(importlib.import_module("numpy.random.mtrand").__file__).read_bytes()


@ELF
@pytest.mark.parametrize(
    ("content", "torn"),
    [
        (lambda whole: whole, False),
        (lambda whole: b"", True),
        (lambda whole: whole[:40], True),
        (lambda whole: whole[: len(whole) // 2], True),
        (lambda whole: whole[:-200], True),
        (lambda whole: bytes(len(whole)), True),
        (lambda whole: b"!<arch>\n" + whole[:100], False),
    ],
)
def test_torn_objects_are_recognised(tmp_path, content, torn):
    path = tmp_path / "k.main.so"
    path.write_bytes(content(whole_object()))
    assert is_torn(path) == torn


def test_only_torn_files_are_deleted(tmp_path):
    folder = tmp_path / "ab"
    folder.mkdir()
    names = {"empty.main.so": b"", "x.lock": b"", "code.py": b"pass", "empty.py": b"", "marker": b"", "text.json": b""}
    for name, content in names.items():
        (folder / name).write_bytes(content)
    assert {path.name for path in drop_torn(tmp_path)} == {"empty.main.so", "empty.py"}
    assert {path.name for path in folder.iterdir()} == {"x.lock", "code.py", "marker", "text.json"}
    assert drop_torn(tmp_path / "none") == []


def test_a_folder_that_is_set_aside_is_gone(tmp_path):
    (tmp_path / "inductor" / "ab").mkdir(parents=True)
    set_aside(tmp_path / "inductor")
    assert list(tmp_path.iterdir()) == []
    set_aside(tmp_path / "inductor")  # nothing there


@ELF
def test_errors_of_the_loader_are_told_from_others(tmp_path):
    path = tmp_path / "k.so"
    path.write_bytes(b"")
    with pytest.raises(OSError, match="file too short") as loading:
        ctypes.CDLL(str(path))
    assert is_load_error(loading.value)
    outer = RuntimeError("in the compiler")
    outer.__cause__ = loading.value
    assert is_load_error(outer)
    assert not is_load_error(OSError(28, "No space left on device"))
    assert not is_load_error(RuntimeError("a compiler is missing"))
    assert not is_load_error(None)


class Recorder:
    """An attempt that fails for the given causes, one after the other, and then works."""

    def __init__(self, step: CompiledStep, *causes: Exception) -> None:
        self.step, self.causes, self.calls = step, list(causes), 0

    def __call__(self) -> float:
        self.calls += 1
        drawn = float(torch.rand(()))
        self.step.learner.seen += 1
        if self.causes:
            raise SslxError("the step could not be compiled") from self.causes.pop(0)
        return drawn


@pytest.fixture
def step(tmp_path):
    learner = torch.nn.Linear(2, 2)
    learner.register_buffer("seen", torch.zeros(()))
    return CompiledStep(learner, "key", tmp_path)


def torn_file(tmp_path: Path) -> Path:
    path = tmp_path / "compiled" / "inductor" / "ab" / "k.main.so"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_step_is_compiled_again_without_the_torn_object(tmp_path, step):
    path = torn_file(tmp_path)
    torch.manual_seed(3)
    expected = float(torch.rand(()))
    torch.manual_seed(3)
    attempt = Recorder(step, OSError("file too short"))
    assert step.retrying(attempt) == expected  # the second attempt draws what the first did
    assert (attempt.calls, float(step.learner.seen)) == (2, 1.0)
    assert not path.exists()
    assert path.parent.exists()  # other code stays


def test_step_is_compiled_again_in_a_fresh_folder_if_nothing_is_torn(tmp_path, step):
    folder = tmp_path / "compiled" / "inductor" / "ab"
    folder.mkdir(parents=True)
    (folder / "k.main.so").write_bytes(b"no object")
    attempt = Recorder(step, OSError("invalid ELF header"))
    step.retrying(attempt)
    assert attempt.calls == 2
    assert not folder.exists()


def test_folder_of_the_user_is_not_deleted(tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    (theirs / "ab").mkdir(parents=True)
    (theirs / "ab" / "k.main.so").write_bytes(b"no object")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(theirs))
    learner = torch.nn.Linear(2, 2)
    learner.register_buffer("seen", torch.zeros(()))
    own = CompiledStep(learner, "key", tmp_path)
    own.retrying(Recorder(own, OSError("invalid ELF header")))
    assert (theirs / "ab" / "k.main.so").exists()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled" / "inductor")


def test_other_failures_and_a_second_failure_are_raised(tmp_path, step):
    attempt = Recorder(step, RuntimeError("a compiler is missing"))
    with pytest.raises(SslxError):
        step.retrying(attempt)
    assert attempt.calls == 1
    torn_file(tmp_path)
    attempt = Recorder(step, OSError("file too short"), OSError("file too short"))
    with pytest.raises(SslxError):
        step.retrying(attempt)
    assert attempt.calls == 2
    step.ready = True  # compiled: nothing is repeated
    later = Recorder(step, OSError("file too short"))
    with pytest.raises(SslxError):
        step.retrying(later)
    assert later.calls == 1


class TornGradient(torch.autograd.Function):
    """The identity, whose first gradient comes from a torn object."""

    is_torn = True

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if TornGradient.is_torn:
            TornGradient.is_torn = False
            raise ImportError("file too short")
        return gradient


@pytest.mark.parametrize("parts", [1, 2])
def test_a_gradient_is_compiled_again_whatever_number_of_forward_passes_came_before(tmp_path, monkeypatch, parts):
    harness = Setting(MetaMAE, {"depth": 1}, "continuous_1d").build()
    learner = Learner(harness.tokenizer, harness.encoder, harness.objective)
    step = CompiledStep(learner, "key", tmp_path / "cache")
    monkeypatch.setattr(
        step, "_compile",
        lambda: lambda *batch: replace(made := learner(*batch), loss=TornGradient.apply(made.loss)),
    )  # fmt: skip
    monkeypatch.setattr(TornGradient, "is_torn", True)
    torn_file(tmp_path / "cache")
    options = TrainOptions(accumulate_steps=parts)
    plan = TrainingPlan(options, 0, torch.device("cpu"), "fp32", tmp_path, compiled=step)
    run = step_function(learner, make_optimizer(learner, options), plan)
    batch = harness.inputs, learner.draw(8, torch.Generator().manual_seed(0)) | {PROGRESS: torch.zeros(())}
    assert not is_known("key", tmp_path / "cache")
    run(0, [batch] * parts)
    assert step.retried
    assert step.ready
    assert is_known("key", tmp_path / "cache")


ONE_STEP = """
import sys
from pathlib import Path
import torch
from ssl_core import Learner
from ssl_core.contracts import PROGRESS
from ssl_core.testing.harness import Setting
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.step import step_function
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_plugins.objectives.mae import MAE

folder = Path(sys.argv[1])
harness = Setting(MAE, {"depth": 1}, "continuous_1d").build()
learner = Learner(harness.tokenizer, harness.encoder, harness.objective)
step = CompiledStep(learner, "key", folder)
plan = TrainingPlan(TrainOptions(), 0, torch.device("cpu"), "fp32", folder, compiled=step)
run = step_function(learner, make_optimizer(learner, plan.options), plan)
draws = learner.draw(8, torch.Generator().manual_seed(0)) | {"progress": torch.zeros(())}
torch.manual_seed(0)
loss = run(0, [(harness.inputs, draws)])[0]["loss"]
grads = sum(float(p.grad.norm()) for p in learner.parameters() if p.grad is not None)
sums = sum(float(buffer.double().sum()) for buffer in learner.buffers())
print(step.retried, float(loss), grads, sums)
"""


@ELF
@pytest.mark.release
def test_training_continues_over_torn_objects(tmp_path):
    """The objects of forward and backward pass are damaged, as by a kill while they are written.

    Each step has a process of its own: within one, the loader finds what it has loaded.
    """

    def one_step() -> tuple[bool, list[float]]:
        environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        done = subprocess.run(
            [sys.executable, "-c", ONE_STEP, str(tmp_path)], env=environment, capture_output=True, text=True,
            timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        retried, *numbers = done.stdout.split()
        return retried == "True", [float(number) for number in numbers]

    retried, expected = one_step()
    assert not retried
    objects = list((tmp_path / "compiled" / "inductor").rglob("*.so"))
    assert len(objects) > 1
    for number, path in enumerate(objects):
        content = path.read_bytes()
        path.write_bytes(b"" if number % 2 else content[: len(content) // 2])
    retried, numbers = one_step()
    assert retried
    assert numbers == pytest.approx(expected, rel=1e-5)
