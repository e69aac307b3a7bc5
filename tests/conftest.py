"""Shared by all tests: one thread, the reference implementation of the equations, small models and a fresh virtual
environment."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import site
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from markupsafe import Markup
from torch import Tensor

from ssl_core import Geometry, Learner, Objective, Tokenizer
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.report import plots
from ssl_core.tokenizers import GridTokenizer, IdTokenizer, JointTokenizer
from ssl_plugins.maskings.random import RandomMasking

ROOT = Path(__file__).resolve().parent.parent
DIM, DECODER = 16, 12
# The files of the fast tier, besides those that set the marker themselves: each area of the code has at least one.
FAST = {
    *("test_api_freeze.py", "test_layers.py", "cli/test_listing.py", "core/kit/test_testing_objectives.py"),
    *(
        f"core/test_{name}.py"
        for name in (
            *("attention", "comparison", "config", "cpu_matmul", "decoder", "dropout", "encoder", "errors", "features"),
            *(
                "heads",
                "health",
                "knn",
                "linear",
                "metrics",
                "options",
                "pipeline",
                "plugins",
                "positions",
                "public_data",
                "report",
            ),
            *("run_dir", "sample_limits", "tokenizer_fit", "tokens", "training_loop", "transformer"),
        )
    ),
    *(
        f"plugins/test_{name}.py"
        for name in (
            *("dabs_objectives_by_hand", "files_tables", "m3ae_by_hand", "metamae_by_hand", "padding", "presets"),
            *("speech_tokenizer", "synthetic_speech", "tabular_tokenizer", "text_tokenizers", "trackers"),
        )
    ),
}
DRAWN = {
    "core/test_report.py",
    "core/test_report_figures.py",
    "core/test_comparison.py",
    "core/test_run_figures.py",
    "cli/test_ui.py",
}
"""The files whose tests draw plots. Others draw none in this process: a page has dozens, a tenth of a second each."""


def pytest_configure() -> None:
    missing = sorted(name for name in FAST | DRAWN if not (ROOT / "tests" / name).is_file())
    if missing:
        raise pytest.UsageError(f"tests/conftest.py: no file tests/{missing[0]}, which FAST or DRAWN names")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the fast tier, except slow ones and those of a release."""
    for item in items:
        path = item.path.relative_to(ROOT / "tests").as_posix() if item.path.is_relative_to(ROOT / "tests") else ""
        if path in FAST and not any(item.get_closest_marker(name) for name in ("slow", "release")):
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    path = request.path
    if path.is_relative_to(ROOT / "tests") and path.relative_to(ROOT / "tests").as_posix() not in DRAWN:
        monkeypatch.setattr(
            plots, "to_svg", lambda figure, label: Markup('<svg role="img" aria-label="{}"/>').format(label)
        )


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Undo what a test does to the environment: commands called in this process set variables of torch's compiler, and
    the processes of later tests would inherit them."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """benchmarks/plain.py, the reference implementation; it is no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("sslx_plain", ROOT / "benchmarks" / "plain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class SmallGrid(GridTokenizer):
    """Patches of any grid, not normalised."""

    name = "small-grid"

    def __init__(self, field: str, channels: int, shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
        options = self.Options(normalise="none")
        super().__init__(options, {}, DIM, field=field, channels=channels, shape=shape, patch=patch)


class SmallIds(IdTokenizer):
    """Ids of a small vocabulary."""

    name = "small-ids"

    def __init__(self, field: str, length: int, vocab: int) -> None:
        super().__init__(self.Options(), {}, DIM, field=field, length=length, vocab=vocab)


def small_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer for a small row: 1d, 2d, wide (not square), 3d, ids, joint (values and ids), or long."""
    if kind == "joint":
        return JointTokenizer(
            JointTokenizer.Options(), {}, DIM, parts=[SmallGrid("x", 1, (6, 4), (2, 2)), SmallIds("y", 7, 5)]
        )
    if kind == "discrete":
        return SmallIds("x", 11, 7)
    shapes: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
        "1d": (3, (24,), (2,)),
        "long": (1, (120,), (1,)),
        "2d": (1, (8, 8), (2, 2)),
        "wide": (2, (4, 15), (2, 3)),
        "3d": (1, (4, 2, 6), (2, 1, 2)),
    }
    return SmallGrid("x", *shapes[kind])


@dataclasses.dataclass
class Case:
    """A small learner in float64 with weights away from their start, its inputs, and the same for the oracle."""

    learner: Learner
    inputs: dict[str, Tensor]
    plain: ModuleType
    sizes: Any

    @property
    def objective(self) -> Any:
        return self.learner.objective

    @property
    def batch(self) -> list[Tensor]:
        return list(self.inputs.values())

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The learner's own parameters under the oracle's names."""
        return self.plain.parameters_of(dict(self.learner.named_parameters()))

    def draws(self, seed: int = 0, rows: int | None = None) -> Mapping[str, Tensor]:
        rows = len(self.batch[0]) if rows is None else rows
        return self.objective.draw(rows, torch.Generator().manual_seed(seed), Geometry())

    def chosen(self, draws: Mapping[str, Tensor]) -> Tensor:
        """(B, L) bool: the nearby tokens that MetaMAE's draws put into the support set."""
        visible, order, support = draws["visible"], draws["order"], draws["support"]
        supported = torch.zeros(order.shape).scatter(1, order[:, : support.shape[1]], support) > 0
        return supported & self.plain.hidden_from(visible, order.shape[1])


@pytest.fixture
def make_case(plain: ModuleType) -> Callable[..., Case]:
    """Build a Case: make_case(kind of layout, class of objective, ratio, rows, noise, options of the encoder, **options
    of the objective)."""

    def make(
        kind: str,
        objective: type[Objective],
        ratio: float = 0.6,
        rows: int = 4,
        noise: float = 0.3,
        encoder_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Case:
        tokenizer = small_tokenizer(kind)
        layout = tokenizer.layout
        of_encoder = EncoderOptions(dim=DIM, depth=2, heads=2, **(encoder_options or {}))
        encoder = TransformerEncoder(of_encoder, layout)
        masking = RandomMasking(RandomMasking.Options(ratio=ratio), layout)
        options = {"depth": 2, "width": DECODER, "heads": 3} | options
        made = objective(objective.Options(**options), layout, DIM, {} if masking is None else {"mask": masking})
        learner = Learner(tokenizer, encoder, made).double()
        with torch.no_grad():
            for parameter in learner.parameters():  # the second-order term is tiny near initialisation
                parameter += noise * torch.randn_like(parameter)
        pieces, inputs = [], {}
        parts = list(tokenizer.parts) if isinstance(tokenizer, JointTokenizer) else [tokenizer]
        for part in parts:
            segment = part.layout.segments[0]
            patch = part.patch if isinstance(part, GridTokenizer) else ()
            pieces.append(plain.Piece(segment.target, segment.grid, segment.size, patch))
            if isinstance(part, GridTokenizer):
                inputs[part.field] = torch.randn(rows, part.channels, *part.shape, dtype=torch.float64)
            else:
                inputs[part.field] = torch.randint(segment.size, (rows, segment.length))
        sizes = plain.Sizes(
            tuple(pieces), dim=DIM, depth=2, heads=2, mlp=int(of_encoder.mlp_ratio * DIM), decoder_dim=DECODER,
            decoder_depth=options["depth"], decoder_heads=3, decoder_mlp=int(options.get("mlp_ratio", 2) * DECODER),
            qkv_bias=of_encoder.qkv_bias, decoder_qkv_bias=options.get("qkv_bias", False),
            form=plain.Form(of_encoder.norm_eps, of_encoder.act == "gelu_tanh"),
            decoder_form=plain.Form(options.get("norm_eps", 1e-5), options.get("act") == "gelu_tanh"),
            projector=(options.get("projector_hidden", 1024), options.get("projector_out", 128)),
        )  # fmt: skip
        return Case(learner, inputs, plain, sizes)

    return make


@dataclasses.dataclass
class Outside:
    """A fresh virtual environment that sees the libraries of this one, and a folder of work beside it."""

    folder: Path

    def __post_init__(self) -> None:
        venv.create(self.folder / "env", with_pip=True, symlinks=True)
        packages = next((self.folder / "env").glob("lib/python*/site-packages"))
        lines = [f"import site; site.addsitedir({place!r})" for place in site.getsitepackages()]
        (packages / "libraries.pth").write_text("\n".join(lines) + "\n")
        binaries = self.folder / "env" / "bin"
        for tool, module in (("sslx", "ssl_core.cli"), ("pytest", "pytest")):  # theirs are scripts of the other one
            script = f'#!/bin/sh\nexec {shlex.quote(str(binaries / "python"))} -m {module} "$@"\n'
            (binaries / tool).write_text(script)
            (binaries / tool).chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Variables: the environment first on the path, nothing fetched by pip, a cache of its own."""
        path = os.pathsep.join([str(self.folder / "env" / "bin"), os.environ["PATH"]])
        build = {"PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if importlib.util.find_spec("hatchling"):
            build |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # pip reads this one the other way round
        return os.environ | {"PATH": path, "COLUMNS": "200", "SSLX_CACHE_DIR": str(self.folder / "cache")} | build

    def __call__(self, *command: object, **variables: str) -> tuple[int, str, str]:
        """A command of the environment in the folder: exit code, standard output, standard error."""
        done = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=self.environment() | variables, capture_output=True,
            text=True, timeout=900,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def fine(self, *command: object, **variables: str) -> str:
        """The standard output of a command that must not fail."""
        code, out, err = self(*command, **variables)
        assert code == 0, f"{' '.join(map(str, command))}\n{out[-3000:]}\n{err[-3000:]}"
        return out


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """A fresh virtual environment for one file of tests."""
    return Outside(tmp_path_factory.mktemp("outside"))
