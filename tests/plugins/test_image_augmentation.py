"""Random crops and flips of images: PIL's pixels, torchvision's distribution, drawn by seed and step."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_core import Continuous, Learner, Text
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.utils.seeds import generator
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.tokenizers._augment import crop_and_resize, draw_crops
from ssl_plugins.tokenizers.image import ImageTokenizer
from ssl_plugins.tokenizers.image_text import ImageTextTokenizer
from ssl_plugins.tokenizers.medical_image import MedicalImageTokenizer
from ssl_plugins.tokenizers.multispectral import MultispectralTokenizer
from ssl_plugins.tokenizers.wafer import WaferTokenizer

BOXES = [(0, 0, 24, 20), (3, 5, 7, 9), (23, 0, 1, 20), (10, 19, 14, 1), (1, 2, 20, 4)]


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pil(plane: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A plane (H, W) cropped and then resized by PIL."""
    top, left, height, width = box
    image = Image.fromarray(plane).crop((left, top, left + width, top + height))
    return np.asarray(image.resize(plane.shape[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("box", BOXES)
def test_crops_of_floats_are_those_of_pil(box):
    x = torch.rand(1, 3, 24, 20, generator=gen(0)) * 100 - 30
    out = crop_and_resize(x, torch.tensor([box]))
    for plane, expected in zip(out[0], x[0], strict=True):
        np.testing.assert_allclose(plane.numpy(), pil(expected.numpy(), box), atol=2e-4)


@pytest.mark.parametrize("box", BOXES)
def test_crops_of_bytes_are_those_of_pil_to_one_level(box):
    """PIL rounds after each axis."""
    x = torch.randint(256, (1, 3, 24, 20), dtype=torch.uint8, generator=gen(0))
    out = crop_and_resize(x, torch.tensor([box]))
    assert out.dtype == torch.uint8
    for plane, expected in zip(out[0], x[0], strict=True):
        assert np.abs(plane.numpy().astype(int) - pil(expected.numpy(), box).astype(int)).max() <= 1


def test_each_image_of_a_batch_has_its_own_crop():
    x = torch.rand(len(BOXES), 1, 24, 20, generator=gen(0))
    together = crop_and_resize(x, torch.tensor(BOXES))
    for row, box in enumerate(BOXES):
        torch.testing.assert_close(together[row : row + 1], crop_and_resize(x[row : row + 1], torch.tensor([box])))


def random_resized_crop(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """The rule of torchvision's RandomResizedCrop with scale (0.2, 1), one box at a time."""
    for _ in range(10):
        area = height * width * rng.uniform(0.2, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 24), (12, 48)])
def test_crops_are_distributed_as_in_torchvision(height, width):
    count = 20_000
    ours = draw_crops(count, height, width, (0.2, 1.0), gen(0)).numpy()
    rng = random.Random(0)
    theirs = np.array([random_resized_crop(height, width, rng) for _ in range(count)])
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width
    assert ours[:, 2:].min() >= 1
    for column in range(4):
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert np.quantile(ours[:, column], share) == pytest.approx(np.quantile(theirs[:, column], share), abs=1)
        assert ours[:, column].mean() == pytest.approx(theirs[:, column].mean(), rel=0.03, abs=0.05)


def tokenizer(cls: Any, **options: Any) -> Any:
    field = "map" if cls is WaferTokenizer else "image"
    fields: dict[str, Any] = {field: Continuous((3 if cls in (ImageTokenizer, ImageTextTokenizer) else 1, 16, 16))}
    if cls is ImageTextTokenizer:
        fields["caption"] = Text()
    values = {"size": 16, "patch": 4, "normalise": "none"} | options
    return cls(cls.Options(**values), fields, 16)


CLASSES = [ImageTokenizer, MedicalImageTokenizer, MultispectralTokenizer, WaferTokenizer]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("augment", ["crop", "flip", "crop-flip"])
def test_training_sees_augmented_images_and_features_whole_ones(cls, augment):
    own = tokenizer(cls, augment=augment)
    layout = own.layout
    masking = RandomMasking(RandomMasking.Options(ratio=0.5), layout)
    objective = MAE(MAE.Options(depth=1, width=16, heads=2), layout, 16, {"mask": masking})
    encoder = TransformerEncoder(EncoderOptions(dim=16, depth=1, heads=2), layout)
    learner = Learner(own, encoder, objective)
    (field,) = (segment.name for segment in layout.segments)
    inputs = {field: torch.rand(6, own.channels, 16, 16, generator=gen(0))}
    draws = learner.draw(6, generator(0, "draw", 3))
    names = {f"view.{name}" for name in augment.split("-")}
    assert names == {name for name in draws if name.startswith("view.")}
    again = learner.draw(6, generator(0, "draw", 3))
    other = learner.draw(6, generator(0, "draw", 4))
    assert all(torch.equal(draws[name], again[name]) for name in draws)  # a function of seed and step
    assert any(not torch.equal(draws[name], other[name]) for name in names)
    view = own.view(inputs, {name.removeprefix("view."): value for name, value in draws.items() if name in names})
    expected = objective(own(view), encoder, draws).loss
    torch.testing.assert_close(learner(inputs, draws).loss, expected)
    assert not torch.allclose(objective(own(inputs), encoder, draws).loss, expected)
    learner.eval()
    torch.testing.assert_close(learner.embed(inputs), encoder.pool(encoder(own(inputs).embeddings)))


def test_flip_mirrors_half_of_the_images():
    own = tokenizer(ImageTokenizer, augment="flip")
    draws = own.draw_view(4000, gen(0))
    assert float(draws["flip"].float().mean()) == pytest.approx(0.5, abs=0.03)
    x = {"image": torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)}
    out = own.view(x, {"flip": torch.tensor([True, False])})["image"]
    assert torch.equal(out[0], x["image"][0].flip(-1))
    assert torch.equal(out[1], x["image"][1])


def test_default_augments_nothing_and_draws_nothing():
    own = tokenizer(ImageTokenizer)
    assert not own.augments
    assert own.draw_view(3, gen(0)) == {}


def test_parts_of_a_joint_tokenizer_are_augmented():
    own = tokenizer(ImageTextTokenizer, augment="crop-flip", vocab_size=32, length=8)
    assert own.augments
    draws = own.draw_view(2, gen(0))
    assert set(draws) == {"0.crop", "0.flip"}
    inputs = {"image": torch.rand(2, 3, 16, 16), "caption": torch.zeros(2, 8, dtype=torch.long)}
    out = own.view(inputs, draws)
    assert out["caption"] is inputs["caption"]
    assert not torch.equal(out["image"], inputs["image"])


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.2, 1.5)])
def test_impossible_shares_are_refused(scale):
    with pytest.raises(ValueError, match="two ascending shares"):
        tokenizer(ImageTokenizer, augment="crop", crop_scale=scale)
