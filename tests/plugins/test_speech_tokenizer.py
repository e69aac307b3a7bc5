"""Tokenizer `speech`: the published spectrogram, any rate and length, padding, and refusals."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import BadSample, ConfigError, Continuous, Discrete
from ssl_plugins.tokenizers.speech import SpeechTokenizer

PUBLISHED = {
    "n_mels": 224, "frames": 224, "patch": (16, 16), "samples": 150_526, "hop": 672, "n_fft": 2048,
    "win_length": 2048, "square": True, "top_db": 80.0, "ref": "absolute", "min_samples": 1,
}  # fmt: skip


def make(rate: float | None = 8000.0, dim: int = 16, **options: object) -> SpeechTokenizer:
    options = {"padding": "content"} | options  # one prepared field, except in tests of padding
    return SpeechTokenizer(SpeechTokenizer.Options(**options), {"waveform": Continuous((1, None), rate)}, dim)


def tone(rate: float, seconds: float, pitch: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate).astype(np.float32)[None]


def spectrogram(tokenizer: SpeechTokenizer, waveform: np.ndarray) -> np.ndarray:
    return tokenizer.preprocess({"waveform": waveform})["spectrogram"]


# --- the published spectrogram ---------------------------------------------------------------------------------------


def slaney_mel(hertz: float) -> float:
    """Slaney's Auditory Toolbox: linear up to 1000 Hz, above it 27 mels for a factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def slaney_hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def published_spectrogram(signal: np.ndarray, rate: float) -> np.ndarray:
    """The published code's spectrogram in float64, frame by frame, without an audio library."""
    clip = np.zeros(150_526)
    clip[: min(len(signal), 150_526)] = signal[:150_526]
    padded = np.concatenate([np.zeros(1024), clip, np.zeros(1024)])
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 2048) for n in range(2048)])
    frames = [np.abs(np.fft.rfft(window * padded[672 * t : 672 * t + 2048])) ** 2 for t in range(224)]
    power = np.stack(frames, axis=1)
    top = slaney_mel(rate / 2)
    edges = [slaney_hertz(top * i / 225) for i in range(226)]
    bins = np.arange(1025) * rate / 2048
    bands = np.zeros((224, 224))
    for m in range(224):
        low, centre, high = edges[m : m + 3]
        triangle = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
        bands[m] = 2 / (high - low) * triangle @ power
    decibels = 10 * np.log10(np.maximum(bands**2, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)[None]


@pytest.mark.parametrize(("rate", "samples"), [(16_000.0, 60_000), (16_000.0, 200_000), (48_000.0, 30_000)])
def test_published_spectrogram_is_reproduced(rate: float, samples: int) -> None:
    rng = np.random.default_rng(0)
    signal = (np.cumsum(rng.normal(size=samples)) * 0.01 * np.hanning(samples)).astype(np.float32)
    tokenizer = make(rate, **PUBLISHED)
    actual, expected = spectrogram(tokenizer, signal[None]), published_spectrogram(signal, rate)
    assert actual.shape == (1, 224, 224)
    assert actual.dtype == np.float32
    assert expected.min() == pytest.approx(expected.max() - 80)  # the example exceeds the range of 80 dB
    np.testing.assert_allclose(actual, expected, atol=2e-3)  # dB; float32 against float64
    assert tokenizer.layout.length == 196
    assert tokenizer.layout.segments[0].size == 256


def test_default_hop_is_the_published_one() -> None:
    assert make(16_000.0, n_mels=224, frames=224, patch=(16, 16), samples=150_526).hop == 672


def test_targets_are_patches_in_row_order() -> None:
    tokenizer = make(**{**PUBLISHED, "normalise": "none"})
    image = np.arange(224 * 224, dtype=np.float32).reshape(1, 1, 224, 224)
    patches = tokenizer({"spectrogram": torch.from_numpy(image)}).targets[0].patches
    for mel, time in ((0, 0), (3, 7), (13, 13)):
        block = image[0, 0, 16 * mel : 16 * mel + 16, 16 * time : 16 * time + 16]
        assert torch.equal(patches[0, 14 * mel + time], torch.from_numpy(block.flatten()))


# --- any rate, any length --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    rate=st.integers(2000, 96_000),
    length=st.floats(0.3, 2.5),
    n_mels=st.sampled_from([16, 64, 128]),
    frames=st.sampled_from([16, 64, 100]),
)
def test_any_rate_and_length(rate: int, length: float, n_mels: int, frames: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = make(rate, n_mels=n_mels, frames=frames, patch=(n_mels // 8, frames // 4))
    assert (tokenizer.filters.max(axis=1) > 0).all()
    assert tokenizer.n_fft >= tokenizer.win_length
    noise = np.random.default_rng(rate).normal(size=(1, round(rate * length)))
    decibels = spectrogram(tokenizer, noise)
    assert decibels.shape == (1, n_mels, frames)
    assert np.isfinite(decibels).all()
    assert decibels.max() == 0
    assert decibels.min() >= -60


def test_tone_lies_in_its_mel_band_at_every_rate() -> None:
    for rate in (8000.0, 16_000.0, 44_100.0):
        tokenizer = make(rate, fmax=4000.0)
        band = spectrogram(tokenizer, tone(rate, 1.0, 1500.0))[0, :, 32].argmax()
        top = slaney_mel(4000.0)
        assert abs(band + 1 - 65 * slaney_mel(1500.0) / top) < 1


@pytest.mark.parametrize("place", ["start", "center"])
def test_short_clip_is_padded(place: str) -> None:
    audible = spectrogram(make(place=place), tone(8000.0, 0.5))[0].max(axis=0) > -60
    first, last = audible.argmax(), 63 - audible[::-1].argmax()
    assert (first, last) == ((0, 32) if place == "start" else (15, 48))


def test_repeat_pads_with_the_clip() -> None:
    x = np.random.default_rng(0).normal(size=(1, 3000)).astype(np.float32)
    repeated = np.concatenate([x, x, x], axis=1)[:, :8000]
    assert np.array_equal(spectrogram(make(fill="repeat"), x), spectrogram(make(), repeated))


@pytest.mark.parametrize(("crop", "start"), [("start", 0), ("center", 2000), ("end", 4000)])
def test_long_clip_is_cropped(crop: str, start: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, 12_000))
    assert np.array_equal(spectrogram(make(crop=crop), x), spectrogram(make(), x[:, start : start + 8000]))


def test_first_channel_is_used() -> None:
    x = np.random.default_rng(0).normal(size=(2, 8000))
    assert np.array_equal(spectrogram(make(), x), spectrogram(make(), x[:1]))


def test_loudness_is_removed_unless_ref_is_absolute() -> None:
    x = tone(8000.0, 1.0)
    np.testing.assert_allclose(spectrogram(make(), 0.01 * x), spectrogram(make(), x), atol=1e-3)
    absolute = make(ref="absolute")
    np.testing.assert_allclose(spectrogram(absolute, 0.1 * x), spectrogram(absolute, x) - 20, atol=1e-3)


def test_silence_lies_top_db_below_the_maximum_of_the_clip() -> None:
    for loudness in (1.0, 1e-3):
        decibels = spectrogram(make(ref="absolute", top_db=45.0), loudness * tone(8000.0, 0.5))
        assert decibels.min() == pytest.approx(decibels.max() - 45)


def test_square_doubles_the_decibels() -> None:
    x = tone(8000.0, 1.0)
    once = spectrogram(make(top_db=None, ref="absolute", amin=1e-30), x)
    twice = spectrogram(make(top_db=None, ref="absolute", amin=1e-30, square=True), x)
    np.testing.assert_allclose(twice, 2 * once, atol=1e-3)


def test_preprocess_is_pure_and_the_tokenizer_can_be_pickled() -> None:
    tokenizer = make()
    x = np.random.default_rng(0).normal(size=(1, 5000))
    before = x.copy()
    first = spectrogram(tokenizer, x)
    assert np.array_equal(x, before)
    assert np.array_equal(first, spectrogram(tokenizer, x))
    assert np.array_equal(first, spectrogram(pickle.loads(pickle.dumps(tokenizer)), x))


def test_digital_silence_is_finite() -> None:
    tokenizer = make()
    decibels = spectrogram(tokenizer, np.zeros((1, 8000)))
    assert np.isfinite(decibels).all()
    tokenizer.fit_normalization([{"spectrogram": decibels[None]}])
    assert torch.isfinite(tokenizer({"spectrogram": torch.from_numpy(decibels[None])}).embeddings).all()


def test_mean_and_deviation_are_measured_and_stored() -> None:
    tokenizer = make()
    data = np.stack([spectrogram(tokenizer, tone(8000.0, 1.0, pitch)) for pitch in (200.0, 700.0, 3000.0)])
    tokenizer.fit_normalization([{"spectrogram": data[:2]}, {"spectrogram": data[2:]}])
    patches = tokenizer({"spectrogram": torch.from_numpy(data)}).targets[0].patches
    assert patches.mean() == pytest.approx(0, abs=1e-4)
    assert patches.std(correction=0) == pytest.approx(1, abs=1e-4)
    state = tokenizer.state_dict()
    assert state["mean"] == pytest.approx(data.mean(), rel=1e-5)
    assert state["std"] == pytest.approx(data.std(), rel=1e-5)


def test_images_have_low_frequencies_at_the_bottom() -> None:
    tokenizer = make()
    decibels = spectrogram(tokenizer, tone(8000.0, 1.0, 300.0))
    tokenizer.fit_normalization([{"spectrogram": decibels[None]}])
    patches = tokenizer({"spectrogram": torch.from_numpy(decibels[None])}).targets[0].patches
    image = tokenizer.to_image(0, patches).numpy()
    np.testing.assert_allclose(image[0, :, ::-1], decibels, atol=1e-3)
    assert image[0, 0, :, 32].argmax() > 32


# --- refusals --------------------------------------------------------------------------------------------------------


def test_clip_shorter_than_one_patch_is_refused_with_both_lengths() -> None:
    tokenizer = make(patch=(8, 8))  # patches of 8 frames, 126 samples apart
    spectrogram(tokenizer, np.ones((1, 1008)))
    with pytest.raises(BadSample, match=r"1007 samples .*1008"):
        spectrogram(tokenizer, np.ones((1, 1007)))
    spectrogram(make(min_samples=1), np.ones((1, 1)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clip_that_is_not_finite_is_refused(value: float) -> None:
    x = np.zeros((1, 8000))
    x[0, 4000] = value
    with pytest.raises(BadSample, match="NaN or infinite"):
        spectrogram(make(), x)


@pytest.mark.parametrize("shape", [(1, 0), (0, 0), (0,)])
def test_empty_clip_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadSample, match="empty"):
        spectrogram(make(), np.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": (7, 8)}, "does not divide"),
        ({"fmin": 3000.0, "fmax": 2000.0}, "fmin"),
        ({"fmax": 5000.0}, "4000"),
        ({"n_mels": 256, "n_fft": 256}, "n_fft"),
        ({"n_fft": 128}, "shorter than the window"),
        ({"samples": 8000, "hop": 100}, "81 frames"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


def test_default_clip_length_is_that_of_the_data() -> None:
    for length, seconds, samples in ((12_000, None, 12_000), (12_000, 2.0, 16_000), (None, None, 8000)):
        fields = {"waveform": Continuous((1, length), 8000.0)}
        assert SpeechTokenizer(SpeechTokenizer.Options(seconds=seconds), fields, 16).samples == samples


def test_windows_leave_no_gap() -> None:
    assert make(seconds=1.0).win_length == 256  # 32 ms
    long = make(seconds=10.0)
    assert long.win_length == long.hop == 1251


def test_default_patch_spans_all_bands() -> None:
    segment = make(n_mels=80, frames=50).layout.segments[0]
    assert (segment.grid, segment.size) == ((1, 25), 160)


def test_hop_sets_the_clip_length() -> None:
    tokenizer = make(hop=80)
    assert tokenizer.samples == 64 * 80 - 1
    assert spectrogram(tokenizer, np.random.default_rng(0).normal(size=(1, 8000))).shape == (1, 64, 64)


@pytest.mark.parametrize("fields", [{}, {"waveform": Discrete(10, 10)}, {"waveform": Continuous((1, None))}])
def test_field_without_sampling_rate_is_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match="sampling rate"):
        SpeechTokenizer(SpeechTokenizer.Options(), fields, 16)


# --- padding ---------------------------------------------------------------------------------------------------------


def batch(tokenizer: SpeechTokenizer, *clips: np.ndarray) -> dict[str, torch.Tensor]:
    prepared = [tokenizer.preprocess({"waveform": clip}) for clip in clips]
    return {name: torch.from_numpy(np.stack([each[name] for each in prepared])) for name in prepared[0]}


@pytest.mark.parametrize(("place", "columns"), [("start", slice(0, 8)), ("center", slice(4, 12))])
def test_patches_of_padding_alone_are_not_valid(place: str, columns: slice) -> None:
    """1 s in 64 frames, 4 frames a patch: half a second fills 8 of 16 columns in each of 4 rows of patches."""
    tokenizer = make(padding="absent", patch=(16, 4), place=place, hop=125, samples=7999)
    valid = tokenizer(batch(tokenizer, tone(8000.0, 1.0), tone(8000.0, 0.5))).valid
    assert valid is not None
    assert valid[0].all()
    expected = torch.zeros(4, 16, dtype=torch.bool)
    expected[:, columns] = True
    assert torch.equal(valid[1], expected.flatten())


def test_shortest_clip_has_a_valid_token() -> None:
    tokenizer = make(padding="absent", patch=(16, 4))
    shortest = tone(8000.0, tokenizer.min_samples / 8000)
    assert tokenizer(batch(tokenizer, shortest)).valid.any()


def test_padding_is_excluded_from_mean_and_deviation() -> None:
    tokenizer, unmasked = make(padding="absent"), make()
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(1, length)).astype(np.float32) for length in (2400, 4800)]
    prepared = batch(tokenizer, *clips)
    tokenizer.fit_normalization([{name: value.numpy() for name, value in prepared.items()}])
    clips_alone = [prepared["spectrogram"][i, 0, :, : prepared["valid_frames"][i, 1]] for i in range(2)]
    frames = torch.cat(clips_alone, dim=1)
    assert tokenizer.mean.item() == pytest.approx(frames.mean().item(), rel=1e-5)
    assert tokenizer.std.item() == pytest.approx(frames.std(correction=0).item(), rel=1e-5)
    unmasked.fit_normalization([{"spectrogram": prepared["spectrogram"].numpy()}])
    assert unmasked.mean.item() < tokenizer.mean.item() - 5  # padding lies at the floor of -60 dB


def test_clips_of_equal_length_are_not_masked() -> None:
    fixed = SpeechTokenizer(SpeechTokenizer.Options(), {"waveform": Continuous((1, 8000), 8000.0)}, 16)
    assert fixed(batch(fixed, tone(8000.0, 1.0))).valid is None
    shorter = SpeechTokenizer(SpeechTokenizer.Options(seconds=2.0), {"waveform": Continuous((1, 8000), 8000.0)}, 16)
    assert shorter(batch(shorter, tone(8000.0, 1.0))).valid is not None


def test_facts_are_shares_of_what_is_left_out_and_of_padding() -> None:
    tokenizer = make(hop=125, samples=7999)
    prepared = batch(tokenizer, tone(8000.0, 0.5), tone(8000.0, 4.0))
    facts = tokenizer.facts({name: value.numpy() for name, value in prepared.items()})
    assert facts == pytest.approx({"cropped": 0.75 / 2, "padded": 0.5 / 2}, abs=1e-3)


@pytest.mark.parametrize("place", ["start", "center"])
def test_band_norm_removes_a_linear_filter(place: str) -> None:
    """A filter multiplies each band by a constant, which adds a constant to its dB."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000) * np.repeat(rng.uniform(0.5, 1.0, 50), 80)
    filtered = np.convolve(x, [1.0, -0.9])[:4000]
    options = {"top_db": None, "place": place, "padding": "absent"}
    plain, mean, mean_std = (make(band_norm=norm, **options) for norm in ("none", "mean", "mean-std"))
    first, end = mean.preprocess({"waveform": x[None]})["valid_frames"]
    assert 0 < end - first < 64

    def valid(tokenizer: SpeechTokenizer, clip: np.ndarray) -> np.ndarray:
        return spectrogram(tokenizer, clip[None])[0][:, first:end]

    np.testing.assert_allclose(valid(mean, x).mean(axis=1), 0, atol=1e-4)
    before = np.abs(valid(plain, x) - valid(plain, filtered)).mean()
    after = np.abs(valid(mean, x) - valid(mean, filtered)).mean()
    assert after < before / 5
    deviation = valid(mean, x).std(axis=1)
    np.testing.assert_allclose(valid(mean_std, x), valid(mean, x) / np.maximum(deviation, 3.0)[:, None], atol=1e-4)
    assert not spectrogram(mean_std, x[None])[0][:, end:].any()


def test_band_norm_spans_repetitions_of_the_clip() -> None:
    decibels = spectrogram(make(band_norm="mean", fill="repeat"), tone(8000.0, 0.37))
    np.testing.assert_allclose(decibels[0].mean(axis=1), 0, atol=1e-4)
    assert decibels[0].any(axis=0).all()  # a frame of padding would be zero
