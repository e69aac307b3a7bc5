"""pyarrow modules under their usual aliases, imported on first use because most commands read no table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pv
    import pyarrow.parquet as pq
else:

    class _LazyModule:
        """Imports the module on the first attribute access."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            value = getattr(importlib.import_module(self._name), attribute)
            setattr(self, attribute, value)  # wide tables ask for it once a column and block
            return value

    pa, pc, pv, pq = map(_LazyModule, ("pyarrow", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet"))

__all__ = ["pa", "pc", "pq", "pv"]
