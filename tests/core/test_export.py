"""Export of an encoder: programs that need no sslx, Hugging Face folders, and refusals in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

import sslx
from ssl_core import ConfigError, SslxError, plugins
from ssl_core.config.resolve import resolve
from ssl_core.runs.build import build_learner
from ssl_core.runs.encoder import PretrainedEncoder, Provenance
from ssl_core.runs.export import export as exporting
from ssl_core.runs.export import program, vit
from ssl_core.runs.export.card import model_card

SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip
CHOICE = {"objective": "mae", "steps": 1, "batch_size": 8, "preset": "none"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def images(place):
    """An encoder of images and its samples."""
    x = np.random.default_rng(0).integers(0, 255, (24, 3, 12, 16), dtype=np.uint8)
    y = np.arange(24) % 2
    options = {"encoder.pool": "all", "encoder.qkv_bias": True}
    run = sslx.pretrain(x, y=y, modality="image", out=place / "images", set=SMALL | options, **CHOICE)
    return run.encoder, x


def untrained(modality, **options):
    """An encoder with initial weights."""
    catalogue = plugins.load()
    small = {"encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2, "preset": "none"}
    data = {"dataset.n_train": 16, "dataset.n_test": 8}
    values = {"modality": modality, "objective.name": "mae", **small, **data, **options}
    config, classes, *_ = resolve(catalogue, values, None)
    fields = classes.dataset(classes.dataset.Options(**config.dataset.options), "train").fields
    learner = build_learner(config, classes, fields)
    return PretrainedEncoder(
        learner.tokenizer, learner.encoder, fields, config, Provenance(Path("x"), 0, {}, {})
    ).eval()


# --- programs --------------------------------------------------------------------------------------------------------


def test_a_program_runs_where_sslx_is_not_installed(images, tmp_path):
    encoder, x = images
    done = encoder.export("torch", tmp_path / "out")
    assert done.files == ("encoder.pt2", "preprocessing.json")
    assert done.max_difference == 0
    np.save(tmp_path / "x.npy", encoder.preprocess(x[:7])["image"].numpy())
    np.save(tmp_path / "z.npy", encoder.embed(x[:7]))
    code = (
        "import sys, numpy, torch\n"
        "program = torch.export.load('out/encoder.pt2').module()\n"
        "with torch.no_grad(): z = program({'image': torch.from_numpy(numpy.load('x.npy'))})['features']\n"
        "assert abs(z.numpy() - numpy.load('z.npy')).max() < 1e-5\n"
        "assert not any(name.startswith(('ssl_core', 'ssl_plugins', 'sslx')) for name in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)


def test_a_traced_encoder_has_none_of_our_operators_and_takes_what_it_reads():
    encoder = untrained("genomics")  # fixed length: the number of letters is not needed
    encoder.inputs = {
        "sequence": program.InputSpec("uint8", (encoder.tokenizer.layout.length,), 0, 3),
        "letters": program.InputSpec("int32", (), 1, 64),
    }
    traced = program.trace(encoder, layers=(1,))
    assert traced.unused == ("letters",)
    assert list(traced.inputs) == ["sequence"]
    assert {str(node.target) for node in traced.exported.graph.nodes if "sslx" in str(node.target)} == set()
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_samples_of_the_caller_replace_a_description_of_the_inputs(tmp_path):
    encoder = untrained("time-series")
    with pytest.raises(ConfigError, match=r"does not know the form of its inputs; .*example=x\)"):
        encoder.export("torch", tmp_path / "out")
    x = np.random.default_rng(0).standard_normal((3, 4, 320)).astype(np.float32)
    assert encoder.train().export("torch", tmp_path / "out", example=x).max_difference == 0
    assert encoder.training
    about = json.loads((tmp_path / "out" / "preprocessing.json").read_text(encoding="utf-8"))
    assert about["checked"]["samples"] == [1, 3, 2]
    assert about["checked"]["data"] == "given samples"
    assert about["inputs"]["series"]["shape"] == ["batch", 4, 320]
    assert about["outputs"] == {
        "features": {"dtype": "float32", "shape": ["batch", 16], "words": "one feature vector for each sample"}
    }


def test_a_program_that_differs_is_not_written(images, tmp_path, monkeypatch):
    def wrong(path):
        run = run_torch(path)
        return lambda batch: {name: value + 1e-3 for name, value in run(batch).items()}

    run_torch = program.run_torch
    monkeypatch.setattr(exporting.program, "run_torch", wrong)
    with pytest.raises(SslxError, match=r"encoder.pt2 is not the encoder: 'features' of 1 samples differs by 0.001"):
        images[0].export("torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_cannot_be_traced_is_refused_in_one_line(images, tmp_path, monkeypatch):
    cls = type(images[0].tokenizer)
    forward = cls.forward

    def reads_a_number(self, inputs):
        return forward(self, inputs if inputs["image"].float().mean().item() > 1 else dict(inputs))

    monkeypatch.setattr(cls, "forward", reads_a_number)
    with pytest.raises(ConfigError, match=r"tokenizer 'image' with encoder 'transformer' cannot be exported") as error:
        images[0].export("torch", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_onnx_example_of_the_page_runs(place, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(place)
    sizes = {"dataset.n_train": 16, "dataset.n_test": 8}
    sslx.pretrain(modality="image", out="runs/a", set=SMALL | sizes, **CHOICE)
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (example,) = [code for code in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "onnxruntime" in code]
    exec(example, {})


@pytest.mark.parametrize("readout", ["layers", "layers+stats"])
def test_a_program_has_the_features_of_a_read_out(images, tmp_path, readout):
    encoder, x = images[0], np.random.default_rng(0).random((4, 3, 16, 16), np.float32)
    export = encoder.export("torch", tmp_path / "out", readout=readout)
    assert export.max_difference < 1e-5
    with torch.no_grad():
        inputs = encoder.preprocess(x)
        found = torch.export.load(tmp_path / "out" / "encoder.pt2").module()(inputs)["features"].numpy()
    expected = encoder.embed(x, readout=readout)
    assert expected.shape[1] > encoder.dim
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_bad_requests_get_one_line(images, tmp_path, monkeypatch):
    encoder = images[0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    cases = [
        (("onx", "out"), {}, "unknown format 'onx'; did you mean 'onnx'?"),
        (("hf", "out"), {"per_token": True}, "per_token is for the formats torch and onnx"),
        (("safetensors", "out"), {"layers": [1]}, "layers is for the formats torch and onnx"),
        (("onnx", "encoder.onnx"), {}, "encoder.onnx is to be a folder with several files; name it without .onnx"),
        (("torch", "full"), {}, "full is not empty; name another folder, or overwrite it"),
        (("torch", "full"), {"overwrite": True}, "full holds mine.txt, so it is not overwritten"),
        (("hf", "full"), {"overwrite": True}, "full holds mine.txt, so it is not overwritten"),
        (("torch", "full/mine.txt/a"), {}, "cannot write .*a: Not a directory"),
        (("hf", "out"), {"readout": "layers"}, "readout is for the formats torch and onnx"),
        (("torch", "out"), {"readout": "layer"}, "unknown read-out 'layer'; use one of last"),
        (("torch", "out"), {"readout": "layers", "layers": [1]}, "give layers=.* or readout=layers, not both"),
        (("torch", "out"), {"readout": "layers", "per_token": True}, "per_token and readout=layers are for two"),
        (("torch", "out"), {"layers": [9]}, r"layers=\(9,\): the encoder has layers 1 to 2"),
    ]
    for (form, folder), options, message in cases:
        with pytest.raises(ConfigError, match=message):
            encoder.export(form, tmp_path / folder, **options)
    for library, form, extra in (("onnxscript", "onnx", "onnx"), ("transformers", "hf", "hf")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(ConfigError, match=rf"library {library}: pip install 'sslx\[{extra}\]'"):
                encoder.export(form, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub_folder(images, place):
    pytest.importorskip("transformers")
    done = images[0].export("hf", place / "hf")
    assert done.max_difference < 1e-5
    assert done.notes[0] == "AutoModel.from_pretrained opens it"
    return place / "hf"


def test_the_lines_of_the_card_give_the_features_of_the_encoder(images, hub_folder):
    encoder, x = images
    card = (hub_folder / "README.md").read_text(encoding="utf-8")
    ours, theirs = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {"FOLDER": str(hub_folder), "x": x}
    exec(ours, names)
    np.testing.assert_array_equal(names["features"], encoder.embed(x))
    names["x"] = encoder.preprocess(x)["image"]
    with torch.no_grad():
        exec(theirs, names)
    np.testing.assert_allclose(names["features"].numpy(), encoder.embed(x), rtol=0, atol=1e-5)


def test_transformers_finds_all_weights_and_no_other(hub_folder):
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(hub_folder, trust_remote_code=False, output_loading_info=True)
    assert type(model).__name__ == "ViTModel"
    assert {name: len(found) for name, found in report.items() if len(found)} == {}
    pixels = torch.zeros(1, 3, 12, 16)
    with torch.no_grad():
        output = model.eval()(pixels)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


def test_the_card_is_one_of_the_hub_and_holds_the_scores(images, hub_folder):
    hub = pytest.importorskip("huggingface_hub")
    text = (hub_folder / "README.md").read_text(encoding="utf-8")
    data = hub.ModelCard(text).data
    assert data.license == "TODO"
    assert data.library_name == "transformers"
    assert {"self-supervised-learning", "mae", "image", "vit"} <= set(data.tags)
    scores = {score["features"]: score["value"] for score in images[0].provenance.evaluation["scores"]}
    assert set(scores) == {"trained", "random_init", "raw_input"}
    row = next(line for line in text.splitlines() if line.startswith("| image/memory") and "| knn |" in line)
    knn = [score for score in images[0].provenance.evaluation["scores"] if score["probe"] == "knn"]
    for score in knn:
        assert f"{score['value']:.3f}" in row
    assert "arrays of the author's own" in text
    assert str(hub_folder.parent) not in text


def test_words_of_the_user_are_no_markup():
    encoder = untrained("image")
    encoder.provenance = Provenance(Path("x"), 1, {"a|b": "<b>1</b>"}, {})
    text = model_card(encoder, "it is <i>no</i> image")
    assert r"a\|b \<b\>1\</b\>" in text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder.positions": "learned", "encoder.pool": "cls", "encoder.act": "gelu_tanh", "tokenizer.patch": (4, 2)},
    ],
)
def test_vit_weights_go_there_and_back(options):
    encoder = untrained("image", **options)
    assert vit.why_no_vit(encoder) is None
    state = encoder.state_dict()
    constants = {name: state[name] for name in vit.CONSTANTS}
    back = vit.from_vit(vit.to_vit(encoder), constants, learned="encoder.positions" in options)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("modality", "options", "why"),
    [
        ("image", {"encoder.final_norm": False}, "no LayerNorm after the last block"),
        ("image", {"encoder.layer_scale": 0.1}, "LayerScale"),
        ("image", {"encoder.head_dim": 4}, "heads are wider or narrower"),
        ("speech", {}, "no image that is cut into patches"),
        ("time-series", {}, "no image that is cut into patches"),
        ("image-text", {}, "no image that is cut into patches"),
    ],
)
def test_what_is_no_vit_is_not_made_one(modality, options, why):
    encoder = untrained(modality, **options)
    reason = vit.why_no_vit(encoder)
    assert why in reason
    assert f"because {reason}" in model_card(encoder, reason).replace("\\", "")


def test_another_encoder_is_opened_by_the_loader_only(place, tmp_path):
    x = np.random.default_rng(0).standard_normal((24, 2, 32)).astype(np.float32)
    encoder = sslx.pretrain(x, modality="time-series", out=place / "series", set=SMALL, **CHOICE).encoder
    done = encoder.export("hf", tmp_path / "hf")
    assert done.max_difference is None
    assert np.array_equal(sslx.load(tmp_path / "hf").embed(x), encoder.embed(x))
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["hidden_size"]) == ("sslx", 16)
    assert "tokenizer.mean" in load_file(tmp_path / "hf" / "model.safetensors")
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert "`AutoModel` cannot open this folder" in card
    assert "The features were not evaluated." in card


def test_a_damaged_vit_folder_gets_one_line(hub_folder, tmp_path):
    import shutil

    for name, message in (("constants.safetensors", "constants.safetensors is missing"), ("model", "lacks '")):
        folder = tmp_path / name
        shutil.copytree(hub_folder, folder)
        if name == "model":
            (folder / "constants.safetensors").replace(folder / "model.safetensors")
            shutil.copy(hub_folder / "constants.safetensors", folder)
        else:
            (folder / name).unlink()
        with pytest.raises(SslxError, match=message):
            sslx.load(folder)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vocab.txt", "text-tokenizer.json", "Text-Tokenizer.json"])
def test_the_vocabulary_of_the_user_and_the_described_one_are_two_files(place, tmp_path, name):
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green"])}
    own = tmp_path / name
    if own.suffix == ".txt":
        own.write_text("\n".join(words))
    else:
        backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.save(str(own))
    encoder = untrained("text", **{"tokenizer.file": str(own), "tokenizer.length": 8})
    encoder.export("hf", tmp_path / "hub")
    loaded = sslx.load(tmp_path / "hub")
    assert Path(loaded.config.tokenizer.options["file"]).read_bytes() == own.read_bytes()
    described = json.loads((tmp_path / "hub" / "preprocessing.json").read_text())["steps"][0]["file"]
    by_file = tokenizers.Tokenizer.from_file(str(tmp_path / "hub" / described)).encode("green red").ids
    assert by_file == loaded.preprocess(["green red"])["text"][0].tolist()
    again = loaded.save(tmp_path / "again")
    np.testing.assert_allclose(sslx.load(again).embed(["green red"]), encoder.embed(["green red"]), atol=1e-6)
