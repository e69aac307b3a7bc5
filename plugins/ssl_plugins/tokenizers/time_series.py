"""Time series: any number of channels and any length to patches of time (protocol section 2.2, PAMAP2).

PAMAP2 is 52 channels x 320 steps in patches of 5 steps: 64 tokens of 260, in raw units. The default here measures the
mean and standard deviation of each channel, since heart rates and accelerations share no unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_core import BadSample, ConfigError, Continuous, Fields, Geometry, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import GridTokenizer

USUAL_LENGTH = 320  # PAMAP2
USUAL_TOKENS = 64


class TimeSeries(GridTokenizer):
    """Patches of multichannel time series of any length and rate; gaps are interpolated.

    Reads the field "series", (channels, steps).
    """

    name = "time-series"

    class Options(GridTokenizer.Options):
        """Options of the time series tokenizer."""

        length: int | None = Field(
            None, ge=1, description="steps; by default as the data are if all are alike, else 320"
        )
        patch: int | None = Field(
            None, ge=1, description="steps in a token; by default the divisor of the length that makes about 64 tokens"
        )
        channels: tuple[int, ...] = Field((), description="channels to use, counted from 0; by default all")
        crop: Literal["start", "center", "end"] = Field("start", description="which part of a longer series is kept")
        fill: Literal["absent", "zeros", "edge", "repeat"] = Field(
            "absent",
            description="what a shorter series is padded with: tokens that count as absent, zeros, its last values, "
            "or itself again",
        )
        gaps: Literal["interpolate", "refuse"] = Field(
            "interpolate", description="NaN: linear in time, the nearest value at the ends; or leave the sample out"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        self.count, known = _series(fields)
        wrong = [channel for channel in options.channels if not 0 <= channel < self.count]
        if wrong:
            raise ConfigError(f"tokenizer.channels: there is no channel {wrong[0]}; the data has 0 to {self.count - 1}")
        length = options.length or known or USUAL_LENGTH
        patch = options.patch or _patch(length)
        channels = len(options.channels) or self.count
        super().__init__(options, fields, dim, field="series", channels=channels, shape=(length,), patch=(patch,))
        self.length = length
        self.may_be_short = options.fill == "absent" and (known is None or known < length)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """(channels, steps) to {"series": (C, length) float32}, and {"steps": ()} where padding counts as absent.

        Errors: BadSample for a series of another number of channels, empty, infinite, or with gaps that stay.
        """
        x = np.asarray(inputs["series"], dtype=np.float32)
        if x.ndim != 2 or len(x) != self.count or x.shape[1] == 0:
            raise BadSample(f"'series' has shape {x.shape}, not ({self.count}, steps)")
        if self.options.channels:
            x = x[list(self.options.channels)]
        if not np.isfinite(x).all():
            x = self._without_gaps(x)
        steps = min(x.shape[1], self.length)
        prepared = {"series": self._fit(x)}
        if self.may_be_short:
            prepared["steps"] = np.array(steps, dtype=np.int64)
        return prepared

    def _without_gaps(self, x: np.ndarray) -> np.ndarray:
        gap = np.isnan(x)
        if np.isinf(x).any():
            raise BadSample("'series' holds infinite values")
        if self.options.gaps == "refuse":
            raise BadSample(f"'series' holds {int(gap.sum())} NaN; set tokenizer.gaps=interpolate to fill them")
        empty = np.flatnonzero(gap.all(axis=1))
        if empty.size:
            raise BadSample(f"'series' holds nothing but NaN in channel {empty[0]}")
        x, times = x.copy(), np.arange(x.shape[1])
        for channel in np.flatnonzero(gap.any(axis=1)):
            known = ~gap[channel]
            x[channel, gap[channel]] = np.interp(times[gap[channel]], times[known], x[channel, known])
        return x

    def _fit(self, x: np.ndarray) -> np.ndarray:
        """Cut or padded to `length`."""
        missing = self.length - x.shape[1]
        if missing <= 0:
            start = {"start": 0, "center": -missing // 2, "end": -missing}[self.options.crop]
            return np.ascontiguousarray(x[:, start : start + self.length])
        around = ((0, 0), (0, missing))
        if self.options.fill == "zeros":
            return np.pad(x, around)
        return np.pad(x, around, mode="wrap" if self.options.fill == "repeat" else "edge")

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """A token beyond the last step is invalid."""
        if not self.may_be_short:
            return Geometry()
        starts = torch.arange(0, self.length, self.patch[0], device=inputs["steps"].device)
        return Geometry(valid=starts < inputs["steps"].unsqueeze(1))


def _series(fields: Fields) -> tuple[int, int | None]:
    """Channels, and the length if all have one. Errors: ConfigError that names what is offered."""
    field = fields.get("series")
    if not isinstance(field, Continuous) or len(field.shape) != 2 or field.shape[0] is None:
        offered = ", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field"
        raise ConfigError(
            f"tokenizer 'time-series' reads a field 'series' of real numbers (channels, steps) with one number of "
            f"channels; the data set offers {offered}"
        )
    return field.shape[0], field.shape[1]


def _patch(length: int) -> int:
    """The divisor that makes the number of tokens nearest to 64, between 16 and 256 of them. Errors: ConfigError."""
    if length <= 16:
        return 1
    fitting = [step for step in range(1, length // 16 + 1) if length % step == 0 and length // step <= 4 * USUAL_TOKENS]
    if not fitting:
        raise ConfigError(
            f"tokenizer 'time-series': no patch divides a length of {length}; set tokenizer.length, e.g. "
            f"{max(1, round(length / USUAL_TOKENS)) * USUAL_TOKENS}, or tokenizer.patch=1"
        )
    return min(fitting, key=lambda step: (abs(np.log(length / step / USUAL_TOKENS)), step))


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [TimeSeries]
