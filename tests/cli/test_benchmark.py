"""`sslx run --benchmark`: one pretraining, then every transfer set of the domain, on miniatures of the real data."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ssl_core import Preset, hookimpl, plugins
from ssl_core.cli import app
from ssl_core.compare import runner
from ssl_core.config.benchmarks import benchmarks
from ssl_core.config.resolve import resolve
from ssl_core.plugins import Catalogue, Origin
from ssl_core.report import Report, read
from ssl_core.report.comparison import compare as tables
from ssl_core.runs import evaluate as evaluation
from ssl_core.runs import pretrain as runs
from ssl_core.runs.benchmark import options_for
from ssl_core.runs.run import Run
from ssl_core.runs.run_dir import load_config

MINIATURES = Path(__file__).parents[1] / "miniatures"
WRITERS = {
    key: writer
    for family in ("speech", "bio", "vision")
    for key, writer in runpy.run_path(str(MINIATURES / f"{family}.py"))["WRITERS"].items()
}
TINY = [
    "--steps", "2", "--batch-size", "4", "--preset", "none", "--set", "encoder.dim=16", "--set", "encoder.depth=1",
    "--set", "encoder.heads=2", "--set", "objective.width=16", "--set", "objective.heads=1",
    "--set", "objective.depth=1",
]  # fmt: skip
SHORT_CLIPS = [  # recordings of a quarter of a second
    "--set", "tokenizer.n_mels=32", "--set", "tokenizer.frames=32", "--set", "tokenizer.patch=[16,16]",
    "--set", "tokenizer.samples=5000", "--set", "tokenizer.hop=160", "--set", "tokenizer.min_samples=500",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A root with speech and genomics whole, and with some of the small natural images. Nobody changes it."""
    root = tmp_path_factory.mktemp("data")
    wanted = [("image", f"{name}_small") for name in ("cifar10", "dtd", "aircraft")]
    wanted += [key for key in WRITERS if key[0] in ("speech", "genomics")]
    for writer in dict.fromkeys(WRITERS[key] for key in wanted):
        writer(root)
    return root


