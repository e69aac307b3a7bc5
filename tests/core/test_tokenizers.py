"""Base tokenizers: patches, normalisation, embedding tables, and joined tokenizers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_core import ConfigError, ContinuousTarget, DiscreteTarget
from ssl_core.tokenizers import GridTokenizer, IdTokenizer, JointTokenizer, patchify, unpatchify

DIM = 16


class Grid(GridTokenizer):
    name = "grid"


class Vocabulary(IdTokenizer):
    name = "vocabulary"


def grid(channels: int = 2, shape: tuple[int, ...] = (4, 6), patch: tuple[int, ...] = (2, 3), **options: Any) -> Grid:
    return Grid(Grid.Options(**options), {}, DIM, field="x", channels=channels, shape=shape, patch=patch)


def vocabulary(length: int = 5, vocab: int = 7, field: str = "y") -> Vocabulary:
    return Vocabulary(Vocabulary.Options(), {}, DIM, field=field, length=length, vocab=vocab)


# -------------------------------------------------------------------------------------------------------- patches


def test_order_of_elements_in_a_2d_patch() -> None:
    """Channel c, row i, column j holds 100 c + 10 i + j; patches of 2 x 3."""
    x = torch.tensor([[[[100 * c + 10 * i + j for j in range(6)] for i in range(4)] for c in range(2)]])
    patches = patchify(x, (2, 3))
    assert patches.shape == (1, 4, 12)
    assert patches[0, 0].tolist() == [0, 100, 1, 101, 2, 102, 10, 110, 11, 111, 12, 112]
    assert patches[0, 1, 0] == 3  # the second patch is to the right of the first
    assert patches[0, 2, 0] == 20  # the third patch starts the second row


def test_order_of_elements_in_a_1d_patch() -> None:
    x = torch.tensor([[[0, 1, 2, 3], [10, 11, 12, 13]]])
    assert patchify(x, (2,))[0].tolist() == [[0, 10, 1, 11], [2, 12, 3, 13]]


shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)


@pytest.mark.parametrize(("shape", "patch"), [((2, 3, 4, 6), (2, 3)), ((2, 1, 5), (1,)), ((2, 2, 4, 2, 6), (2, 1, 3))])
def test_compiled_patchify_equals_eager(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    compiled_patchify = torch.compile(lambda x: patchify(x, patch) * 2, fullgraph=True, backend="aot_eager")
    x, code = torch.randn(shape), []
    assert torch.equal(compiled_patchify(x), 2 * patchify(x, patch))
    inspect = torch.compile(
        lambda x: patchify(x, patch), backend=lambda graph, _: code.append(graph.code) or graph.forward
    )
    inspect(x)
    assert "sslx.patchify" in code[0]
    torch.library.opcheck(torch.ops.sslx.patchify, (x, list(patch)))
    x.requires_grad_()
    weights = torch.randn(patchify(x, patch).shape)
    (compiled,) = torch.autograd.grad((compiled_patchify(x) * weights).sum(), x)
    (eager,) = torch.autograd.grad((2 * patchify(x, patch) * weights).sum(), x)
    assert torch.equal(compiled, eager)


@settings(max_examples=60, deadline=None)
@given(axes=shapes, channels=st.integers(1, 3), rows=st.integers(1, 2))
def test_unpatchify_is_the_inverse(axes: list[tuple[int, int]], channels: int, rows: int) -> None:
    grid, patch = tuple(g for g, _ in axes), tuple(p for _, p in axes)
    space = [g * p for g, p in axes]
    x = torch.arange(rows * channels * int(np.prod(space))).view(rows, channels, *space)
    patches = patchify(x, patch)
    assert patches.shape == (rows, int(np.prod(grid)), int(np.prod(patch)) * channels)
    assert torch.equal(unpatchify(patches, grid, patch), x)
    for number, position in enumerate(itertools.product(*(range(g) for g in grid))):
        window = tuple(slice(i * p, (i + 1) * p) for i, p in zip(position, patch, strict=True))
        expected = x[(slice(None), slice(None), *window)].movedim(1, -1)
        assert torch.equal(patches[:, number], expected.reshape(rows, -1))


# --------------------------------------------------------------------------------------------------------- grids


def test_embedding_equals_a_strided_convolution() -> None:
    """The patch embedding of MetaMAE's published code, with permuted weights."""
    tokenizer = grid(normalise="none").double()
    kernel = tokenizer.embed.weight.view(DIM, 2, 3, 2).permute(0, 3, 1, 2)
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    expected = nn.functional.conv2d(x, kernel, tokenizer.embed.bias, stride=(2, 3)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokenizer({"x": x}).embeddings, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("shape", "patch"), [((12,), (3,)), ((4, 6), (2, 3)), ((2, 4, 6), (1, 2, 3))])
def test_tokens_of_a_grid(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    tokenizer = grid(3, shape, patch, normalise="none")
    x = torch.randn(5, 3, *shape)
    tokens = tokenizer({"x": x})
    (segment,) = tokens.layout.segments
    assert segment.grid == tuple(s // p for s, p in zip(shape, patch, strict=True))
    assert (segment.target, segment.size) == ("continuous", 3 * int(np.prod(patch)))
    assert tokens.embeddings.shape == (5, segment.length, DIM)
    (target,) = tokens.targets
    assert isinstance(target, ContinuousTarget)
    assert torch.equal(target.patches, patchify(x, patch))
    assert torch.equal(tokenizer.to_image(0, target.patches), x)


def test_patch_that_does_not_divide_the_shape_raises() -> None:
    for patch in ((2, 4), (0, 3)):
        with pytest.raises(ConfigError, match=r"tokenizer 'grid': patch .* does not divide"):
            grid(patch=patch)


def test_input_of_another_shape_raises() -> None:
    with pytest.raises(ValueError, match=r"'x' is \(2, 4, 5\), expected \(2, 4, 6\)"):
        grid()({"x": torch.zeros(1, 2, 4, 5)})


def test_initialisation_of_the_embedding() -> None:
    weight, bias = grid(3, (32, 32), (8, 8)).embed.weight, grid(3, (32, 32), (8, 8)).embed.bias
    bound = (6 / (DIM + 192)) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound
    assert 0 < bias.abs().max() <= 192**-0.5  # PyTorch's default, not zero


# ------------------------------------------------------------------------------------------------- normalisation


def chunks_of(x: np.ndarray, sizes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    return [{"x": part} for part in np.split(x, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("sizes", [(30,), (1, 20, 9)])
def test_measured_statistics_equal_numpy(per_channel: bool, sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2, 4, 6)).astype(np.float32)
    x[:, 0] = 5 * x[:, 0] - 40
    tokenizer = grid(per_channel=per_channel)
    tokenizer.fit_normalization(iter(chunks_of(x, sizes)))
    axes = (0, 2, 3) if per_channel else None
    mean, std = x.mean(axis=axes, dtype=np.float64), x.std(axis=axes, dtype=np.float64)
    np.testing.assert_allclose(tokenizer.mean.numpy(), np.broadcast_to(mean, 2), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(tokenizer.std.numpy(), np.broadcast_to(std, 2), rtol=1e-6)
    (target,) = tokenizer({"x": torch.from_numpy(x)}).targets
    normalised = unpatchify(target.patches, (2, 2), (2, 3)).numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(normalised.std(axis=axes), 1, rtol=1e-4)
    np.testing.assert_allclose(normalised.mean(axis=axes), 0, atol=1e-4)
    torch.testing.assert_close(tokenizer.to_image(0, target.patches), torch.from_numpy(x), rtol=1e-5, atol=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 1000.1, -123456.7])
def test_constant_channel_is_not_scaled(constant: float) -> None:
    """Dividing by its deviation would amplify the rounding error of the mean."""
    x = np.random.default_rng(0).normal(size=(40, 2, 4, 6)).astype(np.float32)
    x[:, 1] = constant
    tokenizer = grid()
    tokenizer.fit_normalization(chunks_of(x, (10, 10, 20)))
    patches = tokenizer({"x": torch.from_numpy(x)}).targets[0].patches  # type: ignore[union-attr]
    normalised = unpatchify(patches, (2, 2), (2, 3))
    assert normalised.isfinite().all()
    assert normalised[:, 1].abs().max() < 0.01
    assert tokenizer.std[1] == 1


@pytest.mark.parametrize(("constant", "dtype"), [(3.3, np.float32), (0.1, np.float64), (-1234.567, np.float64)])
def test_constant_channel_of_many_samples_is_not_scaled(constant: float, dtype: type) -> None:
    x = np.full((5000, 2, 4, 6), constant, dtype=dtype)
    tokenizer = grid()
    tokenizer.fit_normalization(chunks_of(x, (1666, 1000, 2334)))
    assert tokenizer.std.tolist() == [1, 1]


@pytest.mark.parametrize("offset", [1e4, 1e6, 1e8])
def test_deviation_is_accurate_with_a_large_offset(offset: float) -> None:
    x = offset + np.random.default_rng(0).normal(size=(40, 2, 4, 6))
    tokenizer = grid()
    tokenizer.fit_normalization(chunks_of(x, (10, 30)))
    np.testing.assert_allclose(tokenizer.std.numpy(), x.std(axis=(0, 2, 3)), rtol=1e-3)


def test_normalisation_is_saved_with_the_model() -> None:
    tokenizer = grid()
    tokenizer.fit_normalization([{"x": 3 + 2 * np.random.default_rng(0).normal(size=(9, 2, 4, 6))}])
    other = grid()
    other.load_state_dict(tokenizer.state_dict())
    x = {"x": torch.randn(2, 2, 4, 6)}
    assert torch.equal(other(x).embeddings, tokenizer(x).embeddings)


def test_normalise_given_and_none() -> None:
    x = torch.randn(2, 2, 4, 6)
    data = [{"x": 50 + np.random.default_rng(0).normal(size=(9, 2, 4, 6))}]
    constants, none = grid(normalise="given", mean=(1, 2), std=(3, 4)), grid(normalise="none")
    for tokenizer in (constants, none):
        tokenizer.fit_normalization(data)  # has no effect
    scaled = (x - torch.tensor([1, 2]).view(2, 1, 1)) / torch.tensor([3, 4]).view(2, 1, 1)
    assert torch.equal(constants({"x": x}).targets[0].patches, patchify(scaled, (2, 3)))  # type: ignore[union-attr]
    assert torch.equal(none({"x": x}).targets[0].patches, patchify(x, (2, 3)))  # type: ignore[union-attr]
    assert grid(normalise="given", mean=(1,), std=(2,)).std.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (1, 2, 3), "std": (1,)}, r"tokenizer\.mean holds 3 numbers; .* needs 1 or 2"),
        ({"mean": (1,), "std": ()}, r"tokenizer\.std holds 0 numbers"),
        ({"mean": (1,), "std": (1, 0)}, "positive"),
    ],
)
def test_invalid_constants_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(normalise="given", **options)


