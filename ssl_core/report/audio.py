"""Recordings as WAV in data URLs, short and at a low rate, so that a page stays small."""

from __future__ import annotations

import base64
import io
import math

import numpy as np

from ssl_core.report.reconstruction import Sound

MAX_SECONDS = 2.0
MAX_RATE = 16_000
BUDGET = 1_000_000
"""Bytes of WAV in a page; their text is a third longer."""


class Player:
    """Turns recordings into data URLs until the budget of the page is used up. left_out: recordings without one."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.left, self.left_out = budget, 0

    def address(self, sound: Sound | None) -> str | None:
        """The data URL of the first seconds of a recording; None if there is none, or no room for it."""
        if sound is None:
            return None
        data = wav(*sound)
        if len(data) > self.left:
            self.left_out += 1
            return None
        self.left -= len(data)
        return "data:audio/wav;base64," + base64.b64encode(data).decode()


def wav(wave: np.ndarray, rate: float) -> bytes:
    """The first seconds of a waveform (samples,) as 16-bit WAV, its peak at 0.9, at no more than MAX_RATE."""
    import soundfile
    from scipy.signal import resample_poly

    own = max(1, round(rate))
    x = np.nan_to_num(np.asarray(wave, dtype=np.float64)[: math.ceil(MAX_SECONDS * rate)])
    if own > MAX_RATE:
        common = math.gcd(own, MAX_RATE)
        x, own = resample_poly(x, MAX_RATE // common, own // common), MAX_RATE
    peak = float(np.abs(x).max(initial=0.0))
    buffer = io.BytesIO()
    soundfile.write(buffer, x * (0.9 / peak) if peak else x, own, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
