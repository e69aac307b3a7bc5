"""An encoder as a program of PyTorch's own operators, traced once, written as .pt2 or ONNX, and checked.

Inputs are preprocessed arrays by name, with a first axis of any size. Outputs are, by name: "features" (B, D) and, with
`per_token`, "tokens" (B, L, D) and "valid" (B, L) bool, the tokens that hold data, where these differ between samples.
"""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.errors import ConfigError, SslxError
from ssl_core.pipeline.measure import InputSpec
from ssl_core.runs.encoder import PretrainedEncoder

BATCH = "batch"
FEATURES, TOKENS, VALID = "features", "tokens", "valid"
TRACED_ROWS = 2
CHECKED_ROWS = (1, 2, 5)
"""Sizes of the batches that a written program is checked with."""
TOLERANCE = 1e-4
"""Largest difference from the original, as a share of the largest feature, or absolute below 1."""
ONNX_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
Arrays = dict[str, np.ndarray]


class FeatureProgram(nn.Module):
    """Preprocessed inputs to named outputs, the form in which an encoder is exported.

    Args:
        encoder: the encoder.
        per_token: also return the features of the tokens.
        layers: numbers of encoder layers from 1, whose outputs are side by side.
        readout: how the features are read out, without `layers` and `per_token`.
    """

    def __init__(
        self,
        encoder: PretrainedEncoder,
        per_token: bool = False,
        layers: Sequence[int] | None = None,
        readout: str | None = None,
    ) -> None:
        super().__init__()
        self.source, self.per_token, self.layers, self.readout = encoder, per_token, layers, readout

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        if not self.per_token:
            return {FEATURES: self.source(inputs, layers=self.layers, readout=self.readout)}
        tokens, encoder = self.source.tokenizer(inputs), self.source.encoder
        embeddings, geometry = tokens.embeddings, tokens.geometry
        if self.layers is None:
            rows = [encoder(embeddings, geometry=geometry)]
        else:
            rows = encoder(embeddings, geometry=geometry, layers=self.layers)
        outputs = {
            FEATURES: torch.cat([encoder.pool(row, tokens.valid) for row in rows], dim=-1),
            TOKENS: torch.cat([row[:, 1:] for row in rows], dim=-1),
        }
        return outputs if tokens.valid is None else outputs | {VALID: tokens.valid}


@dataclass(frozen=True)
class Program:
    """A traced encoder.

    module: the original, on the CPU in fp32. exported: the traced program. inputs: what it takes, by name. unused:
    names of preprocessed arrays that it does not need. outputs: names of what it returns. batches: inputs to check a
    written program with.
    """

    module: FeatureProgram
    exported: torch.export.ExportedProgram
    inputs: Mapping[str, InputSpec]
    unused: tuple[str, ...]
    outputs: tuple[str, ...]
    batches: tuple[Arrays, ...]

    @torch.no_grad()
    def expected(self, batch: Arrays) -> Arrays:
        """The original's outputs."""
        tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
        return {name: value.numpy() for name, value in self.module(tensors).items()}


def trace(
    encoder: PretrainedEncoder,
    per_token: bool = False,
    layers: Sequence[int] | None = None,
    example: Any = None,
    readout: str | None = None,
) -> Program:
    """Trace an encoder with a batch of any size.

    Args:
        encoder: the encoder, which stays as it is.
        per_token: also return the features of the tokens.
        layers: numbers of encoder layers from 1.
        example: raw samples to trace and check with; by default random arrays in the range of the training data.
        readout: how the features are read out, without `layers` and `per_token`.

    Raises:
        ConfigError: there is no example and the encoder does not know its inputs, or it cannot be traced.
    """
    source = copy.deepcopy(encoder).to("cpu").float().eval().requires_grad_(False)
    module = FeatureProgram(source, per_token, layers, readout)
    if example is None:
        specs, batches = encoder.inputs, _random_batches(encoder)
    else:
        specs, batches = _example_batches(source, example)
    with torch.no_grad():
        outputs = tuple(module(_tensors(batches[0])))
        exported = _export(module, batches[-1], specs)
        unused = _unused(exported, tuple(specs))
        if unused:
            needed = {name: spec for name, spec in specs.items() if name not in unused}
            try:
                exported, specs = _export(module, batches[-1], needed), needed
            except ConfigError:  # it asks for an input of which it uses the size alone
                unused = ()
    return Program(module, exported, specs, unused, outputs, batches)


def _random_batches(encoder: PretrainedEncoder) -> tuple[Arrays, ...]:
    if not encoder.inputs:
        raise ConfigError(
            "the encoder was saved by an earlier sslx and does not know the form of its inputs; export it from Python, "
            "with a few raw samples: encoder.export(format, folder, example=x)"
        )
    random = np.random.default_rng(0)
    sizes = sorted(CHECKED_ROWS, key=lambda size: size == TRACED_ROWS)
    return tuple({name: spec.draw(size, random) for name, spec in encoder.inputs.items()} for size in sizes)


