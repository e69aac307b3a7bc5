"""The conformance kit: maskings, and its own doors."""

import pytest
import torch

from ssl_core import (
    Mask,
    Masking,
    testing,
)


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


def test_right_masking_keeps_all_promises(assert_all_kept):
    assert_all_kept(Halves)


@pytest.mark.parametrize(("name", "call", "happened"), BROKEN_MASKINGS)
def test_broken_masking_is_caught(error_of, name, call, happened):
    assert happened in error_of(masking(call), name)


def test_parametrize_gives_readable_ids_and_expects_known_failures():
    mark = testing.parametrize(
        Halves, known={"seeds_and_rows_differ": "it is fixed", "mask_has_its_form-discrete": "why"}
    ).mark
    parameters = {parameter.id: parameter for parameter in mark.args[1]}
    assert mark.args[0] == "check"
    assert "every_row_hides_equally_many-continuous_3d" in parameters
    known = {name: parameter.marks[0].kwargs for name, parameter in parameters.items() if parameter.marks}
    assert len(known) == 9
    assert known["mask_has_its_form-discrete"] == {"reason": "why", "raises": testing.ConformanceError, "strict": True}
    assert known["seeds_and_rows_differ-two_tokens"]["reason"] == "it is fixed"


def test_known_failure_of_no_check_is_refused():
    with pytest.raises(ValueError, match="known: no check 'seeds_differ'; did you mean 'seeds_and_rows_differ'"):
        testing.parametrize(Halves, known={"seeds_differ": "why"})


def test_run_tells_what_is_kept_and_what_is_not():
    results = list(testing.run(masking(uneven)))
    broken = {result.check.spec.name for result in results if not result.kept}
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
