"""A toy modality for tests of the engine: small, quick, with a bad sample on demand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import Field

from ssl_core import BadSample, Continuous, Dataset, Learner, Task
from ssl_core.nn import Encoder, EncoderOptions
from ssl_core.tokenizers import GridTokenizer


class ToyData(Dataset):
    """Two classes of noisy sines."""

    name = "toy-data"
    modality = "toy"
    pretrain_default = True

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


def make_learner(objective_class, seed=0, dropout=0.0, **options):
    """A small learner of an objective on the toy modality."""
    from ssl_plugins.maskings.random import RandomMasking

    torch.manual_seed(seed)
    tokenizer = Toy(Toy.Options(), {"x": Continuous((2, 16))}, 16)
    encoder = Encoder(EncoderOptions(dim=16, depth=1, heads=2, dropout=dropout), tokenizer.layout)
    masking = RandomMasking(RandomMasking.Options(ratio=0.5), tokenizer.layout)
    small = {"depth": 1, "width": 8, "heads": 1} | options
    return Learner(tokenizer, encoder, objective_class(objective_class.Options(**small), tokenizer.layout, 16, masking))


@pytest.fixture
def toy():
    """The toy classes and a maker of learners."""
    return SimpleNamespace(Data=ToyData, Tokenizer=Toy, make_learner=make_learner)
