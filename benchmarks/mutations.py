"""Read damaged files of every format, and count what is neither read nor refused by one clear line.

    python benchmarks/mutations.py --count 10000     # writes results/mutations.json

A mutation changes a whole, small file: bits are flipped, bytes overwritten, deleted, repeated or inserted, the end is
cut off, numbers at some place become extreme. It is read the way `sslx run --data` reads it: the data set is opened,
each sample of each split is read. Of the outcomes

- read: nothing was noticed, or samples were left out by name;
- refused: an error of sslx, one line long, that names the file;

all others are faults: another exception, an unclear message, the end of the process by a signal, 10 seconds of time,
or 1 GB more of memory. Mutation n of a format is the same in every run; a fault is written down with its number.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core import BadSample, SslxError, plugins
from ssl_core.config.resolve import read_file, resolve

RESULTS = Path(__file__).resolve().parent / "results" / "mutations.json"
SECONDS, MEMORY = 10.0, 1 << 30
PER_PROCESS = 500
"""Mutations that one process reads; what a process keeps of one file must not count against a later one."""
CATALOGUE = functools.cache(plugins.load)


# --- whole files -----------------------------------------------------------------------------------------------------


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _sound(path: Path) -> None:
    import soundfile

    soundfile.write(path, np.sin(np.arange(1600) / 20).astype(np.float32) / 2, 8000)


def _picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(_noise(24, 24, 3)).save(path)


def _npy(path: Path) -> None:
    np.save(path, _noise(24, 24, 3))


def _npz(path: Path) -> None:
    np.savez_compressed(path, images=_noise(20, 8, 8), labels=np.arange(20) % 2)


def _frame() -> Any:
    import pandas as pd

    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(size=60).round(4), "count": rng.integers(0, 99, 60),
            "colour": rng.choice(["r", "g"], 60),
            "note": [f"row {i}, \u00e9" for i in range(60)], "label": rng.choice(["yes", "no"], 60),
        }
    )  # fmt: skip


def _csv(path: Path) -> None:
    _frame().to_csv(path, index=False)


def _parquet(path: Path) -> None:
    _frame().to_parquet(path, index=False)


def _jsonl(path: Path) -> None:
    _frame().to_json(path, orient="records", lines=True)


def _fasta_text() -> str:
    rng = random.Random(0)
    return "".join(f">s{i} label={i % 2}\n{''.join(rng.choices('ACGT', k=150))}\n" for i in range(20))


def _fasta(path: Path) -> None:
    path.write_text(_fasta_text())


def _gz(path: Path) -> None:
    path.write_bytes(gzip.compress(_fasta_text().encode(), mtime=0))


TOML = """\
modality = "speech"
seed = 3

[objective]
name = "metamae"
alpha = 0.2

[train]
steps = 20
batch_size = 16
lr = 1e-3
precision = "fp32"

[encoder]
dim = 32
depth = 1
heads = 2

