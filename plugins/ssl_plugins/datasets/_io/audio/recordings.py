"""Reads recordings in every format of libsndfile and, with the extra `audio`, in those of FFmpeg.

The content of a file decides its format; the ending only tells which files of a folder are recordings.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile

from ssl_core import BadSample
from ssl_plugins.datasets._io.files.state import file_state
from ssl_plugins.datasets._io.files.tar import TarMember

Source: TypeAlias = Path | TarMember
"""A recording: a file, or a member of a tar file."""

ENDINGS = {
    "WAV": (".wav", ".wave"), "FLAC": (".flac",), "OGG": (".ogg", ".oga", ".opus"), "MP3": (".mp3", ".mp2"),
    "AIFF": (".aiff", ".aif", ".aifc"), "AU": (".au", ".snd"), "CAF": (".caf",), "W64": (".w64",), "RF64": (".rf64",),
    "NIST": (".sph", ".nist"), "VOC": (".voc",), "IRCAM": (".sf",), "SVX": (".svx", ".8svx", ".iff"),
    "PVF": (".pvf",), "PAF": (".paf",), "AVR": (".avr",), "WVE": (".wve",), "SDS": (".sds",), "XI": (".xi",),
}  # fmt: skip
"""File endings of the formats of libsndfile, by their name in `soundfile.available_formats()`."""

FFMPEG_ENDINGS = (".m4a", ".m4b", ".mp4", ".aac", ".wma", ".amr", ".webm", ".wv", ".ape")
FFMPEG_CURE = "pip install 'sslx[audio]'"
MAX_FRAMES_PER_BYTE = 1 << 14  # more than of digital silence in any format; reading beyond takes minutes
BLOCK_FRAMES = 1 << 20  # frames to read at a time: a damaged header may promise any number of them
MISSING_SHARE = 0.01  # share of the promised sound that may be missing: headers are often wrong by a few bytes
SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
ROUNDING = 1e-3
STREAMED_BYTES = 0x7FFF0000  # sizes from here on stand for an unknown length


def endings() -> tuple[str, ...]:
    """Endings of the formats that the installed libsndfile reads."""
    available = soundfile.available_formats()
    return tuple(ending for name, group in ENDINGS.items() if name in available for ending in group)


def has_ffmpeg() -> bool:
    """Whether the optional library for FFmpeg's formats is installed."""
    return importlib.util.find_spec("av") is not None


@dataclass(frozen=True)
class Header:
    """What a recording's header says.

    rate: Hz. channels: number of channels. frames: samples of a channel that the file holds. promised: those that the
    header promises, more than `frames` if the file is cut off.
    """

    rate: int
    channels: int
    frames: int
    promised: int

    @property
    def seconds(self) -> float:
        """Length of the sound that the file holds."""
        return self.frames / self.rate

    @property
    def is_truncated(self) -> bool:
        """Whether sound is missing at the end."""
        return self.promised - self.frames > MISSING_SHARE * self.promised


@functools.lru_cache(maxsize=100_000)
def read_header(source: Source, state: str) -> Header | None:
    """The header; None for an unreadable file, which is named when it is read. state: part of the cache's key."""
    try:
        with _open(source) as file:
            return _header(file, source)
    except BadSample:
        return None


def read_recording(source: Source, start: float = 0.0, seconds: float | None = None) -> tuple[np.ndarray, Header]:
    """Read a recording, or `seconds` of it from `start` on.

    Returns:
        (samples, channels) float32, and the header. With `is_truncated` the file holds less than its header promises.

    Raises:
        BadSample: the file cannot be read.
    """
    with _open(source) as file:
        header = _header(file, source)
        first = round(start * header.rate)
        count = header.frames - first if seconds is None else round(seconds * header.rate)
        blocks = list(_blocks(file, first, count))
    sound = np.concatenate(blocks) if blocks else np.zeros((0, header.channels), np.float32)
    if seconds is None and len(sound) < header.frames - first:  # compressed data that ends early
        header = Header(header.rate, header.channels, first + len(sound), header.promised)
    return sound, header


