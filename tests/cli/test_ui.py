"""`sslx ui`: what it lists, and that it serves nothing else, to nobody else."""

import fcntl
import json
import os
import re
import socket

import pytest

pytest.importorskip("starlette", reason="needs the extra ui")
pytest.importorskip("httpx", reason="needs httpx")
from starlette.testclient import TestClient

from ssl_core.cli.ui import listen
from ssl_core.errors import ConfigError
from ssl_core.report import write_html, write_json
from ssl_core.ui import scan
from ssl_core.ui.app import make_app
from ssl_core.ui.views import Query, curve_of, differences, metric_names
from tests.core.test_report import Elements, make_report

EVIL = "<script>alert(1)</script>"


def make_run(folder, steps=100, objective="mae", losses=(2.0, 1.5, 1.0), report=None, **config):
    folder.mkdir(parents=True)
    content = {
        "format": 2, "objective": {"name": objective}, "modality": "speech", "dataset": {"name": "synthetic"},
        "train": {"steps": steps, "lr": 0.001}, "seed": 3, **config,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    (folder / ".lock").touch()
    lines = [{"step": 10 * n, "train/loss": loss, "train/lr": 0.1} for n, loss in enumerate(losses, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if report is not None:
        write_json(report, folder)
        write_html(report, folder, [], lines)
    return folder


@pytest.fixture
def root(tmp_path):
    top = tmp_path / "runs"
    make_run(top / "a", report=make_report(run="a"))
    make_run(top / "deep" / "b", objective="metamae", losses=(3.0, 2.5), label=EVIL)
    (tmp_path / "secret.txt").write_text("top secret")
    (tmp_path / "secret.html").write_text("top secret")
    return top


@pytest.fixture
def client(root):
    return TestClient(make_app(root), base_url="http://127.0.0.1:8642", follow_redirects=False)


def ids(client):
    """Address of each run by its name."""
    links = re.findall(r'<th scope="row"><a href="(/runs/\w+)">(.*?)</a>', client.get("/").text)
    return {name: address for address, name in links}


# --- what it shows --------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_state_steps_loss_and_scores(client):
    answer = client.get("/")
    assert answer.status_code == 200
    text = " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())
    assert "2 of 2 runs" in text
    assert "finished mae speech/synthetic 3 30 of 100 1 71.2 ±1.0 accuracy %" in text
    assert "stopped" in text
    assert set(ids(client)) == {"a", "deep/b"}


def test_sorting_and_filtering(client):
    def order(address):
        return re.findall(r'<th scope="row"><a href="/runs/\w+">(.*?)</a>', client.get(address).text)

    assert order("/?sort=loss") == ["a", "deep/b"]
    assert order("/?sort=loss&reverse=1") == ["deep/b", "a"]
    assert order("/?sort=step") == ["a", "deep/b"]
    assert order("/?sort=score") == ["a", "deep/b"]
    assert order("/?q=META mae") == []
    assert order("/?q=deep") == ["deep/b"]
    assert order("/?state=finished") == ["a"]
    assert len(order("/?sort=__class__&state=nonsense")) == 2
    query = Query(sort="loss")
    assert query.sorted_by("loss") == "/?sort=loss&reverse=1"
    assert query.direction("loss") == "ascending"
    assert Query(sort="score").direction("score") == "descending"


def test_a_run_shows_curves_and_its_report(client):
    address = ids(client)["a"]
    text = client.get(address).text
    assert 'aria-label="train/loss: 2 at step 10, 1 at step 30' in text
    report = client.get(f"{address}/report")
    assert report.status_code == 200
    assert "mae on speech/synthetic" in report.text
    assert "sandbox" in report.headers["content-security-policy"]
    assert client.get(f"{ids(client)['deep/b']}/report").status_code == 404


def test_runs_are_compared_in_one_plot_with_their_differences(client):
    chosen = "&".join(f"run={address.rpartition('/')[2]}" for address in ids(client).values())
    text = client.get(f"/compare?{chosen}").text
    assert 'aria-label="train/loss of 2 runs: ' in text
    assert "1 at step 30" in text
    assert "2.5 at step 20" in text
    assert re.search(r'<th scope="row">objective.name</th><td>\w*mae</td><td>\w*mae</td>', text)
    assert "train.lr" not in text  # equal in both
    assert 'aria-label="train/lr of 2 runs' in client.get(f"/compare?{chosen}&metric=train/lr").text
    assert "train/loss of 2 runs" in client.get(f"/compare?{chosen}&metric={EVIL}").text
    assert "No run is marked" in client.get("/compare").text
    assert "1 of the marked runs are left out" in client.get(f"/compare?{chosen}&run=ffff").text


def test_comparisons_are_listed(client, root):
    (root / "grid" / "cells").mkdir(parents=True)
    assert "no table yet" in client.get("/").text
    (root / "grid" / "comparison.html").write_text("<p>the table</p>")
    (address,) = re.findall(r'href="(/comparisons/\w+)">grid</a>', client.get("/").text)
    answer = client.get(address)
    assert "the table" in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]


def test_a_run_at_work_is_shown_live(client, root):
    assert 'http-equiv="refresh"' not in client.get("/").text
    with (root / "deep" / "b" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert scan.is_running(root / "deep" / "b")
        address = ids(client)["deep/b"]
        text = client.get(address).text
        assert 'http-equiv="refresh" content="5"' in text
        assert 'http-equiv="refresh"' not in client.get(f"{address}?pause=1").text
        assert 'href="/?pause=1"' in client.get("/").text
        with (root / "deep" / "b" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 90, "train/loss": 0.125}) + '\n{"step": 100, "train/lo')  # cut short
        assert "0.125 at step 90" in client.get(address).text
        assert "90 of 100" in client.get("/").text
    assert not scan.is_running(root / "deep" / "b")


def test_looking_writes_nothing(client, root):
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    for address in ("/", "/compare", *ids(client).values()):
        client.get(address)
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


# --- damaged folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("config.json", b"{", "damaged"),
        ("config.json", b"[1]", "damaged"),
        ("config.json", b"\xff\xfe", "damaged"),
        ("config.json", b'{"objective": 3, "train": [], "dataset": null, "seed": {"a": 1}}', "stopped"),
        ("config.json", b"[" * 100_000, "damaged"),
        ("report.json", b"{}", "damaged"),
        ("report.json", b'{"schema_version": 99}', "damaged"),
        ("failure.json", json.dumps({"type": "X", "message": EVIL, "user_error": True}).encode(), "failed"),
        ("failure.json", b"nonsense", "stopped"),
        ("metrics.jsonl", b'{"step": 1}\nnull\n[]\n{"step": "x", "train/loss": 1}\n\xff', "stopped"),
        ("metrics.jsonl", b'{"step": 1, "train/loss": NaN}\n{"step": 2, "train/loss": Infinity}', "stopped"),
        ("metrics.jsonl", b'{"step": 1e999, "train/loss": true}', "stopped"),
    ],
)  # fmt: skip
def test_damaged_folders_are_named_and_break_nothing(client, root, name, content, state):
    folder = root / "deep" / "b"
    (folder / name).write_bytes(content)
    answer = client.get("/")
    assert answer.status_code == 200
    assert f'<span class="state {state}">' in answer.text
    addresses = ids(client)
    assert set(addresses) == {"a", "deep/b"}
    assert client.get(addresses["deep/b"]).status_code == 200
    assert client.get(f"/compare?run={addresses['deep/b'].rpartition('/')[2]}").status_code == 200
    assert not Elements(answer.text).all("script")


