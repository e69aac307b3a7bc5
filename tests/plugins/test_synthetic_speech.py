"""Synthetic speech: clips, labels and speakers of the data set, and the acoustics of the voice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssl_core import Continuous
from ssl_plugins.datasets.synthetic import _speech_synthesis
from ssl_plugins.datasets.synthetic.synthetic_speech import SyntheticSpeech

PHONEMES, WORDS = _speech_synthesis.PHONEMES, _speech_synthesis.WORDS


def make(split: str = "train", **options: Any) -> SyntheticSpeech:
    return SyntheticSpeech(SyntheticSpeech.Options(**options), split)  # type: ignore[arg-type]


def waveform(dataset: SyntheticSpeech, index: int) -> np.ndarray:
    return dataset[index]["inputs"]["waveform"][0]


def speaker(tract: float = 1.0, pitch: float = 120.0, **values: Any) -> _speech_synthesis.Speaker:
    neutral = {"breath": 0.01, "tilt": -8.0, "pace": 1.0, "accent": {name: np.ones(3) for name in PHONEMES}}
    return _speech_synthesis.Speaker(tract=tract, pitch=pitch, **(neutral | values))


# --- the data set ----------------------------------------------------------------------------------------------------


def test_samples_fit_the_field() -> None:
    for rate, seconds in ((8000, 1.0), (16_000, 0.7)):
        dataset = make(rate=rate, seconds=seconds)
        assert dataset.fields == {"waveform": Continuous((1, round(rate * seconds)), float(rate))}
        for i in range(12):
            sample = dataset[i]["inputs"]["waveform"]
            assert sample.shape == dataset.fields["waveform"].shape  # type: ignore[union-attr]
            assert sample.dtype == np.float32
            assert np.isfinite(sample).all()
            assert np.abs(sample).max() < 1


def test_clips_of_the_same_word_and_speaker_differ() -> None:
    dataset = make()
    repeated = dataset.options.words * dataset.options.speakers
    assert dataset[0]["label"] == dataset[repeated]["label"]
    assert not np.array_equal(waveform(dataset, 0), waveform(dataset, repeated))


@pytest.mark.parametrize("label", ["word", "speaker"])
def test_labels_are_balanced_and_named(label: str) -> None:
    dataset = make("test", label=label, words=6, speakers=5, n_test=60)
    task = dataset.task
    assert task is not None
    assert (task.kind, task.metric, task.title) == ("classes", "accuracy", label)
    assert len(set(task.names)) == task.size == (6 if label == "word" else 5)
    labels = [dataset[i]["label"] for i in range(60)]
    assert set(np.bincount(labels)) == {60 // task.size}
    if label == "word":
        assert all(f"'{task.names[number]}'" in dataset.describe(i) for i, number in enumerate(labels))


def test_splits_share_speakers_only_if_the_label_is_the_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    speakers: set[tuple[float, float]] = set()
    synthesise = _speech_synthesis.synthesise

    def record(word: Any, who: _speech_synthesis.Speaker, *rest: Any) -> np.ndarray:
        speakers.add((who.tract, who.pitch))
        return synthesise(word, who, *rest)

    monkeypatch.setattr(_speech_synthesis, "synthesise", record)
    splits = ("train", "validation", "test")
    voices: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for label in ("word", "speaker"):
        for split in splits:
            speakers = set()
            dataset = make(split, label=label, words=2, speakers=4)
            for i in range(8):
                dataset[i]
            voices[label, split] = speakers
    assert all(len(group) == 4 for group in voices.values())
    assert len(set().union(*(voices["word", split] for split in splits))) == 12
    assert voices["speaker", "train"] == voices["speaker", "validation"] == voices["speaker", "test"]


def test_clips_of_a_word_differ_in_position_and_loudness() -> None:
    dataset = make(words=2, snr=(60.0, 60.0))
    clips = [waveform(dataset, 2 * i) for i in range(20)]
    loudness = [20 * np.log10(np.abs(clip).max()) for clip in clips]
    assert np.std(loudness) > 2  # dB
    middles = [np.average(np.arange(len(clip)), weights=clip**2) / 8000 for clip in clips]
    assert np.std(middles) > 0.08  # seconds


def test_noise_has_the_ratio_of_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_speech_synthesis, "room_colour", lambda wave, rng: wave)
    for snr in (0.0, 20.0):
        dataset = make(words=2, seconds=1.5, snr=(snr, snr))
        ratios = []
        for i in range(10):
            frames = np.mean(waveform(dataset, i).reshape(-1, 400) ** 2, axis=1)
            ratios.append(10 * np.log10(np.sort(frames)[-4:].mean() / np.sort(frames)[:10].mean()))
        assert np.mean(ratios) == pytest.approx(10 * np.log10(1 + 10 ** (snr / 10)), abs=4)


# --- the voice -------------------------------------------------------------------------------------------------------


def test_words_differ_and_consist_of_known_phonemes() -> None:
    assert len(set(WORDS)) == len(WORDS) >= 10
    assert {name for word in WORDS for name in word} <= set(PHONEMES)


def envelope_peaks(vowel: str, who: _speech_synthesis.Speaker, rate: int = 16_000) -> np.ndarray:
    """The two lowest formants (Hz) of a long vowel, from the average spectrum smoothed over 1.5 harmonics."""
    waves = [_speech_synthesis.synthesise((vowel,), who, rate, 6.0, np.random.default_rng(i)) for i in range(4)]
    frames = np.concatenate([np.lib.stride_tricks.sliding_window_view(wave, 1024)[::256] for wave in waves])
    power = np.mean(np.abs(np.fft.rfft(frames * np.hanning(1024))) ** 2, axis=0)
    width = round(1.5 * who.pitch / rate * 1024)
    level = np.log(np.convolve(power, np.hanning(2 * width + 1), mode="same"))
    inner = np.arange(1, len(level) - 1)
    peaks = inner[(level[inner] > level[inner - 1]) & (level[inner] >= level[inner + 1])]
    return peaks[peaks * rate / 1024 > 150][:2] * rate / 1024


@pytest.mark.parametrize("vowel", ["e", "a"])
@pytest.mark.parametrize("tract", [0.9, 1.05])
def test_vowels_have_their_formants(vowel: str, tract: float) -> None:
    expected = np.array(PHONEMES[vowel].formants[:2]) * tract
    assert np.abs(envelope_peaks(vowel, speaker(tract)) / expected - 1).max() < 0.15


@pytest.mark.parametrize("pitch", [90.0, 140.0, 230.0])
def test_voice_has_the_pitch_of_its_speaker(pitch: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_speech_synthesis, "pitch_contour", lambda frames, median, rng: np.full(frames, median))
    wave = _speech_synthesis.synthesise(("a",), speaker(pitch=pitch), 16_000, 6.0, np.random.default_rng(0))
    middle = wave[len(wave) // 2 - 1600 :][:3200]
    power = np.abs(np.fft.rfft(middle * np.hanning(3200), 1 << 16)) ** 2
    candidates = np.arange(60.0, 400.0, 0.5)
    harmonics = np.round(np.outer(candidates, np.arange(1, 7)) * (1 << 16) / 16_000).astype(int)
    between = np.round(np.outer(candidates, np.arange(6) + 0.5) * (1 << 16) / 16_000).astype(int)
    score = np.log(power[harmonics]).sum(axis=1) - np.log(power[between]).sum(axis=1)
    assert candidates[score.argmax()] == pytest.approx(pitch, rel=0.02)


def test_pitch_contours_are_around_the_median_of_the_speaker() -> None:
    contours = np.array([_speech_synthesis.pitch_contour(40, 150.0, np.random.default_rng(i)) for i in range(200)])
    assert np.median(contours) == pytest.approx(150, rel=0.03)
    assert contours[:, 0].mean() > 1.05 * contours[:, -1].mean()  # it falls
    assert 0.05 < np.log(contours).mean(axis=1).std() < 0.2


def test_hiss_is_unvoiced_and_high() -> None:
    rng = np.random.default_rng(0)
    centroids = []
    for sound in ("s", "sh", "a"):
        wave = _speech_synthesis.synthesise((sound,), speaker(), 16_000, 4.0, rng)
        power = np.abs(np.fft.rfft(wave)) ** 2
        centroids.append(np.average(np.fft.rfftfreq(len(wave), 1 / 16_000), weights=power))
    assert centroids[0] > 3000 > centroids[1] > 2000 > centroids[2]


def test_pulses_have_equal_harmonics_below_half_the_rate() -> None:
    pulses = _speech_synthesis._pulses(np.full(8000, 100.0), 8000)
    power = np.abs(np.fft.rfft(pulses)) ** 2
    harmonics = power[100:4000:100][:38]
    assert harmonics.min() > 0.99 * harmonics.max()
    assert harmonics.sum() > 0.97 * power.sum()
    assert np.mean(pulses**2) == pytest.approx(1, rel=0.05)


def test_resonators_peak_at_the_formants() -> None:
    frequency = np.linspace(0, 4000, 2001)
    centres, widths = np.array([[500.0, 1500.0, 2500.0, 3500.0]]), np.full((1, 4), 60.0)
    gain = np.abs(_speech_synthesis._resonators(frequency, centres, widths, 8000))[0]
    assert gain[0] == pytest.approx(1)
    inner = np.arange(1, 2000)
    peaks = frequency[inner[(gain[inner] > gain[inner - 1]) & (gain[inner] > gain[inner + 1])]]
    np.testing.assert_allclose(peaks, centres[0], atol=15)


def test_overlap_add_of_the_spectra_is_the_signal() -> None:
    signal = np.random.default_rng(0).normal(size=800)
    spectra = _speech_synthesis._spectra(signal, 80, 256)
    rebuilt = _speech_synthesis._overlap_add(np.fft.irfft(spectra, 256), 80)
    np.testing.assert_allclose(rebuilt[80:720], signal[80:720], atol=1e-12)


def test_noise_and_room_response_keep_the_length() -> None:
    for length in (800, 801):
        rng = np.random.default_rng(length)
        noise = _speech_synthesis.coloured_noise(length, rng)
        assert noise.shape == (length,)
        assert np.mean(noise**2) == pytest.approx(1)
        assert _speech_synthesis.room_colour(noise, rng).shape == (length,)
