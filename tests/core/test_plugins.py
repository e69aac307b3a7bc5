"""The catalogue: registration, unusable plugins, look-up, and all error messages."""

import sys
import textwrap
import types

import pytest

from ssl_core import errors, plugins
from ssl_core.plugins import Catalogue
from ssl_core.plugins.verify import BUILT_IN_COMMANDS

HEADER = """
from ssl_core import (Choice, Continuous, Dataset, Layout, Mask, Masking, Objective, Options, Outcome, Preset,
                      Probe, Tokenizer, hookimpl)

class Demo(Objective):
    '''A summary line.

    Details.
    '''
    name = "demo"
    def forward(self, tokens, encoder, draws):
        return Outcome(tokens.embeddings.sum())

class Text(Tokenizer):
    '''Letters.'''
    name = "text"
    def forward(self, inputs):
        return None

class Poems(Dataset):
    '''Poems.'''
    name, modality, is_default = "poems", "text", True
    def __len__(self): return 0
    def __getitem__(self, index): raise IndexError

class Hide(Masking):
    '''Hides.'''
    name = "hide"
    def __call__(self, batch, generator): return None

class Nearest(Probe):
    '''Nearest centroid.'''
    name = "nearest"
    def fit(self, features, labels, task): return None
"""


def module(code: str, name: str = "throwaway") -> types.ModuleType:
    plugin = types.ModuleType(name)
    sys.modules[name] = plugin  # classes look up their module
    exec(HEADER + textwrap.dedent(code), plugin.__dict__)
    return plugin


def objectives(*lines: str) -> types.ModuleType:
    """A plugin whose register_objectives consists of these lines."""
    return module("@hookimpl\ndef register_objectives():\n" + textwrap.indent("\n".join(lines), "    "))


def dataset(name: str, modality: str, default: bool = False) -> types.ModuleType:
    return module(f"""
        class Own(Poems):
            name, modality, is_default = {name!r}, {modality!r}, {default}
        @hookimpl
        def register_datasets(): return [Own]
    """)


COMPLETE = """
    @hookimpl
    def register_objectives(): return [Demo]
    @hookimpl
    def register_tokenizers(): return (Text,)
    @hookimpl
    def register_datasets(): return [Poems]
    @hookimpl
    def register_maskings(): return [Hide]
    @hookimpl
    def register_probes(): return [Nearest]
    @hookimpl
    def register_presets(): return [Preset("big", {"train.steps": 9}, "Table 1", "demo"), Preset("big", {}, "Table 2")]
"""


def test_registered_entries_are_found_with_their_origin():
    plugin = module(COMPLETE)
    catalogue = Catalogue.from_plugins({"dist:entry": plugin}, version="1.2")
    assert catalogue.problems == []
    assert catalogue.objective("demo") is plugin.Demo
    assert catalogue.tokenizer("text") is plugin.Text
    assert catalogue.masking("hide") is plugin.Hide
    assert catalogue.probe("nearest") is plugin.Nearest
    assert catalogue.dataset("poems") is catalogue.dataset("poems", "text") is plugin.Poems
    assert catalogue.default_dataset("text") is plugin.Poems
    assert [preset.source for preset in catalogue.preset("big")] == ["Table 1", "Table 2"]
    entry = catalogue.get("objective", "demo")
    assert (str(entry.origin), entry.summary) == ("dist:entry 1.2", "A summary line.")
    assert [entry.summary for entry in catalogue.entries("preset")] == ["Table 1", "Table 2"]
    with pytest.raises(errors.ConfigError, match="there are 2 presets 'big'; they differ in what"):
        catalogue.get("preset", "big")
    with pytest.raises(errors.ConfigError, match=r"unknown preset 'bigg'; did you mean 'big'\?"):
        catalogue.preset("bigg")
    assert catalogue.origins() == {
        "objectives": {"demo": "dist:entry 1.2"},
        "tokenizers": {"text": "dist:entry 1.2"},
        "datasets": {"text/poems": "dist:entry 1.2"},
        "maskings": {"hide": "dist:entry 1.2"},
        "encoders": {},
        "commands": {},
        "probes": {"nearest": "dist:entry 1.2"},
        "presets": {"big": "dist:entry 1.2"},
    }
    with pytest.raises(ValueError, match="no kind 'objectives'; known: objective"):
        catalogue.entries("objectives")


