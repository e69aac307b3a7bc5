"""Public text sets on miniatures: rows, splits, classes, and fetching from the hub."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import BadSample, ConfigError, DataError, Text
from ssl_core.plugins import load
from ssl_plugins.datasets.public import _text_pairs, glue, mc4, paws_x, wikitext

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "text.py"))
WRITERS = {name: writer for name, writer in MINIATURES["WRITERS"].items() if name[0] != "image-text"}
sentence = MINIATURES["sentence"]
SHARED = Path(os.environ.get("SSLX_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")

ENTRIES = [entry.value for entry in load().entries("dataset") if entry.value.source]
ALL = [cls for cls in ENTRIES if cls.modality in ("text", "multilingual-text")]
LABELLED = [pytest.param(cls, id=cls.name) for cls in ALL if issubclass(cls, _text_pairs.SentenceDataset)]
FETCHED = [*LABELLED, pytest.param(wikitext.WikiText103, id="wikitext103")]
ALL = [pytest.param(cls, id=cls.name) for cls in ALL]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with all of the sets. Tests do not change it."""
    folder = tmp_path_factory.mktemp("data")
    for name, writer in WRITERS.items():
        if name[1] != "mnli_mismatched":  # mnli_matched writes it as well
            writer(folder)
    return folder


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    """The training and the test split."""
    values = cls.Options(root=str(root), **options)
    return cls(values, "train"), cls(values, "test")


def samples(dataset: Any) -> list[tuple[Any, Any]]:
    return [(dataset[i]["inputs"]["text"].tolist(), dataset[i]["label"]) for i in range(len(dataset))]


def test_every_data_set_has_a_miniature():
    assert {(param.values[0].modality, param.values[0].name) for param in ALL} == set(WRITERS)
    assert len(ALL) == 11 + 8


# --- GLUE ------------------------------------------------------------------------------------------------------------

DUPLICATE, ENTAILMENT = ("not_duplicate", "duplicate"), ("entailment", "not_entailment")
TASKS = {  # key in the miniature, classes in the hub's order, metric
    glue.Cola: ("cola", ("unacceptable", "acceptable"), "pearson"),
    glue.Mrpc: ("mrpc", ("not_equivalent", "equivalent"), "accuracy"),
    glue.Qnli: ("qnli", ENTAILMENT, "accuracy"),
    glue.Qqp: ("qqp", DUPLICATE, "accuracy"),
    glue.Rte: ("rte", ENTAILMENT, "accuracy"),
    glue.Sst2: ("sst", ("negative", "positive"), "accuracy"),
    glue.Wnli: ("wnli", ("not_entailment", "entailment"), "accuracy"),
}


@pytest.mark.parametrize("cls", [pytest.param(cls, id=cls.name) for cls in TASKS])
def test_glue_rows_classes_and_metric(cls, root):
    key, names, metric = TASKS[cls]
    for dataset, part, count in zip(both(cls, root), ("train", "dev"), (12, 8), strict=True):
        task = dataset.task
        assert (task.kind, task.size, task.names, task.metric) == ("classes", 2, names, metric)
        assert dataset.fields == {"text": Text()}
        single = cls in (glue.Cola, glue.Sst2)
        expected = []
        for i in range(count):
            texts = sentence((key, part, i)) if single else [sentence((key, part, i, which)) for which in (1, 2)]
            expected.append((texts, i % 2))
        rows = samples(dataset)
        if cls is glue.Sst2:
            rows = [(text.rstrip(), label) for text, label in rows]
        if cls is glue.Qqp:
            rows = [([texts[0].removeprefix('"').removesuffix("?"), texts[1]], label) for texts, label in rows]
        assert rows == expected


