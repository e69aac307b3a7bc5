"""Evaluation of frozen features by probes. Knows an embedding function, probes and a Task, not models.

The names in `__all__` are public: a probe plugin may build on them. They are loaded when first used, since
scikit-learn takes a second to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_core.evaluation.knn import fit_knn
    from ssl_core.evaluation.linear import fit_adam, fit_layer, fit_logistic
    from ssl_core.evaluation.protocols import FunctionPredictor, random_subset
    from ssl_core.evaluation.trees import fit_trees

_HOMES = {
    "FunctionPredictor": "protocols",
    "fit_adam": "linear",
    "fit_knn": "knn",
    "fit_layer": "linear",
    "fit_logistic": "linear",
    "fit_trees": "trees",
    "random_subset": "protocols",
}

__all__ = ["FunctionPredictor", "fit_adam", "fit_knn", "fit_layer", "fit_logistic", "fit_trees", "random_subset"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssl_core.evaluation' has no attribute '{name}'")
    return getattr(importlib.import_module(f"ssl_core.evaluation.{_HOMES[name]}"), name)
