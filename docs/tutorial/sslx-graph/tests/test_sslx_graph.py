"""Conformance of the plugin, and the mathematics of this modality."""

import math

import numpy as np
import pytest
import torch
from ssl_core import BadSample, ConfigError, Continuous, Learner, testing
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

from sslx_graph.dataset import MOST, NAMES, SEEDS, SyntheticGraph
from sslx_graph.tokenizer import Graph, laplacian_coordinates, neighbours_of, path_lengths, scaled_cosine_error

DATA = SyntheticGraph(SyntheticGraph.Options(n_train=100), "train")
SAMPLES = [DATA[index]["inputs"] for index in range(5)]
PATH = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)  # 0 - 1 - 2


@testing.parametrize(Graph, fields=DATA.fields, samples=SAMPLES)
def test_tokenizer_conforms(check):
    check()


@testing.parametrize(Graph, fields=DATA.fields, samples=SAMPLES, options={"hops": 2, "slope": 0.0})
def test_tokenizer_conforms_with_few_hops(check):
    check()


@testing.parametrize(SyntheticGraph)
def test_dataset_conforms(check):
    check()


def make_tokenizer(**options):
    torch.manual_seed(0)
    return Graph(Graph.Options(**options), DATA.fields, 32)


def make_batch(tokenizer, count):
    arrays = [tokenizer.preprocess(DATA[index]["inputs"]) for index in range(count)]
    return {name: torch.from_numpy(np.stack([each[name] for each in arrays])) for name in arrays[0]}


# --- edges ---


def test_path_lengths_by_hand():
    two_parts = np.zeros((4, 4), dtype=bool)
    two_parts[:3, :3] = PATH
    assert path_lengths(two_parts).tolist() == [[0, 1, 2, -1], [1, 0, 1, -1], [2, 1, 0, -1], [-1, -1, -1, 0]]


def test_neighbours_share_an_edge():
    assert neighbours_of(PATH, 3).tolist() == [[1, 0, 0], [0, 2, 1], [1, 2, 2]]


def test_coordinates_of_a_path_by_hand():
    # eigenvalues 1 and 3 with (1, 0, -1) / sqrt 2 and (-1, 2, -1) / sqrt 6; two edges; times sqrt(2 / (2 * eigenvalue))
    expected = np.array([[1 / math.sqrt(2), -1 / math.sqrt(18)], [0, 2 / math.sqrt(18)]])
    coordinates = laplacian_coordinates(PATH, 3)
    assert np.allclose(coordinates[:2, :2], expected)
    assert np.allclose(coordinates[2, :2], [-1 / math.sqrt(2), -1 / math.sqrt(18)])
    assert not coordinates[:, 2].any()  # three nodes have two axes


def test_ends_of_an_edge_are_one_apart_on_average():
    for sample in SAMPLES:
        edges = sample["adjacency"][0] != 0
        for axes in (1, 3):
            coordinates = laplacian_coordinates(edges, axes)
            squared = np.square(coordinates[:, None] - coordinates[None]).sum(axis=-1)
            assert squared[edges].mean() == pytest.approx(1)


def test_the_numbers_of_nodes_have_no_effect():
    sample = SAMPLES[NAMES.index("communities")]
    order = np.random.default_rng(0).permutation(sample["features"].shape[1])
    shuffled = {"features": sample["features"][:, order], "adjacency": sample["adjacency"][:, order][:, :, order]}
    one, other = (make_tokenizer().preprocess(each) for each in (sample, shuffled))
    size = len(order)
    assert np.array_equal(one["features"][order], other["features"][:size])
    assert np.array_equal(one["lengths"][order][:, order], other["lengths"][:size, :size])
    assert np.allclose(one["coordinates"][order], other["coordinates"][:size], atol=1e-5)


# --- the score ---


def test_scaled_cosine_error_by_hand():
    prediction = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [-1, 0]]])
    target = torch.tensor([[[1.0, 1], [5, 0], [4, 0], [1, 0]]])
    expected = [(1 - math.sqrt(0.5)) ** 2, 0, 1, 4]
    assert scaled_cosine_error(prediction, target)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_scaled_cosine_error_equals_the_reference_implementation():
    one, other = torch.randn(2, 2, 3, 6, dtype=torch.float64)
    expected = [
        [(1 - sum(p * q for p, q in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))) ** 2
         for x, y in zip(a, b, strict=True)]
        for a, b in zip(one.tolist(), other.tolist(), strict=True)
    ]  # fmt: skip
    assert torch.allclose(scaled_cosine_error(one, other), torch.tensor(expected, dtype=torch.float64), rtol=1e-9)


def test_scaled_cosine_error_has_second_derivatives_also_at_zero():
    target = torch.randn(1, 2, 4, dtype=torch.float64)
    prediction = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: scaled_cosine_error(x, target), (prediction,))
    zero = torch.zeros(1, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(scaled_cosine_error(zero, target.float()).sum(), zero, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), zero)
    assert gradient.isfinite().all()
    assert second.isfinite().all()


# --- the tokenizer ---


def test_bias_falls_with_the_path_length():
    inputs = {"features": np.ones((6, 3), np.float32), "adjacency": PATH[None]}
    stack = {name: torch.from_numpy(array)[None] for name, array in make_tokenizer().preprocess(inputs).items()}
    bias = make_tokenizer(nodes=24, slope=0.5).geometry(stack).bias[0]
    assert bias[:3, :3].tolist() == [[0, -0.5, -1], [-0.5, 0, -0.5], [-1, -0.5, 0]]
    assert bias[:3, 3:].eq(-torch.inf).all()
    near = make_tokenizer(slope=0.5, hops=1).geometry(stack).bias[0]
    assert near[0, :3].tolist() == [0, -0.5, -math.inf]


