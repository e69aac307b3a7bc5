"""Prepare the real data sets of benchmarks/grids/real.toml in one directory, in the layout of the data set `files`.

    python benchmarks/real_data.py DATA real-data
    sslx compare --config benchmarks/grids/real.toml --out runs/real --jobs 2

DATA is a directory of public data sets, each in the layout of its source. Most are linked unchanged. Six are rewritten:
adult (labels of the test file lose their final dot), water (tiles cut into patches with a land cover label), easy-vqa
and xquad (questions and paragraphs as JSON lines), bacteria (random reads of genomes), gb1 (a table from a zip file). A
data set that already exists in the output directory is skipped, and so is one that DATA lacks, with a message.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

COVER = (10, 20, 30, 40, 50, 60, 80)  # ESA WorldCover codes; 90, wetland, has only nine patches
PATCH, BANDS = 32, 7  # bands 0 to 6 are reflectances; the label comes from another band
READ, TRAIN_READS, TEST_READS = 250, 2000, 200  # bases of a read; reads of each genome
EVERY = 4  # every fourth question of easy-vqa
HELD_OUT = 10  # test articles of xquad


def link(source: Path, target: Path) -> None:
    """Create a symbolic link at `target`.

    Raises:
        FileNotFoundError: `source` does not exist.
    """
    if not source.exists():
        raise FileNotFoundError(source)
    target.symlink_to(source.resolve())


def fsdd(data: Path, out: Path) -> None:
    """Link recordings of spoken digits."""
    link(data / "fsdd" / "recordings", out)


def har(data: Path, out: Path) -> None:
    """Link recordings of a phone's accelerometer and gyroscope, one file for each recording."""
    files = sorted((data / "sp_sw_har" / "DATA").glob("s*/*_sp.csv"))
    if not files:
        raise FileNotFoundError(data / "sp_sw_har" / "DATA")
    out.mkdir()
    for file in files:
        link(file, out / file.name)


def higgs(data: Path, out: Path) -> None:
    """Link kinematics of particle collisions."""
    link(data / "higgs_15k", out)


def adult(data: Path, out: Path) -> None:
    """Copy census records, without the dot that ends each label of the test file."""
    out.mkdir()
    for name in ("adult.data", "adult.test"):
        lines = (data / "adult" / name).read_text(encoding="utf-8").splitlines()
        text = "\n".join(line.removesuffix(".") for line in lines if line.strip())
        (out / f"{name.replace('.', '-')}.csv").write_text(text + "\n", encoding="utf-8")


def cifar10(data: Path, out: Path) -> None:
    """Link small photographs."""
    link(data / "cifar10", out)


def water(data: Path, out: Path) -> None:
    """Cut satellite tiles into patches, each labelled with its most frequent land cover."""
    import tifffile

    folder = data / "water_seg_12band"
    arrays: dict[str, np.ndarray] = {}
    for split, tiles in json.loads((folder / "split.json").read_text()).items():
        images, labels = [], []
        for tile in tiles:
            image = np.asarray(tifffile.imread(folder / "data" / "images" / f"{tile}.tif"))
            for y in range(0, image.shape[0], PATCH):
                for x in range(0, image.shape[1], PATCH):
                    cut = image[y : y + PATCH, x : x + PATCH]
                    codes, counts = np.unique(cut[..., 10], return_counts=True)
                    code = int(codes[counts.argmax()])
                    if code in COVER:
                        images.append(np.moveaxis(cut[..., :BANDS], 2, 0))
                        labels.append(COVER.index(code))
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": np.array(labels)}
    out.mkdir()
    np.savez(out / "patches.npz", **arrays)  # type: ignore[arg-type]


def pneumonia(data: Path, out: Path) -> None:
    """Link small chest x-rays."""
    link(data / "pneumoniamnist", out)


def wm811k(data: Path, out: Path) -> None:
    """Link wafer maps."""
    link(data / "wm811k", out)


