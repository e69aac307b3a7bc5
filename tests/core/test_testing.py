"""The conformance kit itself: it passes what is right, and each promise catches a plugin that breaks it."""

import numpy as np
import pydantic
import pytest
import torch
from pydantic import Field

from ssl_core import (
    BadSample,
    Choice,
    Continuous,
    Dataset,
    Discrete,
    Ids,
    Layout,
    Mask,
    Masking,
    Objective,
    Outcome,
    Segment,
    Task,
    Tokenizer,
    Tokens,
    Values,
    testing,
)
from ssl_core.nn import ReconstructionHead, masked_mean
from ssl_core.tokenizers import GridTokenizer, IdTokenizer, JointTokenizer


def error_of(plugin, name, **given):
    """What the check `name` (a promise, or promise-case) raises."""
    found = [check for check in testing.checks(plugin, **given) if name in (check.name, check.promise.name)]
    assert found, f"no check {name}"
    with pytest.raises(testing.ConformanceError) as caught:
        found[0]()
    return str(caught.value)


def assert_all_kept(plugin, **given):
    broken = [str(result.error) for result in testing.run(plugin, **given) if not result.kept]
    assert not broken, "\n".join(broken)


# --- objectives ------------------------------------------------------------------------------------------------------


class Good(Objective):
    """Blank the hidden tokens and rebuild them."""

    name = "good"
    masking_default = Choice("random", {"ratio": 0.5})

    class Options(Objective.Options):
        scale: float = Field(1.0, gt=0, description="scale of the loss")

    def __init__(self, options, layout, dim, masking):
        super().__init__(options, layout, dim, masking)
        self.head = ReconstructionHead(layout, dim, dim)

    def forward(self, tokens, encoder, draws):
        hidden = draws["hidden"]
        encoded = encoder(tokens.content * ~hidden.unsqueeze(-1))[:, 1:]
        loss = masked_mean(self.head.errors(encoded, tokens.targets), hidden, self.layout)
        return Outcome(self.options.scale * loss, {"error": loss.detach()})

    def reconstruct(self, tokens, encoder, draws):
        return self.head.predict(encoder(tokens.content)[:, 1:], tokens.targets)


def loss_of(change):
    """An objective whose outcome is changed by a function of (self, outcome, tokens, encoder, draws)."""

    class Changed(Good):
        """Changed."""

        def forward(self, tokens, encoder, draws):
            return change(self, super().forward(tokens, encoder, draws), tokens, encoder, draws)

    return Changed


def scaled(factor):
    return loss_of(lambda self, made, tokens, *_: Outcome(made.loss * factor(self, tokens)))


class OtherWidth(Good):
    """Forgets the width."""

    def __init__(self, options, layout, dim, masking):
        super().__init__(options, layout, dim, masking)
        self.dim = 7


class Unused(Good):
    """Has a layer that it does not use."""

    def __init__(self, *given):
        super().__init__(*given)
        self.spare = torch.nn.Linear(2, 2)


class Writes(Good):
    """Writes to the content."""

    def forward(self, tokens, encoder, draws):
        tokens.content.data.mul_(0.5)
        return super().forward(tokens, encoder, draws)


class Counts(Good):
    """Keeps what counts outside the state dict."""

    calls = 0

    def forward(self, tokens, encoder, draws):
        self.calls += 1
        return Outcome(super().forward(tokens, encoder, draws).loss * self.calls)


class Peeks(Good):
    """Shows everything to the encoder."""

    def forward(self, tokens, encoder, draws):
        errors = self.head.errors(encoder(tokens.content)[:, 1:], tokens.targets)
        return Outcome(masked_mean(errors, draws["hidden"], self.layout))


class Anonymous(Good):
    """Does not say what may be seen."""

    def draw(self, batch, generator):
        return {"hidden": super().draw(batch, generator)["hidden"]}


class Squeezed(Good):
    """Predicts without a batch axis."""

    def reconstruct(self, tokens, encoder, draws):
        return [each[0] for each in super().reconstruct(tokens, encoder, draws)]


