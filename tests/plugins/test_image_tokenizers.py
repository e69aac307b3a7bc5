"""Tokenizers `image`, `medical-image` and `wafer`: the protocol's numbers, exact patches, resizing, refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from pydantic import ValidationError

from ssl_core import BadSample, ConfigError, Continuous, ContinuousTarget, Discrete, Tokenizer
from ssl_plugins.tokenizers.image import ImageTokenizer
from ssl_plugins.tokenizers.medical_image import MedicalImageTokenizer
from ssl_plugins.tokenizers.wafer import WaferTokenizer

RNG = np.random.default_rng(0)


def make(cls: type[Tokenizer], shape: tuple[int | None, ...], field: str = "image", **options: object) -> Tokenizer:
    return cls(cls.Options(**options), {field: Continuous(shape)}, 16)


def patches(tokenizer: Tokenizer, field: str, prepared: np.ndarray) -> np.ndarray:
    target = tokenizer({field: torch.from_numpy(prepared[np.newaxis])}).targets[0]
    assert isinstance(target, ContinuousTarget)
    return target.patches[0].detach().numpy()


def by_loop(picture: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Patches row by row; inside a patch (row, column, channel), channel last (protocol section 2.0)."""
    channels, height, width = picture.shape
    rows = []
    for top in range(0, height, patch[0]):
        for left in range(0, width, patch[1]):
            numbers = []
            for y in range(top, top + patch[0]):
                for x in range(left, left + patch[1]):
                    for channel in range(channels):
                        numbers.append(picture[channel, y, x])
            rows.append(numbers)
    return np.array(rows)


# --- the protocol's numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "shape", "options", "tokens", "width"),
    [
        (ImageTokenizer, (3, 32, 32), {}, 64, 48),  # S32
        (ImageTokenizer, (3, None, None), {}, 64, 48),  # S32, files of any size
        (ImageTokenizer, (3, None, None), {"size": 224, "patch": 16}, 196, 768),  # R224
        (MedicalImageTokenizer, (1, None, None), {"size": 224, "patch": 16, "channels": 3}, 196, 768),  # CheXpert
        (ImageTokenizer, (1, 8, 8), {}, 16, 4),  # digits
        (ImageTokenizer, (5, 24, 40), {"patch": (6, 10)}, 16, 300),
        (ImageTokenizer, (3, 28, 28), {}, 49, 48),
    ],
)
def test_tokens_and_widths(cls, shape, options, tokens, width):
    segment = make(cls, shape, **options).layout.segments[0]
    assert (segment.length, segment.size, segment.target) == (tokens, width, "continuous")


@pytest.mark.parametrize("channels", [3, "grey", "states"])
def test_wafer_has_64_tokens(channels):
    segment = make(WaferTokenizer, (1, None, None), "map", channels=channels).layout.segments[0]
    assert (segment.grid, segment.size) == ((8, 8), 16 if channels == "grey" else 48)


def test_small_images_as_published():
    """S32: PIL resize to 32 x 32 (bilinear), then [0, 1], without mean and deviation."""
    photo = RNG.integers(0, 256, (3, 50, 41), dtype=np.uint8)
    tokenizer = make(ImageTokenizer, (3, None, None), normalise="none")
    prepared = tokenizer.preprocess({"image": photo})["image"]
    resized = Pillow.fromarray(np.moveaxis(photo, 0, -1)).resize((32, 32), Pillow.Resampling.BILINEAR)
    wanted = np.moveaxis(np.asarray(resized), -1, 0)
    np.testing.assert_array_equal(prepared, wanted)
    np.testing.assert_allclose(patches(tokenizer, "image", prepared), by_loop(wanted / 255, (4, 4)), atol=1e-6)


def test_wafer_as_published():
    """0, 1, 2 to 0, 127, 255, copied to three channels, PIL resize to 32 x 32, [0, 1], no mean and deviation."""
    dies = RNG.integers(0, 3, (45, 48), dtype=np.uint8)
    tokenizer = make(WaferTokenizer, (1, None, None), "map", normalise="none")
    prepared = tokenizer.preprocess({"map": dies[np.newaxis]})["map"]
    grey = (dies * 127.5).astype(np.uint8)
    assert set(np.unique(grey)) == {0, 127, 255}
    colour = Pillow.fromarray(np.stack([grey] * 3, axis=-1)).resize((32, 32), Pillow.Resampling.BILINEAR)
    wanted = np.moveaxis(np.asarray(colour), -1, 0)
    np.testing.assert_array_equal(prepared, wanted)
    np.testing.assert_allclose(patches(tokenizer, "map", prepared), by_loop(wanted / 255, (4, 4)), atol=1e-6)


