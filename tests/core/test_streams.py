"""Streamed data sets of the library `datasets`: kept in the cache, and then read as those with a length are."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from PIL import Image

import sslx
from ssl_core import plugins
from ssl_core.data import Continuous, Text
from ssl_core.errors import ConfigError, DataError
from ssl_core.pipeline.memory import memory_dataset
from ssl_core.pipeline.streams import check_end, is_stream, keep_stream, kept_stream, record_use
from ssl_core.runs.memory_data import data_options
from ssl_core.utils.cache_entries import cache_entries
from ssl_core.utils.console import Console
from tests.core.test_shard import in_processes

hf = pytest.importorskip("datasets")

IMAGE = {"image": Continuous((3, 32, 32))}
WAVE = {"waveform": Continuous((1, 12000), 8000.0)}
TEXT = {"text": Text()}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (12, 16, 20, 3), dtype=np.uint8)
Y = [0, 1] * 6
SMALL = {
    "encoder": {"dim": 8, "depth": 1, "heads": 1}, "objective.width": 8, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(x, max_samples=None):
    return keep_stream(x, max_samples, Console())


def digest(x, fields, modality="any", y=None):
    return memory_dataset(x, y, modality, fields)[1]


def images():
    features = hf.Features({"img": hf.Image(), "kind": hf.ClassLabel(names=["cat", "dog"]), "id": hf.Value("int64")})
    rows = {"img": [Image.fromarray(one) for one in PIXELS], "kind": [*Y[:5], -1, *Y[6:]], "id": list(range(12))}
    return hf.Dataset.from_dict(rows, features=features)


def recordings():
    sounds = []
    for length in range(800, 812):
        content = io.BytesIO()
        soundfile.write(content, RNG.uniform(-1, 1, length), 8000, format="WAV", subtype="FLOAT")
        sounds.append({"bytes": content.getvalue(), "path": None})
    rows = hf.Dataset.from_dict({"audio": sounds, "label": Y})
    return rows.cast_column("audio", hf.Audio(sampling_rate=4000))


def texts(count=12, start=0):
    """A source that declares no types, and does not say how long it is."""

    def rows():
        for number in range(start, start + count):
            yield {"sentence": f"text {number}", "label": number % 2}

    return hf.IterableDataset.from_generator(rows)


# --- content ----------------------------------------------------------------------------------------------------------


def by_row(x):
    """A stream of rows, where `to_iterable_dataset` gives one of tables."""
    return hf.IterableDataset.from_generator(lambda: iter(x), features=x.features)


def test_a_source_of_rows_is_kept_as_one_of_tables():
    x = images()
    data, _ = kept(by_row(x), 7)
    assert data.features == x.features
    assert digest(data, IMAGE) == digest(x.select(range(7)), IMAGE)
    arrays = hf.IterableDataset.from_generator(
        lambda: iter([{"series": RNG.standard_normal((2, 8))} for _ in range(3)])
    )
    assert np.asarray(kept(arrays, 5)[0][0]["series"]).shape == (2, 8)
    mapped = x.to_iterable_dataset().map(lambda row: {"img": row["img"].transpose(Image.Transpose.FLIP_TOP_BOTTOM)})
    assert mapped.features is None
    flipped = kept(mapped, 12)[0]
    np.testing.assert_array_equal(np.asarray(flipped[3]["img"]), PIXELS[3][::-1])


@pytest.mark.parametrize(("make", "fields"), [(images, IMAGE), (recordings, WAVE)])
def test_a_stream_is_the_data_set_that_it_streams(make, fields):
    x = make()
    data, _ = kept(x.to_iterable_dataset(), 12)
    assert data.features == x.features
    assert digest(data, fields) == digest(x, fields)
    part, _ = kept(x.to_iterable_dataset(), 7)
    assert digest(part, fields) == digest(x.select(range(7)), fields)


def test_more_samples_than_a_batch_keep_their_order():
    data, _ = kept(texts(1000), 700)
    assert data["sentence"][:] == [f"text {number}" for number in range(700)]
    assert data["label"][:] == [number % 2 for number in range(700)]


def test_files_that_the_rows_name_are_kept_too(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number:02}.png")
    names = sorted(map(str, (tmp_path / "pictures").iterdir()))
    x = hf.Dataset.from_dict({"image": names}).cast_column("image", hf.Image())
    expected = digest(x, IMAGE)
    data, _ = kept(x.to_iterable_dataset(), 12)
    for name in names:
        Path(name).unlink()
    assert digest(data, IMAGE) == expected


def test_the_same_content_is_kept_once_and_is_known_by_its_use(cache):
    first, folder = kept(texts(), 12)
    _, again = kept(texts(), 12)
    _, other = kept(texts(start=1), 12)
    assert folder == again != other
    entries = {entry.path: entry for entry in cache_entries(cache)}
    assert {entries[path].kind for path in (folder, other)} == {"stream"}
    assert len(entries) == 2  # nothing unfinished
    record_use(folder, "abc")
    assert kept_stream("abc")["sentence"][:] == first["sentence"][:]
    assert kept_stream("other") is None


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_stream_without_a_known_end_is_refused_with_cures_that_work():
    x = texts()
    assert is_stream(x)
    assert not is_stream(images())
    with pytest.raises(ConfigError, match=r"does not say how many.*max_samples=100_000.*x.take\(100_000\)"):
        check_end(x, None)
    check_end(x, 100_000)
    assert len(kept(x.take(100_000))[0]) == 12
    assert len(kept(x, 100_000)[0]) == 12
    assert len(kept(x.take(100_000).filter(lambda row: row["label"] == 1))[0]) == 6
    for endless in (x.repeat(None), x.take(4).repeat(None), hf.concatenate_datasets([x.take(4), x.repeat(None)])):
        with pytest.raises(ConfigError, match="is repeated without end.*max_samples=100_000"):
            check_end(endless, None)
    assert len(kept(x.repeat(None), 30)[0]) == 30
    assert len(kept(x.repeat(None).take(30))[0]) == 30
    assert len(kept(hf.concatenate_datasets([x.take(4), x.take(5)]))[0]) == 9


def test_the_number_of_samples_that_the_library_knows_is_an_end():
    x = texts()
    x.info.splits = hf.SplitDict.from_split_dict([{"name": "train", "num_examples": 12}])
    assert str(x.split) == "train"
    check_end(x, None)
    check_end(x.map(lambda row: row), None)
    x.info.splits = hf.SplitDict.from_split_dict([{"name": "test", "num_examples": 12}])
    with pytest.raises(ConfigError, match="does not say how many"):
        check_end(x, None)


@pytest.mark.parametrize("count", [0, -3, 1.5, True, "10"])
def test_a_limit_that_is_no_number_of_samples_is_refused(count):
    with pytest.raises(ConfigError, match="max_samples=.* is no number of samples"):
        kept(texts(), count)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_stream_that_fails_is_one_line_and_leaves_nothing(cache):
    def rows():
        yield from ({"text": f"text {number}"} for number in range(200))
        raise ConnectionError("the host\nis gone")

    with pytest.raises(DataError, match="cannot be read after 128 samples .ConnectionError: the host is gone.*again"):
        kept(hf.IterableDataset.from_generator(rows, features=hf.Features({"text": hf.Value("string")})), 1000)
    assert cache_entries(cache) == []
    with pytest.raises(DataError, match="the stream holds no sample"):
        kept(texts(0), 10)


def test_columns_that_differ_in_type_are_refused_with_a_cure_that_works():
    def rows():
        yield from ({"text": f"text {number}", "label": None if number < 200 else "a"} for number in range(300))

    x = hf.IterableDataset.from_generator(rows)
    with pytest.raises(DataError, match=r"'label'.*declare those of all columns, as x.cast\(datasets.Features"):
        kept(x, 1000)
    features = hf.Features({"text": hf.Value("string"), "label": hf.Value("string")})
    assert kept(x.cast(features), 1000)[0]["label"][-1] == "a"


# --- runs -------------------------------------------------------------------------------------------------------------


def pretrained(x, folder: Path, modality, steps=2, **options):
    return sslx.pretrain(
        x, modality=modality, objective="mae", steps=steps, batch_size=6, preset="none", set=SMALL, out=folder,
        **options,
    )  # fmt: skip


def test_a_run_on_a_stream_is_that_on_its_data_set(tmp_path):
    run = pretrained(images().to_iterable_dataset(), tmp_path / "stream", "image", max_samples=100)
    plain = pretrained(images(), tmp_path / "plain", "image")
    assert run.config.dataset == plain.config.dataset
    assert [score.value for score in run.report.scores] == [score.value for score in plain.report.scores]
    scores = sslx.evaluate(run.folder, images().to_iterable_dataset(), max_samples=100).scores
    assert [score.value for score in scores] == [score.value for score in run.report.scores]


def test_a_run_is_resumed_from_the_stream_or_from_what_was_kept_of_it(tmp_path, cache):
    def stream():
        return images().to_iterable_dataset()

    whole = pretrained(stream(), tmp_path / "whole", "image", 5, max_samples=12)
    for name in ("again", "kept"):
        pretrained(stream(), tmp_path / name, "image", 3, max_samples=12)
    again = sslx.pretrain(stream(), max_samples=12, out=tmp_path / "again", steps=5, resume=True)
    resumed = sslx.pretrain(out=tmp_path / "kept", steps=5, resume=True)
    for run in (again, resumed):
        assert run.report.steps == 5
        for name, value in whole.encoder.state_dict().items():
            np.testing.assert_array_equal(run.encoder.state_dict()[name].numpy(), value.numpy())
    with pytest.raises(ConfigError, match="the samples or labels in memory are not those of the run"):
        sslx.pretrain(stream(), max_samples=11, out=tmp_path / "again", steps=6, resume=True)


def test_what_was_kept_may_be_removed_and_labels_are_given_again(tmp_path, cache):
    x = images().remove_columns("kind")
    run = pretrained(x.to_iterable_dataset(), tmp_path / "run", "image", 3, max_samples=12, y=np.arange(12) % 3)
    assert run.config.dataset.options["digest"] == digest(x, IMAGE, "image", np.arange(12) % 3)
    with pytest.raises(ConfigError, match="the samples or labels in memory are not those of the run"):
        sslx.pretrain(out=tmp_path / "run", steps=4, resume=True)
    assert sslx.pretrain(out=tmp_path / "run", steps=4, resume=True, y=np.arange(12) % 3).report.steps == 4
    shutil.rmtree(cache / "streams")
    with pytest.raises(ConfigError, match="trained on data in memory; give the data"):
        sslx.pretrain(out=tmp_path / "run", steps=5, resume=True)
    again = sslx.pretrain(
        x.to_iterable_dataset(), out=tmp_path / "run", steps=5, resume=True, max_samples=12, y=np.arange(12) % 3
    )
    assert again.report.steps == 5


def test_an_encoder_is_fine_tuned_on_a_stream(tmp_path):
    run = pretrained(images(), tmp_path / "run", "image")
    x = images().filter(lambda row: row["kind"] >= 0).to_iterable_dataset()
    tuned = sslx.finetune(run.encoder, x, max_samples=11, steps=2, out=tmp_path / "tuned")
    assert tuned.predict(PIXELS.transpose(0, 3, 1, 2)).shape == (12,)


def test_a_streamed_table_is_a_table(tmp_path):
    features = hf.Features(
        {"a": hf.Value("float64"), "b": hf.Value("string"), "kind": hf.ClassLabel(names=["no", "yes"])}
    )
    rows = {"a": RNG.standard_normal(40), "b": RNG.choice(["u", "v"], 40), "kind": Y * 3 + [0, 1, 0, -1]}
    x = hf.Dataset.from_dict(rows, features=features)
    run = pretrained(x.to_iterable_dataset(), tmp_path / "stream", "tabular", max_samples=40)
    table = pandas.read_parquet(run.config.dataset.options["root"])
    assert list(table.columns) == ["a", "b", "label"]
    np.testing.assert_array_equal(table["a"], rows["a"])
    assert table["label"].tolist()[:3] == ["no", "yes", "no"]
    assert table["label"].isna().tolist() == [False] * 39 + [True]
    plain = pretrained(x, tmp_path / "plain", "tabular")
    assert [score.value for score in run.report.scores] == [score.value for score in plain.report.scores]
    bare = x.remove_columns("kind").to_iterable_dataset()
    labelled = pretrained(bare, tmp_path / "y", "tabular", y=np.arange(40) % 2, max_samples=40)
    assert pandas.read_parquet(labelled.config.dataset.options["root"])["label"].tolist() == [0, 1] * 20
    with pytest.raises(DataError, match="there are 40 rows and 3 labels"):
        pretrained(
            x.remove_columns("kind").to_iterable_dataset(), tmp_path / "n", "tabular", y=[1, 2, 3], max_samples=40
        )


def test_the_limit_is_for_streams_alone(tmp_path):
    for x in (images(), str(tmp_path), None):
        with pytest.raises(ConfigError, match="max_samples is for streamed data sets"):
            pretrained(x, tmp_path / "run", "image", max_samples=3)
    splits = hf.IterableDatasetDict({"train": texts()})
    with pytest.raises(ConfigError, match=r"x holds the splits train; give one of them, as x\['train'\]"):
        pretrained(splits, tmp_path / "run", "text", max_samples=3)


@pytest.mark.parametrize("shared", [True, False])
def test_of_the_processes_of_a_machine_the_first_reads_the_stream(tmp_path, shared):
    """Unless they have caches of their own."""

    def work(group):
        def rows():
            (tmp_path / f"read by {group.rank}").touch()
            yield from ({"text": f"word {number}"} for number in range(12))

        if not shared:
            os.environ["SSLX_CACHE_DIR"] = str(tmp_path / f"cache {group.rank}")
        stream = hf.IterableDataset.from_generator(rows)
        return data_options(stream, "text", {"max_samples": 10}, plugins.load())

    options = in_processes(3, work)
    assert options[0]["dataset.name"] == "memory"
    assert options[1] == options[2] == options[0]
    readers = {path.name for path in tmp_path.glob("read by *")}
    assert readers == ({"read by 0"} if shared else {f"read by {rank}" for rank in range(3)})
