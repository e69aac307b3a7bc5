"""Tokenizer `speech`: patches of the log-mel spectrogram of waveforms of any rate and length.

The defaults differ from the published spectrogram of DABS and MetaMAE, which the presets `dabs` and `metamae` set:

- The floor lies `top_db` below each clip's own maximum, and this maximum is 0 dB. With a fixed floor (-100 dB) padding
  and digital silence lie so far below speech that they dominate mean and deviation. Loudness says nothing about the
  words.
- A patch spans all mel bands, so that a token is an interval of time. With square patches the same encoder needs
  several times as many steps (benchmarks/README.md).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import librosa
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
from ssl_plugins.tokenizers._handmade import mfcc_statistics

SOURCE_LENGTHS = 4  # clip lengths from which random crops are taken, of clips of different lengths
DEFAULT_SECONDS = 1.0  # clip length if neither the options nor the data set give one
GRIFFIN_LIM_STEPS = 32
MIN_BAND_STD = 3.0  # dB; a band that varies less than this over a clip holds noise, which is not amplified


class SpeechTokenizer(GridTokenizer):
    """Patches of a log-mel spectrogram of a waveform of any rate and length.

    Reads the field "waveform", (channels, samples) with its sampling rate, and uses the first channel.
    """

    name = "speech"
    fits_sizes = True
    fact_options: Mapping[str, str] = MappingProxyType({"cropped": "tokenizer.seconds or dataset.window"})

    class Options(GridTokenizer.Options):
        """Options of the speech tokenizer. Presets `metamae` and `dabs` set the published spectrogram."""

        n_mels: int = Field(64, ge=1, description="number of mel bands")
        frames: int = Field(64, ge=1, description="number of frames of a clip")
        patch: tuple[int, int] | None = Field(
            None, description="patch as (mel bands, frames); by default all bands and 2 frames"
        )
        seconds: float | None = Field(
            None,
            gt=0,
            description="clip length in seconds, used if neither samples nor hop is set; by default that of the data "
            "if all are equal, else 1",
        )
        samples: int | None = Field(None, ge=1, description="clip length in samples; by default from hop or seconds")
        hop: int | None = Field(
            None, ge=1, description="samples between frames; by default the clip length over frames"
        )
        window: float = Field(0.032, gt=0, description="window length in seconds, used if win_length is not set")
        win_length: int | None = Field(
            None, ge=2, description="window length in samples; by default from window, at least hop"
        )
        n_fft: int | None = Field(
            None,
            ge=2,
            description="FFT length; by default the smallest power of two that fits window and mel bands",
        )
        fmin: float = Field(0.0, ge=0, description="lowest frequency of the mel bands in Hz")
        fmax: float | None = Field(None, gt=0, description="highest frequency in Hz; by default half the sampling rate")
        power: float = Field(2.0, gt=0, description="exponent of the magnitude spectrogram: 2 = power")
        square: bool = Field(
            False, description="square the mel spectrogram before dB, as in the published code of DABS and MetaMAE"
        )
        amin: float = Field(1e-10, gt=0, description="smallest power before dB; lower values are clipped")
        top_db: float | None = Field(
            60.0, gt=0, description="range of a clip in dB below its own maximum; none = no clipping"
        )
        ref: Literal["max", "absolute"] = Field("max", description="0 dB: max = the clip's maximum; absolute = power 1")
        band_norm: Literal["none", "mean", "mean-std"] = Field(
            "none",
            description="normalise each mel band of a clip over time: mean = subtract its mean, which removes what "
            "speaker and microphone add to all frames; mean-std = also divide by its standard deviation",
        )
        place: Literal["start", "center"] = Field("start", description="position of a short clip within its padding")
        fill: Literal["zeros", "repeat"] = Field(
            "zeros", description="padding of a short clip: zeros; repeat = the clip again"
        )
        padding: Literal["absent", "content"] = Field(
            "absent",
            description="absent = patches of padding alone are not valid: excluded from attention, loss and features; "
            "content = they are ordinary tokens, as in the published code of DABS and MetaMAE",
        )
        crop: Literal["start", "center", "end", "random"] = Field(
            "start",
            description="part of a long clip to use; random = another part in each training step, and the start in "
            "evaluations",
        )
        source_seconds: float | None = Field(
            None,
            gt=0,
            description="seconds from whose start crop=random takes its parts; by default those of the data if all are "
            "equal, else four times the clip length",
        )
        pad_mode: Literal["constant", "reflect", "edge"] = Field(
            "constant", description="padding of half an FFT at both ends, which centres the frames"
        )
        min_samples: int | None = Field(
            None, ge=1, description="shortest clip in samples; shorter ones are bad samples; by default one patch"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        shape = (options.n_mels, options.frames)
        patch = options.patch or (options.n_mels, 2)
        super().__init__(options, fields, dim, field="spectrogram", channels=1, shape=shape, patch=patch)
        self.rate, length = _rate_and_length(fields)
        self.samples, self.hop = _clip_and_hop(options, self.rate, length)
        self.win_length = options.win_length or max(2, round(options.window * self.rate), self.hop)
        self.n_fft, self.filters = self._mel_filters()
        self.min_samples = options.min_samples or patch[1] * self.hop
        may_be_short = length is None or length < self.samples
        self.masks_padding = may_be_short and options.padding == "absent" and options.fill == "zeros"
        self.data_length = length
        self.source_frames = self._source_frames(length)
        self.source_samples = self.samples + (self.source_frames - options.frames) * self.hop
        self.counts_frames = self.masks_padding or (
            self.source_frames > options.frames and (length is None or length < self.source_samples)
        )

    def _source_frames(self, length: int | None) -> int:
        """Frames that are kept of each clip: `frames`, or more for random crops.

        Raises:
            ConfigError: there is nothing to choose from.
        """
        options = self.options
        if options.crop != "random":
            if options.source_seconds is not None:
                raise ConfigError(
                    "tokenizer.source_seconds is for random crops; leave it out, or set tokenizer.crop=random"
                )
            return options.frames
        seconds = options.source_seconds
        samples = round(seconds * self.rate) if seconds else length or SOURCE_LENGTHS * self.samples
        if samples < self.samples + self.hop:
            raise ConfigError(
                f"tokenizer.crop=random takes parts of {self.samples / self.rate:.3g} s from clips of "
                f"{samples / self.rate:.3g} s; set tokenizer.seconds to less, or tokenizer.source_seconds to more"
            )
        return options.frames + (samples - self.samples) // self.hop

    def _mel_filters(self) -> tuple[int, np.ndarray]:
        """FFT length and mel filters (n_mels, 1 + n_fft / 2) of Slaney's scale and norm, none of them empty.

        Raises:
            ConfigError: The frequencies do not fit the rate, or `n_fft` does not fit the window or the mel bands.
        """
        options = self.options
        fmax = options.fmax or self.rate / 2
        if not options.fmin < fmax <= self.rate / 2:
            raise ConfigError(
                f"tokenizer: mel bands from fmin={options.fmin:g} to fmax={fmax:g} Hz do not fit a rate of "
                f"{self.rate:g} Hz; keep fmin < fmax <= {self.rate / 2:g}"
            )
        if options.n_fft is not None and options.n_fft < self.win_length:
            raise ConfigError(
                f"tokenizer.n_fft={options.n_fft} is shorter than the window of {self.win_length} samples; "
                f"raise it or set tokenizer.win_length"
            )
        n_fft = options.n_fft or 2 ** math.ceil(math.log2(self.win_length))
        while True:
            filters = _librosa_mel(self.rate, n_fft, options.n_mels, options.fmin, fmax)
            empty = int((filters.max(axis=1) == 0).sum())
            if not empty:
                return n_fft, filters
            if options.n_fft is not None or n_fft > 2**16:
                raise ConfigError(
                    f"tokenizer: {empty} of {options.n_mels} mel bands contain no frequency at n_fft={n_fft} and "
                    f"{self.rate:g} Hz; raise tokenizer.n_fft or lower tokenizer.n_mels"
                )
            n_fft *= 2

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Compute the log-mel spectrogram of one waveform, (channels, samples), in dB.

        Returns:
            "spectrogram": (1, n_mels, frames) float32, for random crops of more frames; where padding is not valid, or
            where parts are taken from clips that may be shorter, also "valid_frames": (2,) int32, the first frame of
            the clip and the frame after its last. For data of different lengths also "length": () int32, that of the
            whole clip.

        Raises:
            BadSample: The clip is empty, not finite, or shorter than `min_samples`.
        """
        waveform = np.asarray(inputs["waveform"])
        clip = waveform[0] if waveform.ndim == 2 and len(waveform) else waveform.reshape(-1)
        if len(clip) == 0:
            raise BadSample("the clip is empty")
        if not np.isfinite(clip).all():
            raise BadSample("the clip holds NaN or infinite samples")
        if len(clip) < self.min_samples:
            raise BadSample(
                f"the clip has {len(clip)} samples ({len(clip) / self.rate:.3f} s), fewer than {self.min_samples} "
                f"({self.min_samples / self.rate:.3f} s); set tokenizer.min_samples={len(clip)} to use it"
            )
        options = self.options
        spectrum = librosa.stft(
            self._crop_or_pad(clip.astype(np.float32)),
            n_fft=self.n_fft,
            hop_length=self.hop,
            win_length=self.win_length,
            pad_mode=options.pad_mode,
        )
        mel = self.filters @ np.abs(spectrum) ** options.power
        valid_frames = self._valid_frames(len(clip))
        spectrogram = self._normalise_bands(self._to_decibels(mel[:, : self.source_frames]), *valid_frames)
        prepared = {"spectrogram": spectrogram[np.newaxis]}
        prepared |= {"valid_frames": valid_frames} if self.counts_frames else {}
        return prepared | ({"length": np.array(len(clip), np.int32)} if self.data_length is None else {})

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Statistics of the mel-frequency cepstral coefficients of the whole clip."""
        waveform = np.asarray(inputs["waveform"])
        clip = waveform[0] if waveform.ndim == 2 and len(waveform) else waveform.reshape(-1)
        return mfcc_statistics(clip, self.rate)

    def describe_preprocessing(self) -> Preprocessing:
        """Clip, spectrogram, decibels and frames; the rest is inside."""
        options = self.options
        steps = [*self._clip_steps(), *self._spectrum_steps()]
        if self.counts_frames:
            valid = {
                "do": "'valid_frames', int32: the first frame whose centre lies in the clip, and the one after the "
                "last: ceil(before / hop) and floor((before + min(length, samples) - 1) / hop) + 1, at most "
                "`frames`; `before` is the number of samples filled in before a clip of `length` samples",
                "hop": self.hop, "samples": self.source_samples, "frames": self.source_frames,
            }  # fmt: skip
            steps.append(valid)
        inside = [*super().describe_preprocessing().inside]
        if self.source_frames > options.frames:
            inside.insert(0, {"do": "take the first `frames` valid frames", "frames": options.frames})
        if self.masks_padding:
            inside.append({"do": "tokens without a valid frame are padding: not attended to, and in no feature"})
        filters = io.BytesIO()
        np.save(filters, self.filters)
        return Preprocessing(steps, inside, {"mel_filters.npy": filters.getvalue()})

    def _clip_steps(self) -> list[dict[str, Any]]:
        options, samples = self.options, self.source_samples
        part = {"center": "the middle", "end": "the end"}.get(options.crop, "the start")
        where = "both ends alike (the odd sample at the end)" if options.place == "center" else "its end"
        fill = "zeros" if options.fill == "zeros" else "the clip again"
        rate = "take the first channel, as float32 at `rate` samples per second; resample other rates"
        return [
            {"do": rate, "rate": self.rate},
            {"do": "refuse a clip of fewer samples", "samples": self.min_samples},
            {
                "do": f"of a longer clip take `samples` at {part}; fill a shorter one up at {where} by {fill}",
                "samples": samples, "seconds": samples / self.rate,
            },
        ]  # fmt: skip

    def _spectrum_steps(self) -> list[dict[str, Any]]:
        options = self.options
        steps: list[dict[str, Any]] = [
            {
                "do": "short-time Fourier transform: pad the clip by n_fft / 2 on both sides, so that frame i is "
                "centred at i hop; periodic Hann window of win_length, in the middle of n_fft samples",
                "n_fft": self.n_fft, "hop": self.hop, "win_length": self.win_length, "window": "hann",
                "pad_mode": options.pad_mode,
            },
            {
                "do": "raise the magnitudes to `power`, multiply by the mel filters of the file, (n_mels, 1 + n_fft / "
                "2), of Slaney's scale and norm, and take the first `frames` frames",
                "power": options.power, "file": "files/mel_filters.npy", "n_mels": options.n_mels, "fmin": options.fmin,
                "fmax": options.fmax or self.rate / 2, "frames": self.source_frames,
            },
        ]  # fmt: skip
        if options.square:
            steps.append({"do": "square"})
        steps.append({"do": "decibels: 10 log10 of the larger of the value and amin", "amin": options.amin})
        if options.top_db is not None:
            clip = "raise what is more than top_db below the clip's maximum to that"
            steps.append({"do": clip, "top_db": options.top_db})
        if options.ref == "max":
            steps.append({"do": "subtract the clip's maximum, so that it is 0 dB"})
        if options.band_norm != "none":
            frames = "all frames" if options.fill == "repeat" else "its valid frames; other frames are 0"
            divide = ", then divide by the larger of its standard deviation there and min_std"
            divide = divide if options.band_norm == "mean-std" else ""
            band = f"subtract from each mel band its mean{divide}; over {frames}"
            steps.append({"do": band, "min_std": MIN_BAND_STD})
        return [*steps, {"do": "'spectrogram': (1, n_mels, frames), float32, the lowest band first"}]

    def facts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Shares of sound beyond what is used, and of padding."""
        lengths = np.atleast_1d(inputs["length"] if self.data_length is None else self.data_length).astype(np.float64)
        return {
            "cropped": float(np.mean(np.maximum(0, lengths - self.source_samples) / lengths)),
            "padded": float(np.mean(np.maximum(0, self.samples - lengths) / self.samples)),
        }

    def _valid_frames(self, length: int) -> np.ndarray:
        """First frame with its centre within a clip of `length` samples, and the frame after the last one."""
        samples = self.source_samples
        before = (samples - length) // 2 if self.options.place == "center" and length < samples else 0
        first, last = math.ceil(before / self.hop), (before + min(length, samples) - 1) // self.hop
        return np.array([first, min(last + 1, self.source_frames)], dtype=np.int32)

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Mean and standard deviation of the valid frames."""
        excludes = self.masks_padding or (self.counts_frames and self.options.padding == "absent")
        super().fit_normalization(map(self._select_valid, chunks) if excludes else chunks)

    def _select_valid(self, chunk: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The valid frames of a chunk as samples of one frame: (n, 1, n_mels, 1)."""
        frames = np.arange(self.source_frames)
        first, end = chunk["valid_frames"][:, :1], chunk["valid_frames"][:, 1:]
        valid = np.moveaxis(chunk["spectrogram"][:, 0], 1, 2)[(frames >= first) & (frames < end)]
        return {"spectrogram": valid[:, np.newaxis, :, np.newaxis]}

    def draw_crop(self, batch: int, generator: torch.Generator) -> Draws:
        """One number in [0, 1) for each row, the place of its part, if crop=random."""
        if self.source_frames == self.options.frames:
            return {}
        return {"place": torch.rand(batch, generator=generator, dtype=torch.float64)}

    def crop(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """A part of `frames` frames of each row, at the place that `draws` says."""
        if self.source_frames == self.options.frames:
            return inputs
        return self._take(inputs, draws["place"])

    def _take(self, inputs: Mapping[str, Tensor], place: Tensor | None = None) -> dict[str, Tensor]:
        """`frames` frames of each row: from the start, or from a place (B,) in [0, 1) between both ends of its data."""
        x, valid, frames = inputs["spectrogram"], inputs.get("valid_frames"), self.options.frames
        if place is None and valid is None:
            return {**inputs, "spectrogram": x[..., :frames]}
        else:
            place = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device) if place is None else place
            first, end = (torch.zeros_like(place), torch.full_like(place, self.source_frames))
            if valid is not None:
                first, end = valid[:, 0].to(place), valid[:, 1].to(place)
            start = (first + torch.floor(place * ((end - frames - first).clamp(min=0) + 1))).long()
            start = start.clamp(max=self.source_frames - frames)
            index = start[:, None] + torch.arange(frames, device=x.device)
            taken = x.gather(3, index[:, None, None].expand(-1, *x.shape[1:3], -1))
        out = {**inputs, "spectrogram": taken}
        if valid is not None:
            out["valid_frames"] = (valid - start.reshape(-1, 1)).clamp(0, frames).to(valid.dtype)
        return out

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """inputs["spectrogram"] (B, 1, n_mels, frames) to Tokens; of more frames the first ones."""
        longer = inputs["spectrogram"].shape[-1] == self.source_frames > self.options.frames
        return super().forward(self._take(inputs) if longer else inputs)

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """A patch that holds padding alone is invalid."""
        if not self.masks_padding:
            return Geometry()
        rows, columns = self.layout.segments[0].grid
        starts = torch.arange(columns, device=inputs["valid_frames"].device) * self.patch[1]
        first, end = inputs["valid_frames"][:, :1], inputs["valid_frames"][:, 1:]
        return Geometry(valid=((starts < end) & (starts + self.patch[1] > first)).repeat(1, rows))

    def _crop_or_pad(self, clip: np.ndarray) -> np.ndarray:
        """The clip at `samples` samples, or at those from which parts are taken."""
        missing = self.source_samples - len(clip)
        if missing <= 0:
            start = {"start": 0, "random": 0, "center": -missing // 2, "end": -missing}[self.options.crop]
            return clip[start : start + self.source_samples]
        before = missing // 2 if self.options.place == "center" else 0
        widths = (before, missing - before)
        return np.pad(clip, widths, mode="wrap") if self.options.fill == "repeat" else np.pad(clip, widths)

    def _to_decibels(self, mel: np.ndarray) -> np.ndarray:
        """10 log10 of the power, clipped `top_db` below its maximum."""
        options = self.options
        power = np.square(mel) if options.square else mel
        decibels = 10.0 * np.log10(np.maximum(power, options.amin))
        maximum = decibels.max()
        if options.top_db is not None:
            decibels = np.maximum(decibels, maximum - options.top_db)
        return (decibels - maximum if options.ref == "max" else decibels).astype(np.float32)

    def _normalise_bands(self, decibels: np.ndarray, first: int, end: int) -> np.ndarray:
        """Normalise each band of (n_mels, frames) over the valid frames, as `band_norm` says."""
        if self.options.band_norm == "none":
            return decibels
        if self.options.fill == "repeat":
            first, end = 0, decibels.shape[1]
        valid = decibels[:, first:end]
        out = np.zeros_like(decibels)  # padding takes the mean
        out[:, first:end] = valid - valid.mean(axis=1, keepdims=True)
        if self.options.band_norm == "mean-std":
            out[:, first:end] /= np.maximum(valid.std(axis=1, keepdims=True), MIN_BAND_STD)
        return out

    def to_image(self, segment: int, patches: Tensor) -> Tensor:
        """Spectrograms in dB, (B, 1, n_mels, frames), with the highest band at the top."""
        return super().to_image(segment, patches).flip(2)

    def to_audio(self, segment: int, patches: Tensor) -> tuple[np.ndarray, float] | None:
        """Sound with these spectrograms, its phases estimated (Griffin and Lim, 1984).

        None if each band was normalised, since its loudness is then unknown.
        """
        if self.options.band_norm != "none":
            return None
        decibels = super().to_image(segment, patches)[:, 0].double().cpu().numpy()
        waves = []
        for picture in decibels:
            mel = 10 ** ((picture - picture.max()) / (20 if self.options.square else 10))
            magnitude = librosa.util.nnls(self.filters.astype(np.float64), mel) ** (1 / self.options.power)
            waves.append(
                librosa.griffinlim(
                    magnitude, n_iter=GRIFFIN_LIM_STEPS, hop_length=self.hop, win_length=self.win_length,
                    n_fft=self.n_fft, random_state=0,
                )
            )  # fmt: skip
        return np.stack(waves), self.rate

    def recording(self, inputs: Inputs) -> tuple[np.ndarray, float]:
        """The first channel of the waveform."""
        waveform = np.asarray(inputs["waveform"], dtype=np.float64)
        return (waveform[0] if waveform.ndim == 2 else waveform), self.rate

    def picture_style(self, segment: int) -> PictureStyle:
        """Frequency over time."""
        return PictureStyle(axes=("mel band, the lowest at the bottom", "time (s)"), spacing=self.hop / self.rate)


def _rate_and_length(fields: Fields) -> tuple[float, int | None]:
    """Sampling rate and clip length of the data set; None if the length differs between clips.

    Raises:
        ConfigError: The data set has no such field.
    """
    field = fields.get("waveform")
    if not isinstance(field, Continuous) or field.rate is None:
        raise ConfigError(
            "tokenizer 'speech' reads a field 'waveform' of real numbers with a sampling rate; the data set offers "
            + (", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field")
            + "; recordings in memory need rate=, the samples per second"
        )
    return field.rate, field.shape[-1]


def _clip_and_hop(options: SpeechTokenizer.Options, rate: float, length: int | None) -> tuple[int, int]:
    """Clip length and hop in samples with exactly `frames` centred frames: 1 + floor(clip / hop).

    Raises:
        ConfigError: `samples` and `hop` give another number of frames.
    """
    if options.samples is not None:
        samples = options.samples
    elif options.hop is not None:
        samples = options.hop * options.frames - 1
    elif options.seconds is None and length is not None:
        samples = length
    else:
        samples = max(1, round((options.seconds or DEFAULT_SECONDS) * rate))
    hop = options.hop or samples // options.frames + 1
    if options.samples is None:
        samples = max(samples, hop * (options.frames - 1))  # a whole hop does not always divide the clip
    frames = 1 + samples // hop
    if frames != options.frames:
        raise ConfigError(
            f"tokenizer: a clip of {samples} samples with hop {hop} gives {frames} frames, not {options.frames}; "
            f"change tokenizer.samples, tokenizer.hop or tokenizer.frames"
        )
    return samples, hop


def _librosa_mel(rate: float, n_fft: int, n_mels: int, fmin: float, fmax: float) -> np.ndarray:
    """librosa's mel filters, without its warning about empty bands, which `_mel_filters` handles."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [SpeechTokenizer]
