"""Tokenizer `image-text`: patches of an image, then subwords of its caption.

DABS takes images of 224 x 224 in patches of 16 x 16, not normalised, and 32 ids of bert-base-uncased: 196 + 32 tokens,
where padding is data (`mask_padding=false`). Image and caption are two segments, so no image token is a neighbour of a
text token. The text tokens of an image without a caption are not valid: they are in no attention, loss or feature.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_core import Fields, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import JointTokenizer
from ssl_plugins.tokenizers._image import BaseImageTokenizer
from ssl_plugins.tokenizers._subword import SubwordTokenizer


class _ImagePart(BaseImageTokenizer):
    """Tokens of the image."""

    name = "image-text"


class _CaptionPart(SubwordTokenizer):
    """Tokens of the caption."""

    name = "image-text"


class ImageTextTokenizer(JointTokenizer):
    """Patches of an image and subwords of its caption, which may be missing.

    Reads the fields "image", (channels, H, W), and "caption": a text, or the two of a pair such as a question and an
    answer.
    """

    name = "image-text"
    fits_sizes = True
    file_options = ("file",)

    class Options(SubwordTokenizer.Options, BaseImageTokenizer.Options):
        """Options of the image-text tokenizer. Images that differ in size are resized to 224 x 224 by default."""

        length: int = Field(
            32, ge=4, description="tokens of a caption, special tokens included; longer captions are truncated"
        )
        fit_samples: int = Field(20_000, ge=1, description="number of training samples to train the vocabulary on")
        empty: Literal["refuse", "absent"] = Field(
            "absent", description="a sample without a caption: absent = no text token is valid; refuse = bad sample"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        image = _ImagePart(options, fields, dim, field="image", default_size=224, default_channels=3)
        caption = _CaptionPart(options, fields, dim, field="caption")
        super().__init__(options, fields, dim, parts=[image, caption])
        self.doubts, self.warnings = image.doubts, image.warnings

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Preprocess the image and encode the caption.

        Returns:
            The fields of both parts.

        Raises:
            BadSample: A part cannot use the sample.
        """
        prepared: Inputs = {}
        for part in self.parts:
            prepared |= part.preprocess(inputs)  # type: ignore[operator]
        return prepared


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [ImageTextTokenizer]
