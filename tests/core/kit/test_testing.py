"""The conformance kit: maskings, and its public functions."""

import pytest
import torch

from ssl_core import Mask, Masking, testing
from ssl_core.testing.check import group_failures


class Halves(Masking):
    """Hide half of the tokens."""

    name = "halves"

    def order(self, batch, generator):
        return torch.rand(batch, self.layout.length, generator=generator).argsort(dim=1)

    def mask(self, order, count):
        visible = order[:, :count].sort(dim=1).values
        return Mask(visible, torch.ones(order.shape, dtype=torch.bool).scatter(1, visible, False))

    def __call__(self, batch, generator, geometry=None):
        length = self.layout.length
        return Mask.from_order(self.order(batch, generator), length - max(1, length // 2), geometry)


def masking(call):
    def with_geometry(self, batch, generator, geometry=None):
        return call(self, batch, generator)

    return type("Changed", (Halves,), {"__call__": with_geometry, "__doc__": "Changed."})


def uneven(self, batch, generator):
    mask = Halves.__call__(self, batch, generator)
    hidden = mask.hidden.clone()
    hidden[0] = True
    return Mask(mask.visible, hidden)


def last_half_visible(self, batch):
    order = torch.arange(self.layout.length).flip(0).expand(batch, -1)
    return self.mask(order, max(1, self.layout.length // 2))


BROKEN_MASKINGS = [
    ("mask_has_shapes_and_dtypes", lambda self, b, g: None, "returned NoneType, not Mask"),
    (
        "mask_has_shapes_and_dtypes",
        lambda self, b, g: self.mask(self.order(1, g).expand(3, -1), 2),
        "hidden is ((3, 24)",
    ),
    (
        "mask_has_shapes_and_dtypes",
        lambda self, b, g: self.mask(self.order(b, g), self.layout.length),
        "24 of 24 tokens",
    ),
    (
        "visible_and_hidden_are_complementary",
        lambda self, b, g: Mask(self.order(b, g)[:, :2], self.mask(self.order(b, g), 2).hidden),
        "tokens are both or neither",
    ),
    ("every_row_hides_the_same_number", uneven, "rows hide [12, 24] tokens"),
    ("some_are_visible_and_some_hidden", uneven, "a row hides everything"),
    (
        "visible_position_ids_ascend",
        lambda self, b, g: Mask((m := Halves.__call__(self, b, g)).visible.flip(1), m.hidden),
        "a row of visible is [",
    ),
    ("mask_depends_on_the_generator_alone", lambda self, b, g: Halves.__call__(self, b, None), "numbers differ"),
    ("seeds_and_rows_differ", lambda self, b, g: Halves.__call__(self, b, g.manual_seed(0)), "two seeds gave the same"),
    (
        "seeds_and_rows_differ",
        lambda self, b, g: self.mask(self.order(1, g).expand(b, -1), 12),
        "a batch have the same",
    ),
    ("padded_rows_keep_a_visible_token", lambda self, b, g: last_half_visible(self, b), "all 2 valid tokens of a row"),
]


def test_correct_masking_passes(assert_all_pass):
    assert_all_pass(Halves)


@pytest.mark.parametrize(("name", "call", "got"), BROKEN_MASKINGS)
def test_broken_masking_fails(error_of, name, call, got):
    assert got in error_of(masking(call), name)


def test_parametrize_gives_readable_ids_and_marks_xfail():
    mark = testing.parametrize(
        Halves, xfail={"seeds_and_rows_differ": "it is fixed", "mask_has_shapes_and_dtypes-discrete": "why"}
    ).mark
    parameters = {parameter.id: parameter for parameter in mark.args[1]}
    assert mark.args[0] == "check"
    assert "every_row_hides_the_same_number-continuous_3d" in parameters
    marks = {name: parameter.marks[0].kwargs for name, parameter in parameters.items() if parameter.marks}
    assert len(marks) == 9
    assert marks["mask_has_shapes_and_dtypes-discrete"] == {
        "reason": "why",
        "raises": testing.ConformanceError,
        "strict": True,
    }
    assert marks["seeds_and_rows_differ-two_tokens"]["reason"] == "it is fixed"


def test_xfail_that_names_no_check_is_refused():
    with pytest.raises(ValueError, match="xfail: no check 'seeds_differ'; did you mean 'seeds_and_rows_differ'"):
        testing.parametrize(Halves, xfail={"seeds_differ": "why"})


def test_run_yields_passed_and_failed_checks():
    results = list(testing.run(masking(uneven)))
    failed = {result.check.spec.name for result in results if not result.passed}
    assert failed == {
        "visible_and_hidden_are_complementary",
        "every_row_hides_the_same_number",
        "some_are_visible_and_some_hidden",
        "padded_rows_keep_a_visible_token",
    }
    assert all(isinstance(result.error, testing.ConformanceError) for result in results if not result.passed)
    assert all(result.check.text for result in results)


def test_class_that_is_no_plugin_is_refused():
    with pytest.raises(TypeError, match="int is no Objective, Tokenizer, Dataset, Masking, Encoder or Probe"):
        testing.checks(int)


class Broken(Halves):
    """Its constructor raises."""

    def __init__(self, options, layout):
        raise RuntimeError("no disk")


def test_failures_with_one_cause_are_one_group():
    results = list(testing.run(Broken))
    (group,) = group_failures(results)
    assert len(group) == sum(not result.passed for result in results) > 60
    assert "RuntimeError: no disk (" in group[0].error.got
    assert [len(one) for one in group_failures(testing.run(masking(uneven)))] != [3]  # other causes are other groups


def test_expected_failures_are_in_no_group():
    names = {check.name for check in testing.checks(Broken)}
    assert group_failures(testing.run(Broken, xfail=dict.fromkeys(names, "why"))) == []