class Global(Good):
    """Draws from torch's own generator."""

    def draw(self, batch, generator):
        return super().draw(batch, generator) | {"noise": torch.rand(batch)}


class Growing(Good):
    """Draws as many numbers as it likes."""

    def draw(self, batch, generator):
        count = int(torch.randint(1, 9, (), generator=generator))
        return super().draw(batch, generator) | {"noise": torch.rand(count, generator=generator)}


class Lists(Good):
    """Draws a list."""

    def draw(self, batch, generator):
        return super().draw(batch, generator) | {"order": [1, 2]}


class Lenient(Good):
    """Swallows unknown options."""

    class Options(Good.Options):
        model_config = pydantic.ConfigDict(extra="ignore")


class Bare(Good):
    """Has an option without a description."""

    class Options(Good.Options):
        width: int = 3


class Doubling(Good):
    """Has an option that changes when it is read back."""

    class Options(Good.Options):
        @pydantic.field_validator("scale")
        @classmethod
        def double(cls, value):
            return 2 * value


class Undocumented(Good):
    pass


class Nowhere(Good):
    """Wants a masking that is not installed."""

    masking_default = Choice("rendom")


def climbs(self, made, *_):
    return Outcome(2 * made.loss.detach() - made.loss)


def unseeded(*_):
    return 1 + np.random.default_rng().random()


def knows_images(self, _):
    return 2.0 if any(segment.name == "image" for segment in self.layout.segments) else 1.0


BROKEN_OBJECTIVES = [
    ("builds", OtherWidth, "self.dim is 7"),
    ("builds", Nowhere, "unknown masking 'rendom'; did you mean 'random'?"),
    ("loss_is_a_finite_scalar", loss_of(lambda *_: 3.0), "forward returned float, not Outcome"),
    ("loss_is_a_finite_scalar", scaled(lambda self, t: t.content[:, 0, 0]), "the loss has shape (8,), not ()"),
    ("loss_is_a_finite_scalar", scaled(lambda *_: float("nan")), "the loss is nan"),
    ("loss_is_a_finite_scalar", loss_of(lambda s, made, *_: Outcome(made.loss, {"x": torch.ones(2)})), "metric 'x'"),
    ("loss_is_a_finite_scalar", loss_of(lambda s, made, *_: Outcome(made.loss.detach())), "depend on any parameter"),
    ("gradient_reaches_every_parameter", Unused, "objective.spare.weight, objective.spare.bias"),
    ("gradient_reaches_every_parameter", scaled(lambda *_: 0.0), "encoder.summary"),
    ("same_seed_same_loss", scaled(unseeded), "the loss of a second, equal learner"),
    ("blind-values_2d", scaled(knows_images), "the loss after renaming"),
    ("tokens_are_left_unchanged", Writes, "content and targets: part 0: "),
    ("loss_falls", loss_of(climbs), "after 30 steps it went from"),
    ("smallest_batch_works", scaled(lambda s, t: 1.0 if len(t.content) > 2 else float("inf")), "the loss of 2 samples"),
    ("bf16_autocast_is_finite", scaled(lambda *_: 1e400 if torch.is_autocast_enabled("cpu") else 1), "the loss is inf"),
    ("compiled_equals_eager", scaled(lambda *_: 2.0 if torch.compiler.is_compiling() else 1.0), "became"),
    ("state_dict_round_trip", Counts, "the loss after loading"),
    ("hidden_content_stays_hidden", Peeks, "what the encoder was called with"),
    ("hidden_content_stays_hidden", Anonymous, "belong under 'visible'"),
    ("reconstruction_fits_the_layout", Squeezed, "not (8, 24, 4)"),
    ("draw_is_pure", Global, "'noise': 8 of 8 numbers differ"),
    ("draw_is_pure", Lists, "'order' is list, not a tensor"),
    ("draws_have_fixed_shapes", Growing, "became"),
    ("options_refuse_an_unknown_key", Lenient, "accepted no_such_option=1"),
    ("options_are_described", Bare, "no Field(description=...) for width"),
    ("options_survive_json", Doubling, "scale=2.0"),
    ("class_is_described", Undocumented, "there is no docstring"),
]


