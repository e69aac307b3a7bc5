"""The conformance kit for objectives: each check detects a broken objective."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pydantic
import pytest
import torch
from pydantic import Field

from ssl_core import Choice, Objective, Outcome, testing
from ssl_core.nn import ReconstructionHead, gather_tokens, masked_mean


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
    """Writes to the embeddings."""

    def forward(self, tokens, encoder, draws):
        tokens.embeddings.data.mul_(0.5)
        return super().forward(tokens, encoder, draws)


class Counts(Good):
    """Keeps state outside the state dict."""

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


class Irregular(Good):
    """Draws a random number of numbers."""

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
    """Names a masking that is not installed."""

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
    ("segment_names_do_not_matter-continuous_2d", scaled(knows_images), "the loss after renaming"),
    ("tokens_are_not_modified", Writes, "embeddings and targets: part 0: "),
    ("loss_falls", loss_of(climbs), "after 30 steps the loss went from"),
    (
        "smallest_batch_works",
        scaled(lambda s, t: 1.0 if len(t.embeddings) > 2 else float("inf")),
        "the loss of 2 samples",
    ),
    ("bf16_autocast_is_finite", scaled(lambda *_: 1e400 if torch.is_autocast_enabled("cpu") else 1), "the loss is inf"),
    ("compiled_equals_eager", scaled(lambda *_: 2.0 if torch.compiler.is_compiling() else 1.0), "became"),
    (
        "compiled_equals_eager",
        scaled(lambda _, t: 1.0 if t.embeddings.sum().item() < 1e30 else 2.0),
        "needs a graph break (",
    ),
    ("state_dict_round_trip", Counts, "the loss after loading"),
    ("hidden_tokens_do_not_reach_encoder", Peeks, "the input of call 1 of the encoder"),
    ("hidden_tokens_do_not_reach_encoder", Anonymous, "that may be seen 'visible'"),
    ("reconstruction_fits_the_layout", Squeezed, "not (8, 24, 4)"),
    ("draw_is_pure", Global, "'noise': 8 of 8 numbers differ"),
    ("draw_is_pure", Lists, "'order' is list, not a tensor"),
    ("draws_have_fixed_shapes", Irregular, "became"),
    ("options_refuse_an_unknown_key", Lenient, "accepted no_such_option=1"),
    ("options_are_described", Bare, "no Field(description=...) for width"),
    ("options_survive_json", Doubling, "scale=2.0"),
    ("class_is_described", Undocumented, "there is no docstring"),
]


def test_correct_objective_passes(assert_all_pass):
    assert_all_pass(Good)


def test_kit_covers_the_five_layouts():
    names = [check.name for check in testing.checks(Good)]
    assert len(names) == len(set(names))
    for case in ("continuous_1d", "continuous_2d", "continuous_3d", "discrete", "continuous_and_discrete"):
        assert sum(name.endswith("-" + case) for name in names) >= 14


@pytest.mark.parametrize(("name", "plugin", "got"), BROKEN_OBJECTIVES)
def test_broken_objective_fails(error_of, name, plugin, got):
    message = error_of(plugin, name)
    assert got in message.replace("\n", " ")
    assert "  expected: " in message
    assert "  look at:  " in message


def test_message_has_check_case_and_place(error_of):
    first, expected, got, place = error_of(Peeks, "hidden_tokens_do_not_reach_encoder-discrete").split("\n")
    assert first == "Peeks fails check 'hidden_tokens_do_not_reach_encoder' on discrete"
    assert expected.startswith("  expected: No call of the encoder sees a hidden token")
    assert got.startswith("  got:      the input of call 1 of the encoder: part 0: ")
    assert place.startswith("  look at:  Peeks.forward (")
    assert "test_testing_objectives.py:" in place


def test_crash_inside_a_plugin_is_quoted_with_its_line(error_of):
    def crash(*_):
        raise RuntimeError("out of\nluck")

    message = error_of(loss_of(crash), "segment_names_do_not_matter")
    assert "got:      RuntimeError: out of luck (" in message
    assert "test_testing_objectives.py:" in message


def test_checks_that_do_not_apply_are_left_out(assert_all_pass):
    class Simple(Good):
        """Has no masking and no reconstruction."""

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
    assert_all_pass(Simple)


def test_checks_do_not_change_the_random_state():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    for check in testing.checks(Good):
        if check.case == "discrete":
            check()
    assert torch.equal(before, torch.get_rng_state())


# --- leaks of hidden tokens ------------------------------------------------------------------------------------------


class Visible(Good):
    """Encode the visible tokens and rebuild the hidden ones from the mean of the encoded tokens."""

    def forward(self, tokens, encoder, draws):
        encoded = encoder(self.inputs_of(tokens, draws["visible"]), position_ids=draws["visible"])
        rows = encoded.mean(dim=1, keepdim=True).expand_as(tokens.embeddings)
        return Outcome(masked_mean(self.head.errors(rows, tokens.targets), draws["hidden"], self.layout))

    def inputs_of(self, tokens, position_ids):
        """Embeddings at the position ids."""
        return gather_tokens(tokens.embeddings, position_ids)


class Neighbour(Visible):
    """Adds the embedding of the next token, which may be hidden, to each visible one."""

    def inputs_of(self, tokens, position_ids):
        following = (position_ids + 1).clamp(max=self.layout.length - 1)
        return gather_tokens(tokens.embeddings, position_ids) + gather_tokens(tokens.embeddings, following)


class Mean(Visible):
    """Adds the mean of all tokens to each visible one."""

    def inputs_of(self, tokens, position_ids):
        return super().inputs_of(tokens, position_ids) + tokens.embeddings.mean(dim=1, keepdim=True)


class Twice(Good):
    """Encode two masks of each row one after the other."""

    default_masking = None
    default_maskings: ClassVar[Mapping[str, Choice]] = {
        "first": Choice("random", {"ratio": 0.5}),
        "second": Choice("random", {"ratio": 0.75}),
    }
    reconstruct = Objective.reconstruct

    def forward(self, tokens, encoder, draws):
        loss = 0.0
        for name in self.default_maskings:
            visible, hidden = draws[f"{name}.visible"], draws[f"{name}.hidden"]
            encoded = encoder(self.inputs_of(name, tokens, visible), position_ids=visible)
            rows = encoded.mean(dim=1, keepdim=True).expand_as(tokens.embeddings)
            loss = loss + masked_mean(self.head.errors(rows, tokens.targets), hidden, self.layout)
        return Outcome(loss)

    def inputs_of(self, name, tokens, position_ids):
        """Embeddings at the position ids."""
        return gather_tokens(tokens.embeddings, position_ids)


class SecondCallLeaks(Twice):
    """Its second call holds the mean of all tokens, part of which the second mask hides and the first does not."""

    def inputs_of(self, name, tokens, position_ids):
        inputs = super().inputs_of(name, tokens, position_ids)
        return inputs if name == "first" else inputs + tokens.embeddings.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("plugin", [Visible, Twice])
def test_objective_that_encodes_visible_tokens_passes(assert_all_pass, plugin):
    assert_all_pass(plugin)


@pytest.mark.parametrize("plugin", [Neighbour, Mean])
def test_embeddings_of_hidden_tokens_at_visible_position_ids_fail(error_of, plugin):
    assert "the input of call 1 of the encoder" in error_of(plugin, "hidden_tokens_do_not_reach_encoder")


def test_leak_in_the_second_call_fails(error_of):
    assert "the input of call 2 of the encoder" in error_of(SecondCallLeaks, "hidden_tokens_do_not_reach_encoder")


class HiddenIds(Visible):
    """Encodes all tokens as a subset."""

    def forward(self, tokens, encoder, draws):
        everything = torch.arange(self.layout.length).expand(len(tokens.embeddings), -1)
        return super().forward(tokens, encoder, {**draws, "visible": everything})


def test_position_ids_of_hidden_tokens_fail(error_of):
    message = error_of(HiddenIds, "hidden_tokens_do_not_reach_encoder")
    assert "call 1 of the encoder has position_ids of hidden tokens" in message
