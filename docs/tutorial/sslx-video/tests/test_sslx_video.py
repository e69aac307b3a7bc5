"""The checks of sslx's contracts, and tests of what is specific to this modality."""

import numpy as np
import pytest
from ssl_core import BadSample, ConfigError, Continuous, testing

from sslx_video.dataset import NAMES, STEPS, MovingShapes
from sslx_video.tokenizer import Video

DATA = MovingShapes(MovingShapes.Options(n_train=400, n_test=200), "train")
SAMPLES = [DATA[index]["inputs"] for index in range(4)]


@testing.parametrize(Video, fields=DATA.fields, samples=SAMPLES)
def test_tokenizer_conformance(check):
    check()


@testing.parametrize(MovingShapes)
def test_dataset_conformance(check):
    check()


def test_a_token_is_a_box_of_the_clip():
    tokenizer = Video(Video.Options(patch=(2, 8, 4)), DATA.fields, 16)
    assert tokenizer.layout.segments[0].grid == (4, 2, 4)
    assert tokenizer.layout.segments[0].size == 64


def test_other_inputs_are_refused():
    with pytest.raises(ConfigError, match="needs 'clip'"):
        Video(Video.Options(), {"clip": Continuous((1, 16, 16))}, 16)
    tokenizer = Video(Video.Options(), DATA.fields, 16)
    with pytest.raises(BadSample, match="not finite"):
        tokenizer.preprocess({"clip": np.full((1, 8, 16, 16), np.nan)})
    with pytest.raises(BadSample, match=r"the clip is \(1, 8, 16, 8\)"):
        tokenizer.preprocess({"clip": np.zeros((1, 8, 16, 8))})


def split(name):
    data = MovingShapes(MovingShapes.Options(n_train=400, n_test=200), name)
    samples = [data[index] for index in range(len(data))]
    clips = [sample["inputs"]["clip"][0] for sample in samples]
    return np.stack(clips), np.array([sample["label"] for sample in samples])


def test_single_frames_do_not_determine_the_direction():
    (train, train_labels), (test, test_labels) = split("train"), split("test")
    for frame in range(train.shape[1]):
        means = [train[train_labels == label, frame].mean(axis=0) for label in range(len(NAMES))]
        distances = [np.square(test[:, frame] - mean).sum(axis=(1, 2)) for mean in means]
        assert np.mean(np.argmin(distances, axis=0) == test_labels) < 0.4  # chance is 0.25


def residual(clips, step, speed):
    """Squared difference of each clip's frames to their predecessors, moved by `speed` pixels in a direction."""
    moved = np.roll(clips[:, :-1], [speed * axis for axis in step], axis=(2, 3))
    return np.square(clips[:, 1:] - moved).sum(axis=(1, 2, 3))


def test_several_frames_determine_the_direction():
    clips, labels = split("test")
    residuals = [np.minimum(residual(clips, step, 1), residual(clips, step, 2)) for step in STEPS]
    assert np.mean(np.argmin(residuals, axis=0) == labels) > 0.8
