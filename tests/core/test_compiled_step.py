"""When a step is compiled, and that a compiled one is the same step."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest
import torch
import torch._inductor.config as inductor
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from ssl_core.errors import SslxError
from ssl_core.nn import attention_xformers
from ssl_core.nn.attention import COMPILED_TOKENS, Attention
from ssl_core.training.accel import compiled_step as module
from ssl_core.training.accel.compiled_step import (
    COLD_SECONDS,
    COLD_STEPS,
    WARM_SECONDS,
    WARM_STEPS,
    CompiledStep,
    decide,
    is_known,
    keep_code,
    key_of,
)  # fmt: skip
from ssl_core.training.accel.cpu_matmul import Rewrite
from ssl_core.training.metrics_log import MetricAverager
from ssl_core.utils.source_digest import source_digest
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

CPU = torch.device("cpu")
CONFIG = {"objective": {"name": "mae"}, "train": {"batch_size": 8, "precision": "fp32", "steps": 10}, "seed": 0}


@pytest.fixture(autouse=True)
def nobody_says_where_code_is(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(module, "_set_here", set())


@pytest.fixture
def compilers(monkeypatch):
    """A machine with the compilers of this set."""
    found = {"g++", "gcc"}
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
    return found


def mark_known(cache, key="key"):
    (cache / "compiled" / "known").mkdir(parents=True)
    (cache / "compiled" / "known" / key).touch()


def test_what_was_set_is_done_and_said(tmp_path):
    assert decide("on", 1, CPU, "key", tmp_path) == ("on", "on, as set")
    assert decide("off", 10**6, CPU, "key", tmp_path) == ("off", "off, as set")


COLD, WARM = COLD_STEPS["cpu"], WARM_STEPS


@pytest.mark.parametrize(("steps", "wanted"), [(WARM, "off"), (COLD - 1, "off"), (COLD, "on")])
def test_a_cold_compilation_needs_many_steps(tmp_path, compilers, steps, wanted):
    chosen, why = decide("auto", steps, CPU, "key", tmp_path)
    assert chosen == wanted
    assert why.startswith(wanted)


def test_a_warm_one_needs_few(tmp_path, compilers):
    mark_known(tmp_path)
    assert decide("auto", WARM, CPU, "key", tmp_path)[0] == "on"
    assert decide("auto", WARM - 1, CPU, "key", tmp_path)[0] == "off"
    assert decide("auto", WARM, CPU, "other", tmp_path)[0] == "off"


def test_a_run_by_the_clock_goes_by_the_clock(tmp_path, compilers):
    steps = 2**60  # what a run by the clock has as its limit
    assert decide("auto", steps, CPU, "key", tmp_path, COLD_SECONDS["cpu"])[0] == "on"
    chosen, why = decide("auto", steps, CPU, "key", tmp_path, WARM_SECONDS)
    assert chosen == "off"
    assert why == f"off: not compiled before, and {WARM_SECONDS} s are fewer than {COLD_SECONDS['cpu']}"
    mark_known(tmp_path)
    assert decide("auto", steps, CPU, "key", tmp_path, WARM_SECONDS)[0] == "on"


def test_what_is_known_is_where_the_code_is(tmp_path, monkeypatch, compilers):
    mark_known(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "theirs"))
    assert not is_known("key", tmp_path)


def test_without_a_compiler_nothing_is_compiled(tmp_path, monkeypatch, compilers):
    """The compiler of torch takes g++ or what CXX names, and no other that is there."""
    compilers.clear()
    compilers.add("clang++")
    chosen, why = decide("auto", 10**6, CPU, "key", tmp_path)
    assert (chosen, why) == ("off", "off: there is no C++ compiler (g++, or what CXX names)")
    monkeypatch.setenv("CXX", "clang++")
    assert decide("auto", 10**6, CPU, "key", tmp_path)[0] == "on"


def test_on_cuda_triton_and_a_c_compiler_are_needed(tmp_path, monkeypatch, compilers):
    cuda = torch.device("cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton" in decide("auto", 10**6, cuda, "key", tmp_path)[1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert decide("auto", 10**6, cuda, "key", tmp_path)[0] == "on"
    compilers.clear()
    assert decide("auto", 10**6, cuda, "key", tmp_path)[0] == "off"


def test_the_compiler_sees_through_the_choice_of_a_kernel_on_cuda(toy, tmp_path, monkeypatch):
    """What loads xformers can't be traced into, so it is asked beforehand."""
    monkeypatch.delattr(attention_xformers.xformers_fits, "_dynamo_marked_constant", raising=False)
    CompiledStep(toy.make_learner(MAE), "key", tmp_path)._compile()
    layer = Attention(64, 1)
    q = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, requires_grad=True)
    expected = layer.kernel_for(q, 197)
    attention_xformers.xformers_ops.cache_clear()

    def chosen(x):
        return x + (layer.kernel_for(q, 197) == expected)

    assert torch.compile(chosen, backend="eager", fullgraph=True)(torch.zeros(1)).item() == 1


