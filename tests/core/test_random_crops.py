"""Random crops: drawn for each step from samples that are kept longer, the same after a resume, fixed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ssl_core import ConfigError, Continuous, Learner
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.prefetch import BatchStream
from ssl_core.pipeline.sampler import batch_index
from ssl_core.tokenizers import JointTokenizer
from ssl_core.training import checkpoint
from ssl_core.training.loop import train
from ssl_core.training.metrics_log import read_metrics
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan
from ssl_core.utils.seeds import generator
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.tokenizers.speech import SpeechTokenizer
from ssl_plugins.tokenizers.time_series import TimeSeriesTokenizer

COUNT = 20


def series_tokenizer(steps: int | None = 64, **options: object) -> TimeSeriesTokenizer:
    options = {"length": 16, "patch": 4, "normalise": "none"} | options
    return TimeSeriesTokenizer(TimeSeriesTokenizer.Options(**options), {"series": Continuous((2, steps))}, 16)


def speech_tokenizer(samples: int | None = None, **options: object) -> SpeechTokenizer:
    options = {"seconds": 0.5, "frames": 16, "n_mels": 16} | options
    return SpeechTokenizer(SpeechTokenizer.Options(**options), {"waveform": Continuous((1, samples), 8000.0)}, 16)


def prepare(tokenizer, samples: list[np.ndarray]) -> PreprocessedSplit:
    field = "series" if isinstance(tokenizer, TimeSeriesTokenizer) else "waveform"
    rows = [tokenizer.preprocess({field: x}) for x in samples]
    return PreprocessedSplit({name: np.stack([row[name] for row in rows]) for name in rows[0]}, None)


def counting(lengths: list[int]) -> list[np.ndarray]:
    """Series whose values are the steps, from 1 on."""
    return [np.stack([np.arange(1, length + 1)] * 2).astype(np.float32) for length in lengths]


def sounds(lengths: list[int]) -> list[np.ndarray]:
    random = np.random.RandomState(0)
    return [random.standard_normal((1, length)).astype(np.float32) for length in lengths]


def learner_of(tokenizer, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    fresh = type(tokenizer)(tokenizer.options, tokenizer.fields, 16)
    encoder = TransformerEncoder(EncoderOptions(dim=16, depth=1, heads=2), fresh.layout)
    masking = RandomMasking(RandomMasking.Options(ratio=0.5), fresh.layout)
    return Learner(fresh, encoder, MAE(MAE.Options(depth=1, width=8, heads=1), fresh.layout, 16, {"mask": masking}))


@dataclass
class Case:
    tokenizer: object
    data: PreprocessedSplit


@pytest.fixture(params=["series", "ragged series", "speech"])
def case(request) -> Case:
    if request.param == "speech":
        tokenizer = speech_tokenizer(crop="random", source_seconds=2.0)
        return Case(tokenizer, prepare(tokenizer, sounds([3000 + 900 * i for i in range(COUNT)])))
    ragged = request.param == "ragged series"
    tokenizer = series_tokenizer(None if ragged else 64, crop="random")
    return Case(tokenizer, prepare(tokenizer, counting([7 + 4 * i if ragged else 64 for i in range(COUNT)])))


def stream(case: Case, numbers: range, seed: int = 5) -> list:
    feed = BatchStream(learner_of(case.tokenizer), case.data, 8, seed, torch.device("cpu"), numbers)
    return [feed.take() for _ in numbers]


def test_batch_is_a_function_of_seed_and_number(case):
    first, again, later = stream(case, range(6)), stream(case, range(6)), stream(case, range(4, 6))
    for one, other in zip(first + first[4:], again + later, strict=True):
        assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    field = next(iter(case.data.arrays))
    assert not torch.equal(first[0][0][field], stream(case, range(1), seed=6)[0][0][field])


def test_each_epoch_takes_other_parts(case):
    field = next(iter(case.data.arrays))
    per_epoch = -(-COUNT // 8)
    parts: dict[int, set[bytes]] = {}
    for number, (inputs, _) in enumerate(stream(case, range(10 * per_epoch))):
        for row, x in zip(batch_index(5, number, COUNT, 8).tolist(), inputs[field], strict=True):
            parts.setdefault(row, set()).add(x.numpy().tobytes())
    assert len(parts[COUNT - 1]) >= 5  # the longest sample, seen about ten times
    whole = case.data.arrays[field][COUNT - 1]
    width = case.tokenizer.shape[-1]
    windows = {np.ascontiguousarray(whole[..., i : i + width]).tobytes() for i in range(whole.shape[-1] - width + 1)}
    assert parts[COUNT - 1] <= windows


def test_masks_are_drawn_from_the_geometry_of_the_part(case):
    learner = learner_of(case.tokenizer)
    for number, (inputs, draws) in enumerate(stream(case, range(3))):
        geometry = case.tokenizer.geometry(inputs)
        expected = learner.draw(8, generator(5, "draw", number), geometry)
        assert all(torch.equal(draws[name], expected[name]) for name in expected)
        if geometry.valid is not None:
            assert geometry.valid.any(dim=1).all()
        assert learner(inputs, draws).loss.isfinite()


def test_part_lies_within_the_data():
    """Series of 7 to 83 steps, of which the first 64 are kept: a part of a shorter one starts at its start."""
    tokenizer = series_tokenizer(None, crop="random")
    lengths = [7 + 4 * i for i in range(COUNT)]
    inputs = {name: torch.from_numpy(x) for name, x in prepare(tokenizer, counting(lengths)).arrays.items()}
    assert inputs["series"].shape == (COUNT, 2, 64)
    for place, last in ((0.0, False), (1 - 1e-12, True)):
        part = tokenizer.crop(inputs, {"place": torch.full((COUNT,), place, dtype=torch.float64)})
        for i, length in enumerate(lengths):
            steps = min(length, 16)
            first = min(length, 64) - steps if last else 0
            assert part["steps"][i] == steps
            np.testing.assert_array_equal(part["series"][i, 0, :steps], np.arange(first + 1, first + steps + 1))


def test_evaluation_uses_the_start(case):
    """Tokens of whole samples are those of their start."""
    tokenizer = case.tokenizer
    inputs = case.data.take(np.arange(COUNT)).inputs
    start = tokenizer.crop(inputs, {"place": torch.zeros(COUNT, dtype=torch.float64)})
    whole, part = tokenizer(inputs), tokenizer(start)
    assert torch.equal(whole.embeddings, part.embeddings)
    assert (whole.valid is None) == (part.valid is None)
    if whole.valid is not None:
        assert torch.equal(whole.valid, part.valid)


def test_resumed_run_equals_uninterrupted_run(case, tmp_path):
    def go(name, learner, start=None, kill=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if start is not None:
            checkpoint.load_model(start, learner)
        options = TrainOptions(batch_size=8, log_every=2, checkpoint_every=5, steps=13)
        plan = TrainingPlan(options, 3, torch.device("cpu"), "fp32", folder, listener=kill)
        train(learner, case.data, plan, start)
        return learner.state_dict()

    class Killed(Exception):
        pass

    def kill(step, metrics):
        if step == 8:
            raise Killed

    whole = go("whole", learner_of(case.tokenizer))
    with pytest.raises(Killed):
        go("halved", learner_of(case.tokenizer), kill=kill)
    start = checkpoint.latest(tmp_path / "halved")
    assert start.step == 5
    resumed = go("halved", learner_of(case.tokenizer, seed=9), start)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = [
        [line["train/loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("whole", "halved")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("crop", ["start", "center", "end"])
def test_fixed_crops_are_prepared_and_nothing_is_drawn(crop, monkeypatch):
    """The batch is the gather from the cache, bit for bit."""
    tokenizer = series_tokenizer(64, crop=crop)
    data = prepare(tokenizer, counting([64] * COUNT))
    first = {"start": 1, "center": 25, "end": 49}[crop]
    np.testing.assert_array_equal(data.arrays["series"][0, 0], np.arange(first, first + 16))
    for number, (inputs, _) in enumerate(stream(Case(tokenizer, data), range(3))):
        taken = data.take(batch_index(5, number, COUNT, 8)).inputs
        assert inputs.keys() == taken.keys()
        assert all(torch.equal(inputs[name], taken[name]) for name in taken)
    assert tokenizer.draw_crop(8, torch.Generator()) == {}


def test_constants_are_those_of_the_data_without_padding():
    tokenizer = series_tokenizer(None, crop="random", normalise="measured")
    lengths = [7, 20, 64, 90]
    data = prepare(tokenizer, counting(lengths))
    chunks = ({name: x[part] for name, x in data.arrays.items()} for part in (slice(0, 1), slice(1, None)))
    tokenizer.fit_normalization(chunks)
    kept = np.concatenate([np.arange(1, min(length, 64) + 1) for length in lengths])
    assert tokenizer.mean.tolist() == pytest.approx([kept.mean()] * 2)
    assert tokenizer.std.tolist() == pytest.approx([kept.std()] * 2)


def test_parts_of_joint_rows_are_drawn_apart():
    parts = [series_tokenizer(64, crop="random"), speech_tokenizer(16_000, crop="random")]
    joint = JointTokenizer(parts[0].options, {}, 16, parts=parts)
    row = parts[0].preprocess({"series": counting([64])[0]}) | parts[1].preprocess({"waveform": sounds([16_000])[0]})
    inputs = {name: torch.from_numpy(np.stack([x] * 4)) for name, x in row.items()}
    draws = joint.draw_crop(4, torch.Generator().manual_seed(0))
    assert not torch.equal(draws["0.place"], draws["1.place"])
    part = joint.crop(inputs, draws)
    assert part["series"].shape == (4, 2, 16)
    assert part["spectrogram"].shape == (4, 1, 16, 16)
    assert len({float(x[0, 0]) for x in part["series"]}) > 1
    assert joint(part).embeddings.shape == joint(inputs).embeddings.shape


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: series_tokenizer(16, crop="random"), "parts of 16 steps from series of 16; set tokenizer.length"),
        (lambda: series_tokenizer(64, crop="random", source=16), "tokenizer.source to more"),
        (lambda: series_tokenizer(64, source=32), "set tokenizer.crop=random"),
        (lambda: speech_tokenizer(4000, crop="random"), "parts of 0.5 s from clips of 0.5 s; set tokenizer.seconds"),
        (lambda: speech_tokenizer(source_seconds=2.0), "set tokenizer.crop=random"),
    ],
)
def test_crops_without_a_choice_are_refused(make, words):
    with pytest.raises(ConfigError) as caught:
        make()
    assert words in str(caught.value)


@dataclass
class Rank:
    """One of several processes; a stream of batches needs no other."""

    rank: int
    size: int = 3


@pytest.mark.parametrize("kind", ["series", "speech"])
def test_streams_of_processes_make_up_the_stream_of_one(kind: str) -> None:
    """Crops, masks and padding are those of the whole batch: some samples are shorter than a crop."""
    lengths = [5 + 3 * (i % 9) for i in range(COUNT)]
    if kind == "series":
        tokenizer = series_tokenizer(64)
        samples = [np.pad(x, ((0, 0), (0, 64 - x.shape[1]))) for x in counting(lengths)]
    else:
        tokenizer, samples = speech_tokenizer(), sounds([500 * length for length in lengths])
    data, learner = prepare(tokenizer, samples), learner_of(tokenizer)
    whole = BatchStream(learner, data, 9, 5, torch.device("cpu"), range(4))
    parts = [BatchStream(learner, data, 9, 5, torch.device("cpu"), range(4), group=Rank(r)) for r in range(3)]
    for _ in range(4):
        expected, own = whole.take(), [part.take() for part in parts]
        for index, tensors in enumerate(expected):
            for name, value in tensors.items():
                if value.dim():
                    assert torch.equal(torch.cat([one[index][name] for one in own]), value), name
                else:
                    assert all(torch.equal(one[index][name], value) for one in own)
