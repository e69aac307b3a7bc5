"""A small toy modality for tests of the engine, optionally with bad samples, and fakes of xformers and torch.cuda."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from ssl_core import BadSample, Continuous, Dataset, Learner, Task, plugins
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.tokenizers import GridTokenizer


class FakeXformers:
    """The operators of xformers in plain PyTorch, which run on the CPU, and the attributes that describe them."""

    class FwOp:
        CUDA_MINIMUM_COMPUTE_CAPABILITY, CUDA_MAXIMUM_COMPUTE_CAPABILITY, SUPPORTED_MAX_K = (8, 0), None, 256

        @staticmethod
        def is_available() -> bool:
            return True

        @staticmethod
        def apply(inputs: SimpleNamespace, needs_gradient: bool) -> tuple[Tensor, SimpleNamespace]:
            q, k, v = (part.transpose(1, 2) for part in (inputs.query, inputs.key, inputs.value))
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            sums = torch.nn.functional.pad(scores.logsumexp(-1), (0, 3))
            return (scores.softmax(-1) @ v).transpose(1, 2), SimpleNamespace(lse=sums)

    class BwOp(FwOp):
        @staticmethod
        def apply(context: SimpleNamespace, inputs: SimpleNamespace, gradient: Tensor) -> SimpleNamespace:  # type: ignore[override]
            g, o, q, k, v = (
                part.transpose(1, 2) for part in (gradient, context.out, inputs.query, inputs.key, inputs.value)
            )
            scale = 1 / math.sqrt(q.shape[-1])
            p = (scale * q @ k.mT - context.lse.to(q.dtype).unsqueeze(-1)).exp()
            ds = p * (g @ v.mT - (g * o).sum(-1, keepdim=True))
            dq, dk, dv = (part.transpose(1, 2) for part in (scale * ds @ k, scale * ds.mT @ q, p.mT @ g))
            return SimpleNamespace(dq=dq, dk=dk, dv=dv)

    class Older(FwOp):
        """Like the single-precision kernel, which does not support the newest GPUs."""

        CUDA_MAXIMUM_COMPUTE_CAPABILITY = (9, 0)

    fmha = SimpleNamespace(
        Inputs=lambda q, k, v: SimpleNamespace(query=q, key=k, value=v),
        common=SimpleNamespace(Context=SimpleNamespace),
        flash=SimpleNamespace(FwOp=FwOp, BwOp=BwOp),
        cutlass=SimpleNamespace(FwOp=FwOp, BwOp=BwOp),
    )


class ToyData(Dataset):
    """Two classes of noisy sines."""

    name = "toy-data"
    modality = "toy"
    is_default = True

    class Options(Dataset.Options):
        count: int = Field(40, ge=0)
        bad: tuple[int, ...] = ()
        nan: tuple[int, ...] = ()

    def __init__(self, options, split):
        super().__init__(options, split)
        self.fields = {"x": Continuous((2, 16))}
        self.task = Task("classes", 2, "accuracy", names=("slow", "fast"))

    def __len__(self):
        return self.options.count if self.split == "train" else self.options.count // 2

    def __getitem__(self, index):
        if index in self.options.bad:
            raise BadSample("it is corrupt")
        rng = np.random.default_rng([index, self.split == "test"])
        label = index % 2
        x = np.sin(np.arange(16) * (1 + label) / 2 + rng.uniform(0, 6)) + 0.1 * rng.standard_normal((2, 16))
        if index in self.options.nan:
            x[0, 0] = np.nan
        return {"inputs": {"x": x.astype(np.float32)}, "label": label}


class Toy(GridTokenizer):
    """Patches of four steps."""

    name = "toy"

    def __init__(self, options, fields, dim):
        super().__init__(options, fields, dim, field="x", channels=2, shape=(16,), patch=(4,))


def make_learner(objective_class, seed=0, dropout=0.0, encoder_depth=1, **options):
    """A small learner of an objective on the toy modality."""
    torch.manual_seed(seed)
    tokenizer = Toy(Toy.Options(), {"x": Continuous((2, 16))}, 16)
    size = EncoderOptions(dim=16, depth=encoder_depth, heads=2, dropout=dropout)
    encoder = TransformerEncoder(size, tokenizer.layout)
    catalogue = plugins.load()
    maskings = {}
    for name, choice in objective_class.masking_choices().items():
        cls = catalogue.masking(choice.name)
        values = {"ratio": 0.5} if name == "mask" else choice.values
        maskings[name] = cls(cls.Options(**values), tokenizer.layout)
    small = {"depth": 1, "width": 8, "heads": 1} | (
        {"targets": 1} if "targets" in objective_class.Options.model_fields else {}
    )
    objective = objective_class(objective_class.Options(**small | options), tokenizer.layout, 16, maskings)
    return Learner(tokenizer, encoder, objective)


@pytest.fixture
def toy():
    """The toy classes and `make_learner`."""
    return SimpleNamespace(Data=ToyData, Tokenizer=Toy, make_learner=make_learner)


@pytest.fixture
def fake_cuda(monkeypatch):
    """Replace the functions of torch.cuda that graph capture and prefetching call. Returns the list of calls."""
    calls = []

    class Event:
        def synchronize(self):
            calls.append("synchronize")

    class Stream:
        def __init__(self, device=None):
            self.device = device

        def wait_stream(self, other):
            calls.append("wait stream")

        def wait_event(self, event):
            calls.append("wait event")

        def record_event(self):
            return Event()

    here = Stream()
    replaced = {
        "Stream": Stream, "current_stream": lambda device=None: here, "stream": lambda stream: nullcontext(),
        "CUDAGraph": SimpleNamespace, "graph": lambda graph, **how: nullcontext(), "graph_pool_handle": lambda: (0, 1),
        "get_sync_debug_mode": lambda: 0, "set_sync_debug_mode": lambda mode: calls.append(f"sync debug {mode}"),
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return calls