def test_right_objective_keeps_all_promises():
    assert_all_kept(Good)


def test_kit_covers_the_five_layouts():
    names = [check.name for check in testing.checks(Good)]
    assert len(names) == len(set(names))
    for case in ("values_1d", "values_2d", "values_3d", "ids", "values_and_ids"):
        assert sum(name.endswith("-" + case) for name in names) >= 14


@pytest.mark.parametrize(("name", "plugin", "happened"), BROKEN_OBJECTIVES)
def test_broken_objective_is_caught(name, plugin, happened):
    message = error_of(plugin, name)
    assert happened in message.replace("\n", " ")
    assert "  promised: " in message
    assert "  look at:  " in message


def test_message_says_promise_case_and_place():
    first, promised, happened, place = error_of(Peeks, "hidden_content_stays_hidden-ids").split("\n")
    assert first == "Peeks breaks 'hidden_content_stays_hidden' on ids"
    assert promised.startswith("  promised: What the masking hides does not reach the encoder")
    assert happened.startswith("  happened: what the encoder was called with: part 0: part 0: ")
    assert place.startswith("  look at:  Peeks.forward (")
    assert "test_testing.py:" in place


def test_crash_inside_a_plugin_is_quoted_with_its_line():
    def crash(*_):
        raise RuntimeError("out of\nluck")

    message = error_of(loss_of(crash), "blind")
    assert "happened: RuntimeError: out of luck (" in message
    assert "test_testing.py:" in message


def test_checks_that_do_not_apply_are_left_out():
    class Simple(Good):
        """Masks nothing and shows nothing."""

        masking_default = None
        reconstruct = Objective.reconstruct

        def forward(self, tokens, encoder, draws):
            assert draws == {}
            errors = self.head.errors(encoder(tokens.content + torch.randn_like(tokens.content))[:, 1:], tokens.targets)
            return Outcome(errors.mean())

    names = {check.promise.name for check in testing.checks(Simple)}
    assert not names & {"hidden_content_stays_hidden", "reconstruction_fits_the_layout"}
    assert_all_kept(Simple)


# --- maskings --------------------------------------------------------------------------------------------------------