def test_the_code_of_the_step_is_part_of_the_key(tmp_path):
    """That of its own modules: another plugin's does not matter."""
    keys = []
    for text in ("class Part: ...", "class Part: 'mended'"):
        file = tmp_path / f"part_{len(keys)}.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location(f"part_{len(keys)}", file)
        sys.modules[spec.name] = part = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(part)
        keys.append(key_of(CONFIG, "cpu", {part.Part}))
        del sys.modules[spec.name]
    assert len({*keys, key_of(CONFIG, "cpu")}) == 3


def test_the_key_knows_what_the_code_depends_on_and_nothing_else():
    key = key_of(CONFIG, "cpu")
    assert key_of(CONFIG | {"seed": 5, "train": CONFIG["train"] | {"steps": 99}}, "cpu") == key
    assert key_of(CONFIG | {"objective": {"name": "metamae"}}, "cpu") != key
    assert key_of(CONFIG | {"train": CONFIG["train"] | {"precision": "bf16"}}, "cpu") != key
    assert key_of(CONFIG, "another") != key


@pytest.mark.parametrize("already", [None, "torch's own", "the user's"])
def test_compiled_code_is_kept_in_the_cache(tmp_path, monkeypatch, already):
    """Importing torch's own parts sets the variable to a temporary folder; only the user's word stands."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    theirs = str(tmp_path / "theirs")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    own = os.path.abspath(default_cache_dir())
    if already:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", own if already == "torch's own" else theirs)
    keep_code(tmp_path)
    kept = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert kept == (theirs if already == "the user's" else str(tmp_path / "compiled" / "inductor"))


def test_one_process_compiles_as_many_learners_as_it_likes(toy, tmp_path, monkeypatch):
    """By default torch gives up at the ninth, since all learners have their forward pass in common."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_(f, **how | {"backend": "eager", "mode": None}))
    torch.compiler.reset()
    for seed in range(10):
        learner = toy.make_learner(MAE, seed=seed)
        draws = learner.draw(8, torch.Generator().manual_seed(0))
        CompiledStep(learner, "key", tmp_path)({"x": torch.randn(8, 2, 16)}, draws)


