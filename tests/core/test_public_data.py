"""Downloads against a local server, and archives that must not be trusted."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ssl_core.errors import DataError
from ssl_core.public_data import download as transfer
from ssl_core.public_data.obtain import fetch, obtain, unpack
from ssl_core.public_data.source import Archive, Source

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes


def silent(what: str, done: int, total: int | None) -> None:
    pass


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# --- a server that can misbehave -------------------------------------------------------------------------------------


@dataclass
class Site:
    """What it serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    cut: int = 0  # so many answers break off after `cut_at` bytes
    cut_at: int = 0
    ranges: bool = True
    etag: str = '"one"'
    statuses: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)

    def archive(self, name: str, content: bytes, kind: Any = "file", **facts: Any) -> Archive:
        self.files[f"/{name}"] = content
        return Archive(f"{self.url}/{name}", name, kind, **facts)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    site: Site

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        wanted = self.headers.get("Range")
        site.asked.append(wanted)
        if site.statuses:
            self.send_error(site.statuses.pop(0))
            return
        if self.path not in site.files:
            self.send_error(404)
            return
        content = site.files[self.path]
        start = 0
        if wanted and site.ranges and self.headers.get("If-Range") in (None, site.etag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if site.etag:
            self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if site.cut:
            site.cut -= 1
            body = body[: site.cut_at]
        self.wfile.write(body)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Handler,), {"site": made}))
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(transfer, "WAIT", 0.0)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield made
    server.shutdown()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- downloading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [None, sha256(CONTENT), f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_a_file_arrives_whole(site, tmp_path, digest):
    told = []
    archive = site.archive("a.bin", CONTENT, size=len(CONTENT), checksum=digest)
    path = fetch(archive, tmp_path / "new", lambda *what: told.append(what))
    assert path == tmp_path / "new" / "a.bin"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a.bin"]
    assert ("downloading a.bin", len(CONTENT), len(CONTENT)) in told


def test_a_broken_connection_is_taken_up_where_it_broke(site, tmp_path):
    site.cut, site.cut_at = 2, 300_000
    path = fetch(site.archive("a.bin", CONTENT), tmp_path, silent)
    assert path.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-", "bytes=600000-"]


def test_the_next_call_goes_on_after_an_interruption(site, tmp_path, monkeypatch):
    archive = site.archive("a.bin", CONTENT)

    def stop(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "CHUNK", 100_000)
    with pytest.raises(KeyboardInterrupt):
        fetch(archive, tmp_path, stop)
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.tag"]
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-"]
    assert names(tmp_path) == ["a.bin"]


def test_a_file_that_changed_in_between_is_fetched_anew(site, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / "a.bin.part.tag").write_text('"zero"')
    assert fetch(site.archive("a.bin", CONTENT), tmp_path, silent).read_bytes() == CONTENT
    assert site.asked == ["bytes=3000-"]


def test_a_server_without_ranges_sends_everything_again(site, tmp_path):
    site.ranges = False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:5000])
    (tmp_path / "a.bin.part.tag").write_text(site.etag)
    assert fetch(site.archive("a.bin", CONTENT), tmp_path, silent).read_bytes() == CONTENT


def test_without_anything_to_compare_no_part_is_trusted(site, tmp_path):
    site.etag = ""
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    assert fetch(site.archive("a.bin", CONTENT), tmp_path, silent).read_bytes() == CONTENT
    assert site.asked == [None]


def test_a_part_that_is_already_whole_needs_no_byte_more(site, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(site.archive("a.bin", CONTENT, checksum=sha256(CONTENT)), tmp_path, silent).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_too_long_is_fetched_anew(site, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(site.archive("a.bin", CONTENT, checksum=sha256(CONTENT)), tmp_path, silent).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(site, tmp_path):
    site.statuses = [503, 429]
    assert fetch(site.archive("a.bin", CONTENT), tmp_path, silent).read_bytes() == CONTENT


def test_a_server_that_always_breaks_is_given_up_and_what_came_is_kept(site, tmp_path):
    archive = site.archive("a.bin", CONTENT)
    site.cut, site.cut_at = 1, 1000
    with pytest.raises(KeyboardInterrupt):
        fetch(archive, tmp_path, raise_after(1))
    site.statuses = [500] * 20
    with pytest.raises(DataError, match=r"HTTP 500.*1,000 bytes are kept and the same command goes on"):
        fetch(archive, tmp_path, silent)
    site.statuses = []
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=1000-"


def raise_after(calls: int) -> Any:
    left = [calls]

    def progress(what: str, done: int, total: int | None) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ({"size": 17}, "has 1,024,000 bytes, not 17"),
        ({"checksum": "sha256:" + "0" * 64}, "has the sha256 "),
        ({"checksum": "md5:" + "0" * 32}, "has the md5 "),
    ],
)
def test_a_wrong_file_is_refused_and_leaves_nothing(site, tmp_path, facts, complaint):
    archive = site.archive("a.bin", CONTENT, **facts)
    with pytest.raises(DataError, match=complaint) as caught:
        fetch(archive, tmp_path, silent, "https://example.org")
    assert "\n" not in str(caught.value)
    assert f"by hand (see https://example.org) as {tmp_path / 'a.bin'}" in str(caught.value)
    assert names(tmp_path) == []