def test_a_folder_that_goes_away_or_may_not_be_read(client, root):
    address = ids(client)["deep/b"]
    for path in (root / "deep" / "b").iterdir():
        path.unlink()
    (root / "deep" / "b").rmdir()
    assert client.get(address).status_code == 404
    assert client.get("/").status_code == 200


# --- attacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../../secret.html", "/runs/..%2f..%2fsecret.html", "/runs/%2e%2e/report",
        "/runs/..%5c..%5csecret/report",
        "/runs//etc/passwd", "/runs/%2fetc%2fpasswd/report", "/comparisons/..%2fsecret.html", "/runs/a/report",
        "/runs/a%00/report", "/static/x", "/config.json", "/runs/x/config.json", "/runs/%ff/report",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "secret" not in answer.text.replace("secret.html", "")
    assert "root:" not in answer.text


def test_links_out_of_the_folder_are_not_followed(client, root, tmp_path):
    page = root / "a" / "report.html"
    page.unlink()
    page.symlink_to(tmp_path / "secret.html")
    assert client.get(f"{ids(client)['a']}/report").status_code == 404
    make_run(tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    assert set(ids(client)) == {"a", "deep/b"}
    (root / "a" / "metrics.jsonl").unlink()
    (root / "a" / "metrics.jsonl").symlink_to(tmp_path / "secret.txt")
    assert client.get(ids(client)["a"]).status_code == 200
    (root / "a" / ".lock").unlink()
    os.mkfifo(root / "a" / ".lock")  # opening it must not wait
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8642", "", "0.0.0.0", "[::1]"]
)
def test_requests_by_another_name_are_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "mae" not in answer.text