@pytest.mark.parametrize(("cls", "part"), [(glue.MnliMatched, "dev_matched"), (glue.MnliMismatched, "dev_mismatched")])
def test_mnli_labels_and_test_split(cls, part, root):
    train, test = both(cls, root)
    assert test.task.names == ("entailment", "neutral", "contradiction")
    assert test.task.metric == "accuracy"
    for dataset, name, count in ((train, "train", 12), (test, part, 8)):
        gold = [(2, 1, 0)[i % 3] for i in range(count)]  # contradiction, neutral, entailment in the miniature
        texts = [[sentence(("mnli", name, i, which)) for which in (1, 2)] for i in range(count)]
        assert samples(dataset) == list(zip(texts, gold, strict=True))


def test_stsb_is_a_regression_scored_by_spearman(root):
    train, test = both(glue.Stsb, root)
    assert (test.task.kind, test.task.size, test.task.metric) == ("number", 1, "spearman")
    assert [label for _, label in samples(train)] == [0.625 * (i % 9) for i in range(12)]
    assert isinstance(train[0]["label"], float)


def test_wnli_has_the_reverse_order_of_classes(root):
    """0 is entailment in RTE, whose files have words, and 1 in WNLI, whose files have numbers."""
    rte, wnli = both(glue.Rte, root)[0], both(glue.Wnli, root)[0]
    assert rte.task.names == tuple(reversed(wnli.task.names))
    assert (rte.folder / "RTE" / "train.tsv").read_text().splitlines()[1].endswith("\tentailment")
    assert (wnli.folder / "WNLI" / "train.tsv").read_text().splitlines()[1].endswith("\t0")
    assert rte[0]["label"] == wnli[0]["label"] == 0


def test_qqp_drops_truncated_and_empty_rows_with_a_warning(root):
    train, test = both(glue.Qqp, root)
    assert len(train) == 12
    assert train.warnings == (
        "2 truncated rows of QQP/train.tsv are left out",
        "1 empty rows of QQP/train.tsv are left out",
    )
    assert test.warnings == ()
    assert train.describe(0).endswith("QQP/train.tsv line 2")
    assert train[0]["inputs"]["text"][0].startswith('"')  # quotation marks are ordinary characters


# --- PAWS-X ----------------------------------------------------------------------------------------------------------

LANGUAGES = [pytest.param(cls, id=cls.language) for cls in paws_x.register_datasets()]


@pytest.mark.parametrize("cls", LANGUAGES)
def test_paws_rows(cls, root):
    language = cls.name.removeprefix("paws_")
    train = "train" if language == "en" else "translated_train"
    for dataset, part, count in zip(both(cls, root), (train, "dev_2k"), (12, 8), strict=True):
        assert (dataset.task.size, dataset.task.metric) == (2, "accuracy")
        rows = range(1, count + 1)
        texts = [[sentence((language, part, i, which), language) for which in (1, 2)] for i in rows]
        assert samples(dataset) == [(pair, i % 2) for i, pair in zip(rows, texts, strict=True)]
        assert dataset.warnings == (() if language == "en" else (dataset.warnings[0],))


def test_published_paws_keeps_empty_pairs(root):
    fixed, _ = both(paws_x.PawsKorean, root)
    published, _ = both(paws_x.PawsKorean, root, protocol="published")
    assert fixed.warnings == ("1 empty rows of x-final/ko/translated_train.tsv are left out",)
    assert len(published) == len(fixed) + 1
    assert samples(published)[3] == (["", ""], 0)
    assert fixed.fingerprint() != published.fingerprint()


# --- WikiText --------------------------------------------------------------------------------------------------------


def test_wikitext_samples_are_the_lines_that_are_not_blank(root):
    train, test = both(wikitext.WikiText103, root)
    assert train.task is None
    assert samples(train)[:2] == [("= Train =", None), (f"{sentence(('wiki', 'train', 0))} <unk> @-@ é .", None)]
    assert (len(train), len(test)) == (15, 10)
    assert samples(test)[0] == ("= Valid =", None)
    assert test.describe(0).endswith("wikitext-103/wiki.valid.tokens line 2")