def test_padding_has_no_effect():
    """Features of a graph are the same with more places for nodes, and with other numbers in the padding."""
    torch.manual_seed(0)
    small, large = make_tokenizer(nodes=24), make_tokenizer(nodes=30)
    features = []
    encoder = TransformerEncoder(EncoderOptions(dim=32, depth=2, heads=4), small.layout).eval()
    for tokenizer in (small, large):
        again = TransformerEncoder(encoder.options, tokenizer.layout).eval()
        again.load_state_dict(encoder.state_dict())
        learner = Learner(tokenizer, again, MAE(MAE.Options(width=32), tokenizer.layout, 32, {})).eval()
        batch = make_batch(tokenizer, 8)
        features.append(learner.embed(batch))
        batch["features"] = torch.where(batch["valid"].unsqueeze(-1), batch["features"], 7.0)
        features.append(learner.embed(batch))
    for other in features[1:]:
        assert torch.allclose(features[0], other, atol=1e-5)


def test_raw_features_ignore_the_order_of_nodes():
    tokenizer = make_tokenizer()
    inputs = {"features": np.eye(6, 3, dtype=np.float32), "adjacency": PATH[None]}
    batch = {name: torch.from_numpy(array)[None] for name, array in tokenizer.preprocess(inputs).items()}
    expected = [1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0, 2 / 3, 1 / 3, 0, 0, 0, 0, 0, 0]  # two nodes of degree 1, one of 2
    assert tokenizer.raw(batch)[0].tolist() == pytest.approx(expected)
    assert tokenizer.raw(batch, per_token=True)[0, :4, -1].tolist() == [1, 2, 1, 0]


def test_bad_graphs_are_refused():
    with pytest.raises(ConfigError, match="needs 'features'"):
        Graph(Graph.Options(), {}, 32)
    with pytest.raises(ConfigError, match="needs 'adjacency'"):
        Graph(Graph.Options(), {"features": Continuous((6, None))}, 32)
    tokenizer = make_tokenizer(nodes=4)
    one_way = np.zeros((1, 3, 3))
    one_way[0, 0, 1] = 1
    for features, adjacency, message in (
        (np.zeros((6, 3)), one_way, "not symmetric"),
        (np.zeros((6, 5)), np.zeros((1, 5, 5)), "has 5 nodes, not 1 to 4"),
        (np.zeros((6, 3)), np.zeros((1, 4, 4)), "do not fit together"),
        (np.full((6, 3), np.nan), np.zeros((1, 3, 3)), "not finite"),
    ):
        with pytest.raises(BadSample, match=message):
            tokenizer.preprocess({"features": features, "adjacency": adjacency})


# --- the data set ---


def test_graphs_are_connected_and_of_their_family():
    sizes = {name: set() for name in NAMES}
    for index in range(len(DATA)):
        sample = DATA[index]
        edges, name = sample["inputs"]["adjacency"][0] != 0, NAMES[sample["label"]]
        count, degrees = len(edges), edges.sum(axis=1)
        assert (edges == edges.T).all()
        assert not edges.diagonal().any()
        assert (path_lengths(edges) >= 0).all()
        assert 10 <= count <= MOST
        sizes[name].add(count)
        if name == "tree":
            assert degrees.sum() == 2 * (count - 1)
        elif name == "cycle":
            assert count <= degrees.sum() / 2 <= count + count // 6
        elif name == "grid":
            assert sorted(set(degrees)) == [2, 3, 4]
            assert (degrees == 2).sum() == 4
    assert all(len(counts) > 3 for counts in sizes.values())


def test_features_are_those_of_the_nearest_seed():
    clear = SyntheticGraph(SyntheticGraph.Options(n_train=10, noise=0.0), "train")
    for index in range(10):
        inputs = clear[index]["inputs"]
        lengths = path_lengths(inputs["adjacency"][0] != 0)
        types = inputs["features"].argmax(axis=0)
        assert types.tolist() == types[lengths[:, :SEEDS].argmin(axis=1)].tolist()


# --- training ---


@pytest.mark.parametrize("objective", [MAE, MetaMAE])
def test_objectives_train_on_it_unchanged(objective):
    """The error of hidden nodes falls far below that of the mean features: the visible nodes tell something of them."""
    tokenizer = make_tokenizer()
    batch = make_batch(tokenizer, 40)
    layout = tokenizer.layout
    encoder = TransformerEncoder(EncoderOptions(dim=32, depth=2, heads=4), layout)
    masking = RandomMasking(RandomMasking.Options(ratio=0.4), layout)
    options = objective.Options(depth=1, width=32, heads=2)
    learner = Learner(tokenizer, encoder, objective(options, layout, 32, {"mask": masking}))
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    errors = []
    for step in range(60):
        draws = learner.draw(40, torch.Generator().manual_seed(step), tokenizer.geometry(batch))
        outcome = learner(batch, draws)
        optimiser.zero_grad()
        outcome.loss.backward()
        optimiser.step()
        errors.append(outcome.metrics.get("reconstruction", outcome.loss).item())
    valid, features = batch["valid"], batch["features"]
    constant = scaled_cosine_error(features[valid].mean(dim=0).expand_as(features), features)[valid].mean().item()
    assert np.mean(errors[-5:]) < 0.8 * constant, (errors, constant)
    assert learner.eval().embed(batch).isfinite().all()
