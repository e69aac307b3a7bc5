"""Image and text: patches of a picture, then pieces of the words of its caption (protocol sections 2.4 and 4.9).

The protocol's numbers: pictures of 224 x 224 in patches of 16 x 16, not normalised, and 32 ids of bert-base-uncased:
196 + 32 tokens, padding kept in (`mask_padding` false). Nothing is near across the two. A picture without a caption has
no tokens of text: they are absent from attention, loss and features.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_core import Fields, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import JointTokenizer
from ssl_plugins.tokenizers._pictures import PictureTokenizer
from ssl_plugins.tokenizers._words import WordTokenizer


class _Picture(PictureTokenizer):
    """The picture's part."""

    name = "image-text"

    def preprocess(self, inputs: Inputs) -> Inputs:
        """The picture prepared; the caption stays."""
        return {**inputs, **super().preprocess(inputs)}


class _Caption(WordTokenizer):
    """The caption's part."""

    name = "image-text"


class ImageText(JointTokenizer):
    """Patches of a picture and pieces of the words of its caption; a missing caption is absent.

    Reads the fields "image", (channels, H, W), and "caption": a text, or the two of a pair such as a question and an
    answer.
    """

    name = "image-text"

    class Options(WordTokenizer.Options, PictureTokenizer.Options):
        """Options of the tokenizer of image and text. Pictures of different sizes are made 224 x 224."""

        length: int = Field(32, ge=4, description="tokens of a caption, special ones included; longer ones are cut")
        fit_samples: int = Field(20_000, ge=1, description="training samples that the vocabulary is trained on")
        empty: Literal["refuse", "absent"] = Field(
            "absent", description="a sample without a caption: all tokens of text are absent, or it is a bad sample"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        picture = _Picture(options, fields, dim, field="image", usual_size=224, usual_channels=3)
        caption = _Caption(options, fields, dim, field="caption")
        super().__init__(options, fields, dim, parts=[picture, caption])


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [ImageText]
