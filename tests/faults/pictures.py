"""Rows of pictures: pixels as their files state them, bands, tiles, formats, arrays."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from corpus import DIM, Fault, Read
from PIL import Image

from ssl_core import plugins

COUNT = 12
RANDOM = np.random.RandomState
PHOTO = RANDOM(0).randint(0, 256, (16, 24, 3)).astype(np.uint8)
ROW, COLUMN = np.mgrid[:16, :24]
SMOOTH = np.stack([10 * COLUMN, 230 - 9 * COLUMN, 14 * ROW], axis=-1).astype(np.uint8)
SCAN = RANDOM(1).randint(300, 4000, (16, 24)).astype(np.uint16)


def each(write: Callable[[Path, int], None], ending: str, count: int = COUNT) -> Callable[[Path], None]:
    """Writes several files by a function of path and number."""

    def make(folder: Path) -> None:
        for number in range(count):
            write(folder / f"{number:02}{ending}", number)

    return make


def saved(image: np.ndarray, mode: str | None = None, **options: Any) -> Callable[[Path, int], None]:
    """Saves an image by Pillow, in a mode."""

    def write(path: Path, number: int) -> None:
        picture = Image.fromarray(image)
        (picture if mode is None else picture.convert(mode)).save(path, **options)

    return write


def tiff(image: np.ndarray, **options: Any) -> Callable[[Path, int], None]:
    """Writes a TIFF by tifffile."""
    return lambda path, number: tifffile.imwrite(path, image, **options)


def npy(image: np.ndarray) -> Callable[[Path, int], None]:
    """Writes an array."""
    return lambda path, number: np.save(path, image)


def pixels(expected: np.ndarray, tolerance: float = 0, field: str = "image") -> Callable[[Read], None]:
    """All samples hold these pixels (channels, H, W)."""

    def expect(read: Read) -> None:
        assert read.sizes == {"train": 10, "test": 2}
        assert read.bad() == []
        x = read.train[0]["inputs"][field]
        assert x.shape == expected.shape, x.shape
        assert x.dtype == expected.dtype
        assert np.abs(x.astype(float) - expected.astype(float)).max() <= tolerance
        assert read.train.fields[field].shape[0] == len(expected)

    return expect


def first(image: np.ndarray) -> np.ndarray:
    """Channels first."""
    return image[np.newaxis] if image.ndim == 2 else np.moveaxis(image, -1, 0)


def deep_png(image: np.ndarray) -> Callable[[Path, int], None]:
    """Writes a PNG of 16 bits a channel."""
    height, width, channels = image.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return lambda path, number: path.write_bytes(data) and None  # type: ignore[return-value]


DEEP = (PHOTO.astype(np.uint16) * 3) % 256
CLEAR = np.dstack([np.zeros((16, 24, 3), np.uint8), np.where(np.arange(24) < 8, 255, 0) * np.ones((16, 1))]).astype(
    "u1"
)
ON_WHITE = first(np.where(CLEAR[..., 3:] > 0, CLEAR[..., :3], 255).astype(np.uint8))
PALETTE = RANDOM(2).randint(0, 65536, (3, 256)).astype(np.uint16)
INDICES = RANDOM(3).randint(0, 256, (16, 24)).astype(np.uint8)
FOUR = RANDOM(11).randint(0, 4000, (16, 24, 4)).astype(np.uint16)  # the last is near infrared
BINARY = (INDICES > 99)[np.newaxis] * np.uint8(255)
DIES = RANDOM(4).randint(0, 3, (16, 24)).astype(np.uint8)
BANDS = RANDOM(5).rand(64, 32, 32).astype(np.float32)
HOLED = RANDOM(6).rand(3, 16, 24).astype(np.float32)
HOLED[1, :4] = -9999
FILLED = HOLED.copy()
FILLED[1, :4] = HOLED[1, 4:].mean()
WITH_NAN = np.where(HOLED < 0, np.nan, HOLED).astype(np.float32)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def indexed(path: Path, number: int) -> None:
    """A wafer map as a PNG with a palette."""
    image = Image.fromarray(DIES, "P")
    image.putpalette([0, 0, 0, 0, 200, 0, 200, 0, 0])
    image.save(path)


def mixed_scales(folder: Path) -> None:
    for number in range(COUNT):
        np.save(folder / f"{number:02}.npy", PHOTO if number % 2 else PHOTO.astype(np.float32))


def scales_agree(read: Read) -> None:
    x = np.stack([sample["image"] for sample in read.samples()])
    assert x.dtype == np.float32
    assert np.ptp(x.max(axis=(1, 2, 3))) == 0
    assert x.max() <= 1


def band_files(folder: Path) -> None:
    for scene in range(COUNT):
        for band in ("B02", "B03", "B8A", "B11"):
            image = np.full((8, 8) if band == "B11" else (16, 16), 100 * scene + int(band[1:3].strip("A")), np.uint16)
            tifffile.imwrite(folder / f"T{scene}_{band}.tif", image, photometric="minisblack")


def scene_folders(folder: Path) -> None:
    for scene in range(COUNT):
        (folder / f"T{scene}").mkdir()
        for band in ("B02", "B03", "B8A", "B11"):
            tifffile.imwrite(
                folder / f"T{scene}" / f"{band}.tif", np.full((16, 16), scene, "u2"), photometric="minisblack"
            )


def stacked(read: Read) -> None:
    assert read.train.fields["image"].shape == (4, 16, 16)
    assert read.sizes == {"train": 10, "test": 2}
    assert read.train.task is None
    assert [name for name, role in read.columns.items() if role == "input"] == ["B02", "B03", "B8A", "B11"]


def stacked_values(read: Read) -> None:
    stacked(read)
    scene = int(read.train.describe(0).rsplit("/T", 1)[1].split("_")[0])
    x = read.train[0]["inputs"]["image"]
    np.testing.assert_array_equal(x[:, 0, 0], 100 * scene + np.array([2, 3, 8, 11]))


def one_band_missing(folder: Path) -> None:
    band_files(folder)
    (folder / "T3_B03.tif").unlink()


def says_which_band(read: Read) -> None:
    bad = [*read.bad("train"), *read.bad("test")]
    assert len(bad) == 1
    assert "T3_*.tif: has no file of the band B03" in bad[0]


def cases(folder: Path) -> None:
    """A folder for each case, with files of the same names."""
    for case in range(COUNT):
        (folder / f"patient{case}").mkdir()
        for name in ("axial", "coronal"):
            np.save(folder / f"patient{case}" / f"{name}.npy", SCAN + case)


def single_files(folder: Path) -> None:
    for case in range(COUNT):
        (folder / f"p{case}").mkdir()
        np.save(folder / f"p{case}" / "scan.npy", SCAN + case)


def by_group(read: Read) -> None:
    assert read.train.task is None
    folders = [
        {read.datasets[split].describe(i).rsplit("/", 2)[1] for i in range(count)}
        for split, count in read.sizes.items()
    ]
    assert not folders[0] & folders[1]


def large_photos(folder: Path) -> None:
    for number in range(COUNT):
        Image.new("RGB", (2016, 1512), (number, 0, 0)).save(folder / f"{number}.png", compress_level=1)


def tokenizer_of(read: Read, **options: Any) -> Any:
    """The tokenizer of the modality for these data."""
    kind = plugins.load().tokenizer(read.train.modality)
    return kind(kind.Options(**options), read.train.fields, DIM)


def tokens_are_said(read: Read) -> None:
    (doubt,) = tokenizer_of(read).doubts
    assert "142,884 numbers a token" in doubt
    assert "tokenizer.size=224" in doubt
    assert tokenizer_of(read, size=224, patch=16).doubts == ()


def mixed_sizes(folder: Path) -> None:
    for number in range(COUNT):
        Image.new("RGB", (60 + 4 * number, 40), (200, 0, 0)).save(folder / f"{number}.png")


def resizing_is_said(read: Read) -> None:
    assert read.train.fields["image"].shape == (3, None, None)
    (line,) = tokenizer_of(read).warnings
    assert "all are resized to 32 x 32 (tokenizer.size)" in line
    assert "tokenizer.fit=crop" in line
    assert tokenizer_of(read, size=64).warnings == ()
    padded, cropped = (read.prepared(fit=fit)[0]["image"] for fit in ("pad", "crop"))
    assert padded.shape == cropped.shape == (3, 32, 32)
    assert (padded[0, 0] == 0).all()
    assert (padded[0, 16] == 200).all()
    assert (cropped[0] == 200).all()


def one_scene(folder: Path) -> None:
    tifffile.imwrite(
        folder / "scene.tif", RANDOM(7).randint(0, 4000, (4, 160, 128)).astype("u2"), photometric="minisblack"
    )


def tiles_of_one_scene(read: Read) -> None:
    assert read.train.fields["image"].shape == (4, 16, 16)
    assert read.sizes == {"train": 64, "test": 16}
    whole = tifffile.imread(read.train.describe(0).split(" tile ")[0])
    for split, rows in (("train", range(128)), ("test", range(128, 160))):
        dataset = read.datasets[split]
        for index in range(len(dataset)):
            place = dataset.describe(index).rsplit(" tile at row ", 1)[1]
            top, left = (int(part) for part in place.split(", column "))
            assert top in rows
            np.testing.assert_array_equal(dataset[index]["inputs"]["image"], whole[:, top : top + 16, left : left + 16])


def scenes(folder: Path) -> None:
    for number in range(6):
        tifffile.imwrite(folder / f"s{number}.tif", np.full((4, 40, 50), number, "u2"), photometric="minisblack")


def tiles_stay_together(read: Read) -> None:
    assert read.sizes == {"train": 5 * 12, "test": 12}  # 3 x 4 tiles, the last ones moved inwards
    of = {split: {d.describe(i).split(" tile ")[0] for i in range(len(d))} for split, d in read.datasets.items()}
    assert not of["train"] & of["test"]


def npz_splits(folder: Path) -> Path:
    parts = {"train": 12, "val": 4, "test": 5}
    arrays = {f"{name}_images": RANDOM(8).randint(0, 256, (n, 8, 8)).astype("u1") for name, n in parts.items()}
    arrays |= {f"{name}_labels": np.arange(n) % 2 for name, n in parts.items()}
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def three_splits(read: Read) -> None:
    assert read.sizes == {"train": 12, "validation": 4, "test": 5}


def numbers_of_pictures(folder: Path) -> Path:
    rows = "".join(f"{n}.png,{n / 8}\n" for n in range(COUNT))
    each(saved(PHOTO), ".png")(folder)
    for n in range(COUNT):
        (folder / f"{n:02}.png").rename(folder / f"{n}.png")
    (folder / "list.csv").write_text("path,label\n" + rows)
    return folder / "list.csv"


def regression(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == "number"
    number = int(Path(read.train.describe(0)).stem)
    assert read.labels()[0] == number / 8


def npz_numbers(folder: Path) -> Path:
    np.savez(folder / "a.npz", images=RANDOM(9).randint(0, 256, (20, 8, 8)).astype("u1"), labels=np.arange(20) / 4)
    return folder / "a.npz"


def npz_label_sets(folder: Path) -> Path:
    labels = RANDOM(10).randint(0, 2, (20, 14))
    labels[3] = -1
    np.savez(folder / "a.npz", images=RANDOM(9).randint(0, 256, (20, 8, 8)).astype("u1"), labels=labels)
    return folder / "a.npz"


def label_sets(read: Read) -> None:
    assert read.train.task is not None
    assert (read.train.task.kind, read.train.task.size) == ("labels", 14)
    labels = np.load(read.train.describe(0).rsplit(" sample", 1)[0])["labels"]
    for dataset in read.datasets.values():
        for index in range(len(dataset)):
            number = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            label = dataset[index]["label"]
            assert label is None if number == 3 else (label == labels[number]).all()


def npz_halves(folder: Path) -> Path:
    np.savez(folder / "a.npz", images=np.zeros((20, 8, 8), "u1"), labels=np.arange(20) % 2 + 0.5)
    return folder / "a.npz"


def ragged(folder: Path) -> Path:
    maps = np.empty(12, object)
    maps[:] = [np.zeros((4 + n % 2, 4)) for n in range(12)]
    np.savez(folder / "a.npz", images=maps)
    return folder / "a.npz"


def ragged_npy(folder: Path) -> Path:
    maps = np.empty(12, object)
    maps[:] = [np.zeros((4 + n % 2, 4)) for n in range(12)]
    np.save(folder / "a.npy", maps)
    return folder / "a.npy"


def flat(folder: Path) -> Path:
    np.save(folder / "a.npy", np.zeros(100))
    return folder / "a.npy"


def with_object_beside(folder: Path) -> Path:
    """An array of objects that nothing needs."""
    notes = np.array([{"a": 1}], object)
    np.savez(folder / "a.npz", images=np.zeros((20, 8, 8), "u1"), notes=notes)
    return folder / "a.npz"


def renamed(folder: Path) -> None:
    """TIFFs and JPEGs that are called png."""
    for number in range(COUNT):
        if number % 2:
            tifffile.imwrite(folder / f"{number}.png", PHOTO, photometric="rgb")
        else:
            Image.fromarray(PHOTO).save(folder / f"{number}.png", "PPM")


def endings(folder: Path) -> None:
    for number in range(COUNT):
        ending, kind = ((".JFIF", "JPEG"), (".jp2", "JPEG2000"), (".jpe", "JPEG"), (".webp", "WEBP"))[number % 4]
        Image.fromarray(PHOTO).save(folder / f"{number}{ending}", kind)


def unknown_beside(folder: Path) -> None:
    each(saved(PHOTO), ".png")(folder)
    for number in range(3):
        (folder / f"{number}.psd").write_bytes(b"x")


def counted(read: Read) -> None:
    assert read.train.summary.files == {".png": 12}
    assert read.train.summary.ignored == {".psd": 3}


def scene_itself(folder: Path) -> Path:
    one_scene(folder)
    return folder / "scene.tif"


def all_endings(read: Read) -> None:
    assert read.sizes == {"train": 10, "test": 2}
    assert read.bad() == []
    assert read.train.summary.files == {".JFIF": 3, ".jp2": 3, ".jpe": 3, ".webp": 3}
    assert read.train.summary.ignored == {}


def damaged(folder: Path) -> None:
    """Files that readers refuse in different ways, among good ones."""
    each(saved(PHOTO), ".png")(folder)
    tifffile.imwrite(folder / "a.tif", PHOTO, photometric="rgb", compression="zlib")
    whole = bytearray((folder / "a.tif").read_bytes())
    whole[-40] ^= 255
    (folder / "a.tif").write_bytes(whole)
    (folder / "b.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x'}   ")
    (folder / "c.png").write_bytes((folder / "00.png").read_bytes()[:100])


def three_bad(read: Read) -> None:
    bad = [*read.bad("train"), *read.bad("test")]
    assert sorted(line.split(":")[0].rsplit("/", 1)[1] for line in bad) == ["a.tif", "b.npy", "c.png"]
    assert all("cannot be read as an image" in line for line in bad)


def nodata_of_integers(path: Path, number: int) -> None:
    image = np.where(np.arange(24) < 6, 0, SCAN).astype(np.uint16)
    tifffile.imwrite(path, image, photometric="minisblack", extratags=[(42113, "s", 0, "0", True)])


def mean_of_the_others(read: Read) -> None:
    x = read.train[0]["inputs"]["image"]
    assert x.dtype == np.uint16
    assert (x[0, :, :6] == np.rint(SCAN[:, 6:].mean())).all()


def states(read: Read) -> None:
    pixels(DIES[np.newaxis], field="map")(read)
    assert all(isinstance(inputs, dict) for inputs in read.prepared())


FAULTS = [
    Fault("png: 16-bit grey", "image", each(saved(SCAN), ".png"), pixels(SCAN[np.newaxis])),
    Fault("png: 48-bit colour", "image", each(deep_png(DEEP), ".png"), pixels(first(DEEP))),
    Fault(
        "png: 64-bit colour with transparency",
        "image",
        each(deep_png(np.dstack([DEEP, np.full((16, 24), 65535, np.uint16)])), ".png"),
        pixels(first(DEEP)),
    ),
    Fault("tiff: CMYK", "image", each(saved(PHOTO, "CMYK"), ".tif"), pixels(first(PHOTO)), {"mode": "rgb"}),
    Fault("tiff: CMYK by default", "image", each(saved(PHOTO, "CMYK"), ".tif"), pixels(first(PHOTO))),
    Fault(
        "jpeg: CMYK",
        "image",
        each(saved(PHOTO // 64 * 64, "CMYK", quality=100, subsampling=0), ".jpg"),
        pixels(first(PHOTO // 64 * 64), tolerance=12),
    ),
    Fault(
        "tiff: palette",
        "image",
        each(tiff(INDICES, photometric="palette", colormap=PALETTE), ".tif"),
        pixels((PALETTE[:, INDICES] >> 8).astype(np.uint8)),
    ),
    Fault(
        "png: palette",
        "image",
        each(saved(PHOTO, "P"), ".png"),
        pixels(first(np.asarray(Image.fromarray(PHOTO).convert("P").convert("RGB")))),
    ),
    Fault("png: palette as a wafer map", "wafer", each(indexed, ".png"), states),
    Fault(
        "tiff: palette as a wafer map",
        "wafer",
        each(tiff(DIES, photometric="palette", colormap=PALETTE), ".tif"),
        states,
    ),
    Fault("gif: palette as a wafer map", "wafer", each(indexed, ".gif"), states),
    Fault("png: black on transparent", "image", each(saved(CLEAR), ".png"), pixels(ON_WHITE)),
    Fault("tiff: black on transparent", "image", each(tiff(CLEAR), ".tif"), pixels(ON_WHITE)),
    Fault("png: transparency kept", "image", each(saved(CLEAR), ".png"), pixels(first(CLEAR)), {"alpha": "keep"}),
    Fault(
        "tiff: four bands that tifffile calls transparent",
        "image",
        each(tiff(FOUR), ".tif"),
        doubt="dataset.alpha=keep",
    ),
    Fault("tiff: four bands, kept", "image", each(tiff(FOUR), ".tif"), pixels(first(FOUR)), {"alpha": "keep"}),
    Fault("tiff: four bands of multispectral", "multispectral", each(tiff(FOUR), ".tif"), pixels(first(FOUR))),
    Fault("png: on black", "image", each(saved(CLEAR), ".png"), pixels(np.zeros_like(ON_WHITE)), {"alpha": "black"}),
    Fault("png: transparency is a band", "multispectral", each(saved(CLEAR), ".png"), pixels(first(CLEAR))),
    Fault(
        "jpeg: orientation",
        "image",
        each(saved(PHOTO // 64 * 64, quality=100, subsampling=0, exif=TURNED), ".jpg"),
        pixels(np.rot90(first(PHOTO // 64 * 64), -1, (1, 2)), tolerance=12),
    ),
    Fault(
        "tiff: orientation",
        "image",
        each(tiff(PHOTO, photometric="rgb", extratags=[(274, "H", 1, 6, True)]), ".tif"),
        pixels(np.rot90(first(PHOTO), -1, (1, 2))),
    ),
    Fault(
        "tiff: MinIsWhite",
        "image",
        each(tiff(INDICES, photometric="miniswhite"), ".tif"),
        pixels(255 - INDICES[np.newaxis]),
    ),
    Fault("png: 1 bit", "image", each(saved(INDICES > 99), ".png"), pixels(BINARY)),
    Fault(
        "tiff: 1 bit",
        "image",
        each(tiff(INDICES > 99, photometric="minisblack"), ".tif"),
        pixels(BINARY),
    ),
    Fault("tiff: LZW", "image", each(saved(PHOTO, compression="tiff_lzw"), ".tif"), pixels(first(PHOTO))),
    Fault(
        "tiff: LZW of 16 bits",
        "medical-image",
        each(saved(SCAN, compression="tiff_lzw"), ".tif"),
        pixels(SCAN[np.newaxis]),
    ),
    Fault(
        "tiff: JPEG",
        "image",
        each(
            saved(SMOOTH, compression="jpeg", quality=100), ".tif"
        ),  # smooth, for some writers halve the resolution of colours
        pixels(first(SMOOTH), tolerance=4),
    ),
    Fault(
        "npy: channels last, more than pixels",
        "multispectral",
        each(npy(np.moveaxis(BANDS, 0, -1)), ".npy"),
        pixels(BANDS),
        doubt=r"dataset.order=last .*else dataset.order=first",
    ),
    Fault(
        "npy: channels last by option",
        "multispectral",
        each(npy(np.moveaxis(BANDS, 0, -1)), ".npy"),
        pixels(BANDS),
        {"order": "last"},
    ),
    Fault(
        "tiff: more bands than pixels, ImageJ",
        "multispectral",
        each(tiff(BANDS, imagej=True, photometric="minisblack", metadata={"axes": "ZYX"}), ".tif"),
        pixels(BANDS),
    ),
    Fault(
        "tiff: more bands than pixels, OME",
        "multispectral",
        each(tiff(BANDS, ome=True, photometric="minisblack", metadata={"axes": "CYX"}), ".ome.tif"),
        pixels(BANDS),
    ),
    Fault(
        "npz: channels last",
        "multispectral",
        lambda d: np.savez(d / "a.npz", images=np.zeros((20, 32, 32, 64))) or d / "a.npz",
        lambda read: pixels(np.zeros((64, 32, 32)))(read) if read.sizes["test"] == 2 else None,
        doubt="dataset.order",
    ),
    Fault("npy: bytes and floats mixed", "image", mixed_scales, doubt=r"uint8 .*0?1.npy.*float32|float32.*uint8"),
    Fault("npy: bytes and floats with max_value", "image", mixed_scales, scales_agree, {"max_value": 255}),
    Fault(
        "tiff: GDAL nodata",
        "multispectral",
        each(
            tiff(HOLED, photometric="minisblack", planarconfig="separate", extratags=[(42113, "s", 0, "-9999", True)]),
            ".tif",
        ),
        pixels(FILLED, tolerance=1e-6),
    ),
    Fault("tiff: GDAL nodata of integers", "medical-image", each(nodata_of_integers, ".tif"), mean_of_the_others),
    Fault("npy: NaN", "multispectral", each(npy(WITH_NAN), ".npy"), pixels(FILLED, tolerance=1e-6)),
    Fault("npy: -9999", "multispectral", each(npy(HOLED), ".npy"), doubt="dataset.nodata=-9999 .*dataset.nodata=nan"),
    Fault(
        "tiff: the lowest float",
        "multispectral",
        each(
            tiff(np.where(HOLED < 0, np.finfo("f4").min, HOLED), photometric="minisblack", metadata={"axes": "CYX"}),
            ".tif",
        ),
        pixels(FILLED, tolerance=1e-6),
        {"nodata": float(np.finfo("f4").min)},
    ),
    Fault(
        "tiff: the lowest float, unsaid",
        "multispectral",
        each(
            tiff(np.where(HOLED < 0, np.finfo("f4").min, HOLED), photometric="minisblack", metadata={"axes": "CYX"}),
            ".tif",
        ),
        doubt=r"dataset.nodata=-3.402823466385288\de\+38",
    ),
    Fault(
        "npy: temperatures below zero",
        "multispectral",
        each(npy(-999 + 2000 * BANDS[:3]), ".npy"),
        lambda read: _sizes(read, {"train": 10, "test": 2}),
    ),
    Fault(
        "npy: nodata by option",
        "multispectral",
        each(npy(HOLED), ".npy"),
        pixels(FILLED, tolerance=1e-6),
        {"nodata": -9999},
    ),
    Fault(
        "npy: NaN refused",
        "multispectral",
        each(npy(WITH_NAN), ".npy"),
        lambda read: _all_bad(read, "96 of 384 pixels hold no data; set dataset.fill=mean"),
        {"fill": "refuse"},
    ),
    Fault("bands: a file each", "multispectral", band_files, doubt=r"B02.tif look like a file for each band.*<band>B"),
    Fault("bands: stacked", "multispectral", band_files, stacked_values, {"label_pattern": "(?P<band>B[0-9]+A?)[.]"}),
    Fault("bands: scene folders", "multispectral", scene_folders, doubt="look like a file for each band"),
    Fault(
        "bands: scene folders stacked",
        "multispectral",
        scene_folders,
        stacked,
        {"label_pattern": "(?P<band>B[0-9]+A?)[.]"},
    ),
    Fault(
        "bands: one is missing",
        "multispectral",
        one_band_missing,
        says_which_band,
        {"label_pattern": "(?P<band>B[0-9]+A?)[.]"},
    ),
    Fault("folders: a case each", "medical-image", cases, doubt=r"patient0.*read as classes.*<group>"),
    Fault("folders: a case each, grouped", "medical-image", cases, by_group, {"label_pattern": "^(?P<group>[^/]+)/"}),
    Fault(
        "folders: one file each",
        "medical-image",
        single_files,
        by_group,
        error="each of the 12 classes has one sample, as each folder holds one file",
        cure={"label_pattern": "^(?P<group>[^/]+)/"},
    ),
    Fault("photos: large", "image", large_photos, tokens_are_said),
    Fault("photos: mixed sizes", "image", mixed_sizes, resizing_is_said),
    Fault(
        "scene: one",
        "multispectral",
        one_scene,
        tiles_of_one_scene,
        error="one image only, of 160 x 128",
        cure={"tile": 16},
    ),
    Fault("scene: the file itself", "multispectral", scene_itself, tiles_of_one_scene, {"tile": 16}),
    Fault("scenes: tiles", "multispectral", scenes, tiles_stay_together, {"tile": 16}),
    Fault("npz: val_images", "image", npz_splits, three_splits),
    Fault("labels: numbers in a table of paths", "image", numbers_of_pictures, regression),
    Fault("labels: numbers in npz", "image", npz_numbers, lambda read: _kind(read, "number")),
    Fault("labels: several in npz", "image", npz_label_sets, label_sets),
    Fault(
        "labels: numbers in npz as classes",
        "image",
        npz_halves,
        lambda read: _kind(read, "classes"),
        {"task": "classes"},
    ),
    Fault("npz: ragged", "wafer", ragged, error="'images' holds Python objects.*save one array of numbers"),
    Fault("npy: ragged", "image", ragged_npy, error="holds Python objects.*save one array of numbers"),
    Fault("npy: 1-D", "image", flat, error=r"has the shape \(100,\); save one array"),
    Fault(
        "npz: objects beside the images",
        "image",
        with_object_beside,
        lambda read: _sizes(read, {"train": 16, "test": 4}),
    ),
    Fault("endings: content decides", "image", renamed, pixels(first(PHOTO))),
    Fault("endings: jfif, jp2, jpe, webp", "image", endings, all_endings),
    Fault("endings: psd is not read", "image", unknown_beside, counted),
    Fault("damaged: among good ones", "image", damaged, three_bad),
]


def _all_bad(read: Read, message: str) -> None:
    bad = read.bad()
    assert len(bad) == read.sizes["train"]
    assert all(message in line for line in bad), bad[0]


def _kind(read: Read, kind: str) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == kind


def _sizes(read: Read, sizes: dict[str, int]) -> None:
    assert read.sizes == sizes
