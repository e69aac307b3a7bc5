"""sslx: self-supervised learning for data of any kind. The public names, loaded when first used.

Inside the core nobody imports this module; plugins import nothing else but ssl_core.nn and ssl_core.tokenizers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_core.contracts import (
        Dataset,
        Draws,
        Ema,
        Inputs,
        Mask,
        Masking,
        Maskings,
        Objective,
        PictureStyle,
        Predictor,
        Preprocessing,
        Probe,
        Teacher,
        Tokenizer,
    )
    from ssl_core.data import (
        Batch,
        Column,
        Continuous,
        DataSummary,
        Discrete,
        Excerpt,
        Field,
        Fields,
        Recognition,
        Sample,
        Split,
        Task,
        Text,
    )
    from ssl_core.errors import BadSample, ConfigError, DataError, PluginError, SslxError, nearest
    from ssl_core.hookspecs import API_VERSION, hookimpl, hookspec
    from ssl_core.options import Choice, Options, Preset
    from ssl_core.public_data.dataset import PublicDataset
    from ssl_core.public_data.source import Archive, Source
    from ssl_core.public_data.unpacked import unpacked_archive
    from ssl_core.tokens import (
        ContinuousTarget,
        DiscreteTarget,
        Geometry,
        Layout,
        Outcome,
        Segment,
        Target,
        Tokens,
    )
    from ssl_core.training.learner import Learner
    from ssl_core.utils.reading import report_reading
    from ssl_core.utils.scratch import scratch_array

__version__ = "0.2.0"

_HOMES = {
    "contracts": (
        "Dataset", "Draws", "Ema", "Inputs", "Mask", "Masking", "Maskings", "Objective", "PictureStyle",
        "Predictor", "Preprocessing", "Probe", "Teacher", "Tokenizer",
    ),
    "data": (
        "Batch", "Column", "Continuous", "DataSummary", "Discrete", "Excerpt", "Field", "Fields", "Recognition",
        "Sample", "Split", "Task", "Text",
    ),
    "training.learner": ("Learner",),
    "utils.reading": ("report_reading",),
    "utils.scratch": ("scratch_array",),
    "errors": ("BadSample", "ConfigError", "DataError", "PluginError", "SslxError", "nearest"),
    "hookspecs": ("API_VERSION", "hookimpl", "hookspec"),
    "options": ("Choice", "Options", "Preset"),
    "public_data.dataset": ("PublicDataset",),
    "public_data.source": ("Archive", "Source"),
    "public_data.unpacked": ("unpacked_archive",),
    "tokens": (
        "ContinuousTarget", "DiscreteTarget", "Geometry", "Layout", "Outcome", "Segment", "Target", "Tokens",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "API_VERSION",
    "Archive",
    "BadSample",
    "Batch",
    "Choice",
    "Column",
    "ConfigError",
    "Continuous",
    "ContinuousTarget",
    "DataError",
    "DataSummary",
    "Dataset",
    "Discrete",
    "DiscreteTarget",
    "Draws",
    "Ema",
    "Excerpt",
    "Field",
    "Fields",
    "Geometry",
    "Inputs",
    "Layout",
    "Learner",
    "Mask",
    "Masking",
    "Maskings",
    "Objective",
    "Options",
    "Outcome",
    "PictureStyle",
    "PluginError",
    "Predictor",
    "Preprocessing",
    "Preset",
    "Probe",
    "PublicDataset",
    "Recognition",
    "Sample",
    "Segment",
    "Source",
    "Split",
    "SslxError",
    "Target",
    "Task",
    "Teacher",
    "Text",
    "Tokenizer",
    "Tokens",
    "__version__",
    "hookimpl",
    "hookspec",
    "nearest",
    "report_reading",
    "scratch_array",
    "unpacked_archive",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ssl_core' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"ssl_core.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