INVALID = {
    "misspelt hook": (
        "@hookimpl\ndef register_objectivs(): return [Demo]",
        "there is no hook 'register_objectivs'; did you mean 'register_objectives'",
    ),
    "unmarked hook": (
        "def register_objectives(): return [Demo]",
        "function register_objectives lacks its mark; write @hookimpl above it",
    ),
    "no hook": ("x = 1", "it has no hook; mark a function such as register_objectives"),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef register_objectives():\n    return (yield)",
        "hook register_objectives is a wrapper",
    ),
    "unknown argument": (
        "@hookimpl\ndef run_started(config, nonsense): pass",
        "a hook does not fit its specification.*nonsense",
    ),
    "hook raises": (
        "@hookimpl\ndef register_maskings(): raise RuntimeError('no\\n disk')",
        r"register_maskings\(\) failed: RuntimeError: no disk \(<string>:\d+\)",
    ),
    "hook exits": ("@hookimpl\ndef register_maskings(): raise SystemExit(3)", r"failed: SystemExit: 3"),
    "not a list": (
        "@hookimpl\ndef register_objectives(): return Demo",
        r"register_objectives\(\) must return a list, not <class 'throwaway.Demo'>",
    ),
    "nothing": ("@hookimpl\ndef register_objectives(): pass", "must return a list, not None"),
    "not a class": ("@hookimpl\ndef register_objectives(): return ['demo']", "expected a class, not 'demo'"),
    "wrong kind": (
        "@hookimpl\ndef register_objectives(): return [Hide]",
        "class Hide does not derive from ssl_core.Objective",
    ),
    "no name": (
        "class Own(Objective):\n    def forward(self, *a): ...\n@hookimpl\ndef register_objectives(): return [Own]",
        "class Own needs a `name` of letters.*not None",
    ),
    "name with a space": (
        "Demo.name = 'my demo'\n@hookimpl\ndef register_objectives(): return [Demo]",
        "class Demo needs a `name` of letters.*not 'my demo'",
    ),
    "masking by name alone": (
        "Demo.default_masking = 'random'\n@hookimpl\ndef register_objectives(): return [Demo]",
        r"`default_masking` of class Demo must be None, or such as Choice\(\"random\".*, not 'random'",
    ),
    "no modality": (
        "Poems.modality = 3\n@hookimpl\ndef register_datasets(): return [Poems]",
        "class Poems needs a `modality` of letters.*not 3",
    ),
    "foreign options": (
        "Demo.Options = dict\n@hookimpl\ndef register_objectives(): return [Demo]",
        "Demo.Options must derive from Objective.Options",
    ),
    "no forward": (
        "class Own(Objective): name = 'own'\n@hookimpl\ndef register_objectives(): return [Own]",
        "class Own does not define forward",
    ),
    "no getitem": (
        "class Own(Dataset):\n    name = modality = 'x'\n    def __len__(self): return 1\n"
        "@hookimpl\ndef register_datasets(): return [Own]",
        "class Own does not define __getitem__",
    ),
    "no call": (
        "class Own(Masking): name = 'x'\n@hookimpl\ndef register_maskings(): return [Own]",
        "class Own does not define __call__",
    ),
    "no fit": (
        "class Own(Probe): name = 'x'\n@hookimpl\ndef register_probes(): return [Own]",
        "class Own does not define fit",
    ),
    "unknown option of the section evaluate": (
        "Nearest.evaluate_options = ('centroids',)\n@hookimpl\ndef register_probes(): return [Nearest]",
        "`evaluate_options` of class Nearest has 'centroids', which the section evaluate lacks",
    ),
    "option of the section evaluate that the probe lacks": (
        "Nearest.evaluate_options = ('seed',)\n@hookimpl\ndef register_probes(): return [Nearest]",
        "`evaluate_options` of class Nearest has 'seed', which Nearest.Options lacks",
    ),
    "twice by one": (
        "@hookimpl\ndef register_objectives(): return [Demo, Demo]",
        r"register_objectives\(\) offers objective 'demo' twice",
    ),
    "not a preset": ("@hookimpl\ndef register_presets(): return [{}]", r"expected a Preset, not \{\}"),
    "preset without source": (
        "@hookimpl\ndef register_presets(): return [Preset('big', {}, '')]",
        "preset 'big' needs a name and a source",
    ),
    "preset without mapping": (
        "@hookimpl\ndef register_presets(): return [Preset('big', [], 'T1')]",
        "preset 'big': values must map option paths",
    ),
}


