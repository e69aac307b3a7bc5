"""The conformance kit for tokenizers: each promise catches a tokenizer that breaks it."""

import numpy as np
import pytest
import torch

from ssl_core import (
    BadSample,
    Continuous,
    ContinuousTarget,
    Discrete,
    DiscreteTarget,
    Layout,
    Segment,
    Tokenizer,
    Tokens,
)
from ssl_core.tokenizers import GridTokenizer, IdTokenizer, JointTokenizer

FIELDS = {"waves": Continuous((2, None)), "words": Discrete(5, 7)}
RNG = np.random.default_rng(0)
SAMPLES = [
    {"waves": RNG.normal(3, 2, (2, 10 + i)).astype(np.float32), "words": RNG.integers(0, 7, 5)} for i in range(3)
]


class Waves(GridTokenizer):
    """Two channels, cut to eight numbers."""

    name = "waves"

    def __init__(self, options, fields, dim):
        super().__init__(options, fields, dim, field="waves", channels=2, shape=(8,), patch=(4,))

    def preprocess(self, inputs):
        if inputs["waves"].shape[1] < 8:
            raise BadSample("too short")
        return inputs | {"waves": inputs["waves"][:, :8]}


class Words(IdTokenizer):
    """Five words."""

    name = "words"

    def __init__(self, options, fields, dim):
        super().__init__(options, fields, dim, field="words", length=5, vocab=fields["words"].vocab)


class Both(JointTokenizer):
    """Waves with words."""

    name = "both"

    class Options(GridTokenizer.Options):
        pass

    def __init__(self, options, fields, dim):
        parts = [Waves(Waves.Options(), fields, dim), Words(Words.Options(), fields, dim)]
        super().__init__(options, fields, dim, parts=parts)


def tokens_of(change, base=Both):
    class Changed(base):
        """Changed."""

        def forward(self, inputs):
            return change(self, super().forward(inputs), inputs)

    return Changed


def embeddings(change):
    return tokens_of(lambda self, made, inputs: Tokens(change(self, made, inputs), made.targets, made.layout))


def targets(change):
    return tokens_of(lambda self, made, inputs: Tokens(made.embeddings, change(*made.targets), made.layout))


class WithNorm(Both):
    """Mixes the samples of a batch."""

    def __init__(self, *given):
        super().__init__(*given)
        self.norm = torch.nn.BatchNorm1d(7)

    def forward(self, inputs):
        made = super().forward(inputs)
        return Tokens(self.norm(made.embeddings), made.targets, made.layout)


class Lazy(Both):
    """Has a parameter of no use."""

    def __init__(self, *given):
        super().__init__(*given)
        self.spare = torch.nn.Parameter(torch.ones(3))


class Divides(Waves):
    """Divides by the deviation of each sample."""

    def preprocess(self, inputs):
        x = super().preprocess(inputs)["waves"]
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"waves": (x - x.mean()) / x.std()}


class Refuses(Divides):
    """Refuses constant samples."""

    def preprocess(self, inputs):
        if inputs["waves"].std() == 0:
            raise BadSample("constant")
        return super().preprocess(inputs)


class Jitters(Waves):
    """Adds noise in prepare."""

    def preprocess(self, inputs):
        x = super().preprocess(inputs)["waves"]
        return {"waves": x + np.random.normal(size=x.shape).astype(x.dtype)}


class InPlace(Waves):
    """Changes its input."""

    def preprocess(self, inputs):
        inputs["waves"] *= 2
        return super().preprocess(inputs)


class Ragged(Waves):
    """Leaves the lengths as they are."""

    def preprocess(self, inputs):
        return inputs


class Forgets(Waves):
    """Keeps what it measured outside the state dict."""

    shift = 0.0

    def fit_normalization(self, chunks):
        self.shift = float(np.mean([chunk["waves"].mean() for chunk in chunks]))

    def forward(self, inputs):
        return super().forward({"waves": inputs["waves"] + self.shift})


class LastChunk(Waves):
    """Measures the last chunk only."""

    def fit_normalization(self, chunks):
        for chunk in chunks:
            self.mean.fill_(float(chunk["waves"].mean()))


class Shifted(Waves):
    """Depicts everything one step to the right."""

    def to_image(self, segment, patches):
        return super().to_image(segment, patches).roll(1, dims=-1)


class Turned(Waves):
    """Depicts everything from right to left, as spectrograms are shown upside down."""

    def to_image(self, segment, patches):
        return super().to_image(segment, patches).flip(-1)


class Deaf(Waves):
    """Depicts the same whatever the patches."""

    def to_image(self, segment, patches):
        return torch.zeros(len(patches), 1, 5)


