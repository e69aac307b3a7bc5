"""Conformance of the plugin, and the mathematics of this modality."""

import itertools

import numpy as np
import pytest
import torch
from ssl_core import BadSample, ConfigError, Continuous, Learner, testing
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

from sslx_point_cloud.dataset import NAMES, SyntheticPointCloud, surface
from sslx_point_cloud.tokenizer import PointCloud, chamfer_distance, farthest_points, nearest, neighbours_of

DATA = SyntheticPointCloud(SyntheticPointCloud.Options(n_train=60), "train")
SAMPLES = [DATA[index]["inputs"] for index in range(4)]


@testing.parametrize(PointCloud, fields=DATA.fields, samples=SAMPLES)
def test_tokenizer_conforms(check):
    check()


@testing.parametrize(SyntheticPointCloud)
def test_dataset_conforms(check):
    check()


def make_batch(tokenizer, count):
    arrays = [tokenizer.preprocess(DATA[index]["inputs"]) for index in range(count)]
    stacked = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
    tokenizer.fit_normalization([stacked])
    return {name: torch.from_numpy(array) for name, array in stacked.items()}


def make_tokenizer(**options):
    torch.manual_seed(0)
    return PointCloud(PointCloud.Options(**options), DATA.fields, 32)


# --- sampling and neighbours ---


def test_farthest_points_of_a_line():
    x = np.array([0.0, 1.0, 2.0, 6.0, 10.0])
    points = np.stack([x, np.zeros(5), np.zeros(5)], axis=1)
    assert farthest_points(points, 4).tolist() == [4, 0, 3, 2]  # 10, then 0, then 6 (4 away), then 2 (2 away)


def test_nearest_points_come_in_order_of_distance():
    points = np.array([[0, 0, 0], [0, 3, 0], [1, 0, 0], [0, 0, 2]], dtype=float)
    assert nearest(points, points[:1], 3).tolist() == [[0, 2, 3]]


def test_neighbours_are_the_nearest_other_centres():
    centres = np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0]], dtype=float)
    assert neighbours_of(centres, 1).tolist() == [[1], [0], [1]]
    assert neighbours_of(centres, 3).tolist() == [[1, 2, 0], [0, 2, 1], [1, 0, 2]]  # a missing one is the token itself


def test_neighbours_of_centres_at_one_place_leave_out_the_centre_itself():
    assert neighbours_of(np.zeros((3, 3)), 2).tolist() == [[1, 2], [0, 2], [0, 1]]


# --- the score ---


def test_chamfer_distance_by_hand():
    prediction = torch.tensor([[[0.0, 0, 0, 1, 0, 0]]])
    target = torch.tensor([[[0.0, 0, 0, 0, 2, 0]]])
    # to the target: (0 + 1) / 2; back: (0 + 4) / 2
    assert chamfer_distance(prediction, target).tolist() == [[2.5]]


def test_chamfer_distance_equals_the_reference_implementation():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 2, 3, 15, generator=generator, dtype=torch.float64)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for row, token in itertools.product(range(2), range(3)):
        p, q = (x[row, token].view(5, 3).tolist() for x in (one, other))
        for a, b in ((p, q), (q, p)):
            closest = [min(sum((s - t) ** 2 for s, t in zip(u, v, strict=True)) for v in b) for u in a]
            expected[row, token] += sum(closest) / len(closest)
    assert torch.allclose(chamfer_distance(one, other), expected, rtol=1e-12)


def test_chamfer_distance_ignores_the_order_of_points():
    patch = torch.randn(1, 1, 8, 3)
    shuffled = patch[:, :, torch.randperm(8)]
    assert chamfer_distance(patch.flatten(2), shuffled.flatten(2)).item() == 0


