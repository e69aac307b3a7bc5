"""Runs that start from a ViT of timm or transformers: equal features, and a line for what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import sslx
from ssl_core import plugins
from ssl_core.errors import CheckpointError, ConfigError
from ssl_core.runs.encoder import EMBED_BATCH
from ssl_core.runs.init_source import read_source

TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter random values: fresh biases are zero, and a mistake in them would not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def normalised(x: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.from_numpy(x) / 255 - mean) / std


def all_tokens(source, x: np.ndarray) -> torch.Tensor:
    """The encoder's output, cls token first, for images prepared as the source's tokenizer does."""
    inputs = torch.from_numpy(np.stack([source.tokenizer.preprocess({"image": one})["image"] for one in x]))
    with torch.no_grad():
        tokens = source.tokenizer({"image": inputs})
        return source.encoder(tokens.embeddings, geometry=tokens.geometry)


def timm_folder(path: Path, model: torch.nn.Module, **about) -> Path:
    """A folder as `timm.models.push_to_hf_hub` and `save_for_hf` write it."""
    path.mkdir()
    save_file(model.state_dict(), path / "model.safetensors")
    cfg = {"mean": MEAN, "std": STD, "input_size": (3, 32, 32)}
    args = {key: value for key, value in TIMM.items() if key != "num_classes"}
    entries = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "pretrained_cfg": cfg, "model_args": args}
    (path / "config.json").write_text(json.dumps(entries | about))
    return path


def transformers_folder(path: Path) -> tuple[Path, torch.nn.Module]:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
        attn_implementation="eager",
    )  # fmt: skip
    model = randomise(transformers.ViTModel(config, add_pooling_layer=True))
    model.save_pretrained(path)
    entries = {"image_mean": MEAN, "image_std": STD, "do_normalize": True}
    (path / "preprocessor_config.json").write_text(json.dumps(entries))
    return path, model


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"init_values": 0.3},
        {"qkv_bias": False},
        {"no_embed_class": True},
        {"mlp_ratio": 2.5},
        {"global_pool": "avg", "fc_norm": True},
    ],
)
def test_the_features_of_timms_model_are_met(tmp_path, form):
    model = randomise(VisionTransformer(**TIMM, **form))
    source = read_source(timm_folder(tmp_path / "vit", model, model_args={**TIMM, **form}), plugins.load())
    x = images()
    with torch.no_grad():
        expected = model.forward_features(normalised(x))
    assert torch.allclose(all_tokens(source, x), expected, atol=1e-5)
    assert source.encoder_part.options["heads"] == 4


@pytest.mark.parametrize("form", ["safetensors", "pth", "container"])
def test_a_file_of_weights_alone_is_enough(tmp_path, form):
    """Its heads are assumed to be 64 wide, and set by an option otherwise; the constants are measured."""
    model = randomise(VisionTransformer(**TIMM))
    path = tmp_path / ("vit.safetensors" if form == "safetensors" else "vit.pth")
    state = model.state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 3} if form == "container" else state, path)
    source = read_source(path, plugins.load())
    assert source.encoder_part.options["heads"] == 1
    assert not source.has_constants
    options = {"train.compile": "off", "encoder.heads": 4, "evaluate.probes": ("linear",)}
    new = sslx.pretrain(images(16), init_from=path, objective="mae", out=tmp_path / "run", steps=1, batch_size=8,
                        preset="none", set=options)  # fmt: skip
    assert new.config.encoder.options["heads"] == 4
    assert new.init.kind == "timm"
    assert new.learner.tokenizer.mean.tolist() == pytest.approx([0.5] * 3, abs=0.05)
    assert any("heads" in line for line in new.init.lines)


def test_a_run_from_timms_model_starts_with_its_features(tmp_path):
    model = randomise(VisionTransformer(**TIMM))
    folder = timm_folder(tmp_path / "vit", model)
    x = images(16)
    options = {"train.compile": "off", "train.precision": "fp32", "evaluate.probes": ("linear",)}
    new = sslx.pretrain(x, init_from=folder, objective="mae", out=tmp_path / "run", steps=0, preset="none", set=options)
    with torch.no_grad():
        expected = model.forward_features(normalised(x))[:, 0]
    assert np.allclose(new.encoder.embed(x, batch_size=EMBED_BATCH), expected.numpy(), atol=1e-5)
    assert new.config.encoder.options["pool"] == "cls", "as timm pools"
    assert new.learner.tokenizer.mean.tolist() == pytest.approx(MEAN)
    assert new.init.trained_on == ""
    small = sslx.pretrain(images(16), init_from=folder, objective="mae", out=tmp_path / "small", steps=1, preset="none",
                          set={**options, "tokenizer.size": 16})  # fmt: skip
    assert small.learner.encoder.positions.table.shape == (1 + 4, 32)


def test_the_features_of_transformers_model_are_met(tmp_path):
    folder, model = transformers_folder(tmp_path / "vit")
    source = read_source(folder, plugins.load())
    x = images()
    with torch.no_grad():
        expected = model(normalised(x)).last_hidden_state
    assert torch.allclose(all_tokens(source, x), expected, atol=1e-5)
    assert source.kind == "transformers"
    assert source.encoder_part.options["norm_eps"] == 1e-12
    torch.save(model.state_dict(), tmp_path / "vit.pth")  # in the names of version 5
    again = read_source(tmp_path / "vit.pth", plugins.load())
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name], value), name


def test_weights_below_a_classifier_or_an_autoencoder_are_found(tmp_path):
    model = randomise(VisionTransformer(**TIMM))
    state = model.state_dict()
    expected = read_source(timm_folder(tmp_path / "vit", model), plugins.load()).digest
    extra = {"mask_token": torch.zeros(1, 1, 32), "decoder_embed.weight": torch.zeros(8, 32)}
    folder = timm_folder(tmp_path / "mae", model)
    save_file({**{f"module.{name}": value for name, value in state.items()}}, folder / "model.safetensors")
    assert read_source(folder, plugins.load()).digest == expected
    save_file({**state, **extra}, folder / "model.safetensors")
    assert read_source(folder, plugins.load()).digest == expected


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ({"reg_tokens": 2}, "register tokens"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"pre_norm": True}, "a norm before the first block"),
        ({"class_token": False, "global_pool": "avg"}, "has no 'cls_token'"),
    ],
)
def test_what_is_no_plain_vit_is_refused(tmp_path, form, what):
    path = tmp_path / "vit.safetensors"
    save_file(VisionTransformer(**TIMM, **form).state_dict(), path)
    with pytest.raises(CheckpointError, match=what):
        read_source(path, plugins.load())


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return os.mkdir, ("evil",)


def test_a_pickle_with_other_objects_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "vit.pth")
    with pytest.raises(CheckpointError, match="other objects than tensors, which are not read"):
        read_source(tmp_path / "vit.pth", plugins.load())
    assert not (tmp_path / "evil").exists()


def test_a_configuration_cannot_make_timm_fetch_or_unpickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = randomise(VisionTransformer(**TIMM))
    with pytest.raises(CheckpointError, match="'hf-hub:a/b' cannot be used"):
        read_source(timm_folder(tmp_path / "hub", model, architecture="hf-hub:a/b"), plugins.load())
    torch.save({"model": Evil()}, "evil.pth")
    args = {**{key: value for key, value in TIMM.items() if key != "num_classes"}, "checkpoint_path": "evil.pth"}
    read_source(timm_folder(tmp_path / "vit", model, model_args=args), plugins.load())
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("damage", ["cut", "other model", "no weights"])
def test_damaged_and_other_models_are_one_line(tmp_path, damage):
    model = randomise(VisionTransformer(**TIMM))
    folder = timm_folder(tmp_path / "vit", model)
    file = folder / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:2000])
    elif damage == "no weights":
        file.unlink()
    else:
        (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError) as caught:
        read_source(folder, plugins.load())
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_options_that_do_not_fit_name_their_cure(tmp_path):
    folder = timm_folder(tmp_path / "vit", randomise(VisionTransformer(**TIMM)))
    made = {"init_from": folder, "objective": "mae", "out": tmp_path / "run", "steps": 0}
    for option, value, cure in (
        ("encoder.depth", 3, "set encoder.depth=2"),
        ("encoder.heads", 2, "set encoder.heads=4"),
        ("tokenizer.patch", 4, "set tokenizer.patch=8"),
        ("encoder.positions", "sincos", "set encoder.positions=learned"),
    ):
        with pytest.raises(ConfigError, match=cure):
            sslx.pretrain(images(16), set={option: value}, **made)
