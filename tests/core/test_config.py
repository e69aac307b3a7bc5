"""How a configuration is resolved, and what a mistake is told."""

from __future__ import annotations

import json
import os

import pytest
from pydantic import Field

from ssl_core import ConfigError, Masking, Objective, Preset, hookimpl, plugins
from ssl_core.config.resolve import parse_setting, plugins_of, resolve, validate
from ssl_core.config.schema import RunConfig
from ssl_core.plugins import Catalogue
from ssl_plugins.encoders import transformer
from ssl_plugins.maskings import block, random
from ssl_plugins.objectives import mae, metamae
from ssl_plugins.probes import knn, linear


class Plain(Objective):
    """An objective without a mask."""

    name = "plain"

    class Options(Objective.Options):
        weight: float = Field(1.0, gt=0)

    def forward(self, tokens, encoder, draws):
        raise NotImplementedError


class Few(Masking):
    """A masking with options of its own."""

    name = "few"

    class Options(Masking.Options):
        count: int = 3

    def __call__(self, batch, generator):
        raise NotImplementedError


@pytest.fixture
def catalogue(toy):
    class Module:
        @hookimpl
        def register_objectives(self):
            return [Plain]

        @hookimpl
        def register_tokenizers(self):
            return [toy.Tokenizer]

        @hookimpl
        def register_datasets(self):
            return [toy.Data]

        @hookimpl
        def register_maskings(self):
            return [Few]

        @hookimpl
        def register_presets(self):
            return [
                Preset("any", {"train.steps": 11, "train.lr": 0.5}, "a guess", default=True),
                Preset("for-toy", {"train.lr": 0.25}, "a table", modality="toy", default=True),
                Preset("paper", {"train.steps": 99, "objective.alpha": 0.125}, "Table 1", objective="metamae"),
                Preset("mask", {"masking.ratio": 0.6}, "Table 2", objective="mae", default=True),
                Preset("these", {"train.weight_decay": 0.5}, "tried", modality="toy", dataset="toy-data", default=True),
                Preset("method", {"train.weight_decay": 0.25}, "Table 3", "metamae", "toy", default=True),
            ]

    probes = {"x:linear": linear, "x:knn": knn, "x:transformer": transformer}
    modules = {"toy:toy": Module(), "x:mae": mae, "x:meta": metamae, "x:r": random, "x:b": block}
    return Catalogue.from_plugins(modules | probes)


def make(catalogue, file=None, **given):
    given = {"objective.name": "mae", "modality": "toy"} | {key.replace("__", "."): v for key, v in given.items()}
    return resolve(catalogue, given, file)[0]


def test_class_defaults_come_first(catalogue):
    config = make(catalogue, preset="none", objective__name="metamae")
    assert config.train.steps == 1000
    assert config.objective.options["alpha"] == 0.5
    assert config.masking.options == {"ratio": 0.85}  # the objective's own default masking
    assert config.dataset.name == "toy-data"
    assert config.tokenizer.name == "toy"


def test_layers_override_each_other_in_order(catalogue, tmp_path):
    assert make(catalogue).train.lr == 0.25  # the more specific preset
    assert make(catalogue, objective__name="metamae").train.weight_decay == 0.5  # of equals, the data set's
    file = tmp_path / "run.toml"
    file.write_text("seed = 4\n[train]\nlr = 0.125\nsteps = 12\n")
    config = make(catalogue, file, train__steps=13)
    assert (config.train.lr, config.train.steps, config.seed) == (0.125, 13, 4)


def test_a_preset_by_name_and_its_source(catalogue):
    config = make(catalogue, objective__name="metamae", preset="paper")
    assert (config.train.steps, config.objective.options["alpha"]) == (99, 0.125)
    assert config.preset_sources[-1] == "paper: Table 1"
    assert make(catalogue, objective__name="metamae").train.steps == 11


def test_another_masking_keeps_what_it_knows_of_the_preset(catalogue):
    assert make(catalogue, masking__name="block").masking.options == {"ratio": 0.6, "size": 3}
    assert make(catalogue, masking__name="few").masking.options == {"count": 3}
    with pytest.raises(ConfigError, match="unknown option 'masking.ratio'"):
        make(catalogue, masking__name="few", masking__ratio=0.5)


def test_an_objective_without_masking(catalogue):
    assert make(catalogue, objective__name="plain").masking is None
    with pytest.raises(ConfigError, match="'plain' uses no masking"):
        make(catalogue, objective__name="plain", masking__name="random")


