"""Read-outs against plain transcriptions, with padding; and where runs and encoders use them."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sslx
from ssl_core import ConfigError
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.nn.readout import READOUTS, deviation, maximum, read_out, readout_problem
from ssl_core.tokens import Geometry, Tokens
from ssl_plugins.objectives.mae import MAE

pytestmark = pytest.mark.fast
LAYERS, DIM = 3, 16


@pytest.fixture
def parts(toy):
    """An encoder of three layers, and tokens of four rows; with padding those of 4, 3, 1 and 0 tokens."""
    learner = toy.make_learner(MAE, encoder_depth=LAYERS).double().eval()
    tokens = learner.tokenizer({"x": torch.randn(4, 2, 16, dtype=torch.float64)})
    valid = torch.arange(4) < torch.tensor([4, 3, 1, 0])[:, None]
    padded = Tokens(tokens.embeddings, tokens.targets, tokens.layout, Geometry(valid=valid))
    return SimpleNamespace(learner=learner, encoder=learner.encoder, whole=tokens, padded=padded)


def plain(name, encoder, tokens):
    """A read-out one row and one layer at a time."""
    outputs = encoder(tokens.embeddings, geometry=tokens.geometry, layers=range(1, LAYERS + 1))
    rows = []
    for row in range(len(tokens.embeddings)):
        keep = [i for i in range(4) if tokens.valid is None or tokens.valid[row, i]]
        layers = [[output[row, 1 + i].tolist() for i in keep] for output in outputs]
        means = [[sum(t[d] for t in layer) / max(len(keep), 1) for d in range(DIM)] for layer in layers]
        if name == "last":
            rows.append(means[-1])
            continue
        features = [number for mean in means for number in mean]
        if name == "layers+stats":
            last, mean = layers[-1], means[-1]
            spread = [sum((t[d] - mean[d]) ** 2 for t in last) / max(len(keep), 1) for d in range(DIM)]
            features += [s**0.5 for s in spread] + [max((t[d] for t in last), default=0.0) for d in range(DIM)]
        rows.append(features)
    return torch.tensor(rows, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["whole", "padded"])
@pytest.mark.parametrize("name", READOUTS)
def test_a_readout_equals_its_transcription(parts, name, kind):
    tokens = getattr(parts, kind)
    got = read_out(name, parts.encoder, tokens)
    assert got.shape == (4, READOUTS[name].width(DIM, LAYERS))
    torch.testing.assert_close(got, plain(name, parts.encoder, tokens), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("name", READOUTS)
def test_what_padding_holds_has_no_effect(parts, name):
    other = parts.padded.embeddings.clone()
    other[~parts.padded.valid] = 1e3
    changed = Tokens(other, parts.padded.targets, parts.padded.layout, parts.padded.geometry)
    torch.testing.assert_close(read_out(name, parts.encoder, changed), read_out(name, parts.encoder, parts.padded))


@torch.no_grad()
def test_last_is_what_was_always_evaluated(parts):
    """Bit for bit: the published protocols read it."""
    for tokens in (parts.whole, parts.padded):
        encoded = parts.encoder(tokens.embeddings, geometry=tokens.geometry)
        assert torch.equal(read_out("last", parts.encoder, tokens), parts.encoder.pool(encoded, tokens.valid))
    assert EvaluateOptions().readout == "last"
    assert EvaluateOptions().postprocess == "none"


@torch.no_grad()
def test_features_of_tokens(parts):
    encoded = parts.encoder(parts.whole.embeddings, layers=(1, 2, 3))
    assert torch.equal(read_out("last", parts.encoder, parts.whole, per_token=True), encoded[-1][:, 1:])
    layers = read_out("layers", parts.encoder, parts.whole, per_token=True)
    assert torch.equal(layers, torch.cat([layer[:, 1:] for layer in encoded], dim=-1))
    with pytest.raises(ValueError, match="single tokens have none; use layers or last"):
        read_out("layers+stats", parts.encoder, parts.whole, per_token=True)


def test_statistics_keep_their_precision_in_half_precision():
    tokens = 300 + torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    half = tokens.bfloat16()
    expected = half.double().std(dim=1, correction=0)
    assert torch.allclose(deviation(half).double(), expected, rtol=1e-4)
    assert torch.equal(maximum(half), half.amax(dim=1))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_deviation_has_a_finite_gradient_for_any_number_of_tokens(count):
    tokens = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    valid = torch.stack([torch.ones(3, dtype=torch.bool), torch.arange(3) < count])
    value = deviation(tokens, valid)
    value.sum().backward()
    assert tokens.grad.isfinite().all()
    assert (tokens.grad[0] != 0).any()
    expected = tokens[1, :count].std(dim=0, correction=0) if count else torch.zeros(4)
    torch.testing.assert_close(value[1], expected)
    assert deviation(torch.full((1, 2, 4), torch.nan)).isnan().all()


def test_names_are_the_choices_of_the_option():
    choices = EvaluateOptions.model_fields["readout"].annotation.__args__
    assert choices == tuple(READOUTS)
    assert "unknown read-out 'lasst'; use one of last, layers, layers+stats" in (readout_problem("lasst", 3) or "")
    assert "no option depth; use the read-out last" in (readout_problem("layers", None) or "")
    assert readout_problem("last", None, per_token=True) is None


# --- in runs and encoders --------------------------------------------------------------------------------------------

SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "dataset.n_train": 200, "dataset.n_validation": 20,
    "dataset.n_test": 100, "evaluate.metrics": ["macro_f1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def run(place):
    values = {"objective": "mae", "modality": "tabular", "steps": 5, "batch_size": 16, "seed": 0, "device": "cpu"}
    return sslx.pretrain(**values, set=SMALL, out=place / "run")


def test_default_scores_are_those_of_scikit_learn_on_embeddings(run):
    """To one of the 100 test samples, which rounding may turn."""

    def data(split):
        inputs = {name: np.stack([run.splits[split][i]["inputs"][name] for i in range(len(run.splits[split]))])
                  for name in run.splits[split][0]["inputs"]}  # fmt: skip
        return inputs, np.array([run.splits[split][i]["label"] for i in range(len(run.splits[split]))])

    (train, labels), (test, truth) = data("train"), data("test")
    encoder = run.encoder.eval()
    neighbours = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000, tol=1e-6))
    scores = {(score.probe, score.metric): score.value for score in run.report.scores if score.features == "trained"}
    for name, model in {"knn": neighbours, "linear": linear}.items():
        expected = model.fit(encoder.embed(train), labels).score(encoder.embed(test), truth)
        assert scores[name, "accuracy"] == pytest.approx(expected, abs=0.0101)
    assert len(run.report.scores) == 12  # two probes, two metrics, and features of random init and raw input besides
    assert {(score.readout, score.postprocess) for score in run.report.scores} == {("last", "none")}


def test_scores_name_their_readout_and_postprocessing(run, place):
    chosen = {"readout": "layers+stats", "postprocess": "whiten", "components": 8, "probes": ["knn", "attentive"]}
    report = sslx.evaluate(place / "run", set={"evaluate": chosen}, out=place / "other")
    named = {(score.probe, score.readout, score.postprocess) for score in report.scores}
    assert named == {("knn", "layers+stats", "whiten"), ("attentive", "tokens", "none")}
    assert len(report.scores) == 12
    values = {s.features: s.value for s in report.scores if (s.probe, s.metric) == ("knn", "accuracy")}
    before = {s.features: s.value for s in run.report.scores if (s.probe, s.metric) == ("knn", "accuracy")}
    assert all(values[kind] != before[kind] for kind in values)  # the raw input is whitened, too
    page = (place / "other" / "report.html").read_text("utf-8")
    assert "read-out layers+stats, whitened" in page


def test_embed_by_readout(run):
    x = run.splits["test"][0]["inputs"]
    samples = {name: np.asarray(value)[None] for name, value in x.items()}
    encoder = run.encoder.eval()
    last = encoder.embed(samples)
    assert np.array_equal(encoder.embed(samples, readout="last"), last)
    both = encoder.embed(samples, layers=[1, 2])
    np.testing.assert_allclose(sslx.embed(run, samples, readout="layers"), both, rtol=1e-6)
    stats = encoder.embed(samples, readout="layers+stats")
    np.testing.assert_allclose(stats[:, :32], both, rtol=1e-6)
    valid = encoder.tokenizer.geometry(encoder.preprocess(samples)).valid.numpy()  # no number is missing here
    tokens = encoder.embed(samples, per_token=True)[valid][None]
    np.testing.assert_allclose(stats[:, 32:48], tokens.std(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats[:, 48:], tokens.max(axis=1), rtol=1e-6)
    with pytest.raises(ConfigError, match=r"give layers=\(1,\) or readout=last, not both"):
        encoder.embed(samples, layers=[1], readout="last")
    with pytest.raises(ConfigError, match="unknown read-out 'mean'; use one of last, layers, layers"):
        encoder.embed(samples, readout="mean")
    with pytest.raises(ConfigError, match="single tokens have none"):
        encoder.embed(samples, readout="layers+stats", per_token=True)


@pytest.mark.parametrize("readout", ["layers+stats", "layers"])
def test_an_unusable_readout_is_refused_before_training(place, readout, monkeypatch):
    from ssl_core.runs import build

    monkeypatch.setattr(build, "encoder_depth", lambda encoder: None)
    message = re.escape(f"evaluate.readout: read-out '{readout}' reads all layers, and the encoder has no option depth")
    with pytest.raises(ConfigError, match=message):
        sslx.pretrain(
            objective="mae", modality="tabular", steps=5, set=SMALL | {"evaluate.readout": readout},
            out=place / f"refused-{readout}",
        )  # fmt: skip
    assert not (place / f"refused-{readout}" / "checkpoints").exists()