def test_a_missing_file_says_what_to_do_by_hand(site, tmp_path):
    with pytest.raises(DataError, match=r"HTTP 404 Not Found; download it by hand as .*a\.bin and repeat"):
        fetch(Archive(f"{site.url}/gone", "a.bin", "file"), tmp_path, silent)
    assert names(tmp_path) == []
    assert len(site.asked) == 1


def test_no_server_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "WAIT", 0.0)
    with pytest.raises(DataError, match="by hand"):
        fetch(Archive("http://127.0.0.1:9/a", "a.bin", "file"), tmp_path, silent)
    with pytest.raises(DataError, match="no http, https, ftp or file address"):
        fetch(Archive("gopher://x/a", "a.bin", "file"), tmp_path, silent)
    with pytest.raises(DataError, match="cannot be read"):
        fetch(Archive((tmp_path / "none").as_uri(), "a.bin", "file"), tmp_path, silent)
    assert names(tmp_path) == []


def test_a_file_put_there_by_hand_is_used_or_refused_but_never_deleted(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    nowhere = "http://127.0.0.1:9/a"
    assert fetch(Archive(nowhere, "a.bin", "file", checksum=sha256(CONTENT)), tmp_path, silent).exists()
    with pytest.raises(DataError, match="remove it, and the next call downloads it"):
        fetch(Archive(nowhere, "a.bin", "file", checksum=sha256(b"")), tmp_path, silent)
    assert names(tmp_path) == ["a.bin"]


def test_two_downloads_of_one_file_do_not_mix(site, tmp_path):
    archive = site.archive("a.bin", CONTENT)
    refused = []

    def again(what: str, done: int, total: int | None) -> None:
        with pytest.raises(DataError, match="another process is downloading"):
            fetch(archive, tmp_path, silent)
        refused.append(done)

    assert fetch(archive, tmp_path, again).read_bytes() == CONTENT
    assert refused
    assert names(tmp_path) == ["a.bin"]


def test_a_lock_that_its_holder_removed_meanwhile_is_taken_anew(site, tmp_path, monkeypatch):
    archive = site.archive("a.bin", CONTENT)
    lock, calls, refused = fcntl.flock, [], []

    def late(file, how):
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / "a.bin.part.lock").unlink()  # another download ends between opening and locking
        lock(file, how)

    def again(what: str, done: int, total: int | None) -> None:
        with pytest.raises(DataError, match="another process is downloading"):
            fetch(archive, tmp_path, silent)
        refused.append(done)

    monkeypatch.setattr(fcntl, "flock", late)
    assert fetch(archive, tmp_path, again).read_bytes() == CONTENT
    assert refused
    assert names(tmp_path) == ["a.bin"]


# --- unpacking -------------------------------------------------------------------------------------------------------


