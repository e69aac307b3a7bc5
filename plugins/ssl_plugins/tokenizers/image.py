"""Tokenizer `image`: patches of images of any size and number of channels.

Images of another size than `size` are resized by PIL (bilinear; `fit` keeps proportions). MetaMAE takes 32 x 32 in
patches of 4 x 4, 64 tokens of 48 numbers (Table 16); DABS's large images are 224 x 224 in patches of 16 x 16, 196
tokens of 768. Neither normalises (`normalise=none`); by default mean and deviation are measured.
"""

from __future__ import annotations

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._image import BaseImageTokenizer


class ImageTokenizer(BaseImageTokenizer):
    """Patches of images of any size; colour, grey or any number of channels.

    Reads the field "image", (channels, H, W): bytes, or floats in 0..1.
    """

    name = "image"

    class Options(BaseImageTokenizer.Options):
        """Options of the image tokenizer. Images that differ in size are resized to 32 x 32 by default."""

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="image", default_size=32, default_channels=3)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [ImageTokenizer]
