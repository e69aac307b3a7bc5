"""Video as a grid of frames, rows and columns."""

import numpy as np

from ssl_core import Continuous, Dataset, Task, hookimpl
from ssl_core.tokenizers import GridTokenizer


class Video(GridTokenizer):
    """Cubes of a grey clip: two frames of four by four pixels."""

    name = "video"

    def __init__(self, options, fields, dim):
        channels, *shape = fields["clip"].shape
        super().__init__(options, fields, dim, field="clip", channels=channels, shape=shape, patch=(2, 4, 4))


class Balls(Dataset):
    """A bright square that moves left or right."""

    name, modality, pretrain_default = "balls", "video", True

    def __init__(self, options, split):
        super().__init__(options, split)
        self.fields = {"clip": Continuous((1, 4, 8, 12))}
        self.task = Task("classes", 2, "accuracy", names=("left", "right"))

    def __len__(self):
        return 64 if self.split == "train" else 32

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng([index, self.split == "test"])
        label, row = index % 2, int(rng.integers(6))
        clip = 0.1 * rng.normal(size=(1, 4, 8, 12))
        for frame in range(4):
            column = 2 * frame if label else 8 - 2 * frame
            clip[0, frame, row : row + 2, column : column + 3] += 1
        return {"inputs": {"clip": clip.astype(np.float32)}, "label": label}


@hookimpl
def register_tokenizers():
    return [Video]


@hookimpl
def register_datasets():
    return [Balls]