class Halves(Masking):
    """Hide half of the tokens."""

    name = "halves"

    def order(self, batch, generator):
        return torch.rand(batch, self.layout.length, generator=generator).argsort(dim=1)

    def mask(self, order, kept):
        visible = order[:, :kept].sort(dim=1).values
        return Mask(visible, torch.ones(order.shape, dtype=torch.bool).scatter(1, visible, False))

    def __call__(self, batch, generator):
        return self.mask(self.order(batch, generator), max(1, self.layout.length // 2))


def masking(call):
    return type("Changed", (Halves,), {"__call__": call, "__doc__": "Changed."})


def uneven(self, batch, generator):
    mask = Halves.__call__(self, batch, generator)
    hidden = mask.hidden.clone()
    hidden[0] = True
    return Mask(mask.visible, hidden)


BROKEN_MASKINGS = [
    ("mask_has_its_form", lambda self, b, g: None, "returned NoneType, not Mask"),
    ("mask_has_its_form", lambda self, b, g: self.mask(self.order(1, g).expand(3, -1), 2), "hidden is ((3, 24)"),
    ("mask_has_its_form", lambda self, b, g: self.mask(self.order(b, g), self.layout.length), "24 of 24 places"),
    (
        "visible_and_hidden_are_complementary",
        lambda self, b, g: Mask(self.order(b, g)[:, :2], self.mask(self.order(b, g), 2).hidden),
        "places are both or neither",
    ),
    ("every_row_hides_equally_many", uneven, "rows hide [12, 24] tokens"),
    ("some_are_visible_and_some_hidden", uneven, "a row hides everything"),
    (
        "visible_places_ascend",
        lambda self, b, g: Mask((m := Halves.__call__(self, b, g)).visible.flip(1), m.hidden),
        "e.g. [",
    ),
    ("mask_depends_on_the_generator_alone", lambda self, b, g: Halves.__call__(self, b, None), "numbers differ"),
    ("seeds_and_rows_differ", lambda self, b, g: Halves.__call__(self, b, g.manual_seed(0)), "two seeds gave the same"),
    (
        "seeds_and_rows_differ",
        lambda self, b, g: self.mask(self.order(1, g).expand(b, -1), 12),
        "a batch have the same",
    ),
]


def test_right_masking_keeps_all_promises():
    assert_all_kept(Halves)


@pytest.mark.parametrize(("name", "call", "happened"), BROKEN_MASKINGS)
def test_broken_masking_is_caught(name, call, happened):
    assert happened in error_of(masking(call), name)


# --- tokenizers ------------------------------------------------------------------------------------------------------

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

    def prepare(self, inputs):
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


def content(change):
    return tokens_of(lambda self, made, inputs: Tokens(change(self, made, inputs), made.targets, made.layout))


def targets(change):
    return tokens_of(lambda self, made, inputs: Tokens(made.content, change(*made.targets), made.layout))


class WithNorm(Both):
    """Mixes the samples of a batch."""

    def __init__(self, *given):
        super().__init__(*given)
        self.norm = torch.nn.BatchNorm1d(7)

    def forward(self, inputs):
        made = super().forward(inputs)
        return Tokens(self.norm(made.content), made.targets, made.layout)


class Lazy(Both):
    """Has a parameter of no use."""

    def __init__(self, *given):
        super().__init__(*given)
        self.spare = torch.nn.Parameter(torch.ones(3))


class Divides(Waves):
    """Divides by the deviation of each sample."""

    def prepare(self, inputs):
        x = super().prepare(inputs)["waves"]
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"waves": (x - x.mean()) / x.std()}


class Refuses(Divides):
    """Refuses constant samples."""

    def prepare(self, inputs):
        if inputs["waves"].std() == 0:
            raise BadSample("constant")
        return super().prepare(inputs)


class Jitters(Waves):
    """Adds noise in prepare."""

    def prepare(self, inputs):
        x = super().prepare(inputs)["waves"]
        return {"waves": x + np.random.normal(size=x.shape).astype(x.dtype)}


class InPlace(Waves):
    """Changes its input."""

    def prepare(self, inputs):
        inputs["waves"] *= 2
        return super().prepare(inputs)


class Ragged(Waves):
    """Leaves the lengths as they are."""

    def prepare(self, inputs):
        return inputs


class Forgets(Waves):
    """Keeps what it measured outside the state dict."""

    shift = 0.0

    def measure(self, chunks):
        self.shift = float(np.mean([chunk["waves"].mean() for chunk in chunks]))

    def forward(self, inputs):
        return super().forward({"waves": inputs["waves"] + self.shift})


class LastChunk(Waves):
    """Measures the last chunk only."""

    def measure(self, chunks):
        for chunk in chunks:
            self.mean.fill_(float(chunk["waves"].mean()))


class Shifted(Waves):
    """Depicts everything one step to the right."""

    def depict(self, segment, patches):
        return super().depict(segment, patches).roll(1, dims=-1)


class Turned(Waves):
    """Depicts everything from right to left, as spectrograms are shown upside down."""

    def depict(self, segment, patches):
        return super().depict(segment, patches).flip(-1)


class Deaf(Waves):
    """Depicts the same whatever the patches."""

    def depict(self, segment, patches):
        return torch.zeros(len(patches), 1, 5)


OTHER = Layout([Segment("waves", (2,), "values", 8), Segment("words", (5,), "ids", 9)])
BROKEN_TOKENIZERS = [
    ("content_fits_the_layout", content(lambda self, made, inputs: made.content[:, 1:]), "content is (3, 6, 32), not"),
    (
        "content_fits_the_layout",
        tokens_of(lambda self, made, i: Tokens(made.content, made.targets, OTHER)),
        "layout is",
    ),
    ("content_fits_the_layout", content(lambda self, made, inputs: made.content / 0), "content is not finite"),
    ("targets_fit_the_layout", targets(lambda values, ids: (values,)), "1 targets for 2 segments"),
    ("targets_fit_the_layout", targets(lambda values, ids: (ids, values)), "the target is Ids, not Values"),
    (
        "targets_fit_the_layout",
        targets(lambda v, ids: (Values(v.patches[..., 1:]), ids)),
        "shape (3, 2, 7), not (3, 2, 8)",
    ),
    ("targets_fit_the_layout", targets(lambda v, ids: (v, Ids(ids.ids.int(), ids.table))), "ids are torch.int32"),
    ("targets_fit_the_layout", targets(lambda v, ids: (v, Ids(ids.ids + 7, ids.table))), "vocabulary 7"),
    (
        "tables_are_live_parameters",
        targets(lambda v, ids: (v, Ids(ids.ids, ids.table.clone()))),
        "not one of tokenizer",
    ),
    ("samples_are_independent", WithNorm, "the first sample's tokens among other samples"),
    ("gradient_reaches_every_parameter", Lazy, "NaN: spare"),
    ("gradient_reaches_every_parameter", content(lambda self, made, inputs: made.content.detach()), "does not require"),
    ("one_sample_is_enough", content(lambda s, made, i: made.content.squeeze(0)), "a batch of one gave (7, 32)"),
    ("one_sample_is_enough", content(lambda s, made, i: made.content * len(made.content)), "alone, a sample has other"),
    ("constant_input_is_finite", Divides, "input of only 0 gives tokens that are not finite"),
    ("prepare_is_pure", Jitters, "what a second call of prepare made"),
    ("prepare_is_pure", InPlace, "the input of prepare: part 0: 'waves': 20 of 20 numbers differ"),
    ("prepare_is_pure", Ragged, "prepare made {'waves': ((2, 10), 'float32')"),
    ("measured_constants_are_in_the_state_dict", Forgets, "the tokens after loading"),
    ("measure_takes_chunks_of_any_size", LastChunk, "depend on how the data is divided"),
    ("depict_undoes_patches", Shifted, "has the form of a prepared input, but other values"),
    ("depict_undoes_patches", Deaf, "other patches give the same picture"),
    (
        "bf16_autocast_is_finite",
        content(lambda s, made, i: made.content / (0 if torch.is_autocast_enabled("cpu") else 1)),
        "content is not finite",
    ),
]


@pytest.mark.parametrize("tokenizer", [Both, Waves, Words, Refuses, Turned])
def test_right_tokenizer_keeps_all_promises(tokenizer):
    field = {Words: "words"}.get(tokenizer, "waves")  # one that passes ragged fields on would be caught
    wanted = FIELDS if tokenizer is Both else {field: FIELDS[field]}
    samples = [{name: each[name] for name in wanted} for each in SAMPLES]
    assert_all_kept(tokenizer, fields=wanted, samples=samples)


@pytest.mark.parametrize(("name", "plugin", "happened"), BROKEN_TOKENIZERS)
def test_broken_tokenizer_is_caught(name, plugin, happened):
    assert happened in error_of(plugin, name, fields=FIELDS, samples=SAMPLES)


def test_tokenizer_without_samples_says_what_is_missing():
    message = error_of(Both, "content_fits_the_layout")
    assert "no samples to try it on (unknown modality 'both'" in message
    assert "hand the kit fields=... and samples=..." in message


# --- data sets -------------------------------------------------------------------------------------------------------


class Numbers(Dataset):
    """Random numbers and ids."""

    name, modality = "numbers", "nothing"

    class Options(Dataset.Options):
        size: int = Field(50, description="samples in a split")

    def __init__(self, options, split):
        super().__init__(options, split)
        self.fields = {"x": Continuous((2, None)), "y": Discrete(4, 6)}
        self.task = Task("classes", 3, "accuracy", names=("a", "b", "c"))

    def __len__(self):
        return self.options.size

    def __getitem__(self, index):
        rng = np.random.default_rng([index, self.split == "test"])
        x, y = rng.normal(size=(2, 3 + index % 2)), rng.integers(0, 6, 4)
        return {"inputs": {"x": x, "y": y}, "label": int(rng.integers(3))}


def sample(change, **attributes):
    class Changed(Numbers):
        """Changed."""

        def __getitem__(self, index):
            return change(self, super().__getitem__(index), index)

    for name, value in attributes.items():
        setattr(Changed, name, value)
    return Changed


def inputs(**changed):
    return sample(lambda self, made, index: made | {"inputs": made["inputs"] | changed})


def labelled(task, label):
    class Changed(Numbers):
        """Changed."""

        def __init__(self, options, split):
            super().__init__(options, split)
            self.task = task

        def __getitem__(self, index):
            return super().__getitem__(index) | {"label": label}

    return Changed


class Needy(Numbers):
    """Needs a folder."""

    class Options(Numbers.Options):
        root: str = Field(description="a folder")


class FieldsDiffer(Numbers):
    """Other fields in test."""

    def __init__(self, options, split):
        super().__init__(options, split)
        if split == "test":
            self.fields = {"x": Continuous((3, None)), "y": Discrete(4, 6)}


class Unpicklable(Numbers):
    """Holds a function."""

    def __init__(self, options, split):
        super().__init__(options, split)
        self.helper = lambda: 3


class Opened(Numbers):
    """Counts how often it was read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        made = super().__getitem__(index)
        return made | {"inputs": {"x": made["inputs"]["x"] + self.reads, "y": made["inputs"]["y"]}}


RANDOM_PRINT = type("Changed", (Numbers,), {"fingerprint": lambda self: str(np.random.default_rng().random())})
BROKEN_DATASETS = [
    ("both_splits_open", type("Empty", (Numbers,), {"__len__": lambda self: 0}), "the train split is empty"),
    ("both_splits_open", FieldsDiffer, "(3, None)"),
    ("samples_fit_the_fields", sample(lambda s, made, i: made["inputs"]), "sample 0 has the keys ['x', 'y']"),
    ("samples_fit_the_fields", inputs(z=np.zeros(3)), "sample 0 has ['x', 'y', 'z'], not ['x', 'y']"),
    ("samples_fit_the_fields", inputs(x=np.zeros((1, 3))), "has shape (1, 3), not (2, None)"),
    ("samples_fit_the_fields", inputs(x=np.full((2, 3), np.nan)), "'x' of sample 0 of train is not finite"),
    ("samples_fit_the_fields", inputs(x=[[1.0]]), "is list, not an array"),
    ("samples_fit_the_fields", inputs(y=np.zeros(4)), "float64, not integer"),
    ("samples_fit_the_fields", inputs(y=np.array([0, 1, 2, 6])), "leaves 0..5"),
    ("labels_fit_the_task", labelled(None, 1), "label 1 with task None"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), None), "label None with task"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), 3), "label 3 leaves 0..2"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), -1), "label -1 leaves 0..2"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), 1.5), "float64, not integer"),
    ("labels_fit_the_task", labelled(Task("labels", 3, "auroc"), np.array([0, 1])), "the label has shape (2,)"),
    ("labels_fit_the_task", labelled(Task("labels", 3, "auroc"), np.array([0, 1, 2])), "leaves 0..1"),
    ("labels_fit_the_task", labelled(Task("number", 1, "pearson"), float("inf")), "is not one finite number"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy", per_token=True), 1), "the label has shape ()"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy", names=("a",)), 1), "1 names for 3 classes"),
    ("same_index_same_sample", Opened, "samples read again"),
    ("splits_differ", sample(lambda s, made, i: type(s).__mro__[1](s.options, "train")[i]), "same in both splits"),
    ("can_be_pickled", Unpicklable, "happened: "),
    ("fingerprint_is_stable", RANDOM_PRINT, "the fingerprint of train"),
    ("fingerprint_is_stable", type("Changed", (Numbers,), {"fingerprint": lambda self: "x"}), "both splits have the"),
    ("describe_tells_samples_apart", type("Changed", (Numbers,), {"describe": lambda self, i: "a file"}), "of several"),
    ("options_survive_json", type("Changed", (Numbers,), {"Options": None}), "happened: "),
]

RIGHT_LABELS = [
    (None, None),
    (Task("labels", 3, "auroc"), np.array([0, 1, 1])),
    (Task("number", 1, "spearman"), 2.5),
    (Task("classes", 3, "accuracy", per_token=True, ignore=-1), np.array([0, 2, -1])),
]


def test_right_dataset_keeps_all_promises():
    assert_all_kept(Numbers)


@pytest.mark.parametrize(("task", "label"), RIGHT_LABELS)
def test_right_labels_pass(task, label):
    (check,) = (c for c in testing.checks(labelled(task, label)) if c.name == "labels_fit_the_task")
    check()


@pytest.mark.parametrize(("name", "plugin", "happened"), BROKEN_DATASETS)
def test_broken_dataset_is_caught(name, plugin, happened):
    assert happened in error_of(plugin, name)


def test_dataset_that_its_tokenizer_cannot_take_is_caught(monkeypatch):
    from ssl_core import hookimpl, plugins

    class Plugin:
        @hookimpl
        def register_tokenizers(self):
            return [type("Wants", (Waves,), {"name": "nothing", "prepare": lambda self, i: {"waves": i["waves"]}})]

    catalogue = plugins.Catalogue.from_plugins({"a:b": Plugin()})
    assert not catalogue.problems
    monkeypatch.setattr(plugins, "load", lambda: catalogue)
    assert "KeyError: 'waves'" in error_of(Numbers, "fits_its_modality")


def test_options_that_do_not_suffice_are_named():
    message = error_of(Needy, "both_splits_open")
    assert "Needy.Options({}) is refused: root: Field required; hand the kit options=..." in message
    assert_all_kept(Needy, options={"root": "here"})


# --- the kit's own doors ---------------------------------------------------------------------------------------------


def test_parametrize_gives_readable_ids_and_expects_known_failures():
    mark = testing.parametrize(
        Halves, known={"seeds_and_rows_differ": "it is fixed", "mask_has_its_form-ids": "why"}
    ).mark
    parameters = {parameter.id: parameter for parameter in mark.args[1]}
    assert mark.args[0] == "check"
    assert "every_row_hides_equally_many-values_3d" in parameters
    known = {name: parameter.marks[0].kwargs for name, parameter in parameters.items() if parameter.marks}
    assert len(known) == 9
    assert known["mask_has_its_form-ids"] == {"reason": "why", "raises": testing.ConformanceError, "strict": True}
    assert known["seeds_and_rows_differ-two_tokens"]["reason"] == "it is fixed"


def test_known_failure_of_no_check_is_refused():
    with pytest.raises(ValueError, match="known: no check 'seeds_differ'; did you mean 'seeds_and_rows_differ'"):
        testing.parametrize(Halves, known={"seeds_differ": "why"})


def test_run_tells_what_is_kept_and_what_is_not():
    results = list(testing.run(masking(uneven)))
    broken = {result.check.promise.name for result in results if not result.kept}
    assert broken == {
        "visible_and_hidden_are_complementary",
        "every_row_hides_equally_many",
        "some_are_visible_and_some_hidden",
    }
    assert all(isinstance(result.error, testing.ConformanceError) for result in results if not result.kept)
    assert all(result.check.text for result in results)


def test_what_is_no_plugin_is_refused():
    with pytest.raises(TypeError, match="int is no Objective, Tokenizer, Dataset or Masking"):
        testing.checks(int)


def test_checks_leave_the_random_state_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    for check in testing.checks(Good):
        if check.case == "ids":
            check()
    assert torch.equal(before, torch.get_rng_state())


def test_bases_are_not_conforming_by_accident():
    class Empty(Tokenizer):
        """Does nothing."""

        name = "empty"

    assert "AttributeError" in error_of(Empty, "content_fits_the_layout", fields=FIELDS, samples=SAMPLES)
