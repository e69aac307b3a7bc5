"""The conformance kit for objectives: each promise catches an objective that breaks it."""

import numpy as np
import pydantic
import pytest
import torch
from pydantic import Field

from ssl_core import (
    Choice,
    Objective,
    Outcome,
    testing,
)
from ssl_core.nn import ReconstructionHead, masked_mean


class Good(Objective):
    """Blank the hidden tokens and rebuild them."""

    name = "good"
    default_masking = Choice("random", {"ratio": 0.5})

    class Options(Objective.Options):
        scale: float = Field(1.0, gt=0, description="scale of the loss")

    def __init__(self, options, layout, dim, maskings):
        super().__init__(options, layout, dim, maskings)
        self.head = ReconstructionHead(layout, dim, dim)

    def forward(self, tokens, encoder, draws):
        hidden = draws["hidden"]
        encoded = encoder(tokens.embeddings * ~hidden.unsqueeze(-1))[:, 1:]
        loss = masked_mean(self.head.errors(encoded, tokens.targets), hidden, self.layout)
        return Outcome(self.options.scale * loss, {"error": loss.detach()})

    def reconstruct(self, tokens, encoder, draws):
        return self.head.predict(encoder(tokens.embeddings)[:, 1:], tokens.targets)


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

    def __init__(self, options, layout, dim, maskings):
        super().__init__(options, layout, dim, maskings)
        self.dim = 7


class Unused(Good):
    """Has a layer that it does not use."""

    def __init__(self, *given):
        super().__init__(*given)
        self.spare = torch.nn.Linear(2, 2)


class Writes(Good):
    """Writes to the content."""

    def forward(self, tokens, encoder, draws):
        tokens.embeddings.data.mul_(0.5)
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
        errors = self.head.errors(encoder(tokens.embeddings)[:, 1:], tokens.targets)
        return Outcome(masked_mean(errors, draws["hidden"], self.layout))


class Anonymous(Good):
    """Does not say what may be seen."""

    def draw(self, batch, generator, geometry):
        return {"hidden": super().draw(batch, generator, geometry)["hidden"]}


class Squeezed(Good):
    """Predicts without a batch axis."""

    def reconstruct(self, tokens, encoder, draws):
        return [each[0] for each in super().reconstruct(tokens, encoder, draws)]


class Global(Good):
    """Draws from torch's own generator."""

    def draw(self, batch, generator, geometry):
        return super().draw(batch, generator, geometry) | {"noise": torch.rand(batch)}


class NpyWriter(Good):
    """Draws as many numbers as it likes."""

    def draw(self, batch, generator, geometry):
        count = int(torch.randint(1, 9, (), generator=generator))
        return super().draw(batch, generator, geometry) | {"noise": torch.rand(count, generator=generator)}