OTHER = Layout([Segment("waves", (2,), "continuous", 8), Segment("words", (5,), "discrete", 9)])
BROKEN_TOKENIZERS = [
    (
        "embeddings_fit_the_layout",
        embeddings(lambda self, made, inputs: made.embeddings[:, 1:]),
        "embeddings are (3, 6, 32), not",
    ),
    (
        "embeddings_fit_the_layout",
        tokens_of(lambda self, made, i: Tokens(made.embeddings, made.targets, OTHER)),
        "layout is",
    ),
    (
        "embeddings_fit_the_layout",
        embeddings(lambda self, made, inputs: made.embeddings / 0),
        "embeddings are not finite",
    ),
    ("targets_fit_the_layout", targets(lambda values, ids: (values,)), "1 targets for 2 segments"),
    (
        "targets_fit_the_layout",
        targets(lambda values, ids: (ids, values)),
        "the target is DiscreteTarget, not ContinuousTarget",
    ),
    (
        "targets_fit_the_layout",
        targets(lambda v, ids: (ContinuousTarget(v.patches[..., 1:]), ids)),
        "shape (3, 2, 7), not (3, 2, 8)",
    ),
    (
        "targets_fit_the_layout",
        targets(lambda v, ids: (v, DiscreteTarget(ids.ids.int(), ids.table))),
        "ids are torch.int32",
    ),
    ("targets_fit_the_layout", targets(lambda v, ids: (v, DiscreteTarget(ids.ids + 7, ids.table))), "vocabulary 7"),
    (
        "tables_are_live_parameters",
        targets(lambda v, ids: (v, DiscreteTarget(ids.ids, ids.table.clone()))),
        "not one of tokenizer",
    ),
    ("samples_are_independent", WithNorm, "the first sample's tokens among other samples"),
    ("gradient_reaches_every_parameter", Lazy, "NaN: spare"),
    (
        "gradient_reaches_every_parameter",
        embeddings(lambda self, made, inputs: made.embeddings.detach()),
        "does not require",
    ),
    ("one_sample_is_enough", embeddings(lambda s, made, i: made.embeddings.squeeze(0)), "a batch of one gave (7, 32)"),
    (
        "one_sample_is_enough",
        embeddings(lambda s, made, i: made.embeddings * len(made.embeddings)),
        "alone, a sample has other",
    ),
    ("constant_input_is_finite", Divides, "input of only 0 gives tokens that are not finite"),
    ("preprocess_is_pure", Jitters, "what a second call of prepare made"),
    ("preprocess_is_pure", InPlace, "the input of prepare: part 0: 'waves': 20 of 20 numbers differ"),
    ("preprocess_is_pure", Ragged, "prepare made {'waves': ((2, 10), 'float32')"),
    ("normalization_is_in_the_state_dict", Forgets, "the tokens after loading"),
    ("fit_normalization_takes_chunks_of_any_size", LastChunk, "depend on how the data is divided"),
    ("to_image_inverts_patches", Shifted, "has the form of a prepared input, but other values"),
    ("to_image_inverts_patches", Deaf, "other patches give the same picture"),
    (
        "bf16_autocast_is_finite",
        embeddings(lambda s, made, i: made.embeddings / (0 if torch.is_autocast_enabled("cpu") else 1)),
        "embeddings are not finite",
    ),
]


@pytest.mark.parametrize("tokenizer", [Both, Waves, Words, Refuses, Turned])
def test_right_tokenizer_keeps_all_promises(assert_all_kept, tokenizer):
    field = {Words: "words"}.get(tokenizer, "waves")  # one that passes ragged fields on would be caught
    wanted = FIELDS if tokenizer is Both else {field: FIELDS[field]}
    samples = [{name: each[name] for name in wanted} for each in SAMPLES]
    assert_all_kept(tokenizer, fields=wanted, samples=samples)


@pytest.mark.parametrize(("name", "plugin", "happened"), BROKEN_TOKENIZERS)
def test_broken_tokenizer_is_caught(error_of, name, plugin, happened):
    assert happened in error_of(plugin, name, fields=FIELDS, samples=SAMPLES)


def test_tokenizer_without_samples_says_what_is_missing(error_of):
    message = error_of(Both, "embeddings_fit_the_layout")
    assert "no samples to try it on (unknown modality 'both'" in message
    assert "hand the kit fields=... and samples=..." in message


def test_base_class_does_not_conform_by_accident(error_of):
    class Empty(Tokenizer):
        """Does nothing."""

        name = "empty"

    assert "AttributeError" in error_of(Empty, "embeddings_fit_the_layout", fields=FIELDS, samples=SAMPLES)
