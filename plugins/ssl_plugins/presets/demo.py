"""Short runs on the embedded data, sized for a CPU of two cores."""

from __future__ import annotations

from ssl_core import Preset, hookimpl


@hookimpl
def register_presets() -> list[Preset]:
    source = "sized so that a run on the embedded data takes about two minutes on two cores"
    return [
        Preset("demo-speech", {"train.steps": 300}, source, modality="speech", dataset="synthetic", default=True),
    ]