@pytest.fixture
def sslx(tmp_path, tmp_path_factory, monkeypatch):
    """sslx(*arguments): exit status, standard output, standard error."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    for name, value in {"SSLX_CACHE_DIR": str(cache), "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        done = CliRunner().invoke(app.app, [str(argument) for argument in arguments])
        assert "Traceback" not in done.stderr
        return done.exit_code, done.stdout, done.stderr

    return call


def one_error(result: tuple[int, str, str]) -> str:
    status, _, said = result
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1, result
    assert len(lines) == 1, said
    return lines[0]


def scored(report: Report) -> dict[str, set[str]]:
    """By data set: the kinds of features that were probed."""
    found: dict[str, set[str]] = {}
    for score in report.scores:
        found.setdefault(score.dataset, set()).add(score.features)
    return found


EVERY_KIND = {"trained", "random_init", "raw_input"}


def test_speech_is_pretrained_once_and_measured_on_every_transfer_set(sslx, data, monkeypatch):
    trained = []
    real = runs.train
    monkeypatch.setattr(runs, "train", lambda *args, **kwargs: trained.append(1) or real(*args, **kwargs))
    arguments = ["run", "--benchmark", "dabs", "--domain", "speech", "--data", data, *TINY, *SHORT_CLIPS, "--out", "r"]
    code, out, err = sslx(*arguments, "--set", "transfer.protocol=published")
    assert code == 0, err
    assert trained == [1]
    report = read(Path("r"))
    assert (report.objective, report.dataset, report.steps) == ("metamae", "librispeech", 2)
    names = {
        "audio_mnist", "fluent_speech_location", "fluent_speech_action", "fluent_speech_object", "google_speech",
        "librispeech_transfer", "voxceleb1",
    }  # fmt: skip
    assert scored(report) == {f"speech/{name}": EVERY_KIND for name in names}
    page = Path("r/report.html").read_text()
    for name in names:
        assert f"(speech/{name})" in out
        assert f"(speech/{name})" in page
        own = read(Path("r/transfer") / name)  # as `sslx eval` leaves it
        assert own.scores == tuple(score for score in report.scores if score.dataset == f"speech/{name}")
        assert (own.dataset, own.run, own.curve) == (name, "r", ())
        assert own.config["dataset"]["root"] == str(data)
    assert read(Path("r/transfer/google_speech")).config["dataset"]["protocol"] == "published"
    assert "protocol" not in read(Path("r/transfer/audio_mnist")).config["dataset"]
    again = {path: path.stat().st_mtime_ns for path in Path("r").rglob("report.*")}

    code, out, err = sslx("run", "--resume", "--out", "r")  # the run remembers what it is
    assert code == 0, err
    assert trained == [1]
    assert err.count("was evaluated before") == len(names)
    assert {path: path.stat().st_mtime_ns for path in Path("r").rglob("report.*")} == again

    given = {"dataset.name": "google-speech"}  # another name of the same, with the same options
    config, _ = evaluation.evaluation_config(load_config(Path("r")), {"dataset.name": "libri-speech"}, plugins.load())
    assert config.dataset == load_config(Path("r")).dataset
    config, _ = evaluation.evaluation_config(load_config(Path("r")), given, plugins.load())
    assert config.dataset.name == "google_speech"

    columns = tables(runner.collect(Path("r"))[0]).columns  # once each, though two reports hold them
    assert sorted({column.data for column in columns}) == sorted(f"speech/{name}" for name in names)
    assert len(columns) == len(set(columns)) == 2 * len(names)


@pytest.mark.slow
def test_missing_sets_are_named_and_measured_once_they_are_there(sslx, data, tmp_path, monkeypatch):
    root = tmp_path / "some"
    shutil.copytree(data / "natural_images" / "cifar10", root / "natural_images" / "cifar10")
    shutil.copytree(data / "natural_images" / "dtd", root / "natural_images" / "dtd")
    arguments = ["run", "--benchmark", "dabs", "--domain", "natural_images_small", "--objective", "mae", "--data", root]
    arguments += [*TINY, "--out", "r"]
    refusal = one_error(sslx(*arguments, "--strict"))
    assert not Path("r").exists()
    code, _, err = sslx(*arguments)
    assert code == 0, err
    (said,) = [line for line in err.splitlines() if "not here" in line]
    for name in ("aircraft", "cu_birds", "traffic_sign", "vgg_flower"):
        for line in (said, refusal):
            assert f"{name}_small (run `sslx data prepare image/{name}_small --root {root}`)" in line
    assert "dtd_small (" not in said
    report = read(Path("r"))
    assert scored(report) == {"image/cifar10_small": EVERY_KIND, "image/dtd_small": EVERY_KIND}
    assert any("cu_birds_small" in note for note in report.notes)
    assert report.curve

    shutil.copytree(data / "natural_images" / "aircraft", root / "natural_images" / "aircraft")
    measured = []
    real = evaluation.evaluate_run
    monkeypatch.setattr(evaluation, "evaluate_run", lambda *a: measured.append(a[0]["dataset.name"]) or real(*a))
    code, _, err = sslx(*arguments, "--resume")
    assert code == 0, err
    assert measured == ["aircraft_small"]
    later = read(Path("r"))
    assert list(scored(later)) == [f"image/{name}_small" for name in ("cifar10", "aircraft", "dtd")]
    assert later.scores[: len(report.scores) // 2] == report.scores[: len(report.scores) // 2]
    assert not any("aircraft" in note for note in later.notes if "not here" in note)
    assert "no pictures" not in err
    assert "(image/aircraft_small)" in Path("r/report.html").read_text()


def test_genomics_with_a_set_that_cannot_be_read(sslx, data, tmp_path):
    """The other one is measured all the same; the exit status tells; mended, it is measured by the same command."""
    root = tmp_path / "some"
    shutil.copytree(data / "genomics", root / "genomics")
    broken = root / "genomics" / "arrays" / "between_2011-2016_ood_val" / "labels.npy"
    whole = broken.read_bytes()
    broken.write_bytes(b"no array")
    arguments = ["run", "--benchmark", "dabs", "--domain", "genomics", "--data", root, *TINY]
    arguments += ["--set", "tokenizer.length=60", "--out", "r"]
    code, _, err = sslx(*arguments)
    assert code == 1, err
    (said,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert "genomics/genomics_transfer_ood" in said
    assert str(broken) in said
    assert set(scored(read(Path("r")))) == {"genomics/genomics", "genomics/genomics_transfer_id"}
    assert any(str(broken) in note for note in read(Path("r")).notes)
    broken.write_bytes(whole)
    code, _, err = sslx(*arguments, "--resume")
    assert code == 0, err
    assert scored(read(Path("r"))) == {
        f"genomics/genomics{which}": EVERY_KIND for which in ("", "_transfer_id", "_transfer_ood")
    }
    assert not any(str(broken) in note for note in read(Path("r")).notes)


def test_missing_data_to_pretrain_on_is_one_line_and_leaves_nothing(sslx, tmp_path):
    said = one_error(sslx("run", "--benchmark", "dabs", "--domain", "proteins", "--data", tmp_path, "--out", "r"))
    assert f"run `sslx data prepare protein/pfam --root {tmp_path}`" in said
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--benchmark", "dab", "--domain", "speech"), "unknown benchmark 'dab'; did you mean 'dabs'?"),
        (("--benchmark", "dabs", "--domain", "speach"), "'speach' of benchmark 'dabs'; did you mean 'speech'?"),
        (("--benchmark", "dabs"), "benchmark 'dabs' needs --domain; known domains: captioned_images, genomics, "),
        (("--domain", "speech"), "--domain speech needs --benchmark; known benchmarks: dabs"),
        (
            ("--benchmark", "dabs", "--domain", "speech", "--dataset", "voxceleb1"),
            "pretrains its domain 'speech' on speech/librispeech; leave out --dataset voxceleb1",
        ),
        (
            ("--benchmark", "dabs", "--domain", "speech", "--modality", "image"),
            "on speech/librispeech; leave out --modality image",
        ),
        (
            ("--benchmark", "dabs", "--domain", "speech", "--set", "transfer.protocl=published"),
            "unknown option 'transfer.protocl'; did you mean 'transfer.protocol' or",
        ),
        (
            ("--objective", "mae", "--modality", "speech", "--set", "transfer.rate=8000"),
            "'transfer.rate' is for the transfer sets of a benchmark",
        ),
    ],
)
def test_bad_input_is_one_line(sslx, arguments, complaint):
    assert complaint in one_error(sslx("run", *arguments))


# --- what a benchmark is ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return plugins.load()


def test_benchmarks_are_listed_with_their_domains(sslx):
    code, out, _ = sslx("list", "benchmarks")
    assert code == 0
    assert "dabs" in out
    assert "satellite_images" in out
    code, out, _ = sslx("show", "dabs")
    assert code == 0
    (row,) = [line for line in out.splitlines() if "│ captioned_images" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "captioned_images", "image-text/mscoco", "mismatched_caption, vqa",
    ]  # fmt: skip


def test_dabs_names_each_of_its_data_sets(catalogue):
    """Protocol 1.1: 14 sets to pretrain on and 51 to transfer to, 62 names in all, all of them installed."""
    domains = benchmarks(entry.value for entry in catalogue.presets)["dabs"].values()
    pretraining = {(one.modality, one.dataset) for one in domains}
    transfer = {(one.modality, name) for one in domains for name in one.transfer}
    assert len(domains) == len(pretraining) == 14
    assert transfer <= set(catalogue.datasets)
    assert pretraining <= set(catalogue.datasets)
    assert len(transfer) == 51
    assert len(pretraining | transfer) == 62


@pytest.mark.parametrize("domain", ["natural_images_small", "speech", "genomics", "sensor_spectrogram"])
def test_a_domain_is_dabs_preset_with_its_sizes_and_batches(catalogue, domain):
    config, _ = resolve(catalogue, {"benchmark": "dabs", "domain": domain})
    assert (config.preset, config.objective.name, config.train.steps) == ("dabs", "metamae", 100_000)
    batches = {"natural_images_small": (256, 256), "speech": (64, 64), "genomics": (32, 64)}
    assert (config.train.batch_size, config.evaluate.batch_size) == batches.get(domain, (256, 256))
    if domain in ("natural_images_small", "sensor_spectrogram"):
        assert (config.tokenizer.options["size"], config.tokenizer.options["patch"]) == (32, 4)
    if domain == "genomics":  # the protocol's batch of the probe differs by transfer set; what is given by hand stays
        assert "evaluate.batch_size" not in options_for(config, catalogue, "genomics_transfer_id")
        assert options_for(config, catalogue, "genomics_transfer_ood")["evaluate.batch_size"] == 32
        config, _ = resolve(catalogue, {"benchmark": "dabs", "domain": domain, "evaluate.batch_size": 16})
        assert "evaluate.batch_size" not in options_for(config, catalogue, "genomics_transfer_ood")


def test_each_transfer_set_is_probed_with_its_published_batch(catalogue):
    """Protocol 2.1, 2.5, 2.8 and 2.9, by preset; a batch that was chosen by hand stays."""

    def batches(preset: str, domain: str, **more: Any) -> dict[str, int]:
        config, _ = resolve(catalogue, {"benchmark": "dabs", "domain": domain, "preset": preset} | more)
        domains = benchmarks(entry.value for entry in catalogue.presets)["dabs"]
        usual = config.evaluate.batch_size
        given = {name: options_for(config, catalogue, name) for name in domains[domain].transfer}
        return {name: options.get("evaluate.batch_size", usual) for name, options in given.items()}

    assert set(batches("dabs", "natural_images_small").values()) == {256}
    assert len(batches("dabs", "natural_images_small")) == 5
    assert set(batches("dabs", "natural_images").values()) == {64}
    assert set(batches("dabs", "speech").values()) == {64}
    for preset in ("dabs", "metamae", "metamae-shared2", "metamae-shared-modality"):
        assert batches(preset, "genomics") == {"genomics_transfer_id": 64, "genomics_transfer_ood": 32}
    found = batches("dabs", "proteins")
    assert found.pop("fluorescence") == 512
    assert set(found.values()) == {128}
    assert set(batches("metamae", "proteins").values()) == {128}
    assert set(batches("dabs", "proteins", **{"evaluate.batch_size": 16}).values()) == {16}


def test_each_transfer_set_is_normalised_by_its_own_constants(catalogue):
    """Those of the preset, unless others were chosen by hand, and none for a run that measures."""
    asked = {"benchmark": "dabs", "domain": "speech"}
    for preset in ("dabs", "metamae"):
        config, _ = resolve(catalogue, asked | {"preset": preset})
        given = options_for(config, catalogue, "google_speech")
        assert (given["tokenizer.mean"], given["tokenizer.std"]) == ([-46.847], [19.151])
        assert options_for(config, catalogue, "librispeech_transfer") == {"dataset.name": "librispeech_transfer"}
    for more in ({"tokenizer.normalise": "measured"}, {"tokenizer.mean": [-20.0]}, {"preset": "none"}):
        config, _ = resolve(catalogue, asked | more)
        assert not [path for path in options_for(config, catalogue, "google_speech") if path.startswith("tokenizer")]


def test_what_the_preset_has_for_the_data_trained_on_stays_there(catalogue):
    """Transfer to LibriSpeech takes the first part of long clips (D49), unless it is asked for another one by hand."""
    asked = {"benchmark": "dabs", "domain": "speech"}
    config, _ = resolve(catalogue, asked)
    assert config.dataset.options["side"] == "random"
    given = options_for(config, catalogue, "librispeech_transfer")
    assert {path for path in given if path.startswith("dataset.")} == {"dataset.name"}
    given = options_for(config, catalogue, "voxceleb1")
    assert (given["dataset.longest"], given["dataset.side"]) == (150_526, "random")
    config, _ = resolve(catalogue, asked | {"dataset.longest": 1000, "transfer.side": "random"})
    given = options_for(config, catalogue, "voxceleb1")
    assert (given["dataset.longest"], given["dataset.side"]) == (1000, "random")


def test_a_set_is_measured_with_its_own_constants(sslx, data, monkeypatch):
    """Trained features, untrained ones and raw input see them; the run keeps its own; what is done is not redone."""
    seen: dict[str, list[float]] = {}
    real = evaluation.score_run

    def score_run(run: Run, *arguments: Any) -> Any:
        with run.random_init_baseline() as fresh:
            before = [fresh.tokenizer.mean.item(), fresh.tokenizer.std.item()]
        now = [run.learner.tokenizer.mean.item(), run.learner.tokenizer.std.item()]
        seen.setdefault(run.splits["train"].name, []).extend(now + before)
        return real(run)

    monkeypatch.setattr(evaluation, "score_run", score_run)
    tiny = [word for word in TINY if word not in ("--preset", "none")]
    arguments = ["run", "--benchmark", "dabs", "--domain", "speech", "--data", data, *tiny, *SHORT_CLIPS, "--out", "r"]
    arguments += ["--set", "evaluate.epochs=1", "--set", "tokenizer.n_fft=512", "--set", "tokenizer.win_length=512"]
    code, _, err = sslx(*arguments)
    assert code == 0, err
    for name, pair in (
        ("audio_mnist", (-90.293, 11.799)), ("google_speech", (-46.847, 19.151)), ("voxceleb1", (-37.075, 19.776)),
        ("fluent_speech_action", (-31.809, 13.127)), ("librispeech_transfer", (-22.924, 12.587)),
    ):  # fmt: skip
        assert seen[name] == pytest.approx([*pair, *pair])
        assert read(Path("r/transfer") / name).config["tokenizer"]["mean"] == [pair[0]]
    assert load_config(Path("r")).tokenizer.options["mean"] == [-22.924]
    seen.clear()
    code, _, err = sslx("run", "--resume", "--out", "r")
    assert (code, seen) == (0, {})

    by_hand = ["eval", "r", "--dataset", "voxceleb1", "--set", f"dataset.root={data}", "--out", "m"]
    assert sslx(*by_hand)[0] == 0
    assert seen.pop("voxceleb1")[0] == pytest.approx(-22.924)  # the run's, unless others are given
    assert sslx(*by_hand, "--set", "tokenizer.mean=[-37.075]")[0] == 0
    assert seen.pop("voxceleb1") == pytest.approx([-37.075, 12.587] * 2)
    said = one_error(sslx(*by_hand, "--set", "tokenizer.hop=100"))
    assert "cannot change 'tokenizer.hop'" in said
    assert "tokenizer.mean and tokenizer.std" in said


def test_given_constants_are_only_for_a_run_that_has_such(sslx, data):
    arguments = ["run", "--objective", "mae", "--dataset", "google_speech", "--data", data, *TINY, *SHORT_CLIPS]
    assert sslx(*arguments, "--out", "r")[0] == 0
    said = one_error(sslx("eval", "r", "--set", "tokenizer.mean=[1.0]", "--out", "m"))
    assert "cannot change 'tokenizer.mean', which training depends on; it takes dataset.* and evaluate.*" in said


def test_a_benchmark_whose_preset_names_only_the_data_trained_on(catalogue):
    """As the one in docs/datasets.md: its transfer sets are measured as the run says."""
    values = {"objective.name": "mae", "evaluate.batch_size": 16}
    own = Preset("mine", values, "a test", None, "image", "cifar10", domain="photos", transfer=("dtd",))
    everything = Catalogue()
    for kind in ("objectives", "tokenizers", "maskings", "datasets", "encoders", "probes"):
        getattr(everything, kind).update(getattr(catalogue, kind))
    everything.add(Origin("test:mine"), SimpleNamespace(register_presets=hookimpl(lambda: [own])))
    config, _ = resolve(everything, {"benchmark": "mine", "domain": "photos"})
    assert config.evaluate.batch_size == 16
    assert options_for(config, everything, "dtd") == {"dataset.name": "dtd"}


def test_another_plugin_can_bring_a_benchmark(catalogue):
    """Its own, of data sets of anybody's; and a domain of another's benchmark."""
    mine = [
        Preset("mine", {"objective.name": "mae"}, "a test", None, "image", "digits", domain="numbers",
               transfer=("cifar10",)),
        Preset("dabs", {}, "a test", None, "image", "digits", domain="numbers"),
    ]  # fmt: skip
    everything = Catalogue()
    for kind in ("objectives", "tokenizers", "maskings", "datasets", "encoders", "probes"):
        getattr(everything, kind).update(getattr(catalogue, kind))
    everything.add(Origin("test:mine"), SimpleNamespace(register_presets=hookimpl(lambda: mine)))
    assert everything.problems == []
    config, _ = resolve(everything, {"benchmark": "mine", "domain": "numbers"})
    assert (config.objective.name, config.dataset.name, config.benchmark) == ("mae", "digits", "mine")
    assert list(benchmarks(entry.value for entry in everything.presets)) == ["mine", "dabs"]


@pytest.mark.parametrize("wrong", [{"domain": "x"}, {"domain": "x", "modality": "image"}, {"transfer": ("cifar10",)}])
def test_a_domain_must_say_what_is_pretrained_on(wrong):
    with pytest.raises(ValueError, match="domain"):
        Preset("mine", {}, "a test", **wrong)


def test_a_plain_run_can_become_a_benchmarks(sslx, data):
    """What was pretrained by hand on a domain's data need not be pretrained again."""
    common = ["--objective", "mae", "--set", f"dataset.root={data}", *TINY, "--set", "tokenizer.length=60"]
    assert sslx("run", "--dataset", "genomics", *common, "--out", "r")[0] == 0
    config = json.loads(Path("r/config.json").read_text())
    assert config["benchmark"] is None
    before = read(Path("r"))
    code, _, err = sslx("run", "--resume", "--benchmark", "dabs", "--domain", "genomics", *common, "--out", "r")
    assert code == 0, err
    after = read(Path("r"))
    assert after.created == before.created
    assert after.scores[: len(before.scores)] == before.scores
    assert len(scored(after)) == 3