# ------------------------------------------------------------------------------------------------------ ids, joint


def test_id_tokenizer_shares_its_table() -> None:
    tokenizer = vocabulary()
    ids = torch.randint(7, (3, 5), dtype=torch.int32)
    tokens = tokenizer({"y": ids})
    (target,) = tokens.targets
    assert isinstance(target, DiscreteTarget)
    assert target.table is tokenizer.table  # the same tensor, so that the output layer is tied to the embedding
    assert torch.equal(target.ids, ids.long())
    assert torch.equal(tokens.embeddings, tokenizer.table[ids.long()])
    bound = (6 / (7 + DIM)) ** 0.5
    assert tokenizer.table.abs().max() <= bound


def test_joint_tokenizer_concatenates_its_parts() -> None:
    first, second = grid(normalise="none"), vocabulary()
    joint = JointTokenizer(JointTokenizer.Options(), {}, DIM, parts=[first, second])
    inputs = {"x": torch.randn(3, 2, 4, 6), "y": torch.randint(7, (3, 5))}
    tokens = joint(inputs)
    assert joint.layout.length == 4 + 5
    assert [segment.target for segment in joint.layout.segments] == ["continuous", "discrete"]
    assert torch.equal(tokens.embeddings[:, :4], first(inputs).embeddings)
    assert torch.equal(tokens.embeddings[:, 4:], second(inputs).embeddings)
    assert tokens.targets[1].table is second.table  # type: ignore[union-attr]
    assert torch.equal(joint.to_image(0, tokens.targets[0].patches), inputs["x"])  # type: ignore[union-attr,arg-type]


def test_joint_tokenizer_fits_and_preprocesses_each_part() -> None:
    first, second = grid(), grid()
    second.field = "z"
    joint = JointTokenizer(JointTokenizer.Options(), {}, DIM, parts=[first, second])
    generator = np.random.default_rng(0)
    x, z = generator.normal(size=(9, 2, 4, 6)), 7 + generator.normal(size=(9, 2, 4, 6))
    joint.fit_normalization(iter([{"x": x[:4], "z": z[:4]}, {"x": x[4:], "z": z[4:]}]))
    np.testing.assert_allclose(first.mean.numpy(), x.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(second.mean.numpy(), z.mean(axis=(0, 2, 3)), rtol=1e-5)

    class Doubling(Grid):
        def preprocess(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return inputs | {"x": 2 * inputs["x"]}

    double = Doubling(Grid.Options(), {}, DIM, field="x", channels=2, shape=(4, 6), patch=(2, 3))
    joint = JointTokenizer(JointTokenizer.Options(), {}, DIM, parts=[double, double])
    assert joint.preprocess({"x": np.ones(1)})["x"].item() == 4