def test_requests_by_our_names_are_answered(client):
    for host in ("127.0.0.1", "127.0.0.1:8642", "localhost:1"):
        assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(client, method):
    answer = client.request(method, "/")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_every_page_forbids_scripts_and_frames(client):
    for address in ("/", "/compare", "/nothing", *ids(client).values()):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert 'content: ""' in client.get(address).text  # the style sheet is not escaped
        assert "access-control-allow-origin" not in headers


def test_text_of_runs_and_addresses_is_escaped(client, root):
    make_run(root / f"x{EVIL.replace('/', '_')}", label=EVIL, data_label=EVIL, losses=())
    (root / "deep" / "b" / "metrics.jsonl").write_text(json.dumps({"step": 1, EVIL: 1.0, "train/loss": 2}) + "\n")
    chosen = "&".join(f"run={address.rpartition('/')[2]}" for address in ids(client).values())
    for address in (f"/?q={EVIL}", "/", f"/compare?{chosen}", f"/compare?{chosen}&pause={EVIL}", f"/{EVIL}"):
        page = client.get(address).text
        assert not Elements(page).all("script")
        assert EVIL not in page
    for address in ids(client).values():
        assert EVIL not in client.get(address).text


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line_and_only_this_machine_is_listened_to():
    with listen(0) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(ConfigError, match=rf"cannot listen on port {port} .*--port 0 takes a free one"):
            listen(port)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_names_of_files_are_those_that_runs_write():
    from ssl_core.report.comparison_tables import write_all
    from ssl_core.runs import run_dir
    from ssl_core.training.metrics_log import METRICS

    assert (scan.CONFIG, scan.FAILURE, scan.LOCK) == (run_dir.CONFIG, run_dir.FAILURE, run_dir.LOCK)
    assert scan.METRICS == METRICS
    assert "comparison." in (write_all.__doc__ or "")


def test_curves_are_by_step_and_metrics_in_order():
    lines = [{"step": 5.0, "train/loss": 1.0}, {"step": 1.0, "train/loss": 3.0}, {"step": 5.0, "train/loss": 2.0}]
    steps, values = curve_of(lines, "train/loss")
    assert (steps.tolist(), values.tolist()) == ([1, 5], [3, 2])
    assert metric_names([{"step": 1, "health/x": 1, "train/lr": 1, "train/near": 1, "train/loss": 1}]) == [
        "train/loss", "train/near", "health/x", "train/lr"
    ]  # fmt: skip
    assert differences([]) == []


def test_a_server_answers_and_stops(root):
    """The real server, in a process of its own."""
    import signal
    import subprocess
    import sys
    import urllib.request

    command = [sys.executable, "-m", "ssl_core.cli", "ui", str(root), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert "2 of 2 runs" in answer.read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