def backend(monkeypatch, which):
    """The engine's compilation with a backend that takes no time."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_(f, **how | {"backend": which, "mode": None}))
    torch.compiler.reset()


@pytest.mark.parametrize("changed", ["nn/double_backward.py", "training/accel/cpu_matmul.py", "objectives/mae.py"])
def test_the_compiler_gets_our_changes_to_its_graphs_by_the_name_of_our_code(toy, tmp_path, monkeypatch, changed):
    named = []
    with inductor.patch(post_grad_custom_post_pass=None):
        for _ in range(2):
            CompiledStep(toy.make_learner(MAE), "key", tmp_path)._compile()
            assert isinstance(inductor.post_grad_custom_post_pass, Rewrite)
            named.append(inductor.post_grad_custom_post_pass.uuid())
            # code that was compiled for other operations of ours must not be taken up
            monkeypatch.setattr(
                module, "source_digest", lambda file: "new" if file.endswith(changed) else source_digest(file)
            )
    assert named[0] != named[1]


def test_matrix_products_stay_as_they_are_without_the_option(toy, tmp_path):
    with inductor.patch(post_grad_custom_post_pass=None):
        CompiledStep(toy.make_learner(MAE), "key", tmp_path, cpu_matmul=False)._compile()
        assert inductor.post_grad_custom_post_pass is None


def test_the_key_depends_on_the_option_of_matrix_products():
    config = {"train": {"batch_size": 8, "precision": "fp32", "cpu_matmul": True}}
    other = {"train": config["train"] | {"cpu_matmul": False}}
    assert key_of(config, "cpu") != key_of(other, "cpu")


def test_a_step_is_known_once_its_gradient_is_compiled(toy, tmp_path, monkeypatch):
    backend(monkeypatch, "aot_eager")
    learner = toy.make_learner(MAE)
    draws = learner.draw(8, torch.Generator().manual_seed(0))
    step = CompiledStep(learner, "key", tmp_path)

    def attempt():
        outcome = step({"x": torch.randn(8, 2, 16)}, draws)
        outcome.loss.backward()
        assert not is_known("key", tmp_path)

    step.retrying(attempt)
    assert is_known("key", tmp_path)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_compiler_that_fails_says_what_to_do(toy, tmp_path, monkeypatch, where):
    def sound(graph, examples):
        return make_boxed_func(graph.forward)

    def broken(graph, examples):
        raise RuntimeError("no room on the disk")

    backend(monkeypatch, aot_autograd(fw_compiler=broken if where == "forward" else sound, bw_compiler=broken))
    step = CompiledStep(toy.make_learner(MAE), "key", tmp_path)
    draws = step.learner.draw(8, torch.Generator().manual_seed(0))

    def first_step():
        outcome = step({"x": torch.randn(8, 2, 16)}, draws)
        with step.compiling():
            outcome.loss.backward()

    with pytest.raises(SslxError, match=r"could not be compiled \(.*no room on the disk.*\); set train\.compile=off"):
        first_step()
    assert not is_known("key", tmp_path)


@pytest.mark.release
@pytest.mark.parametrize(("objective", "long"), [(MAE, 100), (MetaMAE, 100), (MetaMAE, 1)])
def test_a_compiled_step_is_the_eager_one(toy, tmp_path, monkeypatch, objective, long):
    """`long`: the tokens from which attention has its derivatives written out, 1 for all."""
    monkeypatch.setitem(COMPILED_TOKENS, "cpu", long)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    learner = toy.make_learner(objective).double()
    inputs = {"x": torch.randn(8, 2, 16, dtype=torch.float64)}
    step = CompiledStep(learner, "key", tmp_path)

    def gradients(function, draws):
        learner.zero_grad()
        outcome = function(inputs, draws)
        outcome.loss.backward()
        return outcome.loss.detach(), [p.grad.clone() for p in learner.parameters() if p.grad is not None]

    for seed in range(2):
        draws = learner.draw(8, torch.Generator().manual_seed(seed))
        (loss, eager), (again, compiled) = gradients(learner, draws), gradients(step, draws)
        torch.testing.assert_close(again, loss, rtol=1e-9, atol=0)
        for one, other in zip(eager, compiled, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    assert is_known("key", tmp_path)


@pytest.mark.slow
def test_a_compiled_step_drops_what_the_eager_one_drops(toy, tmp_path, monkeypatch):
    """Two layers of the same shape draw twice, and the backward pass does not draw again."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    learner = toy.make_learner(MAE).double()
    for block in learner.encoder.transformer.blocks:
        block.mlp.drop1.p = block.mlp.drop2.p = block.attn.proj_drop.p = 0.4
    inputs, step = {"x": torch.randn(8, 2, 16, dtype=torch.float64)}, CompiledStep(learner, "key", tmp_path)
    draws = learner.draw(8, torch.Generator().manual_seed(0))
    found = []
    for function in (learner, step):
        learner.zero_grad()
        torch.manual_seed(5)
        outcome = function(inputs, draws)
        outcome.loss.backward()
        found.append([outcome.loss.detach(), *(p.grad for p in learner.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_step_on_cuda_is_the_eager_one(toy, tmp_path, dtype):
    learner = toy.make_learner(MetaMAE).cuda()
    step = CompiledStep(learner, "key", tmp_path)
    for seed in range(2):
        inputs = {"x": torch.randn(8, 2, 16, device="cuda")}
        draws = {k: v.cuda() for k, v in learner.draw(8, torch.Generator().manual_seed(seed)).items()}
        found = []
        for function in (learner, step):
            learner.zero_grad()
            with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
                loss = function(inputs, draws).loss
            loss.backward()
            found.append(
                (loss.item(), torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]))
            )
        (eager, gradient), (compiled, other) = found
        close = 1e-4 if dtype == torch.float32 else 0.02
        assert compiled == pytest.approx(eager, rel=close)
        assert (other - gradient).norm() < 10 * close * gradient.norm()


def test_what_a_step_returned_may_be_overwritten_later():
    window, loss = MetricAverager(), torch.tensor(1.0)
    window.add({"loss": loss})
    loss.fill_(5.0)
    window.add({"loss": loss})
    assert window.means() == {"train/loss": 3.0}
