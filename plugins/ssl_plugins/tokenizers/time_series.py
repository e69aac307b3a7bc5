"""Tokenizer `time-series`: patches in time of series with any number of channels and any length.

MetaMAE takes PAMAP2 as 52 channels x 320 steps in patches of 5 steps, 64 tokens of 260 numbers (Table 16), in raw
units. By default each channel is normalised, since heart rates and accelerations share no unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_core import (
    BadSample,
    ConfigError,
    Continuous,
    Draws,
    Fields,
    Geometry,
    Inputs,
    PictureStyle,
    Preprocessing,
    Tokenizer,
    Tokens,
    hookimpl,
)
from ssl_core.tokenizers import GridTokenizer
from ssl_plugins.tokenizers._handmade import series_statistics

DEFAULT_LENGTH = 320  # steps, as in PAMAP2
DEFAULT_TOKENS = 64
SOURCE_LENGTHS = 4  # lengths from which random crops are taken, of series of different lengths


class TimeSeriesTokenizer(GridTokenizer):
    """Patches of multichannel time series of any length and rate; gaps are interpolated.

    Reads the field "series", (channels, steps).
    """

    name = "time-series"
    fits_sizes = True
    fact_options: Mapping[str, str] = MappingProxyType({"cropped": "tokenizer.length or dataset.window"})

    class Options(GridTokenizer.Options):
        """Options of the time series tokenizer."""

        length: int | None = Field(
            None,
            ge=1,
            description="steps of a series; by default those of the data if all are equal, else about those of the "
            "longest series, at most 320",
        )
        patch: int | None = Field(
            None, ge=1, description="steps per token; by default the divisor of the length that gives about 64 tokens"
        )
        channels: tuple[int, ...] = Field((), description="channels to use, counted from 0; by default all")
        crop: Literal["start", "center", "end", "random"] = Field(
            "start",
            description="part of a longer series to use; random = another part in each training step, and the start in "
            "evaluations",
        )
        source: int | None = Field(
            None,
            ge=2,
            description="steps from whose start crop=random takes its parts; by default those of the data if all are "
            "equal, else four times the length",
        )
        fill: Literal["absent", "zeros", "edge", "repeat"] = Field(
            "absent",
            description="padding of a shorter series: absent = its tokens are not valid; zeros; edge = the last "
            "values; repeat = the series again",
        )
        gaps: Literal["interpolate", "refuse"] = Field(
            "interpolate",
            description="NaN: interpolate = linearly in time, nearest value at the ends; refuse = bad sample",
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        self.count, data_length, longest = _series_shape(fields)
        invalid = [channel for channel in options.channels if not 0 <= channel < self.count]
        if invalid:
            raise ConfigError(
                f"tokenizer.channels: there is no channel {invalid[0]}; the data has 0 to {self.count - 1}"
            )
        length = options.length or data_length or _default_length(longest)
        patch = options.patch or _default_patch(length)
        channels = len(options.channels) or self.count
        super().__init__(options, fields, dim, field="series", channels=channels, shape=(length,), patch=(patch,))
        self.length = length
        self.masks_padding = options.fill == "absent" and (data_length is None or data_length < length)
        self.data_length = data_length
        self.source = self._source_length(data_length)
        self.counts_steps = self.masks_padding or (
            self.source > length and (data_length is None or data_length < self.source)
        )

    def _source_length(self, data_length: int | None) -> int:
        """Steps that are kept of each series: `length`, or more for random crops.

        Raises:
            ConfigError: there is nothing to choose from.
        """
        if self.options.crop != "random":
            if self.options.source is not None:
                raise ConfigError("tokenizer.source is for random crops; leave it out, or set tokenizer.crop=random")
            return self.length
        source = self.options.source or data_length or SOURCE_LENGTHS * self.length
        if source <= self.length:
            raise ConfigError(
                f"tokenizer.crop=random takes parts of {self.length} steps from series of {source}; set "
                f"tokenizer.length to fewer steps, or dataset.window or tokenizer.source to more"
            )
        return source

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Select the channels of one series, (channels, steps), fill its gaps and crop or pad it to the length.

        Returns:
            "series": (C, length) float32, for random crops (C, source); where padding is not valid, or where parts are
            taken from series that may be shorter, also "steps": () int64, how many steps are data. For data of
            different lengths also "length": () int32, that of the whole series.

        Raises:
            BadSample: The series is empty, infinite, has another number of channels, or gaps that cannot be filled.
        """
        x = np.asarray(inputs["series"], dtype=np.float32)
        if x.ndim != 2 or len(x) != self.count or x.shape[1] == 0:
            raise BadSample(f"'series' has shape {x.shape}, not ({self.count}, steps)")
        if self.options.channels:
            x = x[list(self.options.channels)]
        if not np.isfinite(x).all():
            x = self._fill_gaps(x)
        steps = min(x.shape[1], self.source)
        prepared = {"series": self._crop_or_pad(x)}
        if self.counts_steps:
            prepared["steps"] = np.array(steps, dtype=np.int64)
        if self.data_length is None:
            prepared["length"] = np.array(x.shape[1], dtype=np.int32)
        return prepared

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Statistics, spectrum and correlations of the chosen channels of the whole series."""
        x = np.asarray(inputs["series"], dtype=np.float32)
        if self.options.channels:
            x = x[list(self.options.channels)]
        return series_statistics(x if np.isfinite(x).all() else self._fill_gaps(x))

    def describe_preprocessing(self) -> Preprocessing:
        """Channels, gaps and length; the rest is inside."""
        options, length = self.options, self.source
        part = {"center": "the middle", "end": "the end"}.get(options.crop, "the start")
        fill = {"zeros": "zeros", "repeat": "the series again, from its start"}.get(options.fill, "its last values")
        interpolate = "replace NaN by linear interpolation in time in its channel, at the ends by the nearest value"
        steps: list[dict[str, Any]] = [
            {
                "do": "take the channels of these indices, counted from 0, in this order, as float32, in their own "
                "units",
                "channels_of_a_sample": self.count, "channels": list(options.channels or range(self.count)),
                "rate": getattr(self.fields["series"], "rate", None),
            },
            {"do": "refuse NaN" if options.gaps == "refuse" else interpolate},
            {
                "do": f"of a longer series take `length` steps at {part}; fill a shorter one up at its end by {fill}",
                "length": length,
            },
        ]  # fmt: skip
        if self.counts_steps:
            steps.append(
                {"do": "'steps': the number of steps that hold data, int64, at most `length`", "length": length}
            )
        inside = [*super().describe_preprocessing().inside]
        if self.source > self.length:
            inside.insert(0, {"do": "take the first `length` steps", "length": self.length})
        if self.masks_padding:
            inside.append({"do": "tokens from 'steps' on are padding: not attended to, and in no feature"})
        return Preprocessing(steps, inside)

    def facts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Shares of steps beyond those that are used, and of padding."""
        lengths = np.atleast_1d(inputs["length"] if self.data_length is None else self.data_length).astype(np.float64)
        return {
            "cropped": float(np.mean(np.maximum(0, lengths - self.source) / lengths)),
            "padded": float(np.mean(np.maximum(0, self.length - lengths) / self.length)),
        }

    def _fill_gaps(self, x: np.ndarray) -> np.ndarray:
        gap = np.isnan(x)
        if np.isinf(x).any():
            raise BadSample("'series' holds infinite values")
        if self.options.gaps == "refuse":
            raise BadSample(f"'series' holds {int(gap.sum())} NaN; set tokenizer.gaps=interpolate to fill them")
        empty = np.flatnonzero(gap.all(axis=1))
        if empty.size:
            raise BadSample(f"'series' holds only NaN in channel {empty[0]}; choose the others in tokenizer.channels")
        x, times = x.copy(), np.arange(x.shape[1])
        for channel in np.flatnonzero(gap.any(axis=1)):
            valid = ~gap[channel]
            x[channel, gap[channel]] = np.interp(times[gap[channel]], times[valid], x[channel, valid])
        return x

    def _crop_or_pad(self, x: np.ndarray) -> np.ndarray:
        """The series at `length` steps, or at those from which parts are taken."""
        missing = self.source - x.shape[1]
        if missing <= 0:
            start = {"start": 0, "random": 0, "center": -missing // 2, "end": -missing}[self.options.crop]
            return np.ascontiguousarray(x[:, start : start + self.source])
        widths = ((0, 0), (0, missing))
        if self.options.fill == "zeros":
            return np.pad(x, widths)
        return np.pad(x, widths, mode="wrap" if self.options.fill == "repeat" else "edge")

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Mean and standard deviation; of series whose padding is known, without it."""
        super().fit_normalization(map(self._select_steps, chunks) if self.counts_steps else chunks)

    def _select_steps(self, chunk: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The steps of a chunk that hold data, as samples of one step: (n, C, 1)."""
        is_data = np.arange(self.source) < np.asarray(chunk["steps"])[:, np.newaxis]
        return {"series": np.moveaxis(chunk["series"], 1, 2)[is_data][:, :, np.newaxis]}

    def draw_crop(self, batch: int, generator: torch.Generator) -> Draws:
        """One number in [0, 1) for each row, the place of its part, if crop=random."""
        if self.source == self.length:
            return {}
        return {"place": torch.rand(batch, generator=generator, dtype=torch.float64)}

    def crop(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """A part of `length` steps of each row, at the place that `draws` says."""
        if self.source == self.length:
            return inputs
        return self._take(inputs, draws["place"])

    def _take(self, inputs: Mapping[str, Tensor], place: Tensor | None = None) -> dict[str, Tensor]:
        """`length` steps of each row: from the start, or from a place (B,) in [0, 1) between both ends of its data."""
        x, steps = inputs["series"], inputs.get("steps")
        if place is None:
            taken, start = x[..., : self.length], torch.zeros((), dtype=torch.long, device=x.device)
        else:
            ends = torch.full((x.shape[0],), self.source, device=x.device) if steps is None else steps
            start = (place * ((ends - self.length).clamp(min=0) + 1)).long()
            index = start[:, None] + torch.arange(self.length, device=x.device)
            taken = x.gather(2, index[:, None].expand(-1, x.shape[1], -1))
        out = {**inputs, "series": taken}
        if steps is not None:
            out["steps"] = (steps - start).clamp(max=self.length)
        return out

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """inputs["series"] (B, C, length) to Tokens; of (B, C, source) the first steps."""
        longer = self.source > self.length and inputs["series"].shape[-1] == self.source
        return super().forward(self._take(inputs) if longer else inputs)

    def picture_style(self, segment: int) -> PictureStyle:
        """Curves over time."""
        field = self.fields["series"]
        rate = field.rate if isinstance(field, Continuous) else None
        return PictureStyle(axes=("step" if rate is None else "time (s)",), spacing=1 / (rate or 1))

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """A token beyond the last step is invalid."""
        if not self.masks_padding:
            return Geometry()
        starts = torch.arange(0, self.length, self.patch[0], device=inputs["steps"].device)
        return Geometry(valid=starts < inputs["steps"].unsqueeze(1))


def _series_shape(fields: Fields) -> tuple[int, int | None, int | None]:
    """Number of channels, of steps, and of steps of the longest series.

    The second is None if the number of steps differs between samples, the third if it is not known.

    Raises:
        ConfigError: The data set has no such field.
    """
    field = fields.get("series")
    if not isinstance(field, Continuous) or len(field.shape) != 2 or field.shape[0] is None:
        offered = ", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field"
        raise ConfigError(
            f"tokenizer 'time-series' reads a field 'series' of real numbers (channels, steps) with a fixed number of "
            f"channels; the data set offers {offered}"
        )
    return field.shape[0], field.shape[1], field.longest


def _default_length(longest: int | None) -> int:
    """The length of series of different lengths: that of the longest, rounded up so that it has about 64 patches."""
    if longest is None or longest >= DEFAULT_LENGTH:
        return DEFAULT_LENGTH
    patch = max(1, round(longest / DEFAULT_TOKENS))
    return -(-longest // patch) * patch


def _default_patch(length: int) -> int:
    """The divisor whose number of tokens is nearest to 64, among those of 16 to 256 tokens.

    Raises:
        ConfigError: There is no such divisor.
    """
    if length <= 16:
        return 1
    steps = range(1, length // 16 + 1)
    divisors = [step for step in steps if length % step == 0 and length // step <= 4 * DEFAULT_TOKENS]
    if not divisors:
        raise ConfigError(
            f"tokenizer 'time-series': no patch divides a length of {length}; set tokenizer.length, e.g. "
            f"{max(1, round(length / DEFAULT_TOKENS)) * DEFAULT_TOKENS}, or tokenizer.patch=1"
        )
    return min(divisors, key=lambda step: (abs(np.log(length / step / DEFAULT_TOKENS)), step))


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [TimeSeriesTokenizer]
