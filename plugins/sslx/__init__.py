"""sslx from Python: inspect, pretrain, load, embed, evaluate, finetune, compare. The names are loaded when first used.

Plugin authors import `ssl_core` instead.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_core import __version__ as __version__
    from ssl_core.api import (
        Comparison,
        FineTuned,
        Inspection,
        PretrainedEncoder,
        Report,
        Run,
        SelfSupervisedEncoder,
        compare,
        embed,
        evaluate,
        finetune,
        inspect,
        load,
        load_model,
        pretrain,
    )

_HOMES = {"__version__": "ssl_core"}
_API = "ssl_core.api"

__all__ = [
    "Comparison",
    "FineTuned",
    "Inspection",
    "PretrainedEncoder",
    "Report",
    "Run",
    "SelfSupervisedEncoder",
    "__version__",
    "compare",
    "embed",
    "evaluate",
    "finetune",
    "inspect",
    "load",
    "load_model",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sslx' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES.get(name, _API)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
