"""Inspection of own files: what is found, the command, requests without a modality."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sslx
from ssl_core import BadSample, ConfigError, Continuous, Dataset, Recognition, Task, hookimpl, plugins
from ssl_core.config.resolve import parse_setting, resolve
from ssl_core.plugins import Origin
from ssl_core.runs.inspection.candidates import Candidate, choose, find_candidates
from ssl_core.runs.inspection.complete import complete_request
from ssl_core.runs.inspection.inspect import inspect_path
from ssl_core.runs.inspection.proposal import command_of, quoted, setting
from ssl_core.runs.inspection.samples import look_at, shared_with

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """80 rows with a name, missing and constant values, a rare class, and five copies at the end."""
    folder = tmp_path_factory.mktemp("a folder with 'quotes'")
    frame = pd.DataFrame({"age": RNG.integers(20, 80, 80).astype(float), "height": RNG.normal(size=80).round(4)})
    frame["unit"], frame["site"] = "cm", RNG.choice(["x", "y"], 80)
    frame["label"] = ["rare" if i % 20 == 0 else "yes" if i % 2 else "no" for i in range(80)]
    frame.loc[::8, "age"] = np.nan
    path = folder / "people.csv"
    frame.to_csv(path, index=False)
    (folder / "notes.docx").write_bytes(b"PK")
    return path


@pytest.fixture(scope="module")
def found(table) -> sslx.Inspection:
    return sslx.inspect(table.parent)


def test_table_is_described(found):
    assert (found.modality, found.dataset, found.is_sure) == ("tabular", "files", True)
    assert sum(found.samples.values()) == 80
    columns = {column.name: column for column in found.columns}
    assert columns["label"].role == "label"
    assert columns["age"].kind == "number"
    assert 0.05 < columns["age"].missing < 0.2
    assert (columns["site"].categories, columns["site"].examples) == (2, ("x", "y"))
    assert found.constant == ("unit",)
    assert found.ignored == {".docx": 1}
    assert set(found.classes) == {"rare", "yes", "no"}
    assert sum(found.classes.values()) == found.labelled["train"] == found.samples["train"]
    assert any("'rare'" in line or "rare (" in line for line in found.doubts)
    assert found.columns[0].low == 20 or found.columns[0].low > 19


def test_lines_hold_what_was_found(found):
    text = str(found)
    for word in ("tabular 90%", "missing    age", "constant   unit", ".docx", "run        sslx run"):
        assert word in text
    assert text.splitlines()[-1].endswith(found.command)


def test_json_has_the_documented_form(found):
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["format"] == 1
    assert again["candidates"][0]["modality"] == "tabular"
    assert again["arguments"][0] == "run"
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    for key in again:
        assert f"`{key}`" in page, key


@pytest.mark.slow
def test_command_runs_as_typed(found, tmp_path):
    """Quotes and blanks in the path included; --dry-run opens the data and builds the model."""
    words = shlex.split(found.command)
    assert words[0] == "sslx"
    assert words[1:] == list(found.arguments)
    out = subprocess.run(
        [sys.executable, "-m", "ssl_core.cli", *words[1:], "--dry-run"], capture_output=True, text=True, cwd=tmp_path
    )
    assert out.returncode == 0, out.stderr
    assert '"preset": "auto"' in out.stdout
    assert "training samples: encoder.dim 64" in out.stdout


def test_options_are_those_of_the_command(found):
    config, _ = resolve(plugins.load(), found.options)
    assert config.modality == "tabular"
    assert config.train.steps == found.options["train.steps"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("labels", "labels"), (("labels",), "labels"), (("a", "b"), '["a", "b"]'), ("a,b", '"a,b"'), ("12", '"12"'),
        (True, "true"), (None, "none"), (3, "3"), (0.5, "0.5"), ((4, 4), "[4, 4]"), ("none", '"none"'),
    ],
)  # fmt: skip
def test_settings_are_read_back(value, text):
    assert setting("a.b", value) == f"a.b={text}"
    back = parse_setting(setting("a.b", value))[1]
    if value is not None and not isinstance(value, tuple):
        assert back == value


def test_command_quotes_for_the_shell():
    options = {"objective.name": "mae", "modality": "image", "dataset.name": "files", "dataset.root": "a b/$x; ls"}
    assert quoted(command_of(options)) == "sslx run --objective mae --modality image --data 'a b/$x; ls'"
    assert command_of({"dataset.root": "-x"}) == ["run", "--data=-x"]
    assert command_of({"dataset.name": "hdf5"}) == ["run", "--dataset", "hdf5"]


def candidate(modality: str, confidence: float) -> Candidate:
    return Candidate(modality, "files", confidence, "")


def test_only_clear_candidates_are_sure():
    a, b = candidate("a", 0.9), candidate("b", 0.6)
    assert choose([a, b]) is a
    assert choose([a, candidate("b", 0.8)]) is None
    assert choose([candidate("a", 0.6)]) is None
    assert choose([]) is None
    assert choose([a, candidate("a", 0.9)]) is a, "two data sets of one modality do not contradict each other"


def test_request_without_modality_is_completed(table):
    catalogue = plugins.load()
    options, lines = complete_request({"dataset.root": str(table), "dataset.name": "files"}, None, catalogue)
    assert (options["modality"], options["objective.name"]) == ("tabular", "metamae")
    assert len(lines) == 1
    assert "tabular" in lines[0]
    assert "--modality" in lines[0]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"objective.name": "mae"}, {"modality": "text"},
        {"modality": "text", "dataset.root": "x", "objective.name": "mae"},
        {"dataset.name": "higgs", "dataset.root": "x"}, {"benchmark": "metamae", "dataset.root": "x"},
    ],
)  # fmt: skip
def test_other_requests_stay_as_they_are(options):
    assert complete_request(options, None, plugins.load()) == (options, [])


def test_own_data_need_no_objective():
    options = {"modality": "text", "dataset.root": "x"}
    completed, lines = complete_request(options, None, plugins.load())
    assert completed == {**options, "objective.name": "metamae"}
    assert lines == ["no objective is named, so it is metamae"]


def test_what_is_no_path_is_refused():
    with pytest.raises(ConfigError, match=r"path is a ndarray; give a file or folder, as sslx.inspect\("):
        sslx.inspect(np.zeros((4, 3)))


def test_options_of_the_user_are_kept(tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame({"sentence": [f"this is the text number {i}" for i in range(30)]}).to_csv(path, index=False)
    catalogue = plugins.load()
    options, _ = complete_request({"dataset.root": str(path)}, None, catalogue)
    assert options["dataset.text"] == "sentence"
    options, _ = complete_request({"dataset.root": str(path), "dataset.text": "other"}, None, catalogue)
    assert options["dataset.text"] == "other"


def test_unclear_request_names_candidates_and_the_option(tmp_path):
    from PIL import Image

    for i in range(4):
        Image.fromarray(RNG.integers(0, 4000, (9, 9)).astype(np.uint16)).save(tmp_path / f"{i}.png")
    with pytest.raises(ConfigError, match=r"may be .*image.*--modality image or --modality medical-image"):
        complete_request({"dataset.root": str(tmp_path)}, None, plugins.load())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no file"):
        complete_request({"dataset.root": str(tmp_path / "empty")}, None, plugins.load())
    with pytest.raises(ConfigError, match="does not exist"):
        complete_request({"dataset.root": str(tmp_path / "absent")}, None, plugins.load())


def test_unreadable_data_have_a_problem_and_no_command(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 50)
    found = inspect_path(str(tmp_path), plugins.load())
    assert found.command is None
    assert found.problem is not None
    assert found.ignored == {".bin": 1}
    assert "--modality says what it is" in found.problem


def test_unknown_modality_and_path(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'tabular'"):
        sslx.inspect(tmp_path, modality="tabula")
    with pytest.raises(ConfigError, match="does not exist"):
        sslx.inspect(tmp_path / "absent")


class Clouds(Dataset):
    """Point clouds."""

    name = "clouds"
    modality = "tabular"

    class Options(Dataset.Options):
        """Options."""

        root: str
        points: int = 4

    def __init__(self, options: Any, split: Any) -> None:
        super().__init__(options, split)
        self.fields = {"numeric": Continuous((3,))}
        self.task = Task("classes", 2, "accuracy", names=("a", "b"))

    @classmethod
    def recognise(cls, root: str) -> Recognition | None:
        return Recognition(0.95, "point clouds", {"points": 8}) if root.endswith(".cloud") else None

    def __len__(self) -> int:
        return 40 if self.split == "train" else 10

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise BadSample("is torn")
        value = index % 10 if self.split == "test" else index
        return {"inputs": {"numeric": np.full(3, value, np.float32)}, "label": index % 2}


class Offers:
    @hookimpl
    def register_datasets(self) -> list[type[Dataset]]:
        return [Clouds]


def test_third_party_data_set_takes_part(tmp_path):
    path = tmp_path / "x.cloud"
    path.write_text("")
    catalogue = plugins.load()
    catalogue.add(Origin("test:clouds"), Offers())
    found = inspect_path(str(path), catalogue)
    assert (found.modality, found.dataset, found.is_sure) == ("tabular", "clouds", True)
    assert found.arguments[:9] == (
        "run", "--objective", "metamae", "--modality", "tabular", "--dataset", "clouds", "--data", str(path),
    )  # fmt: skip
    assert "dataset.points=8" in found.arguments
    assert found.skipped == {"train": 1, "test": 1}
    assert found.shared["test"] == 9
    assert any("equal a training sample" in line for line in found.doubts)
    options, _ = complete_request({"dataset.root": str(path)}, None, catalogue)
    assert (options["dataset.name"], options["dataset.points"]) == ("clouds", 8)


def test_data_set_that_fails_to_look_is_named(tmp_path, monkeypatch):
    def fail(root: str) -> None:
        raise RuntimeError("no idea")

    catalogue = plugins.load()
    catalogue.add(Origin("test:clouds"), Offers())
    monkeypatch.setattr(Clouds, "recognise", fail)
    _, problems = find_candidates(str(tmp_path), catalogue)
    assert len(problems) == 1
    assert "tabular/clouds" in problems[0]
    assert "no idea" in problems[0]


def test_samples_are_looked_at_once_and_the_same(monkeypatch):
    train, test = Clouds(Clouds.Options(root="x"), "train"), Clouds(Clouds.Options(root="x"), "test")
    look = look_at(train)
    assert sorted(look.index) == list(range(40))
    assert look.index != list(range(40)), "any beginning is spread over all"
    assert len(look.bad) == 1
    assert look.labels == {0: 20, 1: 19}
    assert (look.stats["numeric"].low[0], look.stats["numeric"].high[0]) == (0, 39)
    assert shared_with(look, look_at(test)) == 9
    monkeypatch.setattr("ssl_core.runs.inspection.samples.MOST", 10)
    assert len(look_at(train).index) == 10


@pytest.mark.release
def test_table_of_ten_million_rows_needs_little_memory(tmp_path):
    """At most 500 MB beside the libraries; the number of rows, missing values and ranges are those of all rows."""
    import pyarrow as pa
    import pyarrow.csv as pv

    path, chunk = tmp_path / "large.csv", 500_000
    with path.open("wb") as file:
        for start in range(0, 10_000_000, chunk):
            rows = np.arange(start, start + chunk)
            block = pa.table(
                {
                    "a": pa.array(rows % 1000, mask=rows % 100 == 0), "b": RNG.normal(size=chunk).round(3),
                    "unit": pa.array(["cm"] * chunk), "label": np.where(rows % 3, "yes", "no"),
                }
            )  # fmt: skip
            pv.write_csv(block, file, pv.WriteOptions(include_header=start == 0, quoting_style="none"))
    script = """
import sys, json
from ssl_core import plugins
import ssl_core.api, pandas, pyarrow.csv, pyarrow.parquet
from ssl_core.runs.inspection.inspect import inspect_path
def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
catalogue = plugins.load()
before = memory("VmRSS")
found = inspect_path(sys.argv[1], catalogue)
print(json.dumps([memory("VmHWM") - before, found.to_dict()]))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    out = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    used, found = json.loads(out.stdout.splitlines()[-1])
    assert used < 500 * 1024
    assert sum(found["samples"].values()) == 10_000_000
    assert "10,000,000 rows" in found["excerpt"]
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["a"]["missing"] == pytest.approx(0.01)
    assert (columns["a"]["low"], columns["a"]["high"]) == (1, 999)
    assert found["constant"] == ["unit"]
    assert found["files"] == {".csv": 1}
