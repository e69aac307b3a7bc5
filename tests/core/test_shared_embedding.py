"""Files that several processes embed: the rows of one process, to the bit, and each reads and computes its part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import sslx
from ssl_core import plugins
from ssl_core.errors import BadSample, DataError
from ssl_core.runs.embed import EmbedRequest, Rows, embed_rows
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.testing.parallel import ThreadGroup
from ssl_core.utils.console import Console

pytestmark = pytest.mark.fast
SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "dataset.n_train": 50, "dataset.n_test": 21,
    "evaluate.figures": False,
}  # fmt: skip


class Lines(Console):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


class Some:
    """A data set of which some samples cannot be used. read: numbers of the samples that were read."""

    def __init__(self, dataset: Any, bad: set[int], labels: list[Any]) -> None:
        self.dataset, self.bad, self.labels, self.task = dataset, bad, labels, None
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        self.read.append(number)
        if number in self.bad:
            raise BadSample("torn")
        return {"inputs": self.dataset[number]["inputs"], "label": self.labels[number % len(self.labels)]}

    def describe(self, number: int) -> str:
        return f"sample {number}"

    identify = describe


class NumberTask:
    kind, per_token, names = "number", False, ()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretrainedEncoder]:
    place = tmp_path_factory.mktemp("shared-embedding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(place / "cache"))
        sslx.pretrain(
            objective="mae", modality="tabular", steps=2, batch_size=16, device="cpu", set=SMALL, out=place / "run"
        )
        yield sslx.load(place / "run")


def data_of(encoder: PretrainedEncoder, bad: set[int], labels: list[Any]) -> list[Some]:
    kind = plugins.load().dataset("synthetic", "tabular")
    options = kind.Options(n_train=50, n_test=21)
    return [Some(kind(options, "train"), bad, labels), Some(kind(options, "test"), set(), [None, "a"])]


def request(**options: Any) -> EmbedRequest:
    return EmbedRequest("data", batch_size=8, **options)


def assert_same(found: list[Rows], expected: list[Rows]) -> None:
    assert [list(rows.ids) for rows in found] == [list(rows.ids) for rows in expected]
    for one, other in zip(found, expected, strict=True):
        assert [type(label) for label in one.labels] == [type(label) for label in other.labels]
        assert list(one.labels) == list(other.labels)
        assert one.features.dtype == other.features.dtype
        assert np.array_equal(one.features, other.features)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"per_token": True}, {"layers": (1, 2)}])
def test_rows_and_lines_are_those_of_one_process(encoder: PretrainedEncoder, size: int, options: Any) -> None:
    bad = {3, 9, *range(16, 24), 31}  # of the third batch all
    alone, console = data_of(encoder, bad, ["x", None, "y"]), Lines()
    expected = list(embed_rows(encoder, alone, request(**options), console))  # type: ignore[arg-type]
    group = ThreadGroup(size)
    parts = [data_of(encoder, bad, ["x", None, "y"]) for _ in range(size)]
    consoles = [Lines() for _ in range(size)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def work(rank: int) -> list[Rows]:
        return list(embed_rows(encoder, parts[rank], request(**options), consoles[rank], group))  # type: ignore[arg-type]

    try:
        found = group.run(work)
    finally:
        torch.set_num_threads(threads)
    for rows in found:
        assert_same(rows, expected)
    assert [line for line in consoles[0].lines if line.startswith("skipped")] == [
        "skipped    sample 3: torn", "skipped    sample 9: torn", "skipped    sample 16: torn",
        "skipped    11 samples in all",
    ]  # fmt: skip
    for split in range(2):
        assert sorted(n for part in parts for n in part[split].read) == alone[split].read
        assert all(part[split].read for part in parts)


@pytest.mark.parametrize("labels", [[np.float32(0.1), np.float32(np.nan), None], [1.5, 2], [np.int64(7)]])
def test_numbers_keep_their_value_and_type(encoder: PretrainedEncoder, labels: list[Any]) -> None:
    def opened() -> Any:
        (first, _) = data_of(encoder, set(), labels)
        first.task = NumberTask()
        return [first]

    def values(rows: list[Rows]) -> list[Any]:
        return [(type(label), repr(label)) for part in rows for label in part.labels]

    expected = list(embed_rows(encoder, opened(), request(), Lines()))
    group = ThreadGroup(2)
    found = group.run(lambda rank: list(embed_rows(encoder, opened(), request(), Lines(), group)))
    assert values(found[0]) == values(expected)


def test_strict_and_empty_are_refused_as_in_one_process(encoder: PretrainedEncoder) -> None:
    group = ThreadGroup(2)
    parts = [data_of(encoder, {9}, [None]) for _ in range(2)]  # in a batch of the second process
    with pytest.raises(BadSample, match="sample 9: torn"):
        group.run(lambda rank: list(embed_rows(encoder, parts[rank], request(strict=True), Lines(), group)))  # type: ignore[arg-type]
    group, nothing = ThreadGroup(2), [data_of(encoder, set(range(50)), [None])[:1] for _ in range(2)]
    with pytest.raises(DataError, match=r"data: no sample can be used \(50 skipped\)"):
        group.run(lambda rank: list(embed_rows(encoder, nothing[rank], request(), Lines(), group)))  # type: ignore[arg-type]
