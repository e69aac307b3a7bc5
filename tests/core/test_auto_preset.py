"""The preset `auto`: a pure rule of the number of samples, for own data, beneath everything that is set."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sslx
from ssl_core import ConfigError, plugins
from ssl_core.config.auto import PATHS, TABLE, apply_auto, auto_values
from ssl_core.config.resolve import resolve
from ssl_core.runs.pretrain import RunRequest, plan_run, run_folder
from ssl_core.runs.pretrain import pretrain as pretrain_run
from ssl_core.runs.run import RunContext
from ssl_core.runs.run_dir import load_config
from ssl_core.utils.console import Console


def config_of(options: dict[str, Any]) -> Any:
    base = {"objective.name": "metamae", "modality": "tabular", "dataset.name": "files", "dataset.root": "x.csv"}
    return resolve(plugins.load(), base | options)


def applied(options: dict[str, Any], samples: int = 3000) -> Any:
    config, classes = config_of(options)
    return apply_auto(config, classes.objective, samples)


def test_rule_grows_with_the_data():
    sizes = [auto_values(count) for count in (1, 100, 499, 500, 3000, 19_999, 20_000, 10**6)]
    for name in ("encoder.dim", "encoder.depth", "train.steps", "train.batch_size"):
        values = [one[name] for one in sizes]
        assert values == sorted(values), name
    for one in sizes:
        assert set(one) == set(PATHS)
        assert one["encoder.dim"] % one["encoder.heads"] == 0
        assert one["train.warmup_steps"] < one["train.steps"]
    assert sizes[-1]["encoder.depth"] == 12
    assert TABLE[-1].below is None


def test_batches_leave_several_in_a_pass():
    assert [auto_values(count)["train.batch_size"] for count in (10, 64, 127, 128, 256, 10_000)] == [
        8,
        16,
        16,
        32,
        64,
        64,
    ]


def test_short_budget_takes_a_small_encoder():
    assert auto_values(10**6, 60)["encoder.depth"] == 4
    assert auto_values(10**6, 3600)["encoder.depth"] == 12
    assert auto_values(100, 60)["encoder.dim"] == 64


def test_own_data_get_it_and_say_so():
    config = applied({})
    assert (config.encoder.options["dim"], config.encoder.options["depth"]) == (128, 4)
    assert (config.train.lr, config.train.steps) == (1e-3, 940)
    assert config.auto == ()
    line = config.preset_sources[-1]
    for word in ("auto", "3,000 training samples", "encoder.dim 128", "train.steps 940", "--preset default"):
        assert word in line


@pytest.mark.parametrize(
    ("options", "closed"),
    [
        ({"train.steps": 7}, {"train.steps"}),
        ({"encoder.dim": 64}, {"encoder.dim", "encoder.heads"}),
        ({"encoder.depth": 2, "train.lr": 1.0}, {"encoder.depth", "train.lr"}),
        ({"preset": "none"}, set(PATHS)),
        ({"preset": "default"}, set(PATHS)),
        ({"preset": "small"}, set(PATHS)),
        ({"preset": "metamae"}, set(PATHS)),
    ],
)  # fmt: skip
def test_everything_that_is_set_stays(options, closed):
    config, _ = config_of(options)
    assert set(config.auto) == set(PATHS) - closed
    assert set(applied(options).auto) == set()
    for path, value in options.items():
        section, _, name = path.partition(".")
        if name:
            assert getattr(applied(options), section).model_dump()[name] == value


def test_published_protocol_is_untouched():
    before, classes = config_of({"preset": "metamae"})
    assert apply_auto(before, classes.objective, 100) == before
    assert before.train.steps == 100_000


def test_default_gives_what_applies_by_itself():
    config, _ = config_of({"preset": "default"})
    assert (config.encoder.options["depth"], config.train.steps) == (12, 1000)
    assert config.objective.options["depth"] == 6, "as MetaMAE, Table 8, column HIGGS"
    assert config_of({"preset": "none"})[0].objective.options["depth"] != 6


def test_embedded_data_keep_their_preset():
    config, _ = resolve(plugins.load(), {"objective.name": "metamae", "modality": "tabular"})
    assert config.auto == ()
    assert config.train.steps == 600


def test_named_for_any_data():
    config, classes = resolve(plugins.load(), {"objective.name": "mae", "modality": "tabular", "preset": "auto"})
    assert apply_auto(config, classes.objective, 300).encoder.options["dim"] == 64


def test_objective_that_reads_deep_layers_gets_them():
    config, classes = config_of({})

    class Deep(classes.objective):  # type: ignore[name-defined, misc]
        layers = (2, 7)

    assert apply_auto(config, Deep, 100).encoder.options["depth"] == 7


def test_unknown_preset_names_auto():
    with pytest.raises(ConfigError, match="auto"):
        config_of({"preset": "atuo"})


def test_saved_configuration_holds_the_values(tmp_path):
    """config.json holds the values, so that a resume and a re-run from it use them whatever the data's size."""
    from ssl_core.config.resolve import flatten, read_file

    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=list("abc"))
    frame.to_csv(tmp_path / "x.csv", index=False)
    run = sslx.pretrain(tmp_path / "x.csv", steps=2, out=tmp_path / "run", set={"dataset.test_fraction": 0.5})
    assert run.config.modality == "tabular"
    assert run.config.train.batch_size == 8
    assert any(line.startswith("auto: 20 training samples") for line in run.config.preset_sources)
    saved = read_file(tmp_path / "run" / "config.json")
    assert saved["encoder.dim"] == 64
    assert saved["train.batch_size"] == 8
    assert saved["train.steps"] == 2
    config, _ = resolve(plugins.load(), saved)
    assert config.auto == ()
    assert flatten(config.model_dump(mode="json")).keys() == saved.keys()


def test_a_run_from_a_file_that_leaves_the_sizes_open_is_resumed(tmp_path, monkeypatch):
    """As the cells of a comparison are: the file does not hold what the preset has filled in."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60)}).to_csv(tmp_path / "x.csv", index=False)
    options = {
        "objective.name": "mae", "modality": "tabular", "dataset.name": "files", "train.steps": 2, "seed": 1,
        "dataset.root": str(tmp_path / "x.csv"), "label": "row",
    }  # fmt: skip
    (tmp_path / "cell.json").write_text(json.dumps(options))
    file, out, catalogue = tmp_path / "cell.json", tmp_path / "run", plugins.load()
    request = RunRequest({}, file, out)
    with run_folder(plan_run(request, catalogue), RunContext(catalogue, out, Console())) as run:
        pretrain_run(run, RunContext(catalogue, out, Console()))
    saved = load_config(out)
    assert saved.encoder.options["dim"] == 64
    assert plan_run(replace(request, resume=True), catalogue).config == saved
    (tmp_path / "cell.json").write_text(json.dumps(options | {"train.lr": 0.5}))
    with pytest.raises(ConfigError, match="--resume: train.lr was"):
        plan_run(replace(request, resume=True), catalogue)
    changed = plan_run(replace(request, file=None, options={"device": "cuda", "label": "B"}, resume=True), catalogue)
    assert (changed.config.device, changed.config.label) == ("cuda", "B")