@pytest.mark.parametrize(("code", "message"), INVALID.values(), ids=INVALID)
def test_invalid_plugin_is_set_aside_without_affecting_others(code, message):
    invalid = module("\n" + code)
    catalogue = Catalogue.from_plugins({"bad:entry": invalid, "good:entry": module(COMPLETE, "good")})
    (aside,) = catalogue.set_aside
    assert aside.origin.plugin == "bad:entry"
    assert catalogue.problems == [f"plugin 'bad:entry' was set aside: {aside.error}"]
    assert "\n" not in catalogue.problems[0]
    with pytest.raises(errors.PluginError, match=message):
        raise aside.error
    assert all(entry.origin.plugin == "good:entry" for kind in plugins.KINDS for entry in catalogue.entries(kind))
    assert list(catalogue.objectives) == ["demo"]
    assert not catalogue.manager.is_registered(invalid)


def test_one_plugin_under_two_names_is_set_aside():
    plugin = module(COMPLETE)
    catalogue = Catalogue.from_plugins({"a:x": plugin, "b:y": plugin})
    assert catalogue.problems == [
        "plugin 'b:y' was set aside: it is the same plugin as 'a:x'; remove one of the two entry points"
    ]
    assert str(catalogue.get("objective", "demo").origin) == "a:x"


def test_name_clash_raises_an_error_with_both_origins():
    with pytest.raises(errors.PluginError) as caught:
        Catalogue.from_plugins({"a:x": objectives("return [Demo]"), "b:y": objectives("return [Demo]")}, version="2")
    assert str(caught.value) == (
        "objective 'demo' is offered twice, by a:x 2 and by b:y 2; leave one out, e.g. with --block b:y"
    )
    with pytest.raises(errors.PluginError, match="data set 'files' of modality 'text' is offered twice"):
        Catalogue.from_plugins({"a:x": dataset("files", "text"), "b:y": dataset("files", "text")})


def test_data_sets_are_identified_by_modality_and_name():
    text, speech = dataset("files", "text"), dataset("files", "speech", default=True)
    catalogue = Catalogue.from_plugins({"a:x": text, "b:y": speech, "c:z": dataset("poems", "text")})
    assert catalogue.dataset("files", "text") is text.Own
    assert catalogue.dataset("files", "speech") is catalogue.default_dataset("speech") is speech.Own
    assert catalogue.dataset("poems").modality == "text"
    with pytest.raises(
        errors.ConfigError, match=r"data set 'files' exists for several modalities \(speech, text\); add"
    ):
        catalogue.dataset("files")
    with pytest.raises(
        errors.ConfigError, match=r"no default data set; name one with --dataset \(known: files, poems\)"
    ):
        catalogue.default_dataset("text")
    with pytest.raises(errors.ConfigError, match=r"unknown data set 'poem' of modality 'text'; did you mean 'poems'\?"):
        catalogue.dataset("poem", "text")
    with pytest.raises(
        errors.ConfigError, match="unknown data set 'poems' of modality 'speech'; known data sets: files"
    ):
        catalogue.dataset("poems", "speech")
    with pytest.raises(errors.ConfigError, match=r"unknown modality 'spech'; did you mean 'speech'\?"):
        catalogue.default_dataset("spech")
    with pytest.raises(errors.ConfigError, match="unknown modality 'xyz'; known modalities: speech, text"):
        catalogue.dataset("files", "xyz")


