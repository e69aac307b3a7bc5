"""Embedded speech: made-up words spoken by a synthetic voice, made on the fly, no download."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic import _speech_synthesis

SPLITS: tuple[Split, ...] = ("train", "test")
VOICES, CLIPS = 0, 1  # what a random generator is for


class SyntheticSpeech(Dataset):
    """Synthetic voices saying made-up words, made on the fly; embedded, no download.

    Every clip differs in speaker, pitch, pace, place in the clip, loudness, room colour and background noise. With
    label "word" the test speakers are never heard in training; with "speaker" both splits share them. Sample i is a
    pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "speech"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic speech."""

        n_train: int = Field(2000, ge=1, description="clips for training")
        n_test: int = Field(500, ge=1, description="clips for the test")
        label: Literal["word", "speaker"] = Field("word", description="what the label is")
        words: int = Field(10, ge=2, le=len(_speech_synthesis.WORDS), description="different words")
        speakers: int = Field(20, ge=2, description="speakers in a split")
        rate: int = Field(8000, ge=4000, description="samples per second (Hz)")
        seconds: float = Field(1.5, ge=0.2, description="length of a clip")
        snr: tuple[float, float] = Field((5.0, 25.0), description="range of the speech-to-noise ratio in dB")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"waveform": Continuous((1, round(options.seconds * options.rate)), float(options.rate))}
        count = options.words if options.label == "word" else options.speakers
        names = tuple("".join(sound.strip("-") for sound in word) for word in _speech_synthesis.WORDS[: options.words])
        if options.label == "speaker":
            names = tuple(f"speaker {number}" for number in range(count))
        self.task = Task("classes", count, "accuracy", names=names, title=options.label)

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"waveform": (1, n) float32} and the number of its word or speaker."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options = self.options
        word, turn = index % options.words, index // options.words
        number = turn % options.speakers
        apart = options.label == "word" and self.split == "test"
        speaker = _speaker(options.seed, number + (options.speakers if apart else 0))
        rng = np.random.default_rng([options.seed, CLIPS, SPLITS.index(self.split), index])
        clip = self._clip(_speech_synthesis.WORDS[word], speaker, rng)
        return {"inputs": {"waveform": clip[np.newaxis]}, "label": word if options.label == "word" else number}

    def _clip(self, word: tuple[str, ...], speaker: _speech_synthesis.Speaker, rng: np.random.Generator) -> np.ndarray:
        """A word somewhere in a clip with background noise."""
        options = self.options
        length = round(options.seconds * options.rate)
        pace = float(np.exp(rng.uniform(-0.3, 0.3)))
        wave = _speech_synthesis.synthesise(word, speaker, options.rate, pace, rng)[:length]
        start = int(rng.integers(0, length - len(wave) + 1))
        clip = _speech_synthesis.coloured_noise(length, rng) * 10 ** (-rng.uniform(*options.snr) / 20)
        clip[start : start + len(wave)] += wave
        clip = _speech_synthesis.room_colour(clip, rng)
        return (clip * 0.05 * 10 ** (rng.uniform(-10, 10) / 20)).astype(np.float32)

    def describe(self, index: int) -> str:
        """The word that is said."""
        word = "".join(_speech_synthesis.WORDS[index % self.options.words]).replace("-", "")
        return f"synthetic clip {index} of the {self.split} split ('{word}')"


@functools.lru_cache(maxsize=1024)
def _speaker(seed: int, number: int) -> _speech_synthesis.Speaker:
    return _speech_synthesis.make_speaker(np.random.default_rng([seed, VOICES, number]))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticSpeech]