class Lists(Good):
    """Draws a list."""

    def draw(self, batch, generator, geometry):
        return super().draw(batch, generator, geometry) | {"order": [1, 2]}


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

    default_masking = Choice("rendom")


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
    ("loss_is_a_finite_scalar", scaled(lambda self, t: t.embeddings[:, 0, 0]), "the loss has shape (8,), not ()"),
    ("loss_is_a_finite_scalar", scaled(lambda *_: float("nan")), "the loss is nan"),
    ("loss_is_a_finite_scalar", loss_of(lambda s, made, *_: Outcome(made.loss, {"x": torch.ones(2)})), "metric 'x'"),
    ("loss_is_a_finite_scalar", loss_of(lambda s, made, *_: Outcome(made.loss.detach())), "depend on any parameter"),
    ("gradient_reaches_every_parameter", Unused, "objective.spare.weight, objective.spare.bias"),
    ("gradient_reaches_every_parameter", scaled(lambda *_: 0.0), "encoder.cls_token"),
    ("same_seed_same_loss", scaled(unseeded), "the loss of a second, equal learner"),
    ("blind-continuous_2d", scaled(knows_images), "the loss after renaming"),
    ("tokens_are_left_unchanged", Writes, "content and targets: part 0: "),
    ("loss_falls", loss_of(climbs), "after 30 steps it went from"),
    (
        "smallest_batch_works",
        scaled(lambda s, t: 1.0 if len(t.embeddings) > 2 else float("inf")),
        "the loss of 2 samples",
    ),
    ("bf16_autocast_is_finite", scaled(lambda *_: 1e400 if torch.is_autocast_enabled("cpu") else 1), "the loss is inf"),
    ("compiled_equals_eager", scaled(lambda *_: 2.0 if torch.compiler.is_compiling() else 1.0), "became"),
    ("compiled_equals_eager", scaled(lambda _, t: 1.0 if t.embeddings.sum().item() < 1e30 else 2.0), "in one piece ("),
    ("state_dict_round_trip", Counts, "the loss after loading"),
    ("hidden_tokens_do_not_reach_encoder", Peeks, "the input of call 1 of the encoder"),
    ("hidden_tokens_do_not_reach_encoder", Anonymous, "that may be seen 'visible'"),
    ("reconstruction_fits_the_layout", Squeezed, "not (8, 24, 4)"),
    ("draw_is_pure", Global, "'noise': 8 of 8 numbers differ"),
    ("draw_is_pure", Lists, "'order' is list, not a tensor"),
    ("draws_have_fixed_shapes", NpyWriter, "became"),
    ("options_refuse_an_unknown_key", Lenient, "accepted no_such_option=1"),
    ("options_are_described", Bare, "no Field(description=...) for width"),
    ("options_survive_json", Doubling, "scale=2.0"),
    ("class_is_described", Undocumented, "there is no docstring"),
]


def test_right_objective_keeps_all_promises(assert_all_kept):
    assert_all_kept(Good)


def test_kit_covers_the_five_layouts():
    names = [check.name for check in testing.checks(Good)]
    assert len(names) == len(set(names))
    for case in ("continuous_1d", "continuous_2d", "continuous_3d", "discrete", "continuous_and_discrete"):
        assert sum(name.endswith("-" + case) for name in names) >= 14


@pytest.mark.parametrize(("name", "plugin", "happened"), BROKEN_OBJECTIVES)
def test_broken_objective_is_caught(error_of, name, plugin, happened):
    message = error_of(plugin, name)
    assert happened in message.replace("\n", " ")
    assert "  promised: " in message
    assert "  look at:  " in message


def test_message_says_promise_case_and_place(error_of):
    first, promised, happened, place = error_of(Peeks, "hidden_tokens_do_not_reach_encoder-discrete").split("\n")
    assert first == "Peeks breaks 'hidden_tokens_do_not_reach_encoder' on discrete"
    assert promised.startswith("  promised: No call of the encoder sees a hidden token")
    assert happened.startswith("  happened: the input of call 1 of the encoder: part 0: ")
    assert place.startswith("  look at:  Peeks.forward (")
    assert "test_testing_objectives.py:" in place


def test_crash_inside_a_plugin_is_quoted_with_its_line(error_of):
    def crash(*_):
        raise RuntimeError("out of\nluck")

    message = error_of(loss_of(crash), "blind")
    assert "happened: RuntimeError: out of luck (" in message
    assert "test_testing_objectives.py:" in message


def test_checks_that_do_not_apply_are_left_out(assert_all_kept):
    class Simple(Good):
        """Masks nothing and shows nothing."""

        default_masking = None
        reconstruct = Objective.reconstruct

        def forward(self, tokens, encoder, draws):
            assert list(draws) == ["progress"]
            errors = self.head.errors(
                encoder(tokens.embeddings + torch.randn_like(tokens.embeddings))[:, 1:], tokens.targets
            )
            return Outcome(errors.mean())

    names = {check.spec.name for check in testing.checks(Simple)}
    assert not names & {"hidden_tokens_do_not_reach_encoder", "reconstruction_fits_the_layout"}
    assert_all_kept(Simple)


def test_checks_leave_the_random_state_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    for check in testing.checks(Good):
        if check.case == "discrete":
            check()
    assert torch.equal(before, torch.get_rng_state())
