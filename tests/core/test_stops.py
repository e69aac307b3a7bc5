"""What kills, signals, other machines and foreign files leave is said or put right."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from ssl_core import plugins
from ssl_core.cli import terminal
from ssl_core.cli.common import errors_in_one_line
from ssl_core.cli.rich_terminal import Terminal
from ssl_core.cli.terminal import RichConsole
from ssl_core.compare.runner import collect
from ssl_core.config.resolve import parse_setting, read_file
from ssl_core.errors import CheckpointError, ConfigError, DataError, system_error
from ssl_core.pipeline import preprocess
from ssl_core.report.comparison_tables import _cell
from ssl_core.runs import run_dir
from ssl_core.runs.resume import same_threads
from ssl_core.training.checkpoint import Checkpoint
from ssl_core.training.loop import Clock
from ssl_core.training.metrics_log import MetricsLog, read_lines, read_metrics
from ssl_core.training.signals import Signals
from ssl_core.utils.console import Console, printable
from ssl_plugins.datasets._io.files import patterns
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.files.listing import apply_pattern


class Lines(Console):
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)


# --- metrics.jsonl ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"\xff\xfe{", b"{", b"[]", b"7", b'{"x": 1}', b"[" * 10**5, b'{"step": "a"}'])
def test_a_damaged_line_of_metrics_is_counted_and_the_others_are_read(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2}\n' + damage + b'\n{"step": 4}\n{"step": 6, "tr')
    assert [line["step"] for line in read_metrics(path)] == [2, 4]
    assert read_lines(path)[1] == 1
    log = MetricsLog(path, 4)
    assert log.lost == 1
    assert path.read_bytes() == b'{"step": 2}\n{"step": 4}\n'
    assert read_lines(path)[1] == 0


def test_the_first_probe_of_a_run_that_begins_anew_is_logged_once(tmp_path):
    """Killed before its first checkpoint, it left a line of step 0."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "probe/x": 1.0}\n{"step": 2}\n')
    assert MetricsLog(path, -1).lines == []


# --- run folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [".config.json-ab12", ".failure.json-x", ".metrics.jsonl-9"])
def test_a_run_that_was_killed_before_its_configuration_leaves_a_free_folder(tmp_path, left):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (run_dir.LOCK, left):
        (folder / name).touch()
    with pytest.raises(CheckpointError, match="holds no run: .*start it without --resume"):
        run_dir.load_config(folder)
    for overwrite in (False, True):
        (folder / left).touch()
        with run_dir.create_run_dir(folder, overwrite=overwrite):
            assert [path.name for path in folder.iterdir()] == [run_dir.LOCK]


def test_a_file_of_the_user_is_no_leftover(tmp_path):
    (tmp_path / ".config.json").touch()
    with pytest.raises(ConfigError, match="is not empty"), run_dir.create_run_dir(tmp_path):
        pass


def test_leftovers_of_kills_are_removed_and_nothing_else(tmp_path):
    names = [".metrics.jsonl-x1", ".report.json-x", ".report.html-y", "metrics.jsonl", ".notes-x", ".lock"]
    for name in names:
        (tmp_path / name).touch()
    run_dir.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[3:])


@pytest.mark.skipif(os.name != "posix", reason="names of Unix")
def test_a_folder_whose_name_is_not_utf_8_is_refused_at_once(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"caf\\udce9: the name is not UTF-8"), run_dir.create_run_dir(folder):
        pass
    with pytest.raises(ConfigError, match="the name is not UTF-8"):
        run_dir.lock_run_dir(folder)


def test_a_damaged_report_is_named(tmp_path):
    for name, text in {"cut": '{"schema', "empty": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
    with pytest.raises(ConfigError, match=r"no finished run in .* \(left out: .*cut"):
        collect(tmp_path)


# --- threads and time ------------------------------------------------------------------------------------------------


def test_a_resumed_run_uses_the_threads_that_it_was_begun_with(tmp_path, monkeypatch):
    console, used = Lines(), []
    monkeypatch.setattr("ssl_core.runs.resume.available_cores", lambda: 2)
    for begun in (None, 1, 2, 64):
        state = {} if begun is None else {"threads": begun}
        with same_threads(Checkpoint(tmp_path, state), console):
            used.append(torch.get_num_threads())
        assert torch.get_num_threads() == 1
    assert used == [1, 1, 2, 1]
    assert console.lines == [
        "threads    2 and not 1, as the run was begun, so that its numbers are the same to the bit",
        "warning: the run was begun with 64 threads, and there are 2 cores now; it goes on with 1, so that numbers "
        "differ in their last bits",
    ]


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="signals of Unix")
def test_time_in_which_the_process_was_stopped_does_not_count():
    clock = Clock(5.0)
    with Signals(clock.continued):
        before = clock()
        time.sleep(0.2)  # as if stopped
        os.kill(os.getpid(), signal.SIGCONT)
        time.sleep(0.01)
        assert clock() - before < 0.15
    assert 5.0 <= before < 6.0