def _blocks(file: Any, first: int, count: int) -> Iterator[np.ndarray]:
    if first:
        file.seek(min(first, file.frames))
    while count > 0:
        block = file.read(min(count, BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block
        count -= len(block)


def source_state(source: Source) -> str:
    """Changes when the file that holds a recording does."""
    return file_state(source.archive if isinstance(source, TarMember) else source)


@contextmanager
def _open(source: Source) -> Iterator[Any]:
    """Open a recording with libsndfile, or with FFmpeg if libsndfile does not know its format.

    Raises:
        BadSample: the file cannot be opened, or reading fails in this context.
    """
    with _content(source) as content:
        try:
            try:
                file: Any = soundfile.SoundFile(content)
            except soundfile.SoundFileError:
                file = _open_with_ffmpeg(source)
                if file is None:
                    raise
            with file:
                yield file
        except BadSample:
            raise
        except Exception as error:  # any failure of a decoder concerns this file alone
            raise BadSample(f"cannot be read as audio ({_reason(error)})") from None


@contextmanager
def _content(source: Source) -> Iterator[Any]:
    """What soundfile opens: the name of a file, which it reads fastest, or a member as a file."""
    if isinstance(source, TarMember):
        with source.open() as file:
            yield file
    else:
        yield os.fsencode(source) if os.name == "posix" else str(source)  # it refuses names that are not UTF-8


def _reason(error: Exception) -> str:
    """What an exception says, without the path and the library's function."""
    return re.sub(r"^Error opening .*?: ", "", " ".join(str(error).split()) or type(error).__name__)


def _open_with_ffmpeg(source: Source) -> Any:
    """The file in FFmpeg's hands; None if it is no recording to FFmpeg either.

    Raises:
        BadSample: the format needs the extra, which is not installed.
    """
    if not has_ffmpeg():
        if source.name.lower().endswith(FFMPEG_ENDINGS) or _is_mpeg4(source):
            raise BadSample(f"holds a format that libsndfile does not read; reading it needs {FFMPEG_CURE}")
        return None
    from ssl_plugins.datasets._io.audio.ffmpeg import FfmpegFile

    if isinstance(source, TarMember):
        with source.open() as file:
            return FfmpegFile.open(file)
    return FfmpegFile.open(str(source))


def _is_mpeg4(source: Source) -> bool:
    with source.open() if isinstance(source, TarMember) else source.open("rb") as file:
        return file.read(12)[4:8] == b"ftyp"


def _size(source: Source) -> int:
    return source.size if isinstance(source, TarMember) else source.stat().st_size


def _header(file: Any, source: Source) -> Header:
    rate, channels, frames = int(file.samplerate), int(file.channels), int(file.frames)
    if rate < 1 or channels < 1 or frames < 0:
        raise BadSample(f"cannot be read as audio (a rate of {rate} Hz, {channels} channels, {frames} samples)")
    if frames > MAX_FRAMES_PER_BYTE * _size(source):
        raise BadSample(f"cannot be read as audio (its header promises {frames:,} samples, more than it can hold)")
    promised = frames
    match = SIZES.search(file.extra_info)
    if match and 0 < int(match[2]) < int(match[1]) < STREAMED_BYTES:
        promised = round(frames * int(match[1]) / int(match[2]))
    return Header(rate, channels, frames, promised)


def select_channel(sound: np.ndarray, channel: str) -> np.ndarray:
    """(samples,) float32, the mean of the channels or one of them.

    Args:
        sound: (samples, channels).
        channel: "mean", or the number of a channel from 0.

    Raises:
        BadSample: there is no such channel.
    """
    count = sound.shape[1]
    if channel == "mean":
        return sound[:, 0] if count == 1 else sound.mean(axis=1, dtype=np.float32)
    if int(channel) >= count:
        raise BadSample(f"has {count} channel{'s' * (count > 1)}, so there is no dataset.channel={channel} from 0")
    return sound[:, int(channel)]


def sound_range(clip: np.ndarray, rate: float, top_db: float) -> tuple[int, int]:
    """First sample of the sound, and the sample after its last: what is louder than `top_db` below the maximum.

    The level is that of frames of 20 ms; the frames at the borders are kept whole. All of a constant clip is sound.
    """
    import librosa  # slow to import, and most data sets are not trimmed

    if not len(clip) or clip.min() == clip.max():
        return 0, len(clip)
    hop = max(1, round(0.01 * rate))
    _, (start, stop) = librosa.effects.trim(clip, top_db=top_db, frame_length=2 * hop, hop_length=hop)
    return int(start), int(stop)


@dataclass(frozen=True)
class SoundCheck:
    """What the beginning of a recording sounds like.

    is_constant: all samples are the same, but for rounding. sounding: channels that are not constant. starts: second
    at which the sound begins. seconds: length that was looked at.
    """

    is_constant: bool
    sounding: tuple[int, ...]
    starts: float
    seconds: float


@functools.lru_cache(maxsize=10_000)
def check_sound(source: Source, state: str, channel: str, seconds: float, top_db: float) -> SoundCheck | None:
    """Listen to the first `seconds` of a recording; None if it cannot be read. state: part of the cache's key."""
    try:
        sound, header = read_recording(source, seconds=seconds)
        clip = select_channel(sound, channel)
    except BadSample:
        return None
    if not len(clip) or not np.isfinite(sound).all():
        return None
    ranges = np.ptp(sound, axis=0)
    is_constant = bool(np.ptp(clip) <= ROUNDING * ranges.max())  # channels of opposite sign cancel but for rounding
    start = 0.0 if is_constant else sound_range(clip, header.rate, top_db)[0] / header.rate
    return SoundCheck(is_constant, tuple(np.flatnonzero(ranges).tolist()), start, len(clip) / header.rate)


def evenly_spaced(paths: Sequence[Any], most: int) -> Sequence[Any]:
    """At most `most` of the paths."""
    return paths[:: max(1, -(-len(paths) // most))]