# --- bad tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "file", "old", "new", "message"),
    [
        (glue.Rte, "RTE/train.tsv", "\tnot_entailment", "\tperhaps", r"train\.tsv line 3: label 'perhaps' is none of"),
        (glue.Rte, "RTE/dev.tsv", "sentence2", "second", r"dev\.tsv has no column 'sentence2', only index, sentence1,"),
        (glue.Rte, "RTE/dev.tsv", "\tnot_entailment", "", r"dev\.tsv line 3 has 3 columns, 4 are needed"),
        (glue.Wnli, "WNLI/train.tsv", "\t1\n", "\t-1\n", r"train\.tsv line 3: label '-1' is none of"),
        (glue.Stsb, "STS-B/dev.tsv", "0.625", "much", r"dev\.tsv line 3 has the label 'much', no number"),
        (glue.Cola, "CoLA/dev.tsv", "gj04\t", "gj04", r"dev\.tsv line 1 has 3 columns, 4 are needed"),
    ],
)
def test_message_for_a_bad_table_names_file_and_row(cls, file, old, new, message, root, tmp_path):
    shutil.copytree(root / "text" / "glue", tmp_path / "glue")
    path = tmp_path / "glue" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        both(cls, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"sentence": "A song.", "label": 2}\n', r"train\.jsonl line 1: label '2' is none of"),
        (b'{"sentence": "A song.", "label": 1}\n{"sentence": "A', r"train\.jsonl line 2 is no line of JSON with"),
        (b'{"sentence": "A song."}\n', r"line 1 is no line of JSON with sentence, label"),
        (b'{"sentence": "\xff", "label": 0}\n', r"train\.jsonl line 1 is not UTF-8 text"),
        (b"", r"train\.jsonl holds no rows"),
        (b'{"sentence": null, "label": 0}\n', r"train\.jsonl holds no rows"),
    ],
)
def test_message_for_a_bad_json_line_names_it(content, message, tmp_path):
    folder = tmp_path / "text" / "glue" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(content)
    (folder / "validation.jsonl").write_bytes(b'{"sentence": "A song.", "label": 1}\n')
    with pytest.raises(DataError, match=message):
        both(glue.Sst2, tmp_path)


def test_bad_line_of_a_corpus_is_a_bad_sample(root, tmp_path):
    shutil.copytree(root / "text" / "wikitext103", tmp_path / "wikitext103")
    path = tmp_path / "wikitext103" / "wikitext-103" / "wiki.train.tokens"
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9", 1))
    train, _ = both(wikitext.WikiText103, tmp_path)
    with pytest.raises(BadSample, match="is not UTF-8 text"):
        train[1]
    assert train[2]["inputs"]["text"]


