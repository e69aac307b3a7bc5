"""Speech: waveforms of any rate and length to patches of a log-mel spectrogram (protocol section 2.5).

Silence matters more than any other choice here. Measured against a fixed floor (-100 dB), padding and digital silence
lie so far below speech that mean and scale describe them and not the voice. So the floor lies `top_db` below each
clip's own maximum, and that maximum is 0 dB: how loud a recording is says nothing about what is said.

A patch spans all mel bands by default, so that a token is a moment of speech. With square patches the same encoder
needs several times the steps: benchmarks/README.md has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import librosa
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_core import BadSample, ConfigError, Continuous, Fields, Geometry, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import GridTokenizer

USUAL_SECONDS = 1.0  # clip length where nothing says otherwise
FLAT = 3.0  # dB; a band that varies less than this over a clip holds noise, which is not blown up


class Speech(GridTokenizer):
    """Patches of a log-mel spectrogram of a waveform of any rate and length.

    Reads the field "waveform", (channels, n) with its rate; the first channel is used (protocol section 2.5).
    """

    name = "speech"

    class Options(GridTokenizer.Options):
        """Options of the speech tokenizer. Preset `metamae` holds the protocol's numbers."""

        n_mels: int = Field(64, ge=1, description="mel bands")
        frames: int = Field(64, ge=1, description="frames of a clip")
        patch: tuple[int, int] | None = Field(
            None, description="patch as (mel bands, frames); by default all bands and 2 frames"
        )
        seconds: float | None = Field(
            None,
            gt=0,
            description="clip length, where neither samples nor hop is given; by default that of the data "
            "if all its clips have one, else 1 s",
        )
        samples: int | None = Field(None, ge=1, description="clip length in samples; by default from hop or seconds")
        hop: int | None = Field(None, ge=1, description="samples between frames; by default so that the frames fit")
        window: float = Field(0.032, gt=0, description="window length in seconds, where win_length is not given")
        win_length: int | None = Field(
            None, ge=2, description="window length in samples; by default from window, but no shorter than hop"
        )
        n_fft: int | None = Field(
            None, ge=2, description="FFT length; by default the power of two that holds the window and every mel band"
        )
        fmin: float = Field(0.0, ge=0, description="lowest frequency of the mel bands in Hz")
        fmax: float | None = Field(None, gt=0, description="highest frequency in Hz; by default half the rate")
        power: float = Field(2.0, gt=0, description="exponent of the magnitude spectrogram: 2 = power")
        square: bool = Field(False, description="square the mel spectrogram once more before dB, as the published code")
        amin: float = Field(1e-10, gt=0, description="smallest value taken to dB")
        top_db: float | None = Field(
            60.0, gt=0, description="range of a clip in dB below its own maximum; none = no cut"
        )
        ref: Literal["max", "absolute"] = Field("max", description="0 dB is the clip's maximum, or the number 1")
        band_norm: Literal["none", "mean", "mean-std"] = Field(
            "none",
            description="take from each mel band of a clip its mean over the clip (mean), and divide by its standard "
            "deviation as well (mean-std): what the speaker's voice and the microphone add to all frames goes",
        )
        place: Literal["start", "center"] = Field("start", description="where a short clip lies within its padding")
        fill: Literal["zeros", "repeat"] = Field("zeros", description="what a short clip is padded with: or itself")
        padding: Literal["absent", "content"] = Field(
            "absent",
            description="absent = patches of nothing but padding are left out of attention, loss and features; content "
            "= they are ordinary tokens, as the published code has it",
        )
        crop: Literal["start", "center", "end"] = Field("start", description="which part of a long clip is kept")
        pad_mode: Literal["constant", "reflect", "edge"] = Field(
            "constant", description="padding of half a window at both ends, so that frames are centred"
        )
        min_samples: int | None = Field(
            None, ge=1, description="shortest clip that is used; by default it must fill one patch"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        shape = (options.n_mels, options.frames)
        patch = options.patch or (options.n_mels, 2)
        super().__init__(options, fields, dim, field="spectrogram", channels=1, shape=shape, patch=patch)
        self.rate, length = _waveform(fields)
        self.samples, self.hop = _clip(options, self.rate, length)
        self.win_length = options.win_length or max(2, round(options.window * self.rate), self.hop)
        self.n_fft, self.filters = self._filters()
        self.least = options.min_samples or patch[1] * self.hop
        # clips that are all as long as they should be have no padding, and then nothing has to be asked
        self.pads = length is None or length < self.samples
        self.pads &= options.padding == "absent" and options.fill == "zeros"

    def _filters(self) -> tuple[int, np.ndarray]:
        """FFT length and mel filters (n_mels, 1 + n_fft / 2) of Slaney's scale and norm, none of them empty."""
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
            filters = _mel(self.rate, n_fft, options.n_mels, options.fmin, fmax)
            empty = int((filters.max(axis=1) == 0).sum())
            if not empty:
                return n_fft, filters
            if options.n_fft is not None or n_fft > 2**16:
                raise ConfigError(
                    f"tokenizer: {empty} of {options.n_mels} mel bands hold no frequency at n_fft={n_fft} and "
                    f"{self.rate:g} Hz; raise tokenizer.n_fft or lower tokenizer.n_mels"
                )
            n_fft *= 2

    def preprocess(self, inputs: Inputs) -> Inputs:
        """{"waveform": (channels, n)} to {"spectrogram": (1, n_mels, frames) float32} in dB.

        Where clips may be shorter than they should be also "sounding" (2,) int32: first frame of the clip and the one
        after its last.

        Errors: BadSample for a clip that is empty, not finite, or too short to fill one patch.
        """
        waveform = np.asarray(inputs["waveform"])
        clip = waveform[0] if waveform.ndim == 2 and len(waveform) else waveform.reshape(-1)
        if len(clip) == 0:
            raise BadSample("the clip is empty")
        if not np.isfinite(clip).all():
            raise BadSample("the clip holds NaN or infinite samples")
        if len(clip) < self.least:
            raise BadSample(
                f"the clip has {len(clip)} samples ({len(clip) / self.rate:.3f} s), fewer than the {self.least} "
                f"({self.least / self.rate:.3f} s) that it needs; lower tokenizer.min_samples or leave it out"
            )
        options = self.options
        spectrum = librosa.stft(
            self._fit(clip.astype(np.float32)),
            n_fft=self.n_fft,
            hop_length=self.hop,
            win_length=self.win_length,
            pad_mode=options.pad_mode,
        )
        mel = self.filters @ np.abs(spectrum) ** options.power
        sounding = self._sounding(len(clip))
        made = {"spectrogram": self._bands(self._decibels(mel[:, : options.frames]), *sounding)[np.newaxis]}
        return made | ({"sounding": sounding} if self.pads else {})

    def _sounding(self, length: int) -> np.ndarray:
        """Frames whose centre lies within a clip of so many samples: the first, and the one after the last."""
        before = (self.samples - length) // 2 if self.options.place == "center" and length < self.samples else 0
        first, last = math.ceil(before / self.hop), (before + min(length, self.samples) - 1) // self.hop
        return np.array([first, min(last + 1, self.options.frames)], dtype=np.int32)

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Mean and scale of the frames that are no padding, where padding counts as absent."""
        super().fit_normalization(map(self._heard, chunks) if self.pads else chunks)

    def _heard(self, chunk: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The sounding frames of a chunk, one after the other: (n, 1, n_mels, 1)."""
        frames = np.arange(self.options.frames)
        first, end = chunk["sounding"][:, :1], chunk["sounding"][:, 1:]
        heard = np.moveaxis(chunk["spectrogram"][:, 0], 1, 2)[(frames >= first) & (frames < end)]
        return {"spectrogram": heard[:, np.newaxis, :, np.newaxis]}

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """A patch that holds padding alone is invalid."""
        if not self.pads:
            return Geometry()
        bands, moments = self.layout.segments[0].grid
        begin = torch.arange(moments, device=inputs["sounding"].device) * self.patch[1]
        first, end = inputs["sounding"][:, :1], inputs["sounding"][:, 1:]
        return Geometry(valid=((begin < end) & (begin + self.patch[1] > first)).repeat(1, bands))

    def _fit(self, clip: np.ndarray) -> np.ndarray:
        """The clip cut or padded to `samples`."""
        missing = self.samples - len(clip)
        if missing <= 0:
            start = {"start": 0, "center": -missing // 2, "end": -missing}[self.options.crop]
            return clip[start : start + self.samples]
        before = missing // 2 if self.options.place == "center" else 0
        around = (before, missing - before)
        return np.pad(clip, around, mode="wrap") if self.options.fill == "repeat" else np.pad(clip, around)

    def _decibels(self, mel: np.ndarray) -> np.ndarray:
        """10 log10 of the power, cut `top_db` below its maximum (protocol section 2.5, step 4)."""
        options = self.options
        power = np.square(mel) if options.square else mel
        decibels = 10.0 * np.log10(np.maximum(power, options.amin))
        loudest = decibels.max()
        if options.top_db is not None:
            decibels = np.maximum(decibels, loudest - options.top_db)
        return (decibels - loudest if options.ref == "max" else decibels).astype(np.float32)

    def _bands(self, decibels: np.ndarray, first: int, end: int) -> np.ndarray:
        """(n_mels, frames) with each band's mean, or mean and deviation, over the sounding frames taken out."""
        if self.options.band_norm == "none":
            return decibels
        if self.options.fill == "repeat":
            first, end = 0, decibels.shape[1]
        heard = decibels[:, first:end]
        out = np.zeros_like(decibels)  # padding is where the mean is
        out[:, first:end] = heard - heard.mean(axis=1, keepdims=True)
        if self.options.band_norm == "mean-std":
            out[:, first:end] /= np.maximum(heard.std(axis=1, keepdims=True), FLAT)
        return out

    def to_image(self, segment: int, patches: Tensor) -> Tensor:
        """Spectrograms in dB, (B, 1, n_mels, frames), the highest band on top."""
        return super().to_image(segment, patches).flip(2)


def _waveform(fields: Fields) -> tuple[float, int | None]:
    """The sampling rate that the data set names, and the length of its clips if all have one."""
    field = fields.get("waveform")
    if not isinstance(field, Continuous) or field.rate is None:
        raise ConfigError(
            "tokenizer 'speech' reads a field 'waveform' of real numbers with a sampling rate; the data set offers "
            + (", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field")
        )
    return field.rate, field.shape[-1]


def _clip(options: Speech.Options, rate: float, length: int | None) -> tuple[int, int]:
    """Samples and hop, so that centred frames are exactly `frames`: 1 + floor(samples / hop)."""
    if options.samples is not None:
        samples = options.samples
    elif options.hop is not None:
        samples = options.hop * options.frames - 1
    elif options.seconds is None and length is not None:
        samples = length
    else:
        samples = max(1, round((options.seconds or USUAL_SECONDS) * rate))
    hop = options.hop or samples // options.frames + 1
    if options.samples is None:
        samples = max(samples, hop * (options.frames - 1))  # whole samples do not always divide a clip
    made = 1 + samples // hop
    if made != options.frames:
        raise ConfigError(
            f"tokenizer: a clip of {samples} samples with hop {hop} makes {made} frames, not {options.frames}; "
            f"change tokenizer.samples, tokenizer.hop or tokenizer.frames"
        )
    return samples, hop


def _mel(rate: float, n_fft: int, n_mels: int, fmin: float, fmax: float) -> np.ndarray:
    """librosa's mel filters, without its warning about empty bands."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Speech]