def test_wafer_states_have_a_channel_each():
    dies = RNG.integers(0, 3, (1, 32, 32), dtype=np.uint8)
    prepared = make(WaferTokenizer, (1, 32, 32), "map", channels="states").preprocess({"map": dies})["map"]
    np.testing.assert_array_equal(prepared, np.concatenate([dies == state for state in range(3)]) * np.uint8(255))


def test_given_constants_count_in_units_of_one():
    pixels = RNG.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tokenizer = make(ImageTokenizer, (3, 8, 8), normalise="given", mean=mean, std=std)
    wanted = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(patches(tokenizer, "image", pixels), by_loop(wanted, (2, 2)), atol=1e-5)


# --- any size, any channels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "most", "kept"), [("uint16", 4095, np.float32), ("uint8", 255, np.uint8)])
def test_levels_of_deep_pictures_are_not_lost(dtype, most, kept):
    """A camera of 12 bits in files of 16: as bytes, 4,096 levels would become 17."""
    fields = {"image": Continuous((1, 64, 64), dtype=dtype)}
    tokenizer = ImageTokenizer(ImageTokenizer.Options(), fields, 16)
    picture = np.arange(64 * 64).reshape(1, 64, 64) % (most + 1)
    prepared = tokenizer.preprocess({"image": picture.astype(dtype)})["image"]
    assert prepared.dtype == kept
    assert len(np.unique(prepared)) == most + 1
    forced = ImageTokenizer(ImageTokenizer.Options(pixel_dtype="uint8"), fields, 16).preprocess({"image": picture.astype(dtype)})["image"]
    assert forced.dtype == np.uint8


@pytest.mark.parametrize("keep", ["uint8", "float32"])
def test_not_square_many_channels_and_measured(keep):
    """Normalised patches of a tall picture of seven channels are those of a plain loop; depict undoes them."""
    pictures = RNG.integers(0, 256, (5, 7, 12, 20), dtype=np.uint8)
    tokenizer = make(ImageTokenizer, (7, 12, 20), patch=(3, 5), pixel_dtype=keep)
    prepared = np.stack([tokenizer.preprocess({"image": each})["image"] for each in pictures])
    assert prepared.dtype == (np.uint8 if keep == "bytes" else np.float32)
    tokenizer.fit_normalization(iter([{"image": prepared[:2]}, {"image": prepared[2:]}]))
    scaled = pictures / 255
    mean, std = (f(scaled, axis=(0, 2, 3)).reshape(7, 1, 1) for f in (np.mean, np.std))
    np.testing.assert_allclose(tokenizer.mean, mean.ravel(), rtol=1e-5)
    made = patches(tokenizer, "image", prepared[0])
    np.testing.assert_allclose(made, by_loop((scaled[0] - mean) / std, (3, 5)), atol=1e-4)
    picture = tokenizer.to_image(0, torch.from_numpy(made[np.newaxis]))
    np.testing.assert_allclose(picture[0], prepared[0], atol=1e-3 * prepared.max())


def test_bytes_and_floats_make_the_same_tokens():
    pixels = RNG.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    made = []
    for keep in ("uint8", "float32"):
        tokenizer = make(ImageTokenizer, (3, 16, 16), pixel_dtype=keep, normalise="none")
        made.append(patches(tokenizer, "image", tokenizer.preprocess({"image": pixels})["image"]))
    np.testing.assert_allclose(*made, atol=1e-6)


def test_sixteen_bits_and_floats_become_bytes():
    deep = np.array([[0, 65535], [32896, 257]], dtype=np.uint16)
    tokenizer = make(MedicalImageTokenizer, (1, 2, 2), patch=1)
    np.testing.assert_array_equal(tokenizer.preprocess({"image": deep})["image"], [[[0, 255], [128, 1]]])
    np.testing.assert_array_equal(tokenizer.preprocess({"image": np.float32([[0, 1], [0.5, 0.25]])})["image"],
                                  [[[0, 255], [128, 64]]])  # fmt: skip