# --- lines -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "é", "河流", "two words", "\x0b", "\u2028"]), max_size=12), st.booleans())
def test_line_file_has_the_lines_of_the_file(tmp_path_factory, lines, ends_with_newline):
    path = tmp_path_factory.mktemp("lines") / "file"
    content = "\n".join(lines) + ("\n" if ends_with_newline and lines else "")
    path.write_bytes(content.encode())
    expected = content.split("\n")[:-1] if content.endswith("\n") or not content else content.split("\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text_pairs, "SCAN_BYTES", 3)
        line_file = _text_pairs.LineFile(path)
    assert [line_file[i] for i in range(len(line_file))] == expected


def test_line_file_drops_windows_line_ends_and_the_byte_order_mark(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    lines = _text_pairs.LineFile(tmp_path / "file")
    assert lines[0] == "one"
    unpickled = pickle.loads(pickle.dumps(lines))  # after its memory map was opened
    assert [unpickled[i] for i in range(len(unpickled))] == ["one", "two"]


# --- fetching from the hub -------------------------------------------------------------------------------------------


class Hub:
    """Replaces the package `datasets` and records its calls."""

    def __init__(self, splits: dict[str, list[dict[str, Any]]], names: tuple[str, ...] | None = None) -> None:
        self.splits, self.names = splits, names
        self.requests: list[tuple[str, str, str]] = []

    def load_dataset(self, path: str, config: str, *, split: str) -> Any:
        self.requests.append((path, config, split))
        if split not in self.splits:
            raise ConnectionError("Couldn't reach the hub\n(offline)")
        rows = self.splits[split]
        features_of = {column: SimpleNamespace(dtype="string") for column in rows[0]}
        if self.names:
            features_of["label"] = SimpleNamespace(names=list(self.names))

        class Table(list):
            features = features_of

        return Table(rows)


def as_hub(cls: Any, root: Path) -> Hub:
    """A hub with the rows of the upstream's files."""
    splits = {}
    names = {"train": "train", "test": "validation"} if cls is wikitext.WikiText103 else cls.hub.splits
    for dataset in both(cls, root):
        rows = []
        for number, (texts, label) in enumerate(samples(dataset)):
            if cls is wikitext.WikiText103:
                rows += [{"text": f" {texts} \n"}, {"text": ""}]
            else:
                columns = dict(zip(cls.texts, [texts] if isinstance(texts, str) else texts, strict=True))
                rows.append({**columns, "label": label, "idx": number})
        splits[names[dataset.split]] = rows
    return Hub(splits, getattr(cls, "classes", ()) or None)


@pytest.mark.parametrize("cls", FETCHED)
def test_rows_of_the_hub_equal_those_of_the_upstream(cls, root, tmp_path, monkeypatch):
    hub = as_hub(cls, root)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    folder = cls.source.locate_in(tmp_path)
    cls.convert(folder)
    assert folder == tmp_path / cls.source.folder
    assert len(hub.requests) == 2
    monkeypatch.setitem(sys.modules, "datasets", None)  # not installed
    cls.convert(folder)
    for fetched, upstream in zip(both(cls, tmp_path), both(cls, root), strict=True):
        assert samples(fetched) == samples(upstream)
        assert fetched.task == upstream.task
    assert not list(tmp_path.rglob("*.part"))


def test_repositories_configurations_and_splits_on_the_hub(root, tmp_path, monkeypatch):
    requests = []
    for cls in (glue.Cola, glue.MnliMatched, glue.MnliMismatched, paws_x.PawsGerman, wikitext.WikiText103):
        hub = as_hub(cls, root)
        monkeypatch.setitem(sys.modules, "datasets", hub)
        cls.convert(cls.source.locate_in(tmp_path))
        requests += hub.requests
    assert requests == [
        ("nyu-mll/glue", "cola", "train"),
        ("nyu-mll/glue", "cola", "validation"),
        ("nyu-mll/glue", "mnli", "train"),
        ("nyu-mll/glue", "mnli", "validation_matched"),
        ("nyu-mll/glue", "mnli", "validation_mismatched"),  # the training split exists already
        ("google-research-datasets/paws-x", "de", "train"),
        ("google-research-datasets/paws-x", "de", "validation"),
        ("Salesforce/wikitext", "wikitext-103-v1", "train"),
        ("Salesforce/wikitext", "wikitext-103-v1", "validation"),
    ]


@pytest.mark.parametrize("cls", FETCHED)
def test_upstream_files_need_no_hub(cls, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    before = sorted(root.rglob("*"))
    cls.convert(cls.source.locate_in(root))
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("cls", ALL)
def test_message_without_the_package_names_the_extra(cls, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'sslx\[text\]'") as caught:
        cls.convert(cls.source.locate_in(tmp_path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_failed_fetch_leaves_complete_files_and_continues(root, tmp_path, monkeypatch):
    hub = as_hub(glue.Rte, root)
    validation_rows = hub.splits.pop("validation")
    monkeypatch.setitem(sys.modules, "datasets", hub)
    folder = glue.Rte.source.locate_in(tmp_path)
    with pytest.raises(DataError, match=r"nyu-mll/glue \(rte, validation\): Couldn't reach the hub \(offline\)$"):
        glue.Rte.convert(folder)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["train.jsonl"]
    hub.splits["validation"] = validation_rows
    glue.Rte.convert(folder)
    assert [split for *_, split in hub.requests] == ["train", "validation", "validation"]
    assert len(both(glue.Rte, tmp_path)[1]) == 8


def test_classes_in_another_order_are_reordered(root, tmp_path, monkeypatch):
    hub = as_hub(glue.Rte, root)
    hub.names = ("not_entailment", "entailment")
    monkeypatch.setitem(sys.modules, "datasets", hub)
    glue.Rte.convert(glue.Rte.source.locate_in(tmp_path))
    assert [label for _, label in samples(both(glue.Rte, tmp_path)[0])] == [1 - i % 2 for i in range(12)]


def test_unknown_classes_and_missing_columns_are_refused(root, tmp_path, monkeypatch):
    hub = as_hub(glue.Rte, root)
    hub.names = ("yes", "no")
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(DataError, match="has the classes yes, no, not entailment, not_entailment"):
        glue.Rte.convert(glue.Rte.source.locate_in(tmp_path))
    hub = as_hub(glue.Qnli, root)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(DataError, match="has no column 'sentence1'"):
        glue.Rte.convert(glue.Rte.source.locate_in(tmp_path))


# --- mC4 -------------------------------------------------------------------------------------------------------------


class Stream:
    """Replaces the package `datasets`: an endless stream that counts the documents read."""

    def __init__(self, size: int = 10**9) -> None:
        self.size, self.read, self.requests = size, 0, []

    def load_dataset(self, path: str, *, data_files: dict[str, str], split: str, streaming: bool) -> Any:
        assert (path, streaming) == ("allenai/c4", True)
        pattern = data_files[split]
        self.requests.append(pattern)

        def rows(begin: int) -> Any:
            for number in range(begin, self.size):
                self.read += 1
                yield {"text": f"{pattern} {number}", "url": "", "timestamp": ""}

        return SimpleNamespace(skip=rows)


def prepare(tmp_path: Path, monkeypatch: Any, documents: int, hub: Any) -> Any:
    monkeypatch.setattr(mc4, "SHARD", 4)
    monkeypatch.setenv(mc4.VARIABLE, str(documents))
    monkeypatch.setitem(sys.modules, "datasets", hub)
    mc4.MC4.convert(mc4.MC4.source.locate_in(tmp_path))
    return both(mc4.MC4, tmp_path)


def test_mc4_fetches_the_number_of_documents_of_the_option(tmp_path, monkeypatch):
    monkeypatch.setenv(mc4.VARIABLE, "9")  # the option has priority
    monkeypatch.setitem(sys.modules, "datasets", Stream())
    mc4.MC4.prepare(mc4.MC4.source.locate_in(tmp_path), mc4.MC4.Options(documents=3))
    assert len(both(mc4.MC4, tmp_path)[0]) == 3 * 7


def test_mc4_languages_alternate_in_the_published_order(tmp_path, monkeypatch):
    train, test = prepare(tmp_path, monkeypatch, 10, Stream())
    languages = [text.removeprefix("multilingual/c4-").split(".")[0] for text, _ in samples(train)]
    assert languages == ["en", "fr", "de", "zh", "es", "ja", "ko"] * 10
    assert [int(text.split()[-1]) for text, _ in samples(train)] == [i // 7 for i in range(70)]
    assert samples(test)[1][0] == "multilingual/c4-fr-validation.tfrecord-*.json.gz 0"
    assert len(test) == 7
    assert train.task is None
    assert train.describe(7 * 9 + 1).endswith("train/fr-00002.jsonl line 2")
    files = sorted(path.name for path in (tmp_path / "text" / "mc4" / "train").iterdir())
    assert files[:4] == ["de-00000.jsonl", "de-00001.jsonl", "de-00002.jsonl", "en-00000.jsonl"]


def test_mc4_streams_only_the_missing_documents(tmp_path, monkeypatch):
    first = Stream()
    small, _ = prepare(tmp_path, monkeypatch, 6, first)
    assert first.read <= 7 * (6 + 1) + 7  # 6 of each language, and 1 for the test
    second = Stream()
    prepare(tmp_path, monkeypatch, 6, second)
    prepare(tmp_path, monkeypatch, 3, second)
    assert second.requests == []
    more = Stream()
    large, _ = prepare(tmp_path, monkeypatch, 11, more)
    assert more.read <= 7 * (11 - 4) + 7  # the full shards are kept
    assert samples(large)[: len(small)] == samples(small)
    assert len(large) == 77


def test_interrupted_stream_continues_after_the_last_full_shard(tmp_path, monkeypatch):
    class Interrupted(Stream):
        def load_dataset(self, path: str, **arguments: Any) -> Any:
            if "c4-de" in arguments["data_files"][arguments["split"]]:
                raise TimeoutError("The read operation timed out")
            return super().load_dataset(path, **arguments)

    with pytest.raises(DataError, match=r"did not hand over allenai/c4 \(multilingual/c4-de\.tfrecord.*timed out"):
        prepare(tmp_path, monkeypatch, 9, Interrupted())
    with pytest.raises(DataError, match="sslx data prepare multilingual-text/mc4"):
        both(mc4.MC4, tmp_path)
    rest = Stream()
    train, _ = prepare(tmp_path, monkeypatch, 9, rest)
    assert rest.read <= 7 * 9 + 7 + 7 - 2 * 8
    assert [int(text.split()[-1]) for text, _ in samples(train)] == [i // 7 for i in range(63)]


def test_mc4_has_as_many_documents_of_each_language(tmp_path, monkeypatch):
    train, _ = prepare(tmp_path, monkeypatch, 9, Stream(size=5))
    assert len(train) == 35


def test_mc4_documents_option(root):
    full, test = both(mc4.MC4, root)
    few, same_test = both(mc4.MC4, root, documents=2)
    assert (len(full), len(few)) == (7 * 5, 7 * 2)
    assert samples(few) == samples(full)[:14]
    assert samples(same_test) == samples(test)
    assert few.fingerprint() != full.fingerprint()
    with pytest.raises(DataError, match=r"documents=6, but .* holds 5 .*mc4 --set dataset.documents=6`"):
        both(mc4.MC4, root, documents=6)


def test_mc4_reads_the_upstream_files_in_order(root, tmp_path):
    train, test = both(mc4.MC4, root)
    keys = [("en", "", 0, 0), ("en", "", 0, 1), ("en", "", 0, 2), ("en", "", 1, 0), ("en", "", 1, 1)]
    english = [text for text, _ in samples(train)][::7]
    assert [text.split("\n")[0] for text in english] == [sentence(key, "en") for key in keys]
    assert samples(test)[0][0].startswith(sentence(("en", "-validation", 0, 0), "en"))


@pytest.mark.parametrize("value", ["many", "0", "-3", ""])
def test_mc4_refuses_an_invalid_variable(value, tmp_path, monkeypatch):
    monkeypatch.setenv(mc4.VARIABLE, value)
    with pytest.raises(ConfigError, match="SSLX_MC4_DOCUMENTS=.* must be a whole number"):
        mc4.MC4.convert(tmp_path)


def test_message_for_a_damaged_mc4_file_names_it(tmp_path, monkeypatch):
    folder = MINIATURES["mc4_files"](tmp_path)
    monkeypatch.setenv(mc4.VARIABLE, "5")
    path = next(iter(sorted(folder.glob("multilingual/c4-en.*00001-*"))))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"c4-en\.tfrecord-00001-of-00002\.json\.gz is damaged"):
        mc4.MC4.convert(folder)
    path.write_bytes(content)
    mc4.MC4.convert(folder)
    (folder / "train" / "ko-00000.jsonl").unlink()
    with pytest.raises(DataError, match=r"there is no .*ko-00000\.jsonl"):
        both(mc4.MC4, tmp_path)
    (folder / "mc4.json").write_text("{}")
    with pytest.raises(DataError, match=r"mc4\.json is damaged; remove it"):
        both(mc4.MC4, tmp_path)


# --- all data sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
def test_message_for_missing_data_names_the_command(cls, tmp_path):
    with pytest.raises(DataError) as caught:
        both(cls, tmp_path)
    assert "\n" not in str(caught.value)
    assert f"`sslx data prepare {cls.modality}/{cls.name} --root {tmp_path}`" in str(caught.value)


@pytest.mark.parametrize("cls", LABELLED)
def test_fingerprint_changes_with_the_file(cls, root, tmp_path):
    folder = cls.source.locate_in(root)
    shutil.copytree(folder, tmp_path / folder.name)
    train, _ = both(cls, tmp_path)
    before = train.fingerprint()
    assert both(cls, tmp_path)[0].fingerprint() == before
    with train.lines.path.open("ab") as file:
        file.write(b"\n")
    assert both(cls, tmp_path)[0].fingerprint() != before


# --- the package `datasets`, real data -------------------------------------------------------------------------------


def test_tables_and_streams_of_the_package(root, tmp_path, monkeypatch):
    real = pytest.importorskip("datasets")
    monkeypatch.setattr(real.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = real.Features({
        "sentence1": real.Value("string"), "sentence2": real.Value("string"),
        "label": real.ClassLabel(names=["entailment", "not_entailment"]), "idx": real.Value("int32"),
    })  # fmt: skip
    for split, rows in as_hub(glue.Rte, root).splits.items():
        path = tmp_path / "hub" / "nyu-mll" / "glue" / "rte" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        real.Dataset.from_list(rows, features=features).to_parquet(path)
    files = MINIATURES["mc4_files"](tmp_path / "upstream")
    shutil.copytree(files / "multilingual", tmp_path / "hub" / "allenai" / "c4" / "multilingual")

    def load_dataset(path: str, config: str = "", **arguments: Any) -> Any:
        folder = tmp_path / "hub" / path / config
        return original(str(folder), cache_dir=str(tmp_path / "cache"), **arguments)

    original = real.load_dataset
    monkeypatch.setattr(real, "load_dataset", load_dataset)
    glue.Rte.convert(glue.Rte.source.locate_in(tmp_path / "data"))
    for fetched, upstream in zip(both(glue.Rte, tmp_path / "data"), both(glue.Rte, root), strict=True):
        assert samples(fetched) == samples(upstream)
    monkeypatch.setattr(mc4, "SHARD", 2)
    for documents in ("3", "5"):
        monkeypatch.setenv(mc4.VARIABLE, documents)
        mc4.MC4.convert(mc4.MC4.source.locate_in(tmp_path / "data"))
    fetched = both(mc4.MC4, tmp_path / "data")
    assert samples(fetched[0]) == samples(both(mc4.MC4, root)[0])


@pytest.mark.skipif(not (SHARED / "sst2").is_dir(), reason="no data in SSLX_SHARED_DATA")
def test_real_sst2_files():
    train, test = both(glue.Sst2, SHARED / "sst2")
    assert (len(train), len(test)) == (60_614, 6_735)
    assert train[0] == {"inputs": {"text": np.array("when are bears bears and ")}, "label": 1}
    assert 0.5 < np.mean(train.labels) < 0.6


@pytest.mark.skipif(not (SHARED / "wikitext2_valid_test").is_dir(), reason="no data in SSLX_SHARED_DATA")
def test_real_wikitext_has_the_published_number_of_words(tmp_path):
    """WikiText-2 has the format of WikiText-103. Its validation part has 217,646 words, with one more for each line."""
    folder = tmp_path / "wikitext-103"
    folder.mkdir()
    for name, file in (("train", "test"), ("valid", "valid")):
        source = SHARED / "wikitext2_valid_test" / "wikitext-2" / f"{file}.txt"
        shutil.copy(source, folder / f"wiki.{name}.tokens")
    _, valid = both(wikitext.WikiText103, tmp_path)
    words = sum(len(text.split()) for text, _ in samples(valid))
    assert words + len(valid.lines) == 217_646
    assert json.dumps(samples(valid)[0]) == '["= Homarus gammarus =", null]'