def test_chamfer_distance_has_second_derivatives():
    one, other = (torch.randn(1, 2, 12, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(chamfer_distance, (one, other))
    assert torch.autograd.gradgradcheck(chamfer_distance, (one, other))


# --- the tokenizer ---


def test_patches_are_the_nearest_points_relative_to_the_centre():
    tokenizer = make_tokenizer(length=8, patch_size=4)
    inputs = tokenizer.preprocess(SAMPLES[0])
    cloud = SAMPLES[0]["points"].T.astype(np.float64)
    cloud -= cloud.mean(axis=0)
    cloud /= np.linalg.norm(cloud, axis=1).max()
    assert inputs["patches"].shape == (8, 4, 3)
    assert np.allclose(inputs["patches"][:, 0], 0)  # the nearest point is the centre itself
    for centre, patch in zip(inputs["centres"], inputs["patches"], strict=True):
        expected = np.sort(np.linalg.norm(cloud - centre, axis=1))[:4]
        assert np.allclose(np.linalg.norm(patch, axis=1), expected, atol=1e-6)


def test_order_place_and_size_of_a_cloud_have_no_effect():
    tokenizer = make_tokenizer()
    points = SAMPLES[0]["points"].astype(np.float64)
    moved = 3 * points[:, np.random.default_rng(0).permutation(points.shape[1])] + np.array([[5], [-1], [2]])
    one, other = tokenizer.preprocess({"points": points}), tokenizer.preprocess({"points": moved})
    for name in one:
        assert np.allclose(one[name], other[name], atol=1e-6), name


def test_targets_have_a_mean_square_of_one():
    tokenizer = make_tokenizer()
    tokens = tokenizer(make_batch(tokenizer, 16))
    assert tokens.targets[0].patches.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_neighbouring_centres_are_about_one_unit_apart():
    for length in (16, 64):
        tokenizer = make_tokenizer(length=length)
        geometry = tokenizer.geometry(make_batch(tokenizer, 48))
        distances = torch.cdist(geometry.coords, geometry.coords) + 1e3 * torch.eye(length)
        assert 0.5 < distances.amin(dim=-1).median() < 1.5


def test_neighbours_reach_the_masking_of_metamae():
    tokenizer = make_tokenizer()
    geometry = tokenizer.geometry(make_batch(tokenizer, 2))
    visible = torch.zeros(2, tokenizer.layout.length, dtype=torch.bool)
    visible[:, 5] = True
    wide = geometry.dilate(visible, tokenizer.layout)
    for row in range(2):
        expected = {place for place in range(tokenizer.layout.length) if 5 in geometry.neighbours[row, place].tolist()}
        assert set(wide[row].nonzero().flatten().tolist()) == expected | {5}


def test_raw_features_ignore_the_order_of_tokens():
    tokenizer = make_tokenizer()
    batch = make_batch(tokenizer, 3)
    order = torch.randperm(tokenizer.layout.length)
    shuffled = {**batch, "centres": batch["centres"][:, order], "patches": batch["patches"][:, order]}
    assert torch.equal(tokenizer.raw(batch), tokenizer.raw(shuffled))
    assert tokenizer.raw(batch, per_token=True).shape == (3, 32, 32)


def test_bad_clouds_are_refused():
    with pytest.raises(ConfigError, match="needs 'points'"):
        PointCloud(PointCloud.Options(), {"points": Continuous((2, 100))}, 32)
    tokenizer = make_tokenizer()
    for points, message in (
        (np.zeros((3, 50)), "are the same"),
        (np.full((3, 50), np.nan), "not finite"),
        (np.zeros((3, 10)), "has 10 points, but 32"),
        (np.zeros((50, 3)), r"has shape \(50, 3\)"),
    ):
        with pytest.raises(BadSample, match=message):
            tokenizer.preprocess({"points": points})


# --- the data set ---


def test_shapes_have_their_equations():
    rng = np.random.default_rng(0)
    x, y, z = surface("sphere", 500, rng).T
    assert np.allclose(x**2 + y**2 + z**2, 1)
    cube = surface("cube", 500, rng)
    assert np.allclose(abs(cube).max(axis=1), 1)
    x, y, z = surface("cylinder", 500, rng).T
    assert ((np.isclose(np.hypot(x, y), 1) & (abs(z) <= 1)) | (np.isclose(abs(z), 1) & (np.hypot(x, y) <= 1))).all()
    x, y, z = surface("cone", 500, rng).T
    assert (np.isclose(np.hypot(x, y), (1 - z) / 2) | (np.isclose(z, -1) & (np.hypot(x, y) <= 1))).all()
    x, y, z = surface("torus", 500, rng).T
    tube = np.hypot(np.hypot(x, y) - 1, z)
    assert np.allclose(tube, tube[0])
    x, y, _ = surface("helix", 500, rng).T
    assert np.allclose(np.hypot(x, y), 1)


def test_each_split_has_samples_of_its_own():
    splits = {name: SyntheticPointCloud(SyntheticPointCloud.Options(), name) for name in SyntheticPointCloud.splits}
    assert {name: len(data) for name, data in splits.items()} == {"train": 2000, "validation": 500, "test": 500}
    first = [data[0]["inputs"]["points"].tobytes() for data in splits.values()]
    assert len(set(first)) == 3
    assert [DATA[index]["label"] for index in range(6)] == list(range(len(NAMES)))


# --- training ---


@pytest.mark.parametrize("objective", [MAE, MetaMAE])
def test_objectives_train_on_it_unchanged(objective):
    """The Chamfer distance of hidden patches falls by a quarter; coordinates and neighbours reach the objective."""
    tokenizer = make_tokenizer()
    batch = make_batch(tokenizer, 24)
    layout = tokenizer.layout
    encoder = TransformerEncoder(EncoderOptions(dim=32, depth=2, heads=4), layout)
    masking = RandomMasking(RandomMasking.Options(ratio=0.6), layout)
    options = objective.Options(depth=1, width=32, heads=2)
    learner = Learner(tokenizer, encoder, objective(options, layout, 32, {"mask": masking}))
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    errors = []
    for step in range(40):
        draws = learner.draw(24, torch.Generator().manual_seed(step), tokenizer.geometry(batch))
        outcome = learner(batch, draws)
        optimiser.zero_grad()
        outcome.loss.backward()
        optimiser.step()
        errors.append(outcome.metrics.get("reconstruction", outcome.loss).item())
    assert np.mean(errors[-5:]) < 0.75 * np.mean(errors[:5]), errors
    assert learner.eval().embed(batch).isfinite().all()
