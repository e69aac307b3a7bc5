"""The default encoder: a pre-norm transformer."""

from __future__ import annotations

from ssl_core import hookimpl
from ssl_core.nn import Encoder, TransformerEncoder


@hookimpl
def register_encoders() -> list[type[Encoder]]:
    return [TransformerEncoder]
