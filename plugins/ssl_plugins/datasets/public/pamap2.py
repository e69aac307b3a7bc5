"""PAMAP2 (Reiss and Stricker, 2012): physical activities, recorded by sensors at hand, chest and ankle."""

from __future__ import annotations

from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets.public._pamap2 import CHANNELS, RATE, WindowDataset


class Pamap2(WindowDataset):
    """PAMAP2, windows of 3.2 s of 52 channels at 100 Hz in raw units: 12 activities; subjects held out."""

    name = "pamap2"
    modality = "time-series"

    class Options(WindowDataset.Options):
        """Options of PAMAP2."""

        window: int = Field(320, ge=1, description="length of a window (steps of 10 ms)")

    def __init__(self, options: Options, split: Split) -> None:
        self.window = options.window
        super().__init__(options, split)
        self.fields = {"series": Continuous((CHANNELS, self.window), rate=RATE)}

    def __getitem__(self, index: int) -> Sample:
        """{"series": (52, window) float32} and the activity."""
        return {"inputs": {"series": self.values(index)}, "label": int(self.labels[index])}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Pamap2]
