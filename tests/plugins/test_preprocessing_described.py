"""What tokenizers say of their preprocessing is enough to do it without them: rebuilt from the numbers of the words
alone, it gives the same arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image

from ssl_core import Continuous, Discrete, Text, plugins


def resized(plane, step):
    assert step["filter"] == "bilinear"
    return np.asarray(Image.fromarray(plane).resize((step["width"], step["height"]), Image.Resampling.BILINEAR))


def image(x, steps, files):
    """uint16 images of one channel, as bytes."""
    *_, to_bytes, size = steps
    assert to_bytes["dtype"] == "uint8"
    x = np.rint(x.astype(np.float32) / 65535 * 255).astype(np.uint8)
    return {"image": np.repeat(resized(x[0], size)[None], steps[1]["channels"], axis=0)}


def medical(x, steps, files):
    low, high = np.percentile(x.astype(np.float32), steps[0]["percentiles"])
    return {"image": resized(np.clip((x[0].astype(np.float32) - low) / (high - low), 0, 1), steps[-1])[None]}


def bands(x, steps, files):
    planes = [np.log1p(x[band].astype(np.float32)) for band in steps[0]["bands"]]
    assert steps[1]["do"] == "apply log(1 + x)"
    return {"image": np.stack([resized(plane, steps[2]) for plane in planes])}


def wafer(x, steps, files):
    states = np.array(steps[0]["bytes"], np.uint8)[x[0]]
    return {"map": np.repeat(resized(states, steps[1])[None], steps[2]["channels"], axis=0)}


def series(x, steps, files):
    """Longer series at their start, shorter ones filled with their last values."""
    take, _, length = steps[0], steps[1], steps[2]["length"]
    x = x[take["channels"]].astype(np.float32).copy()
    for row in x:
        gap = np.isnan(row)
        row[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), row[~gap])
    filled = np.concatenate([x, np.repeat(x[:, -1:], max(0, length - x.shape[1]), axis=1)], axis=1)[:, :length]
    return {"series": filled, "steps": np.array(min(x.shape[1], length)), "length": np.array(x.shape[1])}


def speech(x, steps, files):
    by = {key: value for step in steps for key, value in step.items() if key != "do"}
    clip = np.zeros(by["samples"], np.float32)
    length = min(x.shape[1], len(clip))
    clip[:length] = x[0, :length]
    pad = by["n_fft"] // 2
    padded = np.pad(clip, pad)
    window = np.zeros(by["n_fft"])
    start = (by["n_fft"] - by["win_length"]) // 2
    ramp = np.arange(by["win_length"]) / by["win_length"]
    window[start : start + by["win_length"]] = 0.5 - 0.5 * np.cos(2 * np.pi * ramp)
    columns = [padded[i * by["hop"] : i * by["hop"] + by["n_fft"]] * window for i in range(by["frames"])]
    magnitude = np.abs(np.fft.rfft(np.stack(columns), axis=1)).T
    mel = np.load(files["mel_filters.npy"]) @ magnitude ** by["power"]
    decibels = 10 * np.log10(np.maximum(mel, by["amin"]))
    decibels = np.maximum(decibels, decibels.max() - by["top_db"]) - decibels.max()
    last = min((length - 1) // by["hop"] + 1, by["frames"])
    return {"spectrogram": decibels[None], "valid_frames": np.array([0, last]), "length": np.array(x.shape[1])}


def letters(x, steps, files):
    end, replace, pad, _ = ({}, *steps) if len(steps) == 3 else steps
    text = str(x).removesuffix("*") if end else str(x)
    ids = [replace["ids"][letter] for letter in text[: replace["length"]]]
    ids += [pad.get("pad")] * (replace["length"] - len(ids))
    return {"sequence": np.array(ids), "letters": np.array(len(text))}


def text(x, steps, files):
    field = next(name for name in files).removesuffix("-tokenizer.json")
    ids = tokenizers.Tokenizer.from_file(str(files[f"{field}-tokenizer.json"])).encode(*map(str, x)).ids
    assert len(ids) == steps[0]["length"]
    return {field: np.array(ids)}


def table(x, steps, files):
    missing = np.isnan(x)
    assert steps[0]["columns"] == len(x)
    return {"numeric": np.where(missing, 0, x), "missing": missing}


random = np.random.default_rng(0)
WORDS = ["red tree", "the house is green", "a café runs on and on and on"]
CASES = {
    "image": ({"image": Continuous((1, None, None), dtype="uint16")},
              {"size": 16, "pixel_dtype": "uint8", "channels": 3},
              [{"image": random.integers(0, 65535, (1, 20, 12), dtype=np.uint16)}], image),
    "medical-image": ({"image": Continuous((1, None, None), dtype="float32")}, {"size": 16, "window": (2, 98)},
                      [{"image": random.normal(900, 300, (1, 20, 12)).astype(np.float32)}], medical),
    "multispectral": ({"image": Continuous((5, None, None))}, {"size": 16, "bands": (4, 0), "log": True},
                      [{"image": random.gamma(2, 100, (5, 18, 18))}], bands),
    "wafer": ({"map": Continuous((1, None, None))}, {"size": 16, "channels": 3},
              [{"map": random.integers(0, 3, (1, 33, 25))}], wafer),
    "time-series": ({"series": Continuous((3, None))}, {"length": 40, "patch": 4, "channels": (2, 0)},
                    [{"series": np.where(random.random((3, n)) < 0.1, np.nan, random.normal(size=(3, n)))}
                     for n in (30, 55)], series),
    "speech": ({"waveform": Continuous((1, None), 8000.0)}, {"seconds": 0.4, "frames": 16, "n_mels": 20},
               [{"waveform": random.normal(size=(1, n))} for n in (1500, 4000)], speech),
    "genomics": ({"sequence": Text()}, {"length": 12, "alphabet": "ACGTN", "unknown": "N", "pad": "N"},
                 [{"sequence": np.array(s)} for s in ("acgtacgtacgtacgt", "UUTTA")], letters),
    "protein": ({"sequence": Text()}, {"length": 8},
                [{"sequence": np.array(s)} for s in ("MKV*", "MKVLAAGIVGLR")], letters),
    "text": ({"text": Text()}, {"length": 8, "vocab_size": 60},
             [{"text": np.array(s)} for s in ([WORDS[0]], [WORDS[2]], WORDS[:2])], text),
    "multilingual-text": ({"text": Text()}, {"length": 12, "vocab_size": 300},
                          [{"text": np.array([s])} for s in WORDS], text),
    "tabular": ({"numeric": Continuous((3,)), "missing": Discrete(3, 2)}, {},
                [{"numeric": np.array([1.5, np.nan, -2]), "missing": np.array([0, 1, 0])}], table),
}  # fmt: skip


def build(kind):
    fields, options, samples, rebuild = CASES[kind]
    cls = plugins.load().tokenizer(kind)
    tokenizer = cls(cls.Options(**options), fields, 16)
    tokenizer.fit(samples)
    return tokenizer, samples, rebuild


@pytest.mark.parametrize("kind", CASES)
def test_the_steps_give_the_arrays_of_preprocess(kind, tmp_path):
    tokenizer, samples, rebuild = build(kind)
    described = tokenizer.describe_preprocessing()
    steps = json.loads(json.dumps(list(described.steps)))
    files = {name: tmp_path / name for name in described.files}
    for name, path in files.items():
        path.write_bytes(described.files[name])
    assert {step["file"].removeprefix("files/") for step in steps if "file" in step} == set(files)
    for sample in samples:
        expected = tokenizer.preprocess(sample)
        actual = rebuild(next(iter(sample.values())), steps, files)
        for name, value in actual.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=2e-3 if kind == "speech" else 1e-5)


@pytest.mark.parametrize("kind", ["image", "multispectral", "time-series"])
def test_what_is_inside_gives_the_patches(kind):
    tokenizer, samples, _ = build(kind)
    tokenizer.mean.copy_(torch.linspace(-1, 2, tokenizer.channels))
    tokenizer.std.copy_(torch.linspace(0.5, 3, tokenizer.channels))
    inputs = {name: torch.from_numpy(np.asarray(x)[None]) for name, x in tokenizer.preprocess(samples[0]).items()}
    *unit, normalise, cut = [one for one in tokenizer.describe_preprocessing().inside if "padding" not in one["do"]]
    x = inputs[tokenizer.field][0].numpy() * (unit[0]["unit"] if unit else 1)
    axes = (-1, *(1 for _ in cut["patch"]))
    x = (x - np.reshape(normalise["mean"], axes)) / np.reshape(normalise["std"], axes)
    corners = np.ndindex(*cut["grid"])
    patches = [
        np.moveaxis(
            x[(slice(None), *(slice(i * p, (i + 1) * p) for i, p in zip(at, cut["patch"], strict=True)))], 0, -1
        )
        for at in corners
    ]
    expected = tokenizer(inputs).targets[0].patches[0].numpy()
    np.testing.assert_allclose(np.stack([patch.ravel() for patch in patches]), expected, rtol=1e-4, atol=1e-5)


def test_every_shipped_tokenizer_describes_itself():
    for entry in plugins.load().entries("tokenizer"):
        if str(entry.origin).startswith("sslx:"):
            assert entry.name in CASES or entry.name == "image-text"
