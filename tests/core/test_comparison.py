"""Numbers of a comparison against values by hand, its tables in each format, and grids of runs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest

from ssl_core.compare.grid import cell_options, cells, make_grid, read_grid, seeds_of
from ssl_core.errors import ConfigError
from ssl_core.plugins import load
from ssl_core.report import Report
from ssl_core.report.comparison import as_records, compare, paired_t
from ssl_core.report.comparison_tables import (
    csv_text,
    html,
    latex,
    markdown,
    rich_tables,
    score_tables,
    verdicts,
    write_all,
)

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"alpha": (0.70, 0.74, 0.72), "beta_x": (0.60, 0.66, 0.63)}
RANDOM, RAW = (0.50, 0.52, 0.51), (0.40, 0.40, 0.40)


def score(features, value, seed, data):
    return {
        "dataset": f"speech/{data}", "task": "word", "probe": "linear", "metric": "accuracy", "features": features,
        "value": value, "n_train": 10, "n_test": 100, "seed": seed,
    }  # fmt: skip


def report(method, seed, data="toy", value=None):
    value = METHODS[method][seed] if value is None else value
    return Report.model_validate(
        {
            "run": "r", "created": "2026-01-01T00:00:00Z", "objective": "mae", "modality": "speech", "dataset": data,
            "tokenizer": "speech", "seed": seed, "steps": 10, "wall_seconds": 9.0, "pretrain_seconds": 4.0 + seed,
            "samples_per_second": 100.0, "peak_memory_bytes": 2**30, "parameters": {}, "device": "CPU",
            "precision": "fp32", "layout": [], "config": {"label": method, "data_label": data}, "versions": {},
            "origins": {},
            "scores": [
                score("trained", value, seed, data), score("random_init", RANDOM[seed], seed, data),
                score("raw_input", RAW[seed], seed, data),
            ],
        }
    )  # fmt: skip


@pytest.fixture
def three_seeds():
    return compare([report(method, seed) for seed in range(3) for method in METHODS])


def test_means_and_deviations_by_hand(three_seeds):
    (column,) = three_seeds.columns
    assert three_seeds.values["alpha", column].mean == pytest.approx(0.72)
    assert three_seeds.values["alpha", column].deviation == pytest.approx(0.02)  # sqrt((0.02^2 + 0.02^2 + 0) / 2)
    assert three_seeds.rows == ["alpha", "beta_x", "random init", "raw input"]
    assert three_seeds.best(column) == three_seeds.best_method(column) == "alpha"
    assert three_seeds.runner_up(column) == "beta_x"
    assert three_seeds.baseline(column) == "random init"


def test_the_paired_test_by_hand(three_seeds):
    (column,) = three_seeds.columns
    gain, p, seeds = three_seeds.gain("alpha", "beta_x", column)
    # gains 0.10, 0.08, 0.09: mean 0.09, deviation 0.01, t = 0.09 / (0.01 / sqrt(3)) = 15.588 with 2 degrees of freedom
    assert gain == pytest.approx(0.09)
    assert seeds == 3
    t = 0.09 / (0.01 / math.sqrt(3))
    assert p == pytest.approx(1 - t / math.sqrt(2 + t * t))  # the t distribution of 2 degrees in closed form
    assert paired_t([0.1]) is None
    assert paired_t([0.1, 0.1]) is None


def test_only_common_seeds_are_paired():
    comparison = compare([report("alpha", 0), report("alpha", 1), report("beta_x", 1)])
    (column,) = comparison.columns
    assert comparison.gain("alpha", "beta_x", column) == (pytest.approx(0.08), None, 1)
    assert any("not every method has every seed" in note for note in comparison.notes)


def test_ranks_over_data():
    reports = [report(m, s, data) for m in METHODS for s in range(3) for data in ("toy", "other")]
    reports += [report("alpha", s, "third", 0.1) for s in range(3)] + [
        report("beta_x", s, "third", 0.2) for s in range(3)
    ]
    assert compare(reports).ranks("linear") == {"alpha": pytest.approx(4 / 3), "beta_x": pytest.approx(5 / 3)}


def test_an_untrained_row_that_differs_between_methods_is_noted():
    other = report("beta_x", 0)
    moved = other.model_copy(update={"scores": tuple(s.model_copy(update={"value": 0.9}) for s in other.scores)})
    comparison = compare([report("alpha", 0), moved])
    assert any("random init differs" in note for note in comparison.notes)
    (column,) = comparison.columns
    assert comparison.values["random init", column].mean == 0.50


def test_a_later_report_replaces_an_earlier_one():
    comparison = compare([report("alpha", 0), report("alpha", 0, value=0.9)])
    (column,) = comparison.columns
    assert dict(comparison.values["alpha", column].by_seed) == {0: 0.9}


def test_replacing_a_run_with_other_options_is_noted():
    def comparison(rate):
        one = report("alpha", 0)
        return one.model_copy(update={"config": {**one.config, "train": {"lr": rate, "compile": "on"}}})

    assert not compare([comparison(0.1), comparison(0.1)]).notes
    (note,) = compare([comparison(0.1), comparison(0.2)]).notes
    assert "alpha on toy, seed 0" in note
    assert "--set label=NAME" in note


def test_seeds_with_different_options_are_noted():
    one, other = report("alpha", 0), report("alpha", 1)
    same = compare([one, other])
    assert not any("different options" in note for note in same.notes)
    other = other.model_copy(update={"config": {**other.config, "train": {"lr": 0.01}, "seed": 1}})
    one = one.model_copy(update={"config": {**one.config, "train": {"lr": 0.1}, "seed": 0}})
    (note,) = (note for note in compare([one, other]).notes if "different options" in note)
    assert note == (
        "alpha on toy: the mean is over runs with different options: train.lr is 0.1 with seed 0 and 0.01 with seed 1"
    )


def test_files_without_a_label_are_columns_of_their_own():
    def on(root, seed):
        one = report("alpha", seed)
        return one.model_copy(update={"config": {"label": "alpha", "dataset": {"name": "files", "root": root}}})

    def names(*roots):
        return [column.data for column in compare([on(root, seed) for seed, root in enumerate(roots)]).columns]

    assert names("/a/d.csv", "/a/d.csv") == ["speech/toy"]
    assert names("/a/d.csv", "/a/e.csv") == ["speech/toy d.csv", "speech/toy e.csv"]
    assert names("/a/d.csv", "/b/d.csv") == ["speech/toy /a/d.csv", "speech/toy /b/d.csv"]


def test_scores_of_different_splits_are_columns_of_their_own():
    one = report("alpha", 0)
    other = report("beta_x", 0).model_copy(update={"split": "validation"})
    made = compare([one, other])
    assert [column.label for column in made.columns] == ["toy: word", "toy: word (validation split)"]
    assert {row["split"] for row in as_records(made)} == {"test", "validation"}


def test_no_name_ends_a_comment_of_latex():
    one = report("alpha", 0)
    score = one.scores[0].model_copy(update={"probe": "knn\n\\immediate\\write18{id}\n%"})
    text = latex(compare([one.model_copy(update={"scores": (score,)})]))
    assert "write18" in text
    assert not any(line.startswith("\\immediate") for line in text.splitlines())
    assert "\\immediate" not in text


def test_table_is_transposed_if_there_are_more_data_sets_than_rows():
    """Five data sets by four rows: bold cells stay those of the best values."""
    data = ["a", "b", "c", "d", "e"]
    table = score_tables(compare([report(m, 0, name) for m in METHODS for name in data]))[0]
    assert table.header == ["data", "alpha", "beta_x", "random init", "raw input"]
    assert [line[0] for line in table.body] == [*(f"{name}: word, accuracy %" for name in data), "mean rank"]
    assert table.body[4][1:] == ["70.0", "60.0", "50.0", "40.0"]
    assert table.bold == {(at, 1) for at in range(5)}
    assert table.separator_row is None
    upright = score_tables(compare([report(m, 0, name) for m in METHODS for name in data[:4]]))[0]
    assert upright.header[0] == "method"
    assert upright.bold == {(0, at) for at in range(1, 5)}
    assert upright.separator_row == 2


def test_every_format_has_the_numbers(three_seeds, tmp_path):
    text = markdown(three_seeds)
    assert "| alpha | **72.0 ± 2.0 (p<0.001)** |" in text
    assert "| raw input | 40.0 ± 0.0 |" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(three_seeds))))
    assert [row["method"] for row in rows] == three_seeds.rows
    assert float(rows[0]["mean"]) == pytest.approx(0.72)
    assert rows[0]["best"] == "True"
    tex = latex(three_seeds)
    assert r"beta\_x" in tex
    assert r"\textbf{72.0 $\pm$ 2.0" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    page = html(three_seeds, "<b>title</b>")
    assert "&lt;b&gt;title" in page
    assert "<strong>72.0 ± 2.0" in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert any("beta_x" in line and "+9.0" in line for line in verdicts(three_seeds))
    assert rich_tables(three_seeds)
    paths = write_all(three_seeds, tmp_path, "t", ["failed: x"])
    assert sorted(path.suffix for path in paths) == [".csv", ".html", ".json", ".md", ".tex"]
    assert json.loads((tmp_path / "comparison.json").read_text())["failures"] == ["failed: x"]


def error_report(method, seed, error):
    """A report whose metric is an error: 2.0 with random features, 3.0 with the raw input."""
    one = report(method, seed)
    values = {"trained": error, "random_init": 2.0, "raw_input": 3.0}
    scores = tuple(
        s.model_copy(update={"metric": "mae", "higher_is_better": False, "value": values[s.features]})
        for s in one.scores
    )
    return one.model_copy(update={"scores": scores})


def test_a_smaller_error_is_better_in_every_figure():
    errors = {"alpha": (1.0, 1.2), "beta_x": (1.5, 1.6)}
    comparison = compare([error_report(m, seed, value) for m, of in errors.items() for seed, value in enumerate(of)])
    (column,) = comparison.columns
    assert comparison.best(column) == comparison.best_method(column) == "alpha"
    assert comparison.runner_up(column) == "beta_x"
    assert comparison.baseline(column) == "random init"
    gain, p, seeds = comparison.gain("alpha", "beta_x", column)
    assert (gain, seeds) == (pytest.approx(0.45), 2)  # (0.5 + 0.4) / 2
    assert p == pytest.approx(paired_t([0.5, 0.4]))
    assert comparison.ranks("linear") == {"alpha": 1.0, "beta_x": 2.0}
    assert "alpha (+0.450 to beta_x" in verdicts(comparison)[0].replace("best method ", "")
    table = score_tables(comparison)[0]
    assert table.header[1].endswith("MAE ↓")
    assert table.bold == {(0, 1)}
    assert r"MAE $\downarrow$" in latex(comparison)
    records = json.loads(json.dumps(as_records(comparison)))
    assert [record["best"] for record in records] == [True, False, False, False]
    assert records[0]["gain_over_untrained"] == pytest.approx(0.9)
    assert records[0]["values"] == {"0": 1.0, "1": 1.2}
    assert records[0]["higher_is_better"] is False
    assert "MAE ↓" in html(comparison, "errors")


@pytest.fixture(scope="module")
def catalogue():
    return load()


def test_a_grid_from_flags(catalogue):
    grid = make_grid(
        {"objectives": ["mae", "emix"], "modalities": ["speech"], "seeds": 2, "steps": 7, "set": {"train": {"lr": 0.1}}}
    )
    planned = cells(grid, catalogue)
    assert [cell.name for cell in planned] == [f"speech/{m}/seed-{s}" for s in (0, 1) for m in ("mae", "emix")]
    assert planned[1].options == {
        "train.lr": 0.1, "train.steps": 7, "modality": "speech", "objective.name": "emix", "seed": 0, "label": "emix",
        "data_label": "speech",
    }  # fmt: skip


def test_a_grid_from_a_file_and_flags_over_it(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        "seeds = [3, 4]\nsteps = 5\n[set]\ntrain.lr = 1e-3\n"
        '[[method]]\nname = "deep"\nobjective = "mae"\nset = {masking.ratio = 0.5}\n'
        '[[data]]\nname = "digits"\nmodality = "speech"\n[data.set]\ndataset.n_train = 8\n'
    )
    grid = read_grid(path, {"steps": 9, "set": {"train.lr": 1e-2}})
    assert grid.seeds == (3, 4)
    options = cell_options(grid, grid.method[0], grid.data[0], 4)
    assert options["train.steps"] == 9
    assert options["train.lr"] == 1e-2
    assert options["masking.ratio"] == 0.5
    assert options["dataset.n_train"] == 8
    assert options["label"] == "deep"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectives": ["mae"]}, "--modality"),
        ({"modalities": ["speech"]}, "--objectives"),
        ({"objectives": ["mae"], "modalities": ["speech"], "steps": 3, "budget": "1m"}, "not both"),
        ({"objectives": ["mae", "mae"], "modalities": ["speech"]}, "two of"),
        ({"objectives": ["mae"], "modalities": ["speech"], "seed": 3}, "did you mean 'seeds'"),
        ({"objectives": ["mae"], "modalities": ["speech"], "seeds": []}, "seeds"),
    ],
)
def test_a_bad_grid_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_grid(values)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_before_the_first_run(catalogue):
    grid = make_grid({"objectives": ["mae", "maee"], "modalities": ["speech"]})
    with pytest.raises(ConfigError, match="maee on speech"):
        cells(grid, catalogue)


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("5,7", [5, 7])])
def test_seeds(text, seeds):
    assert list(seeds_of(text)) == seeds


@pytest.mark.parametrize("text", ["0", "x", "1,b"])
def test_bad_seeds(text):
    with pytest.raises(ConfigError, match="--seeds"):
        seeds_of(text)


def test_grids_of_the_documentation_and_of_the_benchmarks_are_valid(catalogue, tmp_path):
    page = (ROOT / "docs" / "compare.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "docs.toml").write_text(block)
    for path in (tmp_path / "docs.toml", *sorted((ROOT / "benchmarks" / "grids").glob("*.toml"))):
        common = {"dataset.root": "x"} if "files" in path.read_text() else {}
        assert cells(read_grid(path, {"set": common}), catalogue), path


def test_a_label_of_data_holds_for_all_runs_on_it():
    """A run without a label takes that of a run on the same data, unless there are two."""

    def of(seed, label, **options):
        comparison = report("alpha", seed)
        return comparison.model_copy(update={"config": {"data_label": label, "dataset": {"name": "toy", **options}}})

    comparison = compare([of(0, "my data"), of(1, "")])
    assert {column.data for column in comparison.columns} == {"my data"}
    assert [len(values.by_seed) for values in comparison.values.values()] == [2] * len(comparison.values)
    comparison = compare([of(0, "my data"), of(1, "", rate=8000)])
    assert {column.data for column in comparison.columns} == {"my data", "speech/toy"}
    comparison = compare([of(0, "one"), of(1, "other"), of(2, "")])
    assert {column.data for column in comparison.columns} == {"one", "other", "speech/toy"}