def test_a_saved_configuration_reads_back_the_same(catalogue, tmp_path):
    config = make(catalogue, objective__name="metamae", train__batch_size=7)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    again, plugins = resolve(catalogue, {}, file)
    assert again == config
    assert RunConfig(**json.loads(file.read_text())) == config
    assert plugins == plugins_of(config, catalogue)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective__name": "metame"}, "unknown objective 'metame'; did you mean 'metamae'"),
        ({"modality": "tay"}, "unknown modality 'tay'; did you mean 'toy'"),
        ({"dataset__name": "toy-date"}, "unknown data set 'toy-date'.*did you mean 'toy-data'"),
        ({"masking__name": "rando"}, "unknown masking 'rando'; did you mean 'random'"),
        ({"objective__dept": 3}, "unknown option 'objective.dept'; did you mean 'objective.depth'"),
        ({"train__step": 3}, "unknown option 'train.step'; did you mean 'train.steps'"),
        ({"tran__steps": 3}, "unknown option 'tran.steps'; did you mean 'train'"),
        ({"speed": 3}, "unknown option 'speed'; did you mean 'seed'"),
        ({"objective__name": 1.5}, "objective.name is 1.5, which is no name; write the name in quotation marks"),
        ({"encoder__name": True}, "encoder.name is True, which is no name"),
        ({"modality": 3}, "modality is 3, which is no name"),
        ({"preset": ["small"]}, r"preset is \['small'\], which is no name"),
        ({"train__steps": "many"}, "option 'train.steps': input should be a valid integer.*got 'many'"),
        ({"train__lr": -1}, "option 'train.lr': input should be greater than 0, got -1"),
        ({"seed": "x"}, "option 'seed': input should be a valid integer"),
        ({"preset": "papper"}, "unknown preset 'papper'; did you mean 'paper'"),
        ({"preset": "paper"}, "preset 'paper' has nothing for objective 'mae' and modality 'toy'"),
    ],
)
def test_mistakes_are_named_with_the_nearest_known(catalogue, given, message):
    with pytest.raises(ConfigError, match=message):
        make(catalogue, **given)


def test_a_name_that_is_not_utf8_is_refused(catalogue):
    with pytest.raises(ConfigError, match=r"dataset\.root .*caf\\udce9\.csv: the name is not UTF-8; rename it"):
        validate("dataset", plugins.load().dataset("files", "tabular").Options, {"root": os.fsdecode(b"caf\xe9.csv")})


def test_what_is_missing_is_named(catalogue):
    with pytest.raises(ConfigError, match="no objective named; use --objective with one of"):
        resolve(catalogue, {"modality": "toy"})
    with pytest.raises(ConfigError, match="no modality named; use --modality, or --dataset"):
        resolve(catalogue, {"objective.name": "mae"})
    assert resolve(catalogue, {"objective.name": "mae", "dataset.name": "toy-data"})[0].modality == "toy"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", ("a.b", 1)),
        ("a.b=1e-3", ("a.b", 1e-3)),
        ("a.b=true", ("a.b", True)),
        ("a.b=[8, 4]", ("a.b", [8, 4])),
        ("a.b=block", ("a.b", "block")),
        ("a.b=none", ("a.b", "none")),
        (r"a.b=(?P<label>\d)=x", ("a.b", r"(?P<label>\d)=x")),
        ("a.b=", ("a.b", "")),
    ],
)
def test_settings(text, expected):
    assert parse_setting(text) == expected


def test_a_setting_without_equals_is_refused():
    with pytest.raises(ConfigError, match="write it as section.option=value"):
        parse_setting("a.b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train", "not valid TOML"),
        ("[trian]\nsteps=1", "'trian.steps'"),
        ('objective = "mae"', r"write objective.name = \.\.\."),
        ("train = 3", r"train.OPTION = "),
        ('encoder = "vit"', r"write encoder.name = "),
    ],
)
def test_bad_files_are_named(catalogue, tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make(catalogue, file)


def test_a_missing_file_is_named(catalogue, tmp_path):
    with pytest.raises(ConfigError, match="cannot read .*none.toml"):
        make(catalogue, tmp_path / "none.toml")


class TestNamedMaskings:
    """An objective with several maskings has a section for each."""

    @pytest.fixture
    def catalogue(self):
        from ssl_core.plugins import load

        return load()

    def resolve(self, catalogue, **values):
        base = {"objective.name": "ijepa", "modality": "tabular"}
        return resolve(catalogue, base | {key.replace("__", "."): value for key, value in values.items()})[0]

    def test_each_has_its_own_options(self, catalogue):
        config = self.resolve(catalogue, masking__target__ratio=0.1, masking__context__name="block")
        assert list(config.maskings) == ["context", "target"]
        assert config.maskings["target"].options["ratio"] == 0.1
        assert config.maskings["context"].name == "block"
        assert config.maskings["context"].options == {"ratio": 0.9, "size": 3}  # of the default what block knows, too

    def test_a_saved_configuration_reads_back_the_same(self, catalogue, tmp_path):
        config = self.resolve(catalogue, masking__target__ratio=0.1)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config.model_dump(mode="json")))
        assert resolve(catalogue, {}, path)[0] == config

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"masking__name": "block"}, "set masking.context.name and masking.target.name instead of masking.name"),
            ({"masking__ratio": 0.5}, "unknown option 'masking.ratio'; known maskings: context, target"),
            ({"masking__targt__ratio": 0.5}, "unknown option 'masking.targt.ratio'; did you mean 'target'"),
            ({"masking__target__rato": 0.5}, "unknown option 'masking.target.rato'; did you mean 'masking.target.rat"),
        ],
    )
    def test_mistakes_are_named(self, catalogue, values, message):
        with pytest.raises(ConfigError, match=message):
            self.resolve(catalogue, **values)


def test_an_encoder_is_chosen_by_name(catalogue):
    config = make(catalogue, encoder__dim=32)
    assert (config.encoder.name, config.dim) == ("transformer", 32)
    with pytest.raises(ConfigError, match="unknown encoder 'transfomer'; did you mean 'transformer'"):
        make(catalogue, encoder__name="transfomer")