def bacteria(data: Path, out: Path) -> None:
    """Cut random reads from each genome: training reads from the first 80 %, test reads from the last 20 %."""
    folder = data / "bacteria_genomes" / "in_distribution"
    genomes = sorted(path for path in folder.iterdir() if path.is_dir())
    rng = np.random.default_rng(0)
    rows = ["sequence,label,split"]
    for genome in genomes:
        bases = "".join(_bases(path) for path in sorted(genome.iterdir()))
        border = len(bases) * 4 // 5
        for split, low, high, count in (("train", 0, border, TRAIN_READS), ("test", border, len(bases), TEST_READS)):
            for start in rng.integers(low, high - READ, count):
                rows.append(f"{bases[start : start + READ]},{genome.name},{split}")
    out.mkdir()
    (out / "reads.csv").write_text("\n".join(rows) + "\n")


def _bases(path: Path) -> str:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return "".join(line.strip() for line in file if not line.startswith(">"))


def gb1(data: Path, out: Path) -> None:
    """Extract variants of a protein domain with their fitness; the split trains on low and tests on high fitness."""
    with zipfile.ZipFile(data / "flip_proteins" / "splits" / "gb1" / "splits.zip") as archive:
        text = archive.read("splits/low_vs_high.csv")
    out.mkdir()
    (out / "low_vs_high.csv").write_bytes(text)


def easy_vqa(data: Path, out: Path) -> None:
    """Write every fourth question about drawn shapes as JSON lines, with the answer as the label."""
    folder = data / "easy_vqa" / "easy_vqa" / "data"
    rows = []
    for split in ("train", "test"):
        for question, answer, image in json.loads((folder / split / "questions.json").read_text())[::EVERY]:
            path = (folder / split / "images" / f"{image}.png").resolve()
            rows.append({"image": str(path), "caption": question, "label": answer, "split": split})
    _write_lines(out, "questions.jsonl", rows)


def sst2(data: Path, out: Path) -> None:
    """Link sentences and phrases about films."""
    link(data / "sst2" / "SST-2", out)


def xquad(data: Path, out: Path) -> None:
    """Write paragraphs in twelve languages as JSON lines; all translations of an article are in the same split."""
    rows = []
    for path in sorted((data / "xquad").glob("xquad.*.json")):
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        for number, article in enumerate(articles):
            split = "test" if number >= len(articles) - HELD_OUT else "train"
            rows += [
                {"text": paragraph["context"], "label": path.name.split(".")[1], "split": split}
                for paragraph in article["paragraphs"]
            ]
    if not rows:
        raise FileNotFoundError(data / "xquad")
    _write_lines(out, "paragraphs.jsonl", rows)


def _write_lines(out: Path, name: str, rows: list[dict[str, str]]) -> None:
    out.mkdir()
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (out / name).write_text(text + "\n", encoding="utf-8")


SETS: dict[str, Callable[[Path, Path], None]] = {
    "fsdd": fsdd, "har": har, "higgs": higgs, "adult": adult, "cifar10": cifar10, "water": water,
    "pneumonia": pneumonia, "wm811k": wm811k, "bacteria": bacteria, "gb1": gb1, "easy-vqa": easy_vqa,
    "sst2": sst2, "xquad": xquad,
}  # fmt: skip


def main() -> None:
    """Prepare every data set that DATA contains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="directory of the public data sets")
    parser.add_argument("out", type=Path, metavar="OUT", help="output directory")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, make in SETS.items():
        if (arguments.out / name).exists():
            continue
        # renamed only when complete, so that no data set is partial
        with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
            try:
                make(arguments.data, Path(scratch) / name)
            except FileNotFoundError as error:
                print(f"{name}: left out because {error.filename or error} is missing")
            else:
                (Path(scratch) / name).rename(arguments.out / name)


if __name__ == "__main__":
    main()
