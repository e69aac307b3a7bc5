"""Images: pictures of any size and number of channels to patches (protocol sections 2.0 and 2.1).

Resized by PIL (bilinear, aspect not kept) where the size differs from that asked for. The protocol's small images are
32 x 32 in patches of 4 x 4 (S32: 64 tokens of 48), the large ones 224 x 224 in patches of 16 x 16 (R224: 196 of 768).
Neither has a mean or standard deviation: `normalise=none`. The default here is measured.
"""

from __future__ import annotations

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._pictures import PictureTokenizer


class Image(PictureTokenizer):
    """Patches of images of any size, resized where asked; colour, grey or any number of channels.

    Reads the field "image", (channels, H, W): bytes, or floats in 0..1.
    """

    name = "image"

    class Options(PictureTokenizer.Options):
        """Options of the image tokenizer. Images of different sizes are made 32 x 32, unless a size is named."""

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="image", usual_size=32, usual_channels=3)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Image]
