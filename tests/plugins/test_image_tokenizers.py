"""Tokenizers `image`, `medical-image` and `wafer`: published shapes, exact patches, resizing, refusals."""

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
from ssl_plugins.tokenizers.multispectral import MultispectralTokenizer
from ssl_plugins.tokenizers.wafer import WaferTokenizer

RNG = np.random.default_rng(0)


def make(cls: type[Tokenizer], shape: tuple[int | None, ...], field: str = "image", **options: object) -> Tokenizer:
    return cls(cls.Options(**options), {field: Continuous(shape)}, 16)


def patches(tokenizer: Tokenizer, field: str, prepared: np.ndarray) -> np.ndarray:
    target = tokenizer({field: torch.from_numpy(prepared[np.newaxis])}).targets[0]
    assert isinstance(target, ContinuousTarget)
    return target.patches[0].detach().numpy()


def patches_by_loop(image: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Patches row by row; numbers of a patch in the order row, column, channel."""
    channels, height, width = image.shape
    rows = []
    for top in range(0, height, patch[0]):
        for left in range(0, width, patch[1]):
            numbers = []
            for y in range(top, top + patch[0]):
                for x in range(left, left + patch[1]):
                    for channel in range(channels):
                        numbers.append(image[channel, y, x])
            rows.append(numbers)
    return np.array(rows)


# --- published shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "shape", "options", "tokens", "width"),
    [
        (ImageTokenizer, (3, 32, 32), {}, 64, 48),  # MetaMAE, Table 16: ImageNet-32
        (ImageTokenizer, (3, None, None), {}, 64, 48),  # the same from files of any size
        (ImageTokenizer, (3, None, None), {"size": 224, "patch": 16}, 196, 768),  # DABS: ImageNet
        (MedicalImageTokenizer, (1, None, None), {"size": 224, "patch": 16, "channels": 3}, 196, 768),  # DABS: CheXpert
        (ImageTokenizer, (1, 8, 8), {}, 16, 4),  # digits
        (ImageTokenizer, (5, 24, 40), {"patch": (6, 10)}, 16, 300),
        (ImageTokenizer, (3, 28, 28), {}, 49, 48),
    ],
)
def test_number_and_width_of_tokens(cls, shape, options, tokens, width):
    segment = make(cls, shape, **options).layout.segments[0]
    assert (segment.length, segment.size, segment.target) == (tokens, width, "continuous")


@pytest.mark.parametrize("channels", [3, "grey", "states"])
def test_wafer_map_has_64_tokens(channels):
    segment = make(WaferTokenizer, (1, None, None), "map", channels=channels).layout.segments[0]
    assert (segment.grid, segment.size) == ((8, 8), 16 if channels == "grey" else 48)


def test_small_images_are_prepared_as_published():
    """PIL resize to 32 x 32 (bilinear), scaled to [0, 1], not normalised."""
    photo = RNG.integers(0, 256, (3, 50, 41), dtype=np.uint8)
    tokenizer = make(ImageTokenizer, (3, None, None), normalise="none")
    prepared = tokenizer.preprocess({"image": photo})["image"]
    resized = Pillow.fromarray(np.moveaxis(photo, 0, -1)).resize((32, 32), Pillow.Resampling.BILINEAR)
    expected = np.moveaxis(np.asarray(resized), -1, 0)
    np.testing.assert_array_equal(prepared, expected)
    np.testing.assert_allclose(
        patches(tokenizer, "image", prepared), patches_by_loop(expected / 255, (4, 4)), atol=1e-6
    )


def test_wafer_maps_are_prepared_as_published():
    """States 0, 1, 2 to 0, 127, 255, copied to three channels, PIL resize to 32 x 32, [0, 1], not normalised."""
    dies = RNG.integers(0, 3, (45, 48), dtype=np.uint8)
    tokenizer = make(WaferTokenizer, (1, None, None), "map", normalise="none")
    prepared = tokenizer.preprocess({"map": dies[np.newaxis]})["map"]
    grey = (dies * 127.5).astype(np.uint8)
    assert set(np.unique(grey)) == {0, 127, 255}
    rgb = Pillow.fromarray(np.stack([grey] * 3, axis=-1)).resize((32, 32), Pillow.Resampling.BILINEAR)
    expected = np.moveaxis(np.asarray(rgb), -1, 0)
    np.testing.assert_array_equal(prepared, expected)
    np.testing.assert_allclose(patches(tokenizer, "map", prepared), patches_by_loop(expected / 255, (4, 4)), atol=1e-6)


def test_wafer_states_are_one_hot_channels():
    dies = RNG.integers(0, 3, (1, 32, 32), dtype=np.uint8)
    prepared = make(WaferTokenizer, (1, 32, 32), "map", channels="states").preprocess({"map": dies})["map"]
    np.testing.assert_array_equal(prepared, np.concatenate([dies == state for state in range(3)]) * np.uint8(255))


def test_given_constants_apply_to_the_unit_range():
    pixels = RNG.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tokenizer = make(ImageTokenizer, (3, 8, 8), normalise="given", mean=mean, std=std)
    expected = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(patches(tokenizer, "image", pixels), patches_by_loop(expected, (2, 2)), atol=1e-5)


# --- any size, any channels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "maximum", "prepared_dtype"), [("uint16", 4095, np.float32), ("uint8", 255, np.uint8)]
)
def test_levels_of_deep_images_are_kept(dtype, maximum, prepared_dtype):
    """12-bit images in 16-bit files: as bytes, 4,096 levels would become 17."""
    fields = {"image": Continuous((1, 64, 64), dtype=dtype)}
    tokenizer = ImageTokenizer(ImageTokenizer.Options(), fields, 16)
    image = np.arange(64 * 64).reshape(1, 64, 64) % (maximum + 1)
    prepared = tokenizer.preprocess({"image": image.astype(dtype)})["image"]
    assert prepared.dtype == prepared_dtype
    assert len(np.unique(prepared)) == maximum + 1
    as_bytes = ImageTokenizer(ImageTokenizer.Options(pixel_dtype="uint8"), fields, 16)
    assert as_bytes.preprocess({"image": image.astype(dtype)})["image"].dtype == np.uint8


@pytest.mark.parametrize("pixel_dtype", ["uint8", "float32"])
def test_normalised_patches_of_any_shape_equal_a_loop(pixel_dtype):
    """Images of seven channels that are not square; `to_image` inverts the patches."""
    images = RNG.integers(0, 256, (5, 7, 12, 20), dtype=np.uint8)
    tokenizer = make(ImageTokenizer, (7, 12, 20), patch=(3, 5), pixel_dtype=pixel_dtype)
    prepared = np.stack([tokenizer.preprocess({"image": each})["image"] for each in images])
    assert prepared.dtype == pixel_dtype
    tokenizer.fit_normalization(iter([{"image": prepared[:2]}, {"image": prepared[2:]}]))
    scaled = images / 255
    mean, std = (f(scaled, axis=(0, 2, 3)).reshape(7, 1, 1) for f in (np.mean, np.std))
    np.testing.assert_allclose(tokenizer.mean, mean.ravel(), rtol=1e-5)
    target = patches(tokenizer, "image", prepared[0])
    np.testing.assert_allclose(target, patches_by_loop((scaled[0] - mean) / std, (3, 5)), atol=1e-4)
    image = tokenizer.to_image(0, torch.from_numpy(target[np.newaxis]))
    np.testing.assert_allclose(image[0], prepared[0], atol=1e-3 * prepared.max())


def test_bytes_and_floats_give_equal_tokens():
    pixels = RNG.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    both = []
    for pixel_dtype in ("uint8", "float32"):
        tokenizer = make(ImageTokenizer, (3, 16, 16), pixel_dtype=pixel_dtype, normalise="none")
        both.append(patches(tokenizer, "image", tokenizer.preprocess({"image": pixels})["image"]))
    np.testing.assert_allclose(*both, atol=1e-6)


def test_16_bit_integers_and_floats_are_converted_to_bytes():
    deep = np.array([[0, 65535], [32896, 257]], dtype=np.uint16)
    tokenizer = make(MedicalImageTokenizer, (1, 2, 2), patch=1)
    np.testing.assert_array_equal(tokenizer.preprocess({"image": deep})["image"], [[[0, 255], [128, 1]]])
    np.testing.assert_array_equal(tokenizer.preprocess({"image": np.float32([[0, 1], [0.5, 0.25]])})["image"],
                                  [[[0, 255], [128, 64]]])  # fmt: skip


def test_channels_are_copied_averaged_or_dropped():
    grey, colour = RNG.random((1, 4, 4)), RNG.random((3, 4, 4))
    copied = make(ImageTokenizer, (1, 4, 4), channels=3, pixel_dtype="float32").preprocess({"image": grey})["image"]
    np.testing.assert_allclose(copied, np.repeat(grey, 3, axis=0), atol=1e-6)
    to_grey = make(ImageTokenizer, (3, 4, 4), channels=1, pixel_dtype="float32")
    luminance = to_grey.preprocess({"image": colour})["image"]
    np.testing.assert_allclose(luminance[0], 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2], atol=1e-6)
    rgba = np.concatenate([colour, grey])
    opaque = make(ImageTokenizer, (None, 4, 4), pixel_dtype="float32").preprocess({"image": rgba})["image"]
    np.testing.assert_allclose(opaque, colour, atol=1e-6)


def test_window_stretches_each_scan_to_its_percentiles():
    scan = np.linspace(-1000, 3000, 101).reshape(1, 1, 101).repeat(4, axis=1)
    tokenizer = make(MedicalImageTokenizer, (1, 4, 101), patch=(2, 1), window=(10, 90), pixel_dtype="float32")
    prepared = tokenizer.preprocess({"image": scan})["image"]
    np.testing.assert_allclose(prepared[0, 0], np.clip((np.arange(101) - 10) / 80, 0, 1), atol=1e-5)
    with pytest.raises(ValidationError, match="ascending percentiles"):
        MedicalImageTokenizer.Options(window=(90, 10))


@pytest.mark.parametrize("cls", [ImageTokenizer, MedicalImageTokenizer])
def test_preprocess_is_pure(cls):
    sample = {"image": RNG.integers(0, 256, (3, 20, 30), dtype=np.uint8)}
    before = copy.deepcopy(sample)
    tokenizer = make(cls, (3, None, None), size=16)
    first, second = tokenizer.preprocess(sample), tokenizer.preprocess(sample)
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(sample["image"], before["image"])


# --- refusals --------------------------------------------------------------------------------------------------------


def check_refusal(error: type[Exception], call, *words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_invalid_options_are_refused_in_one_line():
    check_refusal(ConfigError, lambda: make(ImageTokenizer, (3, 32, 32), patch=5), "patch (5, 5)", "(32, 32)")
    check_refusal(ConfigError, lambda: make(ImageTokenizer, (3, 31, 32)), "31", "tokenizer.size")
    check_refusal(ConfigError, lambda: make(ImageTokenizer, (3, 32, 32), "photo"), "'image'", "'photo'")
    check_refusal(ConfigError, lambda: make(ImageTokenizer, (3, 32)), "(channels, H, W)")
    check_refusal(
        ConfigError, lambda: ImageTokenizer(ImageTokenizer.Options(), {"image": Discrete(4, 2)}, 16), "'image'"
    )
    check_refusal(ConfigError, lambda: make(ImageTokenizer, (3, 32, 32), size=0), "tokenizer.size")
    check_refusal(
        ConfigError,
        lambda: make(ImageTokenizer, (3, 32, 32), normalise="given", mean=(0, 0), std=(1,)),
        "tokenizer.mean",
        "1 or 3",
    )


@pytest.mark.parametrize(
    ("dtype", "scale", "options", "refused"),
    [
        ("float32", 255, {}, True),
        ("int64", 255, {}, True),
        ("float32", 0.02, {}, True),  # nearly all is black, and some pixels are 2
        ("float32", 255, {"normalise": "given", "mean": (127.0,), "std": (64.0,)}, True),
        ("float32", 1, {}, False),
        ("float32", 0, {}, False),
        ("uint16", 65535, {}, False),
        ("uint8", 255, {"pixel_dtype": "float32"}, False),
    ],
)
def test_bytes_are_refused_where_training_numbers_went_beyond_the_unit_range(dtype, scale, options, refused):
    """They would be divided by 255, and the numbers trained on were not."""
    x = np.random.default_rng(0).random((20, 3, 8, 8)) * scale
    x[:, :, 0, 0] = {1: 1, 0.02: 2}.get(scale, 0)
    x = x.astype(dtype)
    tokenizer, loaded = (
        ImageTokenizer(ImageTokenizer.Options(patch=4, **options), {"image": Continuous((3, 8, 8), None, dtype)}, 8)
        for _ in range(2)
    )
    prepared = np.stack([tokenizer.preprocess({"image": one})["image"] for one in x])
    tokenizer.fit_normalization([{"image": prepared}])
    loaded.load_state_dict(tokenizer.state_dict())
    data = np.full((3, 8, 8), 200, np.uint8)
    assert loaded.preprocess({"image": data.astype("float32")}).keys() == {"image"}
    if refused:
        with pytest.raises(BadSample, match=rf"divided by 255.* {dtype} numbers beyond 0..1; give x.astype") as caught:
            loaded.preprocess({"image": data})
        assert "\n" not in str(caught.value)
    else:
        assert loaded.preprocess({"image": data}).keys() == {"image"}


def test_zeros_and_ones_are_in_the_unit_range():
    x = (np.random.default_rng(0).random((20, 1, 8, 8)) < 0.01).astype(np.float32)
    tokenizer = ImageTokenizer(ImageTokenizer.Options(patch=4), {"image": Continuous((1, 8, 8), None, "float32")}, 8)
    tokenizer.fit_normalization([{"image": x}])
    assert tokenizer.preprocess({"image": np.zeros((1, 8, 8), np.uint8)})["image"].dtype == np.float32


def test_invalid_samples_are_refused_in_one_line():
    image = make(ImageTokenizer, (3, 8, 8))
    check_refusal(BadSample, lambda: image.preprocess({"image": np.zeros((2, 8, 8), np.uint8)}), "2 channels", "3")
    check_refusal(BadSample, lambda: image.preprocess({"image": np.zeros(8)}), "(8,)")
    check_refusal(BadSample, lambda: image.preprocess({"image": np.full((3, 8, 8), 7.0)}), "7", "pixel_dtype=float32")
    check_refusal(BadSample, lambda: image.preprocess({"image": np.full((3, 8, 8), np.nan)}), "nan")
    wafer = make(WaferTokenizer, (1, None, None), "map")
    check_refusal(BadSample, lambda: wafer.preprocess({"map": np.full((1, 30, 30), 3)}), "3", "0 (none)")
    check_refusal(BadSample, lambda: wafer.preprocess({"map": np.zeros((3, 30, 30))}), "3 channels")


# --- proportions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_fit_of_images_of_other_proportions(fit):
    """An image of 32 x 64 whose left half is 1 and right half 3, to 16 x 16."""
    image = np.concatenate([np.full((2, 32, 32), 1.0), np.full((2, 32, 32), 3.0)], axis=2).astype(np.float32)
    tokenizer = make(MultispectralTokenizer, (2, None, None), size=16, patch=4, fit=fit)
    prepared = tokenizer.preprocess({"image": image})["image"]
    assert prepared.shape == (2, 16, 16)
    np.testing.assert_allclose(prepared[:, 8, 2], 1, atol=1e-6)
    np.testing.assert_allclose(prepared[:, 8, 13], 3, atol=1e-6)
    ground = {"stretch": (1, 3), "crop": (1, 3), "pad": (2, 2)}[fit]  # of the upper corners; the mean is 2
    np.testing.assert_allclose(prepared[:, 0, 0], ground[0], atol=1e-6)
    np.testing.assert_allclose(prepared[:, 0, 15], ground[1], atol=1e-6)
    bytes_ = (image * 40).astype(np.uint8)
    padded = make(ImageTokenizer, (2, None, None), size=16, patch=4, fit=fit).preprocess({"image": bytes_})["image"]
    assert padded.dtype == np.uint8
    assert (padded[0, 0, 0] == 0) == (fit == "pad")
