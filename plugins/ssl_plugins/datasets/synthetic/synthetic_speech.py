"""Synthetic speech: invented words spoken by a source-filter voice."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic import _speech_synthesis
from ssl_plugins.datasets.synthetic._base import SHARED_KEY, SPLIT_KEYS, SyntheticDataset


class SyntheticSpeech(SyntheticDataset):
    """Synthetic voices that say invented words; embedded, no download.

    Clips differ in speaker, pitch, pace, position in the clip, loudness, room response and background noise. With label
    "word" no two splits share a speaker; with label "speaker" all splits share the speakers.
    """

    modality = "speech"
    noun = "clip"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic speech."""

        label: Literal["word", "speaker"] = Field("word", description="label: the word or the speaker")
        words: int = Field(10, ge=2, le=len(_speech_synthesis.WORDS), description="number of words")
        speakers: int = Field(20, ge=2, description="number of speakers in a split")
        rate: int = Field(8000, ge=4000, description="sampling rate (Hz)")
        seconds: float = Field(1.5, ge=0.2, description="length of a clip (seconds)")
        snr: tuple[float, float] = Field((5.0, 25.0), description="range of the signal-to-noise ratio (dB)")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"waveform": Continuous((1, round(options.seconds * options.rate)), float(options.rate))}
        self.words = tuple("".join(word).replace("-", "") for word in _speech_synthesis.WORDS[: options.words])
        names = self.words
        if options.label == "speaker":
            names = tuple(f"speaker {number}" for number in range(options.speakers))
        self.task = Task("classes", len(names), "accuracy", names=names, title=options.label)

    def label(self, index: int) -> Any:
        """The word, which changes with each clip, or the speaker, which changes with each round of words."""
        word, round_of_words = index % self.options.words, index // self.options.words
        return word if self.options.label == "word" else round_of_words % self.options.speakers

    def label_name(self, index: int) -> str:
        """The spoken word, with either label."""
        return f"'{self.words[index % self.options.words]}'"

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"waveform": (1, n) float32} and the word or the speaker."""
        options = self.options
        speaker = index // options.words % options.speakers
        if options.label == "word":
            speaker += SPLIT_KEYS[self.split] * options.speakers  # each split has its own
        word = _speech_synthesis.WORDS[index % options.words]
        clip = self._clip(word, _speaker(options.seed, speaker), rng)
        return {"inputs": {"waveform": clip[np.newaxis]}, "label": self.label(index)}

    def _clip(self, word: tuple[str, ...], speaker: _speech_synthesis.Speaker, rng: np.random.Generator) -> np.ndarray:
        """(n,) float32: a word at a random position in background noise."""
        options = self.options
        length = round(options.seconds * options.rate)
        pace = float(np.exp(rng.uniform(-0.3, 0.3)))
        wave = _speech_synthesis.synthesise(word, speaker, options.rate, pace, rng)[:length]
        start = int(rng.integers(0, length - len(wave) + 1))
        clip = _speech_synthesis.coloured_noise(length, rng) * 10 ** (-rng.uniform(*options.snr) / 20)
        clip[start : start + len(wave)] += wave
        clip = _speech_synthesis.room_colour(clip, rng)
        return (clip * 0.05 * 10 ** (rng.uniform(-10, 10) / 20)).astype(np.float32)


@functools.lru_cache(maxsize=1024)
def _speaker(seed: int, number: int) -> _speech_synthesis.Speaker:
    return _speech_synthesis.make_speaker(np.random.default_rng([seed, SHARED_KEY, number]))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticSpeech]