def tar_of(path: Path, *members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_of(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


FILES = (("top/a.txt", b"a"), ("top/deep/b.txt", b"b" * 5000), ("./top/c.txt", b""))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path, mode):
    path = tar_of(tmp_path / "x.tar", special("top", tarfile.DIRTYPE), *FILES, mode=mode)
    unpack(path, Archive("", "x.tar", "tar", produces="top"), tmp_path / "out", silent)
    assert tree(tmp_path / "out") == {"top/a.txt": b"a", "top/deep/b.txt": b"b" * 5000, "top/c.txt": b""}


def test_zip_and_strip(tmp_path):
    path = zip_of(tmp_path / "x.zip", ("top/", b""), *FILES)
    unpack(path, Archive("", "x.zip", "zip", produces="deep", strip_components=1), tmp_path / "out", silent)
    assert tree(tmp_path / "out") == {"a.txt": b"a", "deep/b.txt": b"b" * 5000, "c.txt": b""}


def test_single_files(tmp_path):
    packed = gzip.compress(CONTENT)
    (tmp_path / "x.gz").write_bytes(packed)
    unpack(tmp_path / "x.gz", Archive("", "x.gz", "gz", produces="in/x.csv"), tmp_path / "out", silent)
    unpack(tmp_path / "x.gz", Archive("", "x.gz", "file", produces="kept.gz"), tmp_path / "out", silent)
    assert tree(tmp_path / "out") == {"in/x.csv": CONTENT, "kept.gz": packed}


OUTSIDE = ["../evil", "top/../../evil", "/evil", "C:\\evil", "..\\evil", "top\\..\\..\\evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_is_written_outside(tmp_path, kind, name):
    path = (tar_of if kind == "tar" else zip_of)(tmp_path / "x", ("top/a", b"a"), (name, b"evil"))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="is refused: the entry '.*' points outside of it") as caught:
        unpack(path, Archive("", "x", kind, produces="top"), tmp_path / "out", silent)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["out", "x"]
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("target", ["../../evil", "/etc/passwd", "../x"])
@pytest.mark.parametrize("how", ["sym", "hard", "zip"])
def test_no_link_points_outside(tmp_path, how, target):
    (tmp_path / "evil").write_text("secret")
    kind = "zip" if how == "zip" else "tar"
    if how == "zip":
        path = zip_of(tmp_path / "x", (zip_link("link"), target.encode()))
    else:
        path = tar_of(tmp_path / "x", special("link", tarfile.SYMTYPE if how == "sym" else tarfile.LNKTYPE, target))
    with pytest.raises(DataError, match="points outside of it"):
        unpack(path, Archive("", "x", kind), tmp_path / "out", silent)
    assert names(tmp_path / "out") == []


def test_no_file_is_written_through_a_link(tmp_path):
    """A link to a folder elsewhere, then a file below it: links are made last, so the file makes its own folder."""
    (tmp_path / "other").mkdir()
    path = tar_of(tmp_path / "x", special("d", tarfile.SYMTYPE, "../../other"), ("d/evil", b"evil"))
    with pytest.raises(DataError, match="is refused"):
        unpack(path, Archive("", "x", "tar"), tmp_path / "out", silent)
    chain = tar_of(
        tmp_path / "y", ("a/b/keep", b"1"), special("up", tarfile.SYMTYPE, "a/b"),
        special("up/out", tarfile.SYMTYPE, "../../../../other"),
    )  # fmt: skip
    with pytest.raises(DataError, match="is refused"):
        unpack(chain, Archive("", "y", "tar"), tmp_path / "out", silent)
    assert names(tmp_path / "other") == []
    assert names(tmp_path / "out") == []


def test_links_inside_are_kept(tmp_path):
    path = tar_of(
        tmp_path / "x",
        special("top/alias", tarfile.SYMTYPE, "deep/b.txt"), special("top/dir", tarfile.SYMTYPE, "deep"),
        special("top/same", tarfile.LNKTYPE, "top/a.txt"), special("top/dead", tarfile.SYMTYPE, "none"), *FILES,
    )  # fmt: skip
    unpack(path, Archive("", "x", "tar", produces="top"), tmp_path / "out", silent)
    top = tmp_path / "out" / "top"
    assert (top / "alias").read_bytes() == (top / "dir" / "b.txt").read_bytes() == b"b" * 5000
    assert (top / "same").read_bytes() == b"a"
    assert not os.path.lexists(top / "dead")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_device(tmp_path, kind):
    path = tar_of(tmp_path / "x", ("a", b"a"), special("dev", kind))
    with pytest.raises(DataError, match="is a device or a pipe"):
        unpack(path, Archive("", "x", "tar"), tmp_path / "out", silent)
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
def test_a_bomb_is_stopped(tmp_path, kind):
    zeros = bytes(3 << 20)
    path = tmp_path / "x"
    if kind == "gz":
        path.write_bytes(gzip.compress(zeros))
    else:
        (tar_of if kind == "tar" else zip_of)(path, ("a", zeros[: 1 << 20]), ("b", zeros[: 1 << 20]), ("c", zeros))
    with pytest.raises(DataError, match="unpacks to more than 2,500,000 bytes"):
        unpack(path, Archive("", "x", kind, produces="a", max_unpacked_bytes=2_500_000), tmp_path / "out", silent)
    assert names(tmp_path / "out") == []
    unpack(path, Archive("", "x", kind, produces="a"), tmp_path / "out", silent)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar-plain", "gz"])
def test_a_truncated_archive_leaves_nothing(tmp_path, kind, keep):
    noise = os.urandom(50_000)
    path = tmp_path / "x"
    if kind == "gz":
        path.write_bytes(gzip.compress(noise))
    elif kind == "zip":
        zip_of(path, ("top/a", noise), ("top/b", noise))
    else:
        tar_of(path, ("top/a", noise), ("top/b", noise), mode="w" if kind == "tar-plain" else "w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    archive = Archive("", "x", kind.split("-")[0], produces="x.csv" if kind == "gz" else "top")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"damaged|does not hold") as caught:
        unpack(path, archive, tmp_path / "out", silent)
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("cut", ["before", "inside", "damaged"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_ends_where_a_header_should_be_is_refused(tmp_path, mode, cut):
    tar = tar_of(tmp_path / "whole", ("top/a", b"a" * 1000), ("top/b", b"b" * 1000), mode="w").read_bytes()
    second = tar.index(b"top/b")  # after a header and 1000 bytes in two blocks
    damaged = {"before": tar[:second], "inside": tar[: second + 100], "damaged": tar[:second] + b"x" * 512}[cut]
    path = tmp_path / "x"
    for content, good in ((damaged, False), (tar[: second + 4 * 512], True)):  # one block of zeros is an end
        path.write_bytes(content if mode == "w" else gzip.compress(content))
        if good:
            unpack(path, Archive("", "x", "tar", produces="top"), tmp_path / "out", silent)
            assert sorted(tree(tmp_path / "out")) == ["top/a", "top/b"]
        else:
            with pytest.raises(DataError, match="is damaged or no tar archive .* where a header or the end of"):
                unpack(path, Archive("", "x", "tar", produces="top"), tmp_path / "out", silent)
            assert names(tmp_path / "out") == []


def test_a_damaged_byte_in_a_zip_is_found(tmp_path):
    path = zip_of(tmp_path / "x", ("a", os.urandom(1000)))
    content = bytearray(path.read_bytes())
    content[500] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        unpack(path, Archive("", "x", "zip", produces="a"), tmp_path / "out", silent)


def test_another_archive_than_expected_is_refused(tmp_path):
    path = zip_of(tmp_path / "x", ("b", b""))
    with pytest.raises(DataError, match="does not hold a; it is not the archive that was expected"):
        unpack(path, Archive("", "x", "zip", produces="a"), tmp_path / "out", silent)


def test_archives_merge_into_one_folder_and_what_they_give_comes_last(tmp_path, monkeypatch):
    first = tar_of(tmp_path / "1", ("S/one/a", b"1"), ("S/READ", b"1"))
    second = tar_of(tmp_path / "2", ("S/two/a", b"2"), ("S/READ", b"2"), ("S/z", b""), ("T/x", b""))
    unpack(first, Archive("", "1", "tar", produces="S/one"), tmp_path / "out", silent)
    moved = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), real(a, b))[1])
    unpack(second, Archive("", "2", "tar", produces="S/two"), tmp_path / "out", silent)
    assert tree(tmp_path / "out") == {"S/READ": b"2", "S/one/a": b"1", "S/two/a": b"2", "S/z": b"", "T/x": b""}
    assert moved == ["T", "READ", "z", "two"]


# --- a whole source --------------------------------------------------------------------------------------------------


def source_of(*archives: Archive, **facts: Any) -> Source:
    return Source("https://example.org", "none", "kind/set", archives, **facts)


def test_obtain_downloads_unpacks_and_tidies_up(site, tmp_path):
    content = tar_of(tmp_path / "t", *FILES).read_bytes()
    archives = (
        site.archive("x.tgz", content, "tar", produces="top"),
        site.archive("list.txt", b"l", produces="list.txt"),
    )
    root = tmp_path / "root"
    folder = obtain(source_of(*archives), root, silent)
    assert folder == root / "kind" / "set"
    assert not source_of(*archives).missing_paths(folder)
    assert names(root) == ["kind"]
    assert names(folder) == ["list.txt", "top"]
    assert len(site.asked) == 2
    (folder / "list.txt").unlink()
    obtain(source_of(*archives), root, silent, keep=True)
    assert len(site.asked) == 3  # only what was missing
    assert names(root / "downloads" / "kind" / "set") == ["list.txt"]


@pytest.mark.parametrize("bad", ["traversal", "truncated", "checksum"])
def test_a_bad_archive_leaves_nothing_at_all(site, tmp_path, bad):
    good = tar_of(tmp_path / "t", *FILES).read_bytes()
    evil = tar_of(tmp_path / "e", ("../../../evil", b"x")).read_bytes()
    content = {"traversal": evil, "truncated": good[:-20], "checksum": good}[bad]
    archive = site.archive("x.tgz", content, "tar", produces="top", checksum=sha256(b"") if bad == "checksum" else None)
    with pytest.raises(DataError):
        obtain(source_of(archive), tmp_path / "root", silent)
    assert names(tmp_path) == ["e", "t"]


def test_archives_that_name_nothing_are_ticked_off(site, tmp_path):
    parts = [zip_of(tmp_path / f"{i}", (f"images/{i}.png", b"")).read_bytes() for i in (0, 1)]
    archives = [site.archive(f"{i}.zip", part, "zip") for i, part in enumerate(parts)]
    source = source_of(*archives, required_paths=("images",))
    del site.files["/1.zip"]
    with pytest.raises(DataError, match="HTTP 404"):
        obtain(source, tmp_path / "root", silent)
    folder = source.locate_in(tmp_path / "root")
    assert source.missing_paths(folder) == [".unpacked/1.zip"]  # one part of two is not the whole
    site.files["/1.zip"] = parts[1]
    obtain(source, tmp_path / "root", silent)
    assert source.missing_paths(folder) == []
    assert len(site.asked) == 3
    own = tmp_path / "own" / "images"
    own.mkdir(parents=True)
    assert source.missing_paths(own.parent) == []  # a user's own copy has no marks


def test_many_parts_go_on_in_the_folder_where_they_began(site, tmp_path):
    part = zip_of(tmp_path / "part", ("images/a.png", b"")).read_bytes()
    parts = [site.archive(f"{i}.zip", part, "zip", shared_output="images") for i in range(4)]
    source = source_of(*parts, required_paths=("images",))
    del site.files["/1.zip"]
    root = tmp_path / "root"
    with pytest.raises(DataError, match="HTTP 404"):
        obtain(source, root, silent)
    assert source.locate_in(root) == root / "kind" / "set"


def test_what_somebody_put_there_is_not_downloaded(site, tmp_path):
    archives = [site.archive(f"{i}.zip", b"", "zip", shared_output="images") for i in (0, 1)]
    source = source_of(*archives, required_paths=("images", "table.csv"))
    (tmp_path / "root" / "kind" / "set" / "images").mkdir(parents=True)
    folder = obtain(source, tmp_path / "root", silent)
    assert site.asked == []
    assert source.missing_paths(folder) == ["table.csv"]


def test_a_part_that_was_not_ticked_off_is_nobodys_own_copy(site, tmp_path, monkeypatch):
    parts = [zip_of(tmp_path / f"{i}", (f"images/{i}.png", b"")).read_bytes() for i in (0, 1)]
    archives = [site.archive(f"{i}.zip", part, "zip", shared_output="images") for i, part in enumerate(parts)]
    source = source_of(*archives, required_paths=("images",))

    def stop(path: Path, *arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", stop)
        with pytest.raises(KeyboardInterrupt):
            obtain(source, tmp_path / "root", silent)
    folder = source.locate_in(tmp_path / "root")
    assert names(folder / "images") == ["0.png"]
    assert not any(archive.is_unpacked(folder) for archive in archives)
    obtain(source, tmp_path / "root", silent)
    assert source.missing_paths(folder) == []
    assert names(folder / "images") == ["0.png", "1.png"]


def test_a_root_that_is_a_file_is_refused(site, tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(DataError, match="is a file; name a folder with --root"):
        obtain(source_of(site.archive("a", b"", produces="a")), tmp_path / "root", silent)


def test_file_urls_work(tmp_path):
    zip_of(tmp_path / "x.zip", ("a", b"a"))
    archive = Archive((tmp_path / "x.zip").as_uri(), "y.zip", "zip", produces="a")
    assert tree(obtain(source_of(archive), tmp_path / "root", silent)) == {"a": b"a"}
