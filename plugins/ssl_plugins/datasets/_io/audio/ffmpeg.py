"""Recordings in the formats of FFmpeg (m4a, aac, wma, ...), which need the extra `audio`."""

from __future__ import annotations

from typing import IO, Any

import numpy as np

MAX_BYTES = 1 << 32  # decoded sound of a file


class FfmpegFile:
    """The first audio stream of a file, with the attributes of `soundfile.SoundFile` that are used here.

    The whole stream is decoded when it is opened, since the headers of these formats know no exact length.
    """

    extra_info = ""

    def __init__(self, sound: np.ndarray, rate: int) -> None:
        self.sound, self.samplerate, self.position = sound, rate, 0

    @classmethod
    def open(cls, file: str | IO[bytes]) -> FfmpegFile | None:
        """Decode a file, named or open; None if it holds no sound."""
        import av  # optional

        blocks: list[np.ndarray] = []
        size = 0
        try:
            with av.open(file, "r") as container:
                if not container.streams.audio:
                    return None
                stream = container.streams.audio[0]
                rate = stream.rate
                resampler = av.AudioResampler(format="fltp", rate=rate)
                for frame in container.decode(stream):
                    for part in resampler.resample(frame):
                        blocks.append(part.to_ndarray())
                        size += blocks[-1].nbytes
                    if size > MAX_BYTES:
                        raise ValueError(f"more than {MAX_BYTES >> 30} GiB of sound")
                blocks += [part.to_ndarray() for part in resampler.resample(None)]
        except av.FFmpegError:
            if not blocks:
                return None
        return cls(np.concatenate(blocks, axis=1).T, int(rate)) if blocks else None

    @property
    def frames(self) -> int:
        """Samples of a channel."""
        return len(self.sound)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.sound.shape[1])

    def seek(self, position: int) -> None:
        """Go to a sample."""
        self.position = position

    def read(self, frames: int, **_: Any) -> np.ndarray:
        """(n, channels) float32, at most `frames` samples from the position on."""
        block = self.sound[self.position : self.position + frames]
        self.position += len(block)
        return np.ascontiguousarray(block, dtype=np.float32)

    def __enter__(self) -> FfmpegFile:
        return self

    def __exit__(self, *_: Any) -> None:
        pass
