"""A source-filter voice: glottal pulses and noise, filtered by moving formant resonators.

Follows Fant's source-filter theory and Klatt's cascade synthesiser (J. Acoust. Soc. Am. 67, 1980). Formant targets are
textbook averages. The filter is applied to short frames by FFT and overlap-add, so an utterance takes milliseconds.
Frequencies are in Hz, times in seconds, amplitudes linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

FRAME = 0.010  # hop of the filter in seconds; windows are twice as long
FORMANT_WIDTHS = np.array([70.0, 90.0, 130.0, 200.0])
FOURTH_FORMANT = 3500.0


@dataclass(frozen=True)
class Phoneme:
    """Targets of one speech sound.

    Attributes:
        formants: F1 to F3.
        voice: amplitude of the glottal pulses.
        breath: amplitude of the noise at the glottis.
        hiss: amplitude of the noise at the constriction.
        centre: centre frequency of the hiss.
        width: bandwidth of the hiss.
        seconds: duration at usual pace.
        damp: factor on the formants' bandwidths, above 1 for nasals.
    """

    formants: tuple[float, float, float]
    voice: float = 1.0
    breath: float = 0.0
    hiss: float = 0.0
    centre: float = 2500.0
    width: float = 1000.0
    seconds: float = 0.09
    damp: float = 1.0


PHONEMES: dict[str, Phoneme] = {
    "i": Phoneme((290, 2250, 2950)),
    "e": Phoneme((480, 1950, 2600)),
    "a": Phoneme((750, 1250, 2500)),
    "o": Phoneme((500, 880, 2450)),
    "u": Phoneme((320, 800, 2300)),
    "y": Phoneme((300, 1750, 2150)),
    "m": Phoneme((260, 1000, 2200), voice=0.45, seconds=0.07, damp=2.5),
    "n": Phoneme((260, 1500, 2500), voice=0.45, seconds=0.06, damp=2.5),
    "l": Phoneme((350, 1100, 2700), voice=0.6, seconds=0.06, damp=1.5),
    "r": Phoneme((400, 1200, 1650), voice=0.6, seconds=0.06, damp=1.3),
    "w": Phoneme((300, 700, 2200), voice=0.6, seconds=0.06),
    "s": Phoneme((350, 1700, 2600), voice=0.0, hiss=0.35, centre=3700, width=900, seconds=0.10),
    "f": Phoneme((350, 1100, 2300), voice=0.0, hiss=0.12, centre=2000, width=4000, seconds=0.09),
    "sh": Phoneme((350, 1800, 2400), voice=0.0, hiss=0.40, centre=2500, width=700, seconds=0.10),
    "z": Phoneme((300, 1700, 2600), voice=0.4, hiss=0.18, centre=3700, width=900, seconds=0.08),
    "h": Phoneme((500, 1500, 2500), voice=0.0, breath=0.25, seconds=0.07),
    "-": Phoneme((350, 1400, 2500), voice=0.0, seconds=0.05),  # the closure of a stop
    "p": Phoneme((350, 900, 2200), voice=0.0, breath=0.1, hiss=0.25, centre=800, width=800, seconds=0.02),
    "t": Phoneme((350, 1800, 2700), voice=0.0, breath=0.1, hiss=0.40, centre=3500, width=1200, seconds=0.02),
    "k": Phoneme((350, 1900, 2300), voice=0.0, breath=0.1, hiss=0.35, centre=1900, width=500, seconds=0.03),
}

# Pairs of words consist of the same sounds, so that no single sound identifies a word.
WORDS: tuple[tuple[str, ...], ...] = (
    ("m", "a", "s", "u"),
    ("s", "u", "m", "a"),
    ("l", "i", "-", "t", "o"),
    ("-", "t", "o", "l", "i"),
    ("sh", "e", "n", "a"),
    ("n", "a", "sh", "e"),
    ("r", "u", "-", "k", "i"),
    ("-", "k", "i", "r", "u"),
    ("w", "o", "f", "e"),
    ("f", "e", "w", "o"),
    ("z", "y", "-", "p", "a"),
    ("-", "p", "a", "z", "y"),
    ("h", "a", "l", "o"),
    ("l", "o", "h", "a"),
    ("n", "y", "m", "e"),
    ("m", "e", "n", "y"),
)


@dataclass(frozen=True)
class Speaker:
    """Parameters of a voice.

    Attributes:
        tract: factor on all formants, 1 for an average adult.
        pitch: median fundamental frequency.
        breath: amplitude of the noise at the glottis.
        tilt: slope of the glottal spectrum above 500 Hz, in dB per octave.
        pace: factor on durations.
        accent: factors on F1 to F3 of each phoneme.
    """

    tract: float
    pitch: float
    breath: float
    tilt: float
    pace: float
    accent: dict[str, np.ndarray]


def make_speaker(rng: Generator) -> Speaker:
    """A random speaker. Formants and pitch are correlated, as in people."""
    size = rng.normal()
    return Speaker(
        tract=float(np.exp(0.09 * size + 0.03 * rng.normal())),
        pitch=float(150.0 * np.exp(0.32 * size + 0.12 * rng.normal())),
        breath=float(rng.uniform(0.01, 0.15)),
        tilt=float(rng.uniform(-14.0, -6.0)),
        pace=float(np.exp(0.12 * rng.normal())),
        accent={name: np.exp(0.05 * rng.normal(size=3)) for name in PHONEMES},
    )


@dataclass(frozen=True)
class Tracks:
    """Parameters of T frames: formants and widths (T, 4); voice, breath, hiss, centre and width (T,)."""

    formants: np.ndarray
    widths: np.ndarray
    voice: np.ndarray
    breath: np.ndarray
    hiss: np.ndarray
    centre: np.ndarray
    width: np.ndarray


def make_tracks(word: tuple[str, ...], speaker: Speaker, pace: float, rng: Generator) -> Tracks:
    """The targets of the phonemes, smoothed into one another (coarticulation)."""
    sounds = [PHONEMES[name] for name in word]
    jitter = np.exp(0.15 * rng.normal(size=len(sounds)))
    lengths = np.array([sound.seconds for sound in sounds]) * jitter * speaker.pace * pace
    lengths[-1] *= 1.4  # final lengthening
    frames = np.maximum(1, np.round(lengths / FRAME).astype(int))
    variation = np.exp(0.03 * rng.normal(size=(len(sounds), 3)))
    targets = np.array([sound.formants for sound in sounds]) * speaker.tract * variation
    targets *= np.array([speaker.accent[name] for name in word])
    fourth = np.full((len(sounds), 1), FOURTH_FORMANT * speaker.tract)
    damp = np.array([[sound.damp] for sound in sounds])
    slow = np.concatenate([targets, fourth, FORMANT_WIDTHS * damp], axis=1)
    fast = np.array([[s.voice, s.breath + s.voice * speaker.breath, s.hiss, s.centre, s.width] for s in sounds])
    slow, fast = (_smooth(np.repeat(part, frames, axis=0), size) for part, size in ((slow, 7), (fast, 3)))
    edge = np.minimum(1.0, np.minimum(np.arange(1, len(fast) + 1), np.arange(len(fast), 0, -1) / 4))  # onset and offset
    voice, breath, hiss, centre, width = fast.T
    return Tracks(slow[:, :4], slow[:, 4:], voice * edge, breath * edge, hiss * edge, centre, width)


def _smooth(track: np.ndarray, size: int) -> np.ndarray:
    """(T, n) smoothed along T by a Hann window of `size` frames. The first and last frame are repeated as padding."""
    kernel = np.hanning(size + 2)[1:-1]
    padded = np.pad(track, ((size // 2, size // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)
    return windows @ (kernel / kernel.sum())


def pitch_contour(frames: int, median: float, rng: Generator) -> np.ndarray:
    """(T,) pitch in Hz: it falls over the utterance, with one accent, about a random multiple of the median."""
    time = np.linspace(0, 1, frames)
    bump = rng.normal(0.0, 0.12) * np.exp(-0.5 * ((time - rng.uniform(0.1, 0.9)) / 0.2) ** 2)
    fall = rng.normal(-0.15, 0.12) * (time - 0.5)
    return median * np.exp(fall + bump + rng.normal(0.0, 0.1))


def synthesise(word: tuple[str, ...], speaker: Speaker, rate: float, pace: float, rng: Generator) -> np.ndarray:
    """(n,) float64: one utterance of unit root mean square, without leading or trailing silence."""
    track = make_tracks(word, speaker, pace, rng)
    hop = round(FRAME * rate)
    frames = len(track.voice)
    samples = (frames + 1) * hop
    pitch = np.interp(np.arange(samples) / hop - 1, np.arange(frames), pitch_contour(frames, speaker.pitch, rng))
    pulses = _pulses(pitch * np.exp(0.01 * rng.normal(size=samples)), rate)
    noise = rng.normal(size=(2, samples))
    n_fft = 4 * 2 ** int(np.ceil(np.log2(hop)))
    frequency = np.fft.rfftfreq(n_fft, 1 / rate)
    tract = _resonators(frequency, track.formants, track.widths, rate)
    tilt = 10 ** (speaker.tilt / 20 * np.log2(np.maximum(frequency, 500.0) / 500.0))
    glottis = track.voice[:, None] * _spectra(pulses, hop, n_fft) * tilt
    glottis += track.breath[:, None] * _spectra(noise[0], hop, n_fft)
    mouth = _spectra(noise[1], hop, n_fft) * track.hiss[:, None]
    mouth *= np.exp(-0.5 * ((frequency - track.centre[:, None]) / track.width[:, None]) ** 2)
    wave = _overlap_add(np.fft.irfft(glottis * tract + mouth, n_fft), hop)
    return wave / np.sqrt(np.mean(wave**2))


def _pulses(pitch: np.ndarray, rate: float) -> np.ndarray:
    """(n,) pulse train of unit power: the sum of all harmonics below half the rate in closed form, without aliasing."""
    half = np.pi * np.cumsum(pitch) / rate
    harmonics = np.floor(0.49 * rate / pitch.max())
    half_sine = np.sin(half)
    safe = np.where(np.abs(half_sine) < 1e-6, 1e-6, half_sine)
    total = np.where(np.abs(half_sine) < 1e-6, 2 * harmonics + 1, np.sin((2 * harmonics + 1) * half) / safe) - 1
    return total / np.sqrt(2 * harmonics)


def _spectra(signal: np.ndarray, hop: int, n_fft: int) -> np.ndarray:
    """(T, 1 + n_fft / 2) spectra of Hann windows that are two hops long."""
    window = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)
    pieces = np.lib.stride_tricks.sliding_window_view(signal, 2 * hop)[::hop]
    return np.fft.rfft(pieces * window, n_fft)


def _resonators(frequency: np.ndarray, centres: np.ndarray, widths: np.ndarray, rate: float) -> np.ndarray:
    """(T, F) response of a cascade of second-order resonators with unit gain at 0 Hz (Klatt 1980, eq. 1 to 3)."""
    radius = np.exp(-np.pi * widths / rate)
    c = -(radius**2)
    b = 2 * radius * np.cos(2 * np.pi * np.minimum(centres, 0.49 * rate) / rate)
    delay = np.exp(-2j * np.pi * frequency / rate)
    poles = 1 - b[..., None] * delay - c[..., None] * delay**2  # (T, 4, F)
    return np.prod((1 - b - c)[..., None] / poles, axis=1)


def _overlap_add(frames: np.ndarray, hop: int) -> np.ndarray:
    """Sum of frames (T, n) that start one hop apart."""
    count, size = frames.shape
    blocks = -(-size // hop)
    padded = np.pad(frames, ((0, 0), (0, blocks * hop - size))).reshape(count, blocks, hop)
    out = np.zeros((count + blocks - 1, hop))
    for block in range(blocks):
        out[block : block + count] += padded[:, block]
    return out.reshape(-1)


def coloured_noise(samples: int, rng: Generator) -> np.ndarray:
    """(n,) background noise of unit root mean square. Its spectrum falls by 0 to 9 dB per octave."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    steps = np.maximum(np.arange(len(spectrum)), samples / 200)  # flat up to a hundredth of half the rate
    wave = np.fft.irfft(spectrum * steps ** -rng.uniform(0.0, 1.5), samples)
    return wave / np.sqrt(np.mean(wave**2))


def room_colour(wave: np.ndarray, rng: Generator) -> np.ndarray:
    """The wave after a random smooth frequency response like a room's: a tilt and two broad peaks of a few dB."""
    spectrum = np.fft.rfft(wave)
    position = np.linspace(0, 1, len(spectrum))
    gain = rng.normal(0, 4) * (position - 0.5)
    for _ in range(2):
        gain = gain + rng.normal(0, 4) * np.exp(-0.5 * ((position - rng.uniform()) / 0.15) ** 2)
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(wave))