def test_channels_are_made_the_usual_way():
    grey, colour = RNG.random((1, 4, 4)), RNG.random((3, 4, 4))
    copied = make(ImageTokenizer, (1, 4, 4), channels=3, pixel_dtype="float32").preprocess({"image": grey})["image"]
    np.testing.assert_allclose(copied, np.repeat(grey, 3, axis=0), atol=1e-6)
    luminance = make(ImageTokenizer, (3, 4, 4), channels=1, pixel_dtype="float32").preprocess({"image": colour})["image"]
    np.testing.assert_allclose(luminance[0], 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2], atol=1e-6)
    clear = np.concatenate([colour, grey])
    opaque = make(ImageTokenizer, (None, 4, 4), pixel_dtype="float32").preprocess({"image": clear})["image"]
    np.testing.assert_allclose(opaque, colour, atol=1e-6)


def test_window_stretches_each_scan():
    scan = np.linspace(-1000, 3000, 101).reshape(1, 1, 101).repeat(4, axis=1)
    tokenizer = make(MedicalImageTokenizer, (1, 4, 101), patch=(2, 1), window=(10, 90), pixel_dtype="float32")
    prepared = tokenizer.preprocess({"image": scan})["image"]
    np.testing.assert_allclose(prepared[0, 0], np.clip((np.arange(101) - 10) / 80, 0, 1), atol=1e-5)
    with pytest.raises(ValidationError, match="ascending percentiles"):
        MedicalImageTokenizer.Options(window=(90, 10))


@pytest.mark.parametrize("cls", [ImageTokenizer, MedicalImageTokenizer])
def test_prepare_is_pure(cls):
    sample = {"image": RNG.integers(0, 256, (3, 20, 30), dtype=np.uint8)}
    kept = copy.deepcopy(sample)
    tokenizer = make(cls, (3, None, None), size=16)
    first, second = tokenizer.preprocess(sample), tokenizer.preprocess(sample)
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(sample["image"], kept["image"])


# --- refusals -------------------------------------------------------------------------------------------------------


def refused(error: type[Exception], call, *words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_options_that_do_not_fit_are_one_clear_line():
    refused(ConfigError, lambda: make(ImageTokenizer, (3, 32, 32), patch=5), "patch (5, 5)", "(32, 32)")
    refused(ConfigError, lambda: make(ImageTokenizer, (3, 31, 32)), "31", "tokenizer.size")
    refused(ConfigError, lambda: make(ImageTokenizer, (3, 32, 32), "picture"), "'image'", "'picture'")
    refused(ConfigError, lambda: make(ImageTokenizer, (3, 32)), "(channels, H, W)")
    refused(ConfigError, lambda: ImageTokenizer(ImageTokenizer.Options(), {"image": Discrete(4, 2)}, 16), "'image'")
    refused(ConfigError, lambda: make(ImageTokenizer, (3, 32, 32), size=0), "tokenizer.size")
    refused(
        ConfigError,
        lambda: make(ImageTokenizer, (3, 32, 32), normalise="given", mean=(0, 0), std=(1,)),
        "tokenizer.mean",
        "1 or 3",
    )


def test_samples_that_do_not_fit_are_one_clear_line():
    image = make(ImageTokenizer, (3, 8, 8))
    refused(BadSample, lambda: image.preprocess({"image": np.zeros((2, 8, 8), np.uint8)}), "2 channels", "3")
    refused(BadSample, lambda: image.preprocess({"image": np.zeros(8)}), "(8,)")
    refused(BadSample, lambda: image.preprocess({"image": np.full((3, 8, 8), 7.0)}), "7", "pixel_dtype=float32")
    refused(BadSample, lambda: image.preprocess({"image": np.full((3, 8, 8), np.nan)}), "nan")
    wafer = make(WaferTokenizer, (1, None, None), "map")
    refused(BadSample, lambda: wafer.preprocess({"map": np.full((1, 30, 30), 3)}), "3", "0 (none)")
    refused(BadSample, lambda: wafer.preprocess({"map": np.zeros((3, 30, 30))}), "3 channels")
