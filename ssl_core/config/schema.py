"""The configuration of a run."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.training.options import InitOptions, TrainOptions


class Part(BaseModel):
    """A plugin by name with all its options, each resolved."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options without the name."""
        return dict(self.model_extra or {})


class RunConfig(BaseModel):
    """Everything that a run depends on. Saved whole as config.json in the run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    objective: Part
    masking: Part | dict[str, Part] | None
    """The masking; by name for an objective with several; None for one that masks nothing."""
    modality: str
    tokenizer: Part
    dataset: Part
    encoder: Part
    train: TrainOptions
    evaluate: EvaluateOptions
    init: InitOptions = InitOptions()
    seed: int = Field(0, ge=0)
    device: str = "auto"
    strict: bool = False
    preset: str | None = None
    label: str = ""
    data_label: str = ""
    benchmark: str | None = None
    domain: str | None = None
    transfer: dict[str, Any] = {}
    preset_sources: tuple[str, ...] = ()
    auto: tuple[str, ...] = ()
    """Options that the preset `auto` sets once the data are open; empty in a saved configuration."""

    @property
    def maskings(self) -> dict[str, Part]:
        """The maskings by name; the only one of an objective is called "mask"."""
        if isinstance(self.masking, dict):
            return self.masking
        return {} if self.masking is None else {"mask": self.masking}

    @property
    def dim(self) -> int:
        """Width D of the encoder."""
        return int(self.encoder.options["dim"])
