"""`sslx data ...`: AudioMNIST in miniature from a local server, by the commands a user types."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import runpy
import shutil
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import ssl_core.plugins as plugins
from ssl_core import Archive, hookimpl
from ssl_core.cli import app
from ssl_core.plugins import Catalogue
from ssl_core.public_data import download as transfer
from ssl_plugins.datasets.public import librispeech, voxceleb
from ssl_plugins.datasets.public.audio_mnist import AudioMnist
from ssl_plugins.datasets.user import files_speech

WRITERS = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "speech.py"))["WRITERS"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files whole or from a byte on. asked: the Range of each request; cuts: lengths of the next answers."""

    asked: list[str | None]
    cuts: list[int]

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cuts.pop(0) if self.cuts else None])


@pytest.fixture
def handler():
    """What answers the requests of one test."""
    return type("Mine", (Quiet,), {"asked": [], "cuts": []})


@pytest.fixture
def served(handler, tmp_path, monkeypatch):
    """A folder that a local server serves, with AudioMNIST as its upstream zips it."""
    site = tmp_path / "site"
    WRITERS["speech", "audio_mnist"](tmp_path / "made")
    upstream = tmp_path / "made" / "AudioMNIST-master"
    shutil.move(tmp_path / "made" / "speech" / "AudioMNIST", upstream)
    shutil.rmtree(tmp_path / "made" / "speech")
    site.mkdir()
    shutil.make_archive(str(site / "master"), "zip", tmp_path / "made")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/master.zip"
    real = AudioMnist.source.archives[0]
    archive = Archive(url, real.file, real.kind, real.produces, strip_components=real.strip_components)
    source = dataclasses.replace(AudioMnist.source, archives=(archive,), sample_counts={"train": 96, "test": 24})
    monkeypatch.setattr(AudioMnist, "source", source)
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def sslx(monkeypatch, tmp_path):
    """sslx(*arguments): exit status, standard output, standard error; with four data sets installed."""
    offered = [AudioMnist, librispeech.LibriSpeech, voxceleb.VoxCeleb1, files_speech.SpeechFiles]
    plugin = SimpleNamespace(register_datasets=hookimpl(lambda: offered))
    monkeypatch.setattr(plugins, "load", lambda block=(): Catalogue.from_plugins({"sslx:test": plugin}))
    monkeypatch.setenv("SSLX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: Any) -> tuple[int, str, str]:
        done = CliRunner().invoke(app.app, ["data", *map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    return call


def one_error(result: tuple[int, str, str]) -> str:
    status, _, said = result
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert status == 1, result
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0]


def test_prepare_verify_and_read(served, sslx, tmp_path):
    assert "`sslx data prepare speech/audio_mnist`" in one_error(sslx("verify", "audio_mnist"))
    status, said, _ = sslx("prepare", "audio-mnist")
    folder = tmp_path / "data" / "speech" / "AudioMNIST"
    assert status == 0
    assert f"speech/audio_mnist is in {folder}" in said
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["speech"]
    assert sslx("verify", "audio_mnist") == (
        0, "train           96  as published\ntest            24  as published\ntotal          120\n", ""
    )  # fmt: skip
    assert len(AudioMnist(AudioMnist.Options(), "test")) == 24
    (folder / "data" / "26" / "6_26_0.wav").unlink()
    status, said, _ = sslx("verify", "speech/audio_mnist")
    assert status == 1
    assert "test            23  published: 24, difference -1" in said


def test_prepare_again_downloads_nothing(served, sslx, tmp_path):
    assert sslx("prepare", "audio_mnist", "--root", tmp_path / "here", "--keep-archives")[0] == 0
    kept = tmp_path / "here" / "downloads" / "speech" / "AudioMNIST" / "AudioMNIST.zip"
    assert kept.read_bytes() == (served / "master.zip").read_bytes()
    (served / "master.zip").unlink()
    status, said, _ = sslx("prepare", "audio_mnist", "--root", tmp_path / "here")
    assert status == 0
    assert f"sslx data verify speech/audio_mnist --root {tmp_path / 'here'}" in said


def test_options_of_a_data_set_reach_its_preparation(served, sslx, tmp_path, monkeypatch):
    said = one_error(sslx("prepare", "audio_mnist", "--set", "dataset.rate=8000"))
    assert "preparing 'speech/audio_mnist' is the same whatever dataset.rate is; give it to sslx run" in said
    assert "did you mean 'dataset.rate'" in one_error(sslx("prepare", "audio_mnist", "--set", "dataset.rat=8000"))
    assert "option 'dataset.rate'" in one_error(sslx("prepare", "audio_mnist", "--set", "dataset.rate=fast"))
    assert not (tmp_path / "data").exists()

    def prepare(cls: type, folder: Path, options: Any) -> None:
        (folder / "rate").write_text(str(options.rate))

    monkeypatch.setattr(AudioMnist, "prepare", classmethod(prepare))
    place = tmp_path / "there"
    status, said, _ = sslx("prepare", "audio_mnist", "--set", f"dataset.root={place}", "--set", "dataset.rate=8000")
    assert status == 0
    assert f"--root {place}" in said
    assert (place / "speech" / "AudioMNIST" / "rate").read_text() == "8000"


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("cut", "is damaged or no zip archive"),
        ("checksum", "has the sha256 "),
        ("outside", "is refused: the entry '../../evil.wav' points outside of it"),
    ],
)
def test_a_bad_archive_is_one_line_and_leaves_nothing(served, sslx, tmp_path, monkeypatch, bad, complaint):
    upstream = served / "master.zip"
    if bad == "cut":
        content = upstream.read_bytes()
        upstream.write_bytes(content[: len(content) // 2])
    elif bad == "checksum":
        archive = dataclasses.replace(AudioMnist.source.archives[0], checksum="sha256:" + "0" * 64)
        monkeypatch.setattr(AudioMnist, "source", dataclasses.replace(AudioMnist.source, archives=(archive,)))
    else:
        with zipfile.ZipFile(upstream, "a") as archive:
            archive.writestr("../../evil.wav", b"evil")
    assert complaint in one_error(sslx("prepare", "audio_mnist"))
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.rglob("evil.wav"))


def test_an_interrupted_download_goes_on_where_it_stopped(served, handler, sslx, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "WAIT", 0.0)
    size = (served / "master.zip").stat().st_size
    half = size // 2
    handler.cuts[:] = [half] + [0] * transfer.TRIES  # half of it arrives, and then nothing more
    said = one_error(sslx("prepare", "audio_mnist"))
    assert f"{half:,} bytes are kept and the same command goes on from there" in said
    folder = tmp_path / "data" / "speech" / "AudioMNIST"
    assert not folder.exists()
    handler.asked.clear()
    assert sslx("prepare", "audio_mnist")[0] == 0
    assert handler.asked == [f"bytes={half}-"]
    assert sslx("verify", "audio_mnist")[0] == 0
    assert [path for path in folder.parents[1].rglob("*") if path.suffix in (".zip", ".part", ".tag")] == []


def test_verify_looks_for_what_a_table_names(sslx, tmp_path, monkeypatch):
    WRITERS["speech", "voxceleb1"](tmp_path / "data")
    source = dataclasses.replace(voxceleb.VoxCeleb1.source, sample_counts={"train": 12, "test": 6})
    monkeypatch.setattr(voxceleb.VoxCeleb1, "source", source)
    status, whole, _ = sslx("verify", "voxceleb1")
    assert status == 0
    assert "missing" not in whole
    wav = tmp_path / "data" / "speech" / "voxceleb1" / "wav"
    gone = wav / "id10001" / "7gWzIy6yIIk" / "00001.wav"
    gone.unlink()
    assert sslx("verify", "voxceleb1")[:2] == (1, f"{whole}files            1  missing, the first is {gone}\n")
    shutil.rmtree(wav)
    wav.mkdir()
    status, said, _ = sslx("verify", "voxceleb1")
    assert status == 1
    assert "files           18  missing" in said


def test_list_says_what_is_here(served, sslx):
    def rows() -> dict[str, list[str]]:
        lines = [line for line in sslx("list")[1].splitlines() if "speech" in line]
        cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
        return {row[0]: row for row in cells}

    before = rows()
    assert set(before) == {"speech/audio_mnist", "speech/librispeech", "speech/voxceleb1"}  # `files` is not public
    assert before["speech/librispeech"][1:] == ["no", "281,241 + 2,703", "libri-speech", "CC BY 4.0"]
    sslx("prepare", "audio_mnist")
    assert [name for name, row in rows().items() if row[1] == "yes"] == ["speech/audio_mnist"]


def test_show_gives_facts_and_what_to_do(sslx, tmp_path):
    status, said, _ = sslx("show", "voxceleb1")
    assert status == 0
    assert f"folder    {tmp_path / 'data' / 'speech' / 'voxceleb1'}" in said
    assert "samples   train 145,265, test 8,251" in said
    assert "by hand   register at https://www.robots.ox.ac.uk" in said
    _, said, _ = sslx("show", "libri-speech")
    assert said.count("download  https://www.openslr.org/resources/12/") == 4
    assert "sha256:d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2" in said


def test_what_is_behind_a_registration_says_what_to_do(sslx, tmp_path, monkeypatch):
    monkeypatch.setattr(voxceleb.VoxCeleb1, "source", dataclasses.replace(voxceleb.VoxCeleb1.source, archives=()))
    said = one_error(sslx("prepare", "voxceleb1"))
    assert said.startswith("error: 'speech/voxceleb1' lacks")
    assert "register at https://www.robots.ox.ac.uk" in said
    assert "register at" in one_error(sslx("verify", "voxceleb1"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show", "librispech"), "no public data set 'librispech'; did you mean 'librispeech'"),
        (("show", "image/librispeech"), "no public data set 'image/librispeech'; did you mean 'speech/librispeech'"),
        (("prepare", "files"), "data set 'files' is not one to download"),
        (("list", "--modality", "speach"), "no public data of modality 'speach'; did you mean 'speech'?"),
    ],
)
def test_bad_input_is_one_line(sslx, arguments, complaint):
    assert complaint in one_error(sslx(*arguments))


def test_a_root_that_is_a_file_is_one_line(served, sslx, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder with --root" in one_error(
        sslx("prepare", "audio_mnist", "--root", tmp_path / "file")
    )


# --- aliases in the catalogue ----------------------------------------------------------------------------------------


def dataset(name: str, modality: str = "speech", aliases: Any = ()) -> type:
    body = {"name": name, "modality": modality, "aliases": aliases, "__doc__": "A data set."}
    return type("Made", (librispeech.LibriSpeech,), body)


def catalogue_of(**offers: list[type]) -> Catalogue:
    made = {
        f"x:{name}": SimpleNamespace(register_datasets=hookimpl(lambda f=found: f)) for name, found in offers.items()
    }
    return Catalogue.from_plugins(made)


def test_an_alias_finds_its_data_set_within_a_modality():
    mine, other = dataset("a_b", aliases=("a-b", "ab")), dataset("c", "image", ("ab",))
    catalogue = catalogue_of(one=[mine], two=[other])
    assert catalogue.dataset("a-b") is catalogue.dataset("a_b") is mine
    assert catalogue.dataset("ab", "image") is other
    with pytest.raises(Exception, match=r"'ab' exists for several modalities \(image, speech\)"):
        catalogue.dataset("ab")
    with pytest.raises(Exception, match=r"did you mean 'a-b'"):
        catalogue.dataset("a-bb")


@pytest.mark.parametrize("names", [("a", ("b",)), ("c", ("a",)), ("c", ("x",)), ("x", ())])
def test_an_alias_that_is_taken_is_refused_with_both_origins(names):
    with pytest.raises(Exception, match="is offered twice, by x:one and by x:two"):
        catalogue_of(one=[dataset("a", aliases=("b", "x"))], two=[dataset(names[0], aliases=names[1])])


@pytest.mark.parametrize("aliases", [("a",), ("b", "b"), "b", ["b"], ("no name",), (1,)])
def test_a_bad_alias_sets_the_plugin_aside(aliases):
    assert "aliases" in catalogue_of(one=[dataset("a", aliases=aliases)]).problems[0]


def test_two_of_one_plugin_may_not_share_an_alias():
    assert "'b' twice" in catalogue_of(one=[dataset("a", aliases=("b",)), dataset("b")]).problems[0]
