"""Video as a grid of frames, rows and columns."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from ssl_core import BadSample, ConfigError, Continuous, Fields, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import GridTokenizer

SSLX_API = ">=2.0,<3"


class Video(GridTokenizer):
    """Boxes of a clip: a few frames of a few pixels each are one token.

    Reads the field "clip", (channels, frames, height, width).
    """

    name = "video"

    class Options(GridTokenizer.Options):
        """Options of the tokenizer: `--set tokenizer.patch=[1,4,4]`."""

        patch: tuple[int, int, int] = Field((2, 4, 4), description="size of a token: frames, rows, columns")

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        form = fields.get("clip")
        if not isinstance(form, Continuous) or len(form.shape) != 4 or None in form.shape:
            raise ConfigError(f"tokenizer '{self.name}' needs 'clip', a field (channels, frames, height, width)")
        channels, *shape = (int(size) for size in form.shape if size is not None)
        super().__init__(options, fields, dim, field="clip", channels=channels, shape=shape, patch=options.patch)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """One clip as float32.

        Raises:
            BadSample: If it has another shape or is not finite.
        """
        clip = np.asarray(inputs["clip"], dtype=np.float32)
        if clip.shape != (self.channels, *self.shape):
            raise BadSample(f"the clip is {clip.shape}, expected {(self.channels, *self.shape)}")
        if not np.isfinite(clip).all():
            raise BadSample("the clip has values that are not finite")
        return {"clip": clip}


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Video]
