"""Self-distillation for further pretraining (Lee et al., ICLR 2023): the loss, the records, and a resume."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import sslx
from ssl_core import ConfigError, Continuous, Outcome, Tokens
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.tokenizers import GridTokenizer
from ssl_core.training.teacher import Distillation


class Grid(GridTokenizer):
    """Patches of four numbers."""

    name = "grid"

    def __init__(self, dim: int) -> None:
        options = GridTokenizer.Options(normalise="none")
        fields = {"x": Continuous((2, 8))}
        super().__init__(options, fields, dim, field="x", channels=2, shape=(8,), patch=(2,))


def reference(encoder: TransformerEncoder, tokenizer: Grid, x: np.ndarray, cls: bool) -> np.ndarray:
    """Features (B, D) of a pre-norm ViT with one head, written out in float64."""
    p = {name: value.detach().double().numpy() for name, value in encoder.state_dict().items()}
    table = encoder.positions.table.double().numpy()

    def norm(row, name):
        centred = row - row.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(value):
        return value * 0.5 * (1 + torch.erf(torch.from_numpy(value) / 2**0.5).numpy())

    weight, bias = (getattr(tokenizer.embed, name).detach().double().numpy() for name in ("weight", "bias"))
    out = []
    for sample in x.astype(np.float64):
        patches = np.stack([sample[:, start : start + 2].T.reshape(-1) for start in range(0, 8, 2)])
        row = np.concatenate([p["cls_token"][None], patches @ weight.T + bias]) + table
        block = "transformer.blocks.0"
        q, k, v = np.split(norm(row, f"{block}.norm1") @ p[f"{block}.attn.qkv.weight"].T, 3, axis=1)
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        attended = scores / scores.sum(1, keepdims=True) @ v
        row = row + attended @ p[f"{block}.attn.proj.weight"].T + p[f"{block}.attn.proj.bias"]
        hidden = gelu(norm(row, f"{block}.norm2") @ p[f"{block}.mlp.fc1.weight"].T + p[f"{block}.mlp.fc1.bias"])
        row = row + hidden @ p[f"{block}.mlp.fc2.weight"].T + p[f"{block}.mlp.fc2.bias"]
        row = norm(row, "transformer.norm")
        out.append(row[0] if cls else row[1:].mean(0))
    return np.stack(out)


def make_parts(seed: int, dim: int = 8) -> tuple[Grid, TransformerEncoder]:
    torch.manual_seed(seed)
    tokenizer = Grid(dim)
    encoder = TransformerEncoder(EncoderOptions(dim=dim, depth=1, heads=1), tokenizer.layout)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tokenizer.double(), encoder.double()


@pytest.mark.parametrize("on", ["pool", "cls"])
def test_the_loss_is_that_of_the_paper(on):
    """The squared distance of the features of whole rows, summed over their numbers and averaged over the batch."""
    (tokenizer, encoder), (taught, teacher) = make_parts(0), make_parts(1)
    x = torch.randn(5, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tokens: Tokens = tokenizer({"x": x})
    loss = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    outcome = Distillation(taught, teacher, 0.5, on)(Outcome(loss, {"a": loss}), {"x": x}, tokens, encoder)
    student = reference(encoder, tokenizer, x.numpy(), on == "cls")
    expected = ((student - reference(teacher, taught, x.numpy(), on == "cls")) ** 2).sum(1).mean()
    assert float(outcome.metrics["distill_loss"]) == pytest.approx(expected, abs=1e-10)
    assert outcome.loss.item() == pytest.approx(0.7 + 0.5 * expected, abs=1e-10)
    assert float(outcome.metrics["objective_loss"]) == 0.7
    assert "a" in outcome.metrics
    outcome.loss.backward()
    assert all(parameter.grad is not None for parameter in tokenizer.parameters())
    assert all(parameter.grad is None for part in (taught, teacher) for parameter in part.parameters())


def test_the_teacher_does_not_change_and_draws_the_student(base, tmp_path, kit):
    """The paper's procedure: a teacher from the weights, then a student from the same weights."""
    run, x, _ = base
    teacher, _ = kit.go_on(base, tmp_path / "teacher", steps=6, set={"train.lr": 1e-2})
    plain, _ = kit.go_on(base, tmp_path / "plain", steps=6, seed=1, set={"train.lr": 1e-2})
    options = {"init.distill": str(teacher.folder), "init.distill_weight": 30.0, "train.lr": 1e-2}
    student, said = kit.go_on(base, tmp_path / "student", steps=6, seed=1, set=options)
    assert f"distill    towards the features of {teacher.folder}" in said
    assert "did not start from the weights" not in said
    held = student.learner.distillation
    for name, value in teacher.encoder.state_dict().items():
        part, _, rest = name.partition(".")
        assert torch.equal(dict(getattr(held, part).state_dict())[rest], value), name
    target = teacher.encoder.embed(x)

    def distance(one) -> float:
        return float(((one.encoder.embed(x) - target) ** 2).sum(1).mean())

    assert distance(student) < 0.7 * distance(plain)
    losses = [line for line in student.log.lines if "train/loss" in line]
    for line in losses:
        whole = line["train/objective_loss"] + 30 * line["train/distill_loss"]
        assert line["train/loss"] == pytest.approx(whole, rel=1e-4)
    assert set(student.encoder.state_dict()) == set(run.encoder.state_dict()), "the teacher is no part of the encoder"


def test_a_resume_needs_neither_source_nor_teacher(base, tmp_path, kit, monkeypatch):
    run, _, _ = base
    source, teacher = tmp_path / "source", tmp_path / "teacher"
    shutil.copytree(run.folder, source)
    shutil.copytree(run.folder, teacher)
    options = {"steps": 4, "set": {"init.distill": str(teacher), "train.checkpoint_every": 2}, "init_from": source}
    start = (run, *base[1:])

    def begin(out, **more):
        x, y = start[1:]
        values = {**options, **more, "set": {**kit.FAST, **options["set"]}}
        return sslx.pretrain(x, y=y, modality="time-series", out=out, batch_size=8, preset="none", **values)

    whole = begin(tmp_path / "whole")
    begin(tmp_path / "part", steps=2, overwrite=True)
    shutil.rmtree(source)
    shutil.rmtree(teacher)
    again = begin(tmp_path / "part", resume=True)
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, again.learner.state_dict()[name]), name
    assert sslx.load(tmp_path / "part").embed(base[1]).shape == (40, 16)


def test_a_teacher_that_does_not_fit_is_named(base, tmp_path, kit):
    run, x, y = base
    with pytest.raises(ConfigError, match="name them by --init-from"):
        sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "a", steps=1,
                      set={**kit.SMALL, "init.distill": str(run.folder)}, **kit.CHOICE)  # fmt: skip
    other, _ = kit.go_on(base, tmp_path / "b", steps=1, set={"tokenizer.patch": 4, "init.tokenizer": "fresh"})
    with pytest.raises(ConfigError, match="trained with tokenizer.patch=4, and this run has none"):
        kit.go_on(base, tmp_path / "c", set={"init.distill": str(other.folder)})
    options = {"out": tmp_path / "d", "steps": 1, "seed": 5, "set": kit.SMALL, **kit.CHOICE}
    stranger = sslx.pretrain(x, y=y, modality="time-series", **options)
    _, said = kit.go_on(base, tmp_path / "e", set={"init.distill": str(stranger.folder)})
    assert "did not start from the weights of init.source, as Lee et al. have it" in said