[masking]
ratio = 0.5
"""


def _toml(path: Path) -> None:
    path.write_text(TOML)


@functools.cache
def _encoder() -> Any:
    from ssl_core.api import pretrain

    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(
            modality="tabular", objective="mae", steps=1, out=Path(folder) / "run", preset="none",
            set={
                "encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2, "objective.depth": 1, "objective.width": 16,
                "objective.heads": 2, "dataset.n_train": 32, "dataset.n_test": 16, "train.batch_size": 8,
                "evaluate.probes": (), "train.precision": "fp32",
            },
        )  # fmt: skip
        run.encoder.save(Path(folder) / "encoder")
        entries = json.loads((Path(folder) / "encoder" / "sslx.json").read_text())
        entries.pop("digests")  # the digest would refuse each mutation before the reader sees it
        return entries, (Path(folder) / "encoder" / "model.safetensors").read_bytes()


def _safetensors(path: Path) -> None:
    entries, weights = _encoder()
    path.write_bytes(weights)
    path.with_name("sslx.json").write_text(json.dumps(entries))


# --- readers ---------------------------------------------------------------------------------------------------------


def _read_data(path: Path, modality: str, folder: bool = False) -> None:
    kind = CATALOGUE().dataset("files", modality)
    options_of: Any = kind.Options
    options = options_of(root=str(path.parent if folder else path))
    train = kind(options, "train")
    for split in train.splits:
        dataset = train if split == "train" else kind(options, split)
        for index in range(len(dataset)):
            try:
                dataset[index]
            except BadSample as error:
                _check_line(str(error))


def _read_config(path: Path) -> None:
    resolve(CATALOGUE(), read_file(path))


def _read_encoder(path: Path) -> None:
    from ssl_core.api import load

    load(path.parent)


def _check_line(message: str, name: str = "") -> None:
    if "\n" in message or name not in message:
        raise Unclear(message)


class Unclear(Exception):
    """A refusal of several lines, or one that does not name the file."""


@dataclass(frozen=True)
class Format:
    """A format: how a whole file is written, and how it is read."""

    suffix: str
    write: Callable[[Path], None]
    read: Callable[[Path], None]
    named: bool = True
    """Whether a refusal names the file itself, not its folder or an option that it holds."""
    beside: int = 0
    """Whole files of other names in the same folder."""
    stem: str = "mutated"


def _data(suffix: str, write: Callable[[Path], None], modality: str, beside: int = 0) -> Format:
    read = functools.partial(_read_data, modality=modality, folder=beside > 0)
    return Format(suffix, write, read, named=beside == 0, beside=beside)


FORMATS: dict[str, Format] = {
    "wav": _data("wav", _sound, "speech", 2),
    "flac": _data("flac", _sound, "speech", 2),
    "ogg": _data("ogg", _sound, "speech", 2),
    "png": _data("png", _picture, "image", 2),
    "jpg": _data("jpg", _picture, "image", 2),
    "tif": _data("tif", _picture, "image", 2),
    "npy": _data("npy", _npy, "image", 2),
    "npz": _data("npz", _npz, "image"),
    "csv": _data("csv", _csv, "tabular"),
    "parquet": _data("parquet", _parquet, "tabular"),
    "jsonl": _data("jsonl", _jsonl, "tabular"),
    "fasta": _data("fasta", _fasta, "genomics"),
    "gz": _data("fasta.gz", _gz, "genomics"),
    "toml": Format("toml", _toml, _read_config, named=False),
    "safetensors": Format("safetensors", _safetensors, _read_encoder, stem="model"),
}


# --- mutations -------------------------------------------------------------------------------------------------------

EXTREMES = [
    *(value.to_bytes(size, order) for size in (1, 2, 4, 8) for order in ("little", "big")
      for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)),
    *(b"nan", b"1e999", b"-1", b"9" * 40, b'"', b"'", b",", b"\n", b"\r", b"\t", b"\x00", b"\xff\xfe", b"{", b"[", b">",
      b"inf", b"999999999999"),
]  # fmt: skip


def mutate(whole: bytes, rng: random.Random) -> bytes:
    """A file with one to four changes."""
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(content)
        if not size:
            break
        # Half of all changes go to the first 256 bytes, where most formats have their header.
        at = rng.randrange(min(size, 256)) if rng.random() < 0.5 else rng.randrange(size)
        length = min(size - at, int(2 ** rng.uniform(0, 8)))
        match rng.randrange(9):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at] = rng.randrange(256)
            case 2:
                content[at : at + length] = rng.randbytes(length)
            case 3:
                content[at : at + length] = bytes([rng.choice((0, 255))]) * length
            case 4:
                del content[at : at + length]
            case 5:
                content[at:at] = content[at : at + length] * rng.choice((1, 1, 8))
            case 6:
                content[at:at] = rng.randbytes(length)
            case 7:
                extreme = rng.choice(EXTREMES)
                content[at : at + len(extreme)] = extreme
            case 8:
                del content[rng.randrange(size) :]
    return bytes(content)


# --- reading in processes that may die -------------------------------------------------------------------------------


class TooLong(BaseException):
    """Raised by the alarm; no `except Exception` catches it."""


def _alarm(*_: Any) -> None:
    raise TooLong


def _outcome(kind: Format, path: Path) -> tuple[str, str]:
    """What became of one file, and of a fault the details."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        kind.read(path)
    except TooLong:
        return "hang", traceback.format_exc()
    except MemoryError:
        return "over 1 GB", traceback.format_exc()
    except SslxError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            _check_line(str(error), path.name if kind.named else "")
        except Unclear:
            return "unclear", str(error)
        return "refused", ""
    except Exception:
        return "unexpected error", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read", ""


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _work(name: str, numbers: range, at: Any, results: Any) -> None:
    """Read mutations of one format, and report each."""
    torch.set_num_threads(1)
    kind = FORMATS[name]
    signal.signal(signal.SIGALRM, _alarm)
    folder = Path(tempfile.mkdtemp(prefix="mutations-"))
    try:
        path = folder / f"{kind.stem}.{kind.suffix}"
        for number in range(kind.beside):
            kind.write(folder / f"whole{number}.{kind.suffix}")
        kind.write(path)
        whole = path.read_bytes()
        kind.read(path)  # imports what the reader needs
        results.send(None)
        _limit_memory()
        for number in numbers:
            at.value = number
            path.write_bytes(mutate(whole, random.Random(f"{name}-{number}")))
            results.send((number, *_outcome(kind, path)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Count:
    """What became of the mutations of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int, outcome: str, detail: str) -> None:
        """Count one mutation."""
        self.outcomes[outcome] += 1
        if outcome not in ("read", "refused"):
            self.faults.append({"mutation": number, "outcome": outcome, "detail": detail[-1500:]})


def run(name: str, numbers: range) -> Count:
    """Read some mutations of a format in processes of `PER_PROCESS` each; a new one follows one that dies."""
    count, context = Count(), multiprocessing.get_context("fork")
    start = numbers.start
    while start < numbers.stop:
        stop = min(numbers.stop, start + PER_PROCESS)
        at = context.Value("q", start, lock=False)
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(name, range(start, stop), at, there), daemon=False)
        process.start()
        there.close()
        try:
            here.recv()
        except EOFError:
            raise SystemExit(f"the whole {name} file is not read") from None
        done = start - 1
        ended = ""
        while done < stop - 1:
            try:
                if not here.poll(3 * SECONDS):  # code in C that the alarm does not reach
                    process.kill()
                    ended = "hang"
                    break
                done, outcome, detail = here.recv()
            except EOFError:
                break
            count.add(done, outcome, detail)
        process.join()
        if done < stop - 1:
            count.add(at.value, ended or "crash", f"exit code {process.exitcode}")
            done = at.value
        start = done + 1
    return count


def main() -> None:
    """Mutate and read files of the formats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each format")
    parser.add_argument("--formats", default=",".join(FORMATS), help="names, with commas between them")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    arguments = parser.parse_args()
    os.environ["SSLX_CACHE_DIR"] = tempfile.mkdtemp(prefix="mutations-cache-")
    rows: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in arguments.formats.split(","):
        if FORMATS[name].write is _safetensors:
            _encoder()  # once, for all processes
        began = time.perf_counter()
        count = run(name, range(arguments.first, arguments.first + arguments.count))
        rows[name] = {
            "first": arguments.first, "count": arguments.count, "outcomes": dict(sorted(count.outcomes.items())),
            "seconds": round(time.perf_counter() - began, 1), "faults": count.faults,
        }  # fmt: skip
        part = arguments.results.with_suffix(".part")
        part.write_text(json.dumps(rows, indent=1) + "\n")
        part.replace(arguments.results)
        print(f"{name}: {rows[name]['outcomes']} in {rows[name]['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
