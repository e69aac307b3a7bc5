"""Every kind of tokenizer: the same rows have the same features by `sslx embed`, from Python, from a saved folder, from
a torch.export program and from ONNX."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner

import sslx
from ssl_core import plugins
from ssl_core.cli.app import app
from ssl_core.runs.embed import EmbedRequest, open_files

SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip
CHOICE = {"objective": "mae", "steps": 1, "batch_size": 8, "preset": "none"}
COUNT = 20
QUICK = ("image", "text", "image-text")
"""One grid, one vocabulary, one joint row; the others take minutes in all, for the time of torch.onnx.export."""
WORDS = ("red", "green", "blue", "tree", "house", "über", "café", "runs", "sleeps", "on", "the", "a")


def sentences(random, longest):
    return [" ".join(random.choice(WORDS, random.integers(1, longest))) for _ in range(COUNT)]


def images(folder, random):
    for number in range(COUNT):
        height, width = random.integers(12, 20, 2)
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder, {"tokenizer.size": 16}


def scans(folder, random):
    np.savez(folder / "scans.npz", images=random.integers(0, 4000, (COUNT, 18, 16), dtype=np.uint16))
    return folder / "scans.npz", {"tokenizer.window": (1, 99), "tokenizer.size": 16}


def bands(folder, random):
    np.savez(folder / "bands.npz", images=random.gamma(2, 900, (COUNT, 16, 16, 5)).astype(np.float32))
    return folder / "bands.npz", {"tokenizer.bands": (4, 0, 2), "tokenizer.log": True}


def wafers(folder, random):
    for number in range(COUNT):
        np.save(folder / f"{number:02d}.npy", random.integers(0, 3, tuple(random.integers(20, 40, 2)), dtype=np.uint8))
    return folder, {"tokenizer.size": 16}


def recordings(folder, random):
    for number in range(COUNT):
        samples = 0.2 * random.standard_normal(random.integers(1500, 5000))
        soundfile.write(folder / f"{number:02d}.wav", samples, 8000)
    return folder, {"tokenizer.seconds": 0.5, "tokenizer.frames": 16, "tokenizer.n_mels": 16}


def logs(folder, random):
    for number in range(COUNT):
        x = pd.DataFrame(random.normal(3, 2, (random.integers(20, 60), 2)), columns=["a", "b"])
        x.iloc[3, 1] = np.nan
        x.to_csv(folder / f"{number:02d}.csv", index=False)
    one_a_file = {"dataset.window": 20, "dataset.stride": 60, "dataset.test_fraction": 0}
    return folder, {**one_a_file, "tokenizer.length": 40, "tokenizer.patch": 4}


def table(folder, random):
    x = pd.DataFrame({"size": random.gamma(2, 30, COUNT), "age": random.normal(40, 9, COUNT)})
    x.loc[::4, "age"] = np.nan
    x["color"] = random.choice(["red", "blue", "green"], COUNT)
    x["town"] = random.choice(["Bern", "Graz"], COUNT)
    x.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv", {}


def wide_table(folder, random):
    x = pd.DataFrame(random.normal(5, 3, (COUNT, 20)), columns=[f"gene {number}" for number in range(20)])
    x.iloc[::3, 4:9] = np.nan
    x.iloc[1, :6] = np.nan
    x.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv", {"tokenizer.patch": 3}


def texts(folder, random):
    pd.DataFrame({"text": sentences(random, 12)}).to_csv(folder / "texts.csv", index=False)
    return folder / "texts.csv", {"tokenizer.length": 12, "tokenizer.vocab_size": 60}


def many_languages(folder, random):
    path, _ = texts(folder, random)
    return path, {"tokenizer.length": 16, "tokenizer.vocab_size": 300}


def sequences(letters):
    def write(folder, random):
        rows = ["".join(random.choice(list(letters), random.integers(20, 40))) for _ in range(COUNT)]
        (folder / "x.fasta").write_text("".join(f">{i}\n{row}\n" for i, row in enumerate(rows)), encoding="utf-8")
        return folder / "x.fasta", {"tokenizer.length": 32 if len(letters) > 4 else 20}

    return write


def captions(folder, random):
    images(folder, random)
    rows = [{"image": f"{number:02d}.png", "caption": text} for number, text in enumerate(sentences(random, 8))]
    for row in rows[::5]:
        row["caption"] = ""
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    small = {"tokenizer.size": 16, "tokenizer.length": 8, "tokenizer.vocab_size": 60}
    return folder / "captions.jsonl", {**small, "dataset.empty": "keep"}


KINDS = {
    "image": images, "medical-image": scans, "multispectral": bands, "wafer": wafers, "speech": recordings,
    "time-series": logs, "tabular": table, "text": texts, "multilingual-text": many_languages,
    "tabular patches": wide_table, "genomics": sequences("ACGT"),
    "protein": sequences("ARNDCQEGHILKMFPSTWYV"), "image-text": captions,
}  # fmt: skip


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_every_tokenizer_is_here():
    assert {kind.split()[0] for kind in KINDS} == {entry.name for entry in plugins.load().entries("tokenizer")}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in KINDS])
def test_features_of_the_same_rows_are_equal_everywhere(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path, options = KINDS[kind](tmp_path / "data", np.random.default_rng(0))
    sslx.pretrain(path, modality=kind.split()[0], out=tmp_path / "run", set=SMALL | options, **CHOICE)
    encoder = sslx.load(tmp_path / "run")
    dataset = open_files(encoder, EmbedRequest(os.fspath(path)), plugins.load())[0]
    assert len(dataset) == COUNT
    x = [dataset[index]["inputs"] for index in range(COUNT)]
    expected = encoder.embed(x)
    assert float(expected.std(axis=0).min()) > 1e-3  # the samples differ

    done = CliRunner().invoke(app, ["embed", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "z.npz")])
    assert done.exit_code == 0, done.output
    close(np.load(tmp_path / "z.npz")["features"], expected)

    encoder.save(tmp_path / "saved")
    saved = sslx.load(tmp_path / "saved")
    close(saved.embed(x), expected)

    prepared = saved.preprocess(x)
    valid = encoder.tokenizer.geometry(prepared).valid
    for form in ("torch", "onnx"):
        export = saved.export(form, tmp_path / form, per_token=True)
        assert export.max_difference < 1e-5
        about = json.loads((tmp_path / form / "preprocessing.json").read_text(encoding="utf-8"))
        inputs = {name: prepared[name] for name in about["inputs"]}
        assert {name: entry["dtype"] for name, entry in about["inputs"].items()} == {
            name: value.numpy().dtype.name for name, value in inputs.items()
        }
        if form == "torch":
            with torch.no_grad():
                outputs = torch.export.load(tmp_path / form / "encoder.pt2").module()(inputs)
            outputs = {name: value.numpy() for name, value in outputs.items()}
        else:
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(str(tmp_path / form / "encoder.onnx"))
            names = [one.name for one in session.get_outputs()]
            assert {one.shape[0] for one in session.get_inputs()} == {"batch"}
            fed = {name: value.numpy() for name, value in inputs.items()}
            outputs = dict(zip(names, session.run(names, fed), strict=True))
        close(outputs["features"], expected)
        close(outputs["tokens"], encoder.embed(x, per_token=True))
        assert ("valid" in outputs) == (valid is not None)
        if valid is not None:
            assert np.array_equal(outputs["valid"], valid.numpy())
            assert not valid.all()