def test_two_default_data_sets_raise_only_when_the_default_is_used():
    catalogue = Catalogue.from_plugins({"a:x": dataset("one", "text", True), "b:y": dataset("two", "text", True)})
    assert catalogue.dataset("two").name == "two"
    with pytest.raises(
        errors.PluginError, match=r"several default data sets, 'one' \(a:x\) and 'two' \(b:y\); name one"
    ):
        catalogue.default_dataset("text")


def test_unknown_name_suggests_the_nearest_and_quotes_unusable_plugins():
    catalogue = Catalogue.from_plugins({"a:x": module(COMPLETE), "b:emix": module("x = 1"), "b:capri": module("x = 1")})
    with pytest.raises(errors.ConfigError) as caught:
        catalogue.objective("dema")
    reason = "it has no hook; mark a function such as register_objectives with @hookimpl"
    assert str(caught.value) == (
        f"unknown objective 'dema'; did you mean 'demo'?; plugin 'b:emix' was set aside: {reason}; "
        f"plugin 'b:capri' was set aside: {reason}"
    )
    with pytest.raises(errors.ConfigError) as caught:
        catalogue.objective("capri")  # only plugins whose name contains it are quoted
    assert str(caught.value) == f"unknown objective 'capri'; known objectives: demo; {catalogue.set_aside[1]}"
    for number in range(5):
        catalogue.add(plugins.Origin(f"c:{number}"), module("x = 1"))
    with pytest.raises(errors.ConfigError, match=r"4 more plugins were set aside, see `sslx plugins`$"):
        catalogue.masking("no")


def test_notices_reach_all_plugins_despite_failures():
    calls = []
    quiet = module("@hookimpl\ndef metrics_logged(step): calls.append(('quiet', step))")
    broken = module("@hookimpl\ndef metrics_logged(step, metrics): raise OSError('no\\nnetwork')")
    exits = module("@hookimpl\ndef metrics_logged(): raise SystemExit(1)")
    loud = module("@hookimpl\ndef metrics_logged(folder, step, metrics): calls.append((folder, step, metrics))")
    for plugin in (quiet, loud):
        plugin.calls = calls
    catalogue = Catalogue.from_plugins({"a:x": quiet, "b:y": broken, "c:z": exits, "d:w": loud})
    failures = catalogue.notify("metrics_logged", folder="f", step=3, metrics={"train/loss": 1.0})
    assert calls == [("f", 3, {"train/loss": 1.0}), ("quiet", 3)]
    assert [failure.partition(" (")[0] for failure in failures] == [
        "plugin 'c:z' failed in metrics_logged: SystemExit: 1",
        "plugin 'b:y' failed in metrics_logged: OSError: no network",
    ]
    assert catalogue.notify("run_finished", folder="f", report=None) == []
    with pytest.raises(AttributeError):
        catalogue.notify("no_such_hook")


def test_notices_follow_the_call_order_of_pluggy():
    """Last registered first, tryfirst before all, trylast after all, as in a call by pluggy."""
    calls = []
    marks = {"a:one": "", "b:first": "(tryfirst=True)", "c:last": "(trylast=True)", "d:two": ""}
    modules = {}
    for name, mark in marks.items():
        modules[name] = module(f"@hookimpl{mark}\ndef run_started(folder): calls.append({name!r})")
        modules[name].calls = calls
    catalogue = Catalogue.from_plugins(modules)
    assert catalogue.notify("run_started", config=None, folder="f") == []
    assert calls == ["b:first", "d:two", "a:one", "c:last"]
    order, calls[:] = list(calls), []
    catalogue.manager.hook.run_started(config=None, folder="f")
    assert calls == order


# --- installed plugins ----------------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that creates a distribution with one module that `load` finds."""

    def create(distribution: str, entry: str, code: str, version: str = "0.3") -> str:
        name = f"throwaway_{distribution}_{entry}".replace("-", "_")
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        points = info / "entry_points.txt"
        points.write_text((points.read_text() if points.exists() else "[sslx]\n") + f"{entry} = {name}\n")
        (tmp_path / f"{name}.py").write_text(HEADER + textwrap.dedent(code))
        monkeypatch.syspath_prepend(tmp_path)
        return f"{distribution}:{entry}"

    yield create
    for name in [name for name in sys.modules if name.startswith("throwaway_")]:
        del sys.modules[name]


