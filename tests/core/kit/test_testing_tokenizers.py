"""The conformance kit for tokenizers: each check detects a broken tokenizer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_core import (
    BadSample,
    Continuous,
    ContinuousTarget,
    Discrete,
    DiscreteTarget,
    Geometry,
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
    """Has an unused parameter."""

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
    """Adds noise in preprocess."""

    def preprocess(self, inputs):
        x = super().preprocess(inputs)["waves"]
        return {"waves": x + np.random.normal(size=x.shape).astype(x.dtype)}


class InPlace(Waves):
    """Changes its input."""

    def preprocess(self, inputs):
        inputs["waves"] *= 2
        return super().preprocess(inputs)


class Ragged(Waves):
    """Keeps the lengths."""

    def preprocess(self, inputs):
        return inputs


class Forgets(Waves):
    """Keeps a normalisation constant outside the state dict."""

    shift = 0.0

    def fit_normalization(self, chunks):
        self.shift = float(np.mean([chunk["waves"].mean() for chunk in chunks]))

    def forward(self, inputs):
        return super().forward({"waves": inputs["waves"] + self.shift})


class LastChunk(Waves):
    """Uses the last chunk only."""

    def fit_normalization(self, chunks):
        for chunk in chunks:
            self.mean.fill_(float(chunk["waves"].mean()))


class Shifted(Waves):
    """Shifts images by one step."""

    def to_image(self, segment, patches):
        return super().to_image(segment, patches).roll(1, dims=-1)


class Flipped(Waves):
    """Flips images, as spectrograms are shown."""

    def to_image(self, segment, patches):
        return super().to_image(segment, patches).flip(-1)


class Constant(Waves):
    """Returns the same image for all patches."""

    def to_image(self, segment, patches):
        return torch.zeros(len(patches), 1, 5)


def mixed(embeddings):
    """Message passing: each token and the mean of all."""
    return embeddings + embeddings.mean(dim=1, keepdim=True)


class Mixes(Waves):
    """Mixes the tokens of a row."""

    def forward(self, inputs):
        made = super().forward(inputs)
        return Tokens(mixed(made.embeddings), made.targets, made.layout)


class DeclaredMix(Mixes):
    """Mixes the tokens of a row, and says so."""

    mixes_tokens = True


class MixesInTraining(Mixes):
    """Mixes the tokens of a row in training only."""

    def forward(self, inputs):
        return super().forward(inputs) if self.training else Waves.forward(self, inputs)


class Neighbours(Waves):
    """Its targets hold the neighbouring patch."""

    def forward(self, inputs):
        made = super().forward(inputs)
        patches = made.targets[0].patches
        return Tokens(made.embeddings, (ContinuousTarget(patches + patches.roll(1, dims=1)),), made.layout)


class Augmented(Waves):
    """Adds noise drawn beforehand."""

    augments = True

    def draw_view(self, batch, generator):
        return {"noise": torch.randn(batch, 2, 8, generator=generator)}

    def view(self, inputs, draws):
        return {**inputs, "waves": inputs["waves"] + draws["noise"]}


class DrawsInView(Waves):
    """Adds noise drawn in view."""

    def view(self, inputs, draws):
        return {**inputs, "waves": inputs["waves"] + torch.randn(inputs["waves"].shape)}


class DrawsAnyhow(Augmented):
    """Draws noise from another generator."""

    def draw_view(self, batch, generator):
        return {"noise": torch.randn(batch, 2, 8)}


class Shortens(Waves):
    """Shortens its input."""

    def view(self, inputs, draws):
        return {**inputs, "waves": inputs["waves"][..., :4]}


class Cropped(Waves):
    """Moves each sample by steps that are drawn before."""

    def draw_crop(self, batch, generator):
        return {"start": torch.randint(0, 8, (batch,), generator=generator)}

    def crop(self, inputs, draws):
        rows = [torch.roll(x, int(start), -1) for x, start in zip(inputs["waves"], draws["start"], strict=True)]
        return {**inputs, "waves": torch.stack(rows)}


class DrawsInCrop(Waves):
    """Draws the start of a crop in crop."""

    def crop(self, inputs, draws):
        return {**inputs, "waves": inputs["waves"] + torch.randn(inputs["waves"].shape)}


class DrawsCropAnyhow(Cropped):
    """Draws the start of a crop from another generator."""

    def draw_crop(self, batch, generator):
        return {"start": torch.randint(0, 1 << 40, (batch,))}


class CropsAway(Waves):
    """Leaves rows out."""

    def crop(self, inputs, draws):
        return {**inputs, "waves": inputs["waves"][1:]}


class CropInPlace(Waves):
    """Changes its input."""

    def crop(self, inputs, draws):
        inputs["waves"].add_(1)
        return inputs


class ViewInPlace(Waves):
    """Changes its input."""

    def view(self, inputs, draws):
        inputs["waves"].add_(1)
        return inputs


def with_geometry(**fields):
    return lambda self, made, inputs: replace(made, geometry=Geometry(**fields))


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
        "the layout of the tokens is not that of the tokenizer",
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
    *(
        ("geometry_fits_the_layout", tokens_of(broken), message)
        for broken, message in (
            (with_geometry(valid=torch.ones(3, 6).bool()), r"geometry.valid is (3, 6), not (B, L)"),
            (with_geometry(valid=torch.ones(3, 7)), "geometry.valid is torch.float32, not torch.bool"),
            (with_geometry(coords=torch.full((3, 7, 2), float("nan"))), "geometry.coords are not finite"),
            (with_geometry(coords=torch.ones(3, 7, 2, requires_grad=True)), "geometry.coords has a gradient"),
            (
                with_geometry(neighbours=torch.full((3, 7, 1), 7)),
                "geometry.neighbours are 7..7, and there are 7 tokens",
            ),
            (with_geometry(bias=torch.zeros(3, 7, 6)), "geometry.bias is (3, 7, 6), not (B, L, L)"),
            (with_geometry(bias=torch.full((3, 7, 7), float("nan"))), "geometry.bias has NaN"),
        )
    ),
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
        "other tokens in a batch of one",
    ),
    ("constant_input_is_finite", Divides, "input of only 0 gives tokens that are not finite"),
    ("preprocess_is_pure", Jitters, "the output of a second call of preprocess"),
    ("preprocess_is_pure", InPlace, "the input of preprocess: part 0: 'waves': 20 of 20 numbers differ"),
    ("preprocess_is_pure", Ragged, "preprocess returned {'waves': ((2, 10), 'float32')"),
    ("normalization_is_in_the_state_dict", Forgets, "the tokens after loading"),
    ("fit_normalization_takes_chunks_of_any_size", LastChunk, "depend on the sizes of the chunks"),
    ("crop_draws_its_randomness_before", DrawsInCrop, "a second crop with the same draws: 'waves'"),
    ("crop_draws_its_randomness_before", DrawsCropAnyhow, "draw_crop with the same generator: 'start'"),
    ("crop_draws_its_randomness_before", CropsAway, "embeddings of cropped inputs are"),
    ("crop_draws_its_randomness_before", CropInPlace, "the input of crop: 'waves'"),
    ("view_draws_its_randomness_before", DrawsInView, "a second view with the same draws: 'waves'"),
    ("view_draws_its_randomness_before", DrawsAnyhow, "draw_view with the same generator: 'noise'"),
    ("view_draws_its_randomness_before", Shortens, "view turned {'waves': ((3, 2, 8)"),
    ("view_draws_its_randomness_before", ViewInPlace, "the input of view: 'waves'"),
    ("to_image_inverts_patches", Shifted, "the shape of a preprocessed input, but other values"),
    ("to_image_inverts_patches", Constant, "other patches give the same image"),
    (
        "bf16_autocast_is_finite",
        embeddings(lambda s, made, i: made.embeddings / (0 if torch.is_autocast_enabled("cpu") else 1)),
        "embeddings are not finite",
    ),
]


@pytest.mark.parametrize("tokenizer", [Both, Waves, Words, Refuses, Flipped, Augmented, Cropped])
def test_correct_tokenizer_passes(assert_all_pass, tokenizer):
    field = {Words: "words"}.get(tokenizer, "waves")  # other fields are ragged
    fields = FIELDS if tokenizer is Both else {field: FIELDS[field]}
    samples = [{name: each[name] for name in fields} for each in SAMPLES]
    assert_all_pass(tokenizer, fields=fields, samples=samples)


@pytest.mark.parametrize(("name", "plugin", "got"), BROKEN_TOKENIZERS)
def test_broken_tokenizer_fails(error_of, name, plugin, got):
    assert got in error_of(plugin, name, fields=FIELDS, samples=SAMPLES)


def test_message_without_samples_names_the_arguments(error_of):
    message = error_of(Both, "embeddings_fit_the_layout")
    assert "no samples to test on (unknown modality 'both'" in message
    assert "pass fields=... and samples=... to the kit" in message


def test_base_class_fails(error_of):
    class Empty(Tokenizer):
        """Does nothing."""

        name = "empty"

    assert "AttributeError" in error_of(Empty, "embeddings_fit_the_layout", fields=FIELDS, samples=SAMPLES)


WAVES = {"fields": {"waves": FIELDS["waves"]}, "samples": [{"waves": each["waves"]} for each in SAMPLES]}


@pytest.mark.parametrize("tokenizer", [Mixes, MixesInTraining, Neighbours])
def test_tokens_that_depend_on_other_tokens_fail(error_of, tokenizer):
    message = error_of(tokenizer, "tokens_depend_on_their_own_place", **WAVES)
    assert "one number of 'waves' changed 2 tokens; set mixes_tokens = True if that is intended" in message


def test_mixing_that_is_declared_passes(assert_all_pass):
    assert_all_pass(DeclaredMix, **WAVES)
