"""The promises of sslx's contracts, and what is this modality's own."""

import numpy as np
import pytest
from ssl_core import BadSample, ConfigError, Continuous, testing

from sslx_video.dataset import NAMES, STEPS, MovingShapes
from sslx_video.tokenizer import Video

DATA = MovingShapes(MovingShapes.Options(n_train=400, n_test=200), "train")
SAMPLES = [DATA[index]["inputs"] for index in range(4)]


@testing.parametrize(Video, fields=DATA.fields, samples=SAMPLES)
def test_tokenizer_keeps_its_promises(check):
    check()


@testing.parametrize(MovingShapes)
def test_dataset_keeps_its_promises(check):
    check()


def test_a_token_is_a_box_of_the_clip():
    tokenizer = Video(Video.Options(patch=(2, 8, 4)), DATA.fields, 16)
    assert tokenizer.layout.segments[0].grid == (4, 2, 4)
    assert tokenizer.layout.segments[0].size == 64


def test_what_is_no_clip_is_refused():
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
    return np.stack([one["inputs"]["clip"][0] for one in samples]), np.array([one["label"] for one in samples])


def test_frames_on_their_own_do_not_tell_the_direction():
    (train, labels), (test, wanted) = split("train"), split("test")
    for frame in range(train.shape[1]):
        fitted = [train[labels == label, frame].mean(axis=0) for label in range(len(NAMES))]
        distances = [np.square(test[:, frame] - mean).sum(axis=(1, 2)) for mean in fitted]
        assert np.mean(np.argmin(distances, axis=0) == wanted) < 0.4  # chance is 0.25


def left_over(clips, step, speed):
    """What remains of each frame when the one before, moved, is taken away."""
    moved = np.roll(clips[:, :-1], [speed * axis for axis in step], axis=(2, 3))
    return np.square(clips[:, 1:] - moved).sum(axis=(1, 2, 3))


def test_frames_together_tell_it():
    clips, wanted = split("test")
    rests = [np.minimum(left_over(clips, step, 1), left_over(clips, step, 2)) for step in STEPS]
    assert np.mean(np.argmin(rests, axis=0) == wanted) > 0.8