def objective_named(name: str) -> str:
    return f"Demo.name = {name!r}\n@hookimpl\ndef register_objectives(): return [Demo]"


def test_load_orders_plugins_by_origin(install):
    install("zz-dist", "b", objective_named("third"))
    install("zz-dist", "a", objective_named("second"))
    install("aa-dist", "z", objective_named("first"))
    catalogue = plugins.load()
    installed = [entry for entry in catalogue.entries("objective") if not entry.origin.plugin.startswith("sslx:")]
    assert [(entry.name, str(entry.origin)) for entry in installed] == [
        ("first", "aa-dist:z 0.3"),
        ("second", "zz-dist:a 0.3"),
        ("third", "zz-dist:b 0.3"),
    ]
    shipped = [entry.origin.plugin for entry in catalogue.entries("objective") if entry not in installed]
    assert "sslx:objectives.metamae" in shipped
    assert shipped == sorted(shipped)
    assert catalogue.entries("objective")[0].name == "first"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def x(:", "SyntaxError"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
    ],
)
def test_plugin_that_raises_at_import_is_set_aside(install, code, message):
    origin = install("bad-dist", "warp", code)
    catalogue = plugins.load()
    problem = next(line for line in catalogue.problems if origin in line)
    assert problem.startswith(f"plugin '{origin}' was set aside: it cannot be imported: {message}")
    assert "throwaway_bad_dist_warp.py" in problem
    aside = next(plugin for plugin in catalogue.set_aside if plugin.origin.plugin == origin)
    assert type(aside.error.__cause__).__name__ == message.partition(":")[0]
    assert "metamae" in catalogue.objectives
    with pytest.raises(errors.ConfigError, match=r"unknown objective 'warp'.*set aside: it cannot be imported"):
        catalogue.objective("warp")


def test_blocked_plugins_are_not_imported(install, monkeypatch):
    first = install("a-dist", "x", "raise RuntimeError")
    second = install("b-dist", "y", "raise RuntimeError")
    monkeypatch.setenv(plugins.BLOCK_VARIABLE, f" {second} ,sslx:maskings.block,")
    catalogue = plugins.load(block=[first])
    assert not any("dist:" in problem for problem in catalogue.problems)
    assert catalogue.blocked == [first, second, "sslx:maskings.block"]
    assert "block" not in catalogue.maskings
    with pytest.raises(errors.ConfigError, match=f"unknown masking 'block'.*plugin '{second}' is blocked"):
        catalogue.masking("block")


def test_clash_between_installed_plugins_can_be_blocked(install):
    other = install("zz-dist", "copy", objective_named("metamae"))
    with pytest.raises(errors.PluginError, match=rf"by sslx:objectives.metamae \S+ and by {other} 0.3; leave one out"):
        plugins.load()
    assert plugins.load(block=[other]).get("objective", "metamae").origin.plugin == "sslx:objectives.metamae"
    assert plugins.load(block=["sslx:objectives.metamae"]).get("objective", "metamae").origin.plugin == other


def test_block_of_an_unknown_plugin(monkeypatch):
    with pytest.raises(errors.ConfigError, match=r"--block: no plugin 'sslx:objectives.mea'; did you mean 'sslx:obj"):
        plugins.load(block=["sslx:objectives.mea"])
    monkeypatch.setenv(plugins.BLOCK_VARIABLE, "sslx:objectives.mea")
    problems = plugins.load().problems
    assert any(line.startswith("SSLX_BLOCK: no plugin 'sslx:objectives.mea'; did you mean") for line in problems)


def test_a_path_in_place_of_a_name(tmp_path):
    with pytest.raises(errors.ConfigError) as caught:
        Catalogue().objective(str(tmp_path))
    assert f"it is a path: install the package there (pip install -e {tmp_path})" in str(caught.value)


def test_the_names_of_all_commands_are_taken():
    from ssl_core.cli.app import app

    commands = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    groups = {group.name for group in app.registered_groups}
    assert commands | groups == set(BUILT_IN_COMMANDS)
