"""A saved encoder: written whole or not at all, loaded without run, data and objective, refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sslx
from ssl_core import ConfigError
from ssl_core.errors import CheckpointError, SslxError
from ssl_core.utils import files

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip
CHOICE = {"objective": "mae", "steps": 1, "batch_size": 8, "preset": "none"}
TEXTS = [f"the {one} fox jumps over {other} dogs" for one in ("quick", "brown", "lazy") for other in ("two", "ten")] * 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def series(place):
    """An encoder of series and its samples."""
    x = np.random.default_rng(0).normal(3, 2, (24, 2, 32)).astype(np.float32)
    return sslx.pretrain(x, modality="time-series", out=place / "series", set=SMALL, **CHOICE).encoder, x


@pytest.fixture(scope="module")
def text(place):
    """An encoder of text whose vocabulary is a file, and its samples."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in TEXTS for word in text.split()})]
    path = place / "words" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("\n".join(vocabulary), encoding="utf-8")
    options = {**SMALL, "tokenizer.file": str(path), "tokenizer.length": 12}
    return sslx.pretrain(TEXTS, modality="text", out=place / "text", set=options, **CHOICE).encoder, TEXTS


@pytest.mark.parametrize("kind", ["series", "text"])
def test_features_are_the_same_to_the_bit_after_saving(kind, request, tmp_path):
    encoder, x = request.getfixturevalue(kind)
    assert encoder.save(tmp_path / "a") == tmp_path / "a"
    loaded = sslx.load(tmp_path / "a")
    assert np.array_equal(loaded.embed(x), encoder.embed(x))
    assert not loaded.training
    assert (loaded.fields, loaded.schema) == (encoder.fields, encoder.schema)
    assert loaded.stats == json.loads(json.dumps(encoder.stats))
    assert loaded.inputs == encoder.inputs == sslx.load(encoder.provenance.folder).inputs
    assert loaded.provenance.steps == 1
    assert loaded.provenance.evaluation["precision"] == "fp32"
    assert loaded.provenance.evaluation == sslx.load(encoder.provenance.folder).provenance.evaluation
    assert loaded.config.model_copy(update={"tokenizer": encoder.config.tokenizer, "dataset": None}) == (
        encoder.config.model_copy(update={"dataset": None})
    )
    loaded.save(tmp_path / "b")
    assert np.array_equal(sslx.load(tmp_path / "b").embed(x), encoder.embed(x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_vocabulary_trained_on_the_data_is_saved(place, tmp_path):
    options = {**SMALL, "tokenizer.length": 12, "tokenizer.vocab_size": 60}
    encoder = sslx.pretrain(TEXTS, modality="text", out=place / "trained", set=options, **CHOICE).encoder
    encoder.save(tmp_path / "a")
    assert np.array_equal(sslx.load(tmp_path / "a").embed(TEXTS), encoder.embed(TEXTS))


@pytest.mark.slow
def test_a_fresh_process_needs_neither_run_nor_data_nor_objective_nor_vocabulary_file(text, place, tmp_path):
    encoder, x = text
    encoder.save(tmp_path / "a")
    np.save(tmp_path / "expected.npy", encoder.embed(x))
    (tmp_path / "x.json").write_text(json.dumps(x), encoding="utf-8")
    for folder in ("words", "text"):
        (place / folder).rename(place / f"{folder}-hidden")
    code = (
        "import json, numpy, sslx\n"
        "z = sslx.load('a').embed(json.load(open('x.json')))\n"
        "assert numpy.array_equal(z, numpy.load('expected.npy')), 'differs'"
    )
    paths = [str(ROOT), str(ROOT / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "SSLX_BLOCK": "sslx:objectives.mae", "SSLX_CACHE_DIR": str(tmp_path / "none"),
        "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",  # as many as here: the bits depend on it
    }  # fmt: skip
    try:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=600)
    finally:
        for folder in ("words", "text"):
            (place / f"{folder}-hidden").rename(place / folder)


def test_no_pickle_and_no_path_of_this_machine(text, tmp_path):
    encoder, _ = text
    encoder.save(tmp_path / "a")
    names = sorted(path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*.*"))
    assert names == ["files/vocab.txt", "model.safetensors", "sslx.json"]
    assert os.fspath(Path(encoder.config.tokenizer.options["file"]).parent.parent) not in (
        tmp_path / "a" / "sslx.json"
    ).read_text(encoding="utf-8")
    umask = os.umask(0)
    os.umask(umask)
    if os.name != "nt":
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~umask
        assert (tmp_path / "a" / "sslx.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_saving_in_another_precision_or_mode_changes_nothing(series, tmp_path):
    encoder, x = series
    expected = encoder.embed(x)
    state = torch.random.get_rng_state()
    encoder.train()
    encoder.save(tmp_path / "a")
    assert encoder.training
    encoder.eval()
    assert np.array_equal(sslx.load(tmp_path / "a").embed(x), expected)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_a_saved_encoder_is_overwritten(series, tmp_path):
    encoder, x = series
    encoder.save(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"a is not empty; name another folder, or overwrite it \(--overwrite"):
        encoder.save(tmp_path / "a")
    (tmp_path / "a" / "sslx.json").write_text("damaged", encoding="utf-8")
    encoder.save(tmp_path / "a", overwrite=True)
    assert np.array_equal(sslx.load(tmp_path / "a").embed(x), encoder.embed(x))
    (tmp_path / "a" / "features.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a holds features.csv, so it is not overwritten; name another folder"):
        encoder.save(tmp_path / "a", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other holds notes.txt, so it is not overwritten"):
        encoder.save(tmp_path / "other", overwrite=True)
    with pytest.raises(ConfigError, match=r"notes.txt is a file; name a folder"):
        encoder.save(tmp_path / "other" / "notes.txt")
    with pytest.raises(ConfigError, match=r"cannot write .*notes.txt/a: "):
        encoder.save(tmp_path / "other" / "notes.txt" / "a")
    (tmp_path / "empty").mkdir()
    encoder.save(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "other"]


def test_a_failed_save_leaves_what_was_there(series, tmp_path, monkeypatch):
    encoder, _ = series
    encoder.save(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssl_core.runs.saved.write_json", full)
    for folder in ("a", "b"):
        with pytest.raises(ConfigError, match=rf"cannot write .*{folder}: No space left on device; free space"):
            encoder.save(tmp_path / folder, overwrite=True)
    monkeypatch.undo()
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", second_fails)
    with pytest.raises(ConfigError, match="Input/output error"):
        encoder.save(tmp_path / "a", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _edit(**changes):
    def edit(folder):
        entries = json.loads((folder / "sslx.json").read_text(encoding="utf-8"))
        for name, value in changes.items():
            part, _, key = name.partition("__")
            if value is None:
                del entries[part]
            elif key:
                entries[part][key] = value
            else:
                entries[part] = value
        (folder / "sslx.json").write_text(json.dumps(entries), encoding="utf-8")

    return edit


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _flip(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": (_flip, r"model.safetensors is damaged \(it is not as it was written\); save the encoder anew"),
    "cut weights": (_cut, r"model.safetensors is damaged \(.*\); save the encoder anew"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing; save"),
    "cut entries": (
        lambda folder: (folder / "sslx.json").write_text('{"format": 1,', encoding="utf-8"), "sslx.json is damaged",
    ),
    "list": (lambda folder: (folder / "sslx.json").write_text("[1]", encoding="utf-8"), "sslx.json is damaged"),
    "later format": (_edit(format=7), "has format 7, this sslx reads 1; use the sslx that saved it"),
    "another kind": (_edit(kind="predictor"), "holds a saved predictor, not a saved encoder"),
    "no fields": (_edit(fields=None), r"sslx.json cannot be read \(KeyError: 'fields'\); save the encoder anew"),
    "unknown option": (_edit(config__colour=1), r"sslx.json cannot be read \(ValidationError: "),
    "other width": (_edit(fields__series={"kind": "continuous", "shape": [3, 32]}), "model.safetensors does not fit"),
    "other plugin": (
        _edit(config__tokenizer={"name": "smell"}, provenance__origins={"tokenizers": {"smell": "nose:smell 1.2"}}),
        r"trained with tokenizer 'smell' of nose:smell 1.2, which is not installed; pip install nose==1.2",
    ),
    "not saved by sslx": (
        lambda folder: (folder / "sslx.json").rename(folder / "config.json"), "config.json is of another program",
    ),
    "empty": (lambda folder: (folder / "sslx.json").unlink(), "is not a run folder: it has no config.json"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_folder_gets_one_line(damage, series, tmp_path):
    series[0].save(tmp_path / "a")
    harm, message = DAMAGE[damage]
    harm(tmp_path / "a")
    with pytest.raises(SslxError, match=message) as error:
        sslx.load(tmp_path / "a")
    assert "\n" not in str(error.value)
    assert isinstance(error.value, CheckpointError | ConfigError)


def test_a_vocabulary_file_that_is_gone_is_named(text, place, tmp_path):
    encoder, _ = text
    hidden = shutil.move(place / "words", place / "words-hidden")
    try:
        with pytest.raises(ConfigError, match=r"tokenizer.file .*vocab.txt does not exist; put it back"):
            encoder.save(tmp_path / "a")
    finally:
        shutil.move(hidden, place / "words")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_in_the_file_by_name(series, tmp_path):
    encoder, _ = series
    encoder.save(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert tensors.keys() == encoder.state_dict().keys()
    assert {"tokenizer.mean", "tokenizer.std", "encoder.cls_token"} <= tensors.keys()


def test_a_saved_encoder_names_no_folder_of_its_source(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    small = {"encoder": {"dim": 16, "depth": 1, "heads": 2}, "dataset.n_train": 20, "dataset.n_test": 10}
    options = {"modality": "tabular", "objective": "mae", "steps": 1, "preset": "none", "set": small}
    first = sslx.pretrain(out=tmp_path / "first", **options)
    second = sslx.pretrain(out=tmp_path / "second", init_from=first, **options)
    second.encoder.save(tmp_path / "saved")
    text = (tmp_path / "saved" / "sslx.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["config"]["init"]["source"] == "first"