def test_a_long_wait_without_a_terminal_prints_lines(monkeypatch):
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.01)
    console = RichConsole()
    console.console = Terminal(file=io.StringIO())
    with console.waiting("reading the data"):
        time.sleep(0.1)
    lines = console.console.file.getvalue().splitlines()
    assert lines
    assert all(line.startswith("reading the data, ") for line in lines)


def test_a_worker_that_ended_is_one_line_with_a_cure(monkeypatch):
    def dead(*arguments, **options):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(torch.utils.data, "DataLoader", dead)
    chunks = preprocess.Chunks([], None, 0, False)
    with pytest.raises(RuntimeError, match="worker"):
        dead()
    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda *a, **o: (dead() for _ in range(1)))
    with pytest.raises(DataError, match=r"ended \(DataLoader worker \(pid 7\) is killed.*SSLX_THREADS=1"):
        list(preprocess._iterate(chunks))


# --- text from data --------------------------------------------------------------------------------------------------

FOREIGN = "a\x1b]0;title\x07b\x9b31mc\rd\u202ee\udcff"


def test_control_characters_are_shown_as_escapes():
    assert printable(FOREIGN) == r"a\x1b]0;title\x07b\x9b31mc\rd\u202ee\udcff"
    assert printable("tab\tline\nä日本") == "tab\tline\nä日本"


@pytest.mark.parametrize("way", ["print", "table", "text"])
def test_no_text_from_data_reaches_the_terminal_as_it_is(way):
    from rich.table import Table
    from rich.text import Text

    out = Terminal(file=io.StringIO(), force_terminal=True, width=200, soft_wrap=True, highlight=False)
    if way == "print":
        out.print(FOREIGN, markup=False)
    elif way == "text":
        out.print(Text(FOREIGN, "bold"))
    else:
        table = Table("name")
        table.add_row(FOREIGN)
        out.print(table)
    shown = out.file.getvalue()
    assert r"a\x1b]0;title" in shown
    assert r"b\x9b31mc" in shown
    assert not {"\x07", "\x9b", "\u202e", "\udcff"} & set(shown)
    assert "\x1b]0" not in shown


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\rx"])
def test_no_cell_is_a_formula(text):
    assert _cell(text) == f"'{text}"
    assert [_cell(value) for value in ("mae", -0.5, None, True)] == ["mae", -0.5, None, True]


def test_a_pattern_that_backtracks_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.2)
    entries = [FileEntry(run_dir.Path("x"), "a" * 60 + "!")]
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"takes longer than 0.2 s for the name 'a+!'; write it without repetitions"):
        apply_pattern(entries, r"^(?P<label>(a|aa|b?a)+)+$")
    assert time.monotonic() - start < 5
    (entry,) = apply_pattern([FileEntry(run_dir.Path("x"), "cat/1.png")], r"^(?P<label>[^/]+)/")
    assert entry.label == "cat"


@pytest.mark.parametrize("name", ["x.json", "x.toml"])
def test_a_file_of_options_with_deep_lists_is_one_line(tmp_path, name):
    (tmp_path / name).write_text("[" * 10**5 if name == "x.json" else "a = " + "[" * 20_000)
    with pytest.raises(ConfigError, match=f"{name} has lists or sections within each other too deeply"):
        read_file(tmp_path / name)


def test_a_setting_with_deep_lists_is_text():
    assert parse_setting("a.b=" + "[" * 20_000)[1] == "[" * 20_000


def test_json_of_failures_stays_json(tmp_path):
    (tmp_path / "failure.json").write_text(json.dumps({"message": "x", "user_error": True, "type": "E"}))
    assert run_dir.read_failure(tmp_path) == "x"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free space"), (errno.EROFS, "a copy in a folder"), (errno.EACCES, "change its permissions"),
        (errno.EMFILE, "ulimit -n"), (errno.EFBIG, "ulimit -f"),
    ],
)  # fmt: skip
def test_errors_of_disk_and_limits_are_one_line_with_a_cure(number, words, capsys):
    with pytest.raises(SystemExit) as stop, errors_in_one_line(debug=False):
        raise OSError(number, os.strerror(number), "runs/a/.lock")
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: runs/a/.lock: {os.strerror(number)}; ")
    assert words in said
    assert len(said.splitlines()) == 1


def test_other_errors_of_the_system_stay_unexpected():
    assert system_error(OSError(errno.ENOENT, "none")) is None
    assert system_error(ValueError("x")) is None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("shape", [(40, 3), (4, 3, 40)])
def test_more_arrays_than_files_may_be_open(tmp_path, shape):
    """A map keeps its file open; recordings, and samples of three axes."""
    resource = pytest.importorskip("resource")
    for number in range(120):
        np.save(tmp_path / f"{number:03}.npy", np.random.default_rng(number).random(shape, np.float32))
    kind = plugins.load().dataset("files", "time-series")
    kind(kind.Options(root=str(tmp_path), window=40), "train")  # imports what it needs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 80, hard))
    try:
        dataset = kind(kind.Options(root=str(tmp_path), window=40), "train")
        assert all(np.isfinite(dataset[index]["inputs"]["series"]).all() for index in range(len(dataset)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