def _example_batches(encoder: PretrainedEncoder, example: Any) -> tuple[dict[str, InputSpec], tuple[Arrays, ...]]:
    arrays = {name: value.numpy() for name, value in encoder.preprocess(example).items()}
    specs = {}
    for name, array in arrays.items():
        low, high = (array.min().item(), array.max().item())
        specs[name] = InputSpec(array.dtype.name, array.shape[1:], low, high)
    traced = {name: np.repeat(array, TRACED_ROWS, axis=0)[:TRACED_ROWS] for name, array in arrays.items()}
    return specs, ({name: array[:1] for name, array in arrays.items()}, arrays, traced)


def _tensors(batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}


def _export(module: FeatureProgram, batch: Arrays, specs: Mapping[str, InputSpec]) -> torch.export.ExportedProgram:
    """Raises:
    ConfigError: the module cannot be traced.
    """
    tensors = _tensors({name: batch[name] for name in specs})
    sizes = {name: {0: torch.export.Dim(BATCH, min=1)} for name in specs}
    try:
        with _quiet():
            return torch.export.export(module, (tensors,), dynamic_shapes=(sizes,), strict=False)
    except Exception as error:  # torch raises many kinds
        config = module.source.config
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"tokenizer '{config.tokenizer.name}' with encoder '{config.encoder.name}' cannot be exported: "
            f"torch.export fails with {type(error).__name__}: {reason}; export it to safetensors or hf"
        ) from error


def _unused(exported: torch.export.ExportedProgram, names: Sequence[str]) -> tuple[str, ...]:
    """The inputs whose values the program does not read; it may read their size."""
    reads = {
        node.name: any(user.target != torch.ops.aten.sym_size.int for user in node.users)
        for node in exported.graph.nodes
        if node.op == "placeholder"
    }
    given = exported.graph_signature.user_inputs
    return tuple(name for name, node in zip(names, given, strict=True) if not reads[str(node)])


def write_torch(program: Program, path: Path) -> None:
    """Write the program as torch.export does, a .pt2 file.

    Raises:
        OSError: it cannot be written.
    """
    with _quiet():
        torch.export.save(program.exported, path)


def run_torch(path: Path) -> Callable[[Arrays], Arrays]:
    """A written program as a function of arrays."""
    with _quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def run(batch: Arrays) -> Arrays:
        return {name: value.numpy() for name, value in module(_tensors(batch)).items()}

    return run


def check_onnx_libraries() -> None:
    """Raises:
    ConfigError: a library of the extra is not installed.
    """
    for name in ONNX_LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ConfigError(f"ONNX needs the library {name}: pip install 'sslx[onnx]'") from None


def write_onnx(program: Program, path: Path) -> None:
    """Write the program as ONNX; weights of more than 1.5 GB go into a second file beside it.

    Raises:
        ConfigError: an operator of it has no form in ONNX.
        OSError: it cannot be written.
    """
    try:
        with _quiet():
            converted = torch.onnx.export(
                program.exported, dynamo=True, verbose=False, input_names=list(program.inputs),
                output_names=list(program.outputs), dynamic_shapes=({name: {0: BATCH} for name in program.inputs},),
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds
        lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise ConfigError(
            f"the encoder cannot be written as ONNX ({' '.join(lines[:1])[:300]}); export it to torch instead"
        ) from error
    assert converted is not None
    converted.save(str(path))


def run_onnx(path: Path) -> Callable[[Arrays], Arrays]:
    """A written ONNX file as a function of arrays, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, batch), strict=True))

    return run


def check(program: Program, run: Callable[[Arrays], Arrays], path: Path) -> float:
    """Compare a written program with the original.

    Returns:
        The largest absolute difference of any output.

    Raises:
        SslxError: it differs by more than rounding.
    """
    largest = 0.0
    for batch in program.batches:
        expected = program.expected(batch)
        actual = run({name: batch[name] for name in program.inputs})
        for name in program.outputs:
            one, other = (np.asarray(part[name], np.float64) for part in (expected, actual))
            same_form = one.shape == other.shape
            difference = float(np.abs(one - other).max(initial=0)) if same_form else float("inf")
            if not difference <= TOLERANCE * max(1.0, float(np.abs(one).max(initial=0))):  # NaN fails, too
                form = f"by {difference:.3g}" if same_form else f"in shape, {other.shape} instead of {one.shape}"
                raise SslxError(
                    f"{path.name} is not the encoder: '{name}' of {len(one)} samples differs {form}; nothing was "
                    f"written, export to another format, and report this"
                )
            largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and log lines of the exporters."""
    loggers = [
        logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir", "torch._export")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
