"""What to export, and what was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("safetensors", "torch", "onnx", "hf")


@dataclass(frozen=True)
class ExportRequest:
    """What to write: format and folder, token features beside pooled ones, encoder layers from 1 or a read-out of
    `ssl_core.nn.readout`, raw samples to trace and check with, and whether to replace an earlier export."""

    format: str
    folder: Path
    per_token: bool = False
    layers: tuple[int, ...] | None = None
    example: Any = None
    overwrite: bool = False
    readout: str | None = None


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        format: safetensors, torch, onnx or hf.
        folder: the folder.
        files: its files, relative to it.
        max_difference: largest absolute difference of the written program's outputs from the encoder's; None if the
            format is no program.
        notes: lines on what a reader of the folder must know.
    """

    format: str
    folder: Path
    files: tuple[str, ...]
    max_difference: float | None = None
    notes: tuple[str, ...] = ()
