"""The contracts: what an objective, a tokenizer, a data set and a masking must be. The page that a plugin author reads.

Every plugin class has the same form: a `name`, a nested pydantic `Options`, `__init__(options, ...)` and one method
that does the work. The first line of its docstring is its line in `sslx list`.

Shapes: B samples, L tokens of a row, Ls tokens of a segment, D encoder width, V visible, H hidden tokens (V + H = L).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core import options as _options
from ssl_core.data import Fields, Sample, Split, Task
from ssl_core.nn.encoder import Encoder
from ssl_core.options import Choice
from ssl_core.public_data.source import Source
from ssl_core.tokens import Layout, Outcome, Tokens

Inputs: TypeAlias = dict[str, np.ndarray]
Draws: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Mask:
    """Which tokens of each row an encoder may see.

    visible: (B, V) long, ascending places. hidden: (B, L) bool, true where a token is hidden. The two are
    complementary and every row hides equally many.
    """

    visible: Tensor
    hidden: Tensor

    @property
    def hidden_places(self) -> Tensor:
        """(B, H) long, ascending places of the hidden tokens."""
        return torch.argsort(self.hidden.to(torch.uint8), dim=1, stable=True)[:, self.visible.shape[1] :]


class Masking:
    """Chooses what to hide. Knows the layout, never the content."""

    name: ClassVar[str]

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, layout: Layout) -> None:
        self.options = options
        self.layout = layout

    def __call__(self, batch: int, generator: torch.Generator) -> Mask:
        """A mask for `batch` rows, on the CPU. All chance comes from `generator`."""
        raise NotImplementedError


class Objective(nn.Module):
    """Turns tokens into a loss. Knows no modality: of a layout it may use lengths, grids and kinds, never names."""

    name: ClassVar[str]
    default_masking: ClassVar[Choice | None] = None
    """The masking handed in unless the run names another; None for an objective that masks nothing."""
    min_batch_size: int = 1
    """The smallest batch that the loss is defined for."""
    cross_sample_loss: bool = False
    """Whether a sample's loss depends on the other samples, so that accumulated small batches are not one large one.
    An objective for which that depends on an option sets it in `__init__`."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, layout: Layout, dim: int, masking: Masking | None) -> None:
        super().__init__()
        self.options = options
        self.layout = layout
        self.dim = dim
        self.masking = masking

    def draw(self, batch: int, generator: torch.Generator) -> Draws:
        """All chance of one step as named CPU tensors of fixed shape, a pure function of the generator's state.

        By default the masking's mask: "visible" (B, V) long and "hidden" (B, L) bool; nothing without a masking.
        """
        if self.masking is None:
            return {}
        mask = self.masking(batch, generator)
        return {"visible": mask.visible, "hidden": mask.hidden}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """The loss of one batch. `draws` is what `draw` returned, moved to the tokens' device.

        What it decides in Python is decided once: compiled, or recorded as a CUDA graph, it is not called again. So it
        keeps no count of steps, asks for no number of a tensor (`item`), and draws from torch alone, on the tokens'
        device.
        """
        raise NotImplementedError

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor] | None:
        """Predictions for whole rows, for the report's pictures: one (B, Ls, size) per segment, or None.

        For "continuous" segments predicted patches, for "discrete" segments logits.
        """
        return None


class Tokenizer(nn.Module):
    """Turns a batch of one modality's inputs into tokens. Knows no objective. Its name is the modality's name."""

    name: ClassVar[str]
    layout: Layout
    """Set by `__init__`; fixed from then on."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, fields: Fields, dim: int) -> None:
        super().__init__()
        self.options = options
        self.fields = fields
        self.dim = dim

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Learn what `prepare` needs, such as a vocabulary, from raw training samples. Most need nothing.

        Called once before anything is prepared. The samples come in a fixed random order and are read only as far as
        they are walked; each walk begins anew. What was learned is named by `learned` and kept in the state dict
        (torch's `get_extra_state` and `set_extra_state`, as a tensor), so that a saved run needs no training data.
        """

    def fit_fingerprint(self) -> str:
        """What `fit` learned, as text: part of the key under which prepared data is cached."""
        return ""

    def preprocess(self, inputs: Inputs) -> Inputs:
        """One sample's inputs made ready: fixed shapes, no parameters, no chance. Done once and cached.

        Errors: BadSample for a sample that cannot be used.
        """
        return inputs

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Take constants such as mean and scale from the prepared training data; keep them in buffers.

        Called once before training, with chunks of prepared samples stacked along a first axis. A chunk may be a
        memory-mapped view; the iterable can be walked once.
        """

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Prepared inputs, stacked along B, to tokens. As `Objective.forward`, it decides in Python once."""
        raise NotImplementedError

    def to_image(self, segment: int, patches: Tensor) -> Tensor | None:
        """Patches (B, Ls, size) of a "continuous" segment put together as (B, channels, *space), for pictures."""
        return None


class Dataset(torch.utils.data.Dataset[Sample]):
    """Raw samples of one split. A data set is known by its modality and its name together."""

    name: ClassVar[str]
    modality: ClassVar[str]
    is_default: ClassVar[bool] = False
    """Whether `--modality` alone picks it."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that it goes by, e.g. in a paper's code; unique within the modality like `name`."""
    source: ClassVar[Source | None] = None
    """Where a public data set comes from; see `PublicDataset`."""
    fields: Fields
    """Set by `__init__`: what each sample's inputs hold."""
    task: Task | None = None
    """What its labels mean; None if there are none."""
    warnings: tuple[str, ...] = ()
    """Lines for the run's header, e.g. what was skipped."""
    splits: tuple[Split, ...] = ("train", "test")
    """Splits that the options and the data provide."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, split: Split) -> None:
        self.options = options
        self.split = split

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, the same each time. Errors: BadSample if it cannot be read."""
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """What to call a sample in a message: a path, a row."""
        return f"sample {index} of the {self.split} split"

    def fingerprint(self) -> str:
        """Changes whenever the samples do; part of the key under which prepared data is cached."""
        return f"{self.modality}/{self.name}:{self.split}:{self.options.model_dump_json()}"
