"""Pictures of the user: orientation, axes, tiles, bands, and data for an encoder that was trained on other pictures."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from ssl_core import BadSample, ConfigError, DataError
from ssl_plugins.datasets._io.images.raster_axes import find_channel_axis, squeeze_axes
from ssl_plugins.datasets._io.images.raster_types import ImageHeader
from ssl_plugins.datasets._io.images.rasters import RasterOptions, convert_channels, read_header, read_raster
from ssl_plugins.datasets._io.images.tiles import find_parts
from ssl_plugins.datasets.user.files_images import ImageFiles, MultispectralFiles

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)


def write_bands(path, pixels, names=()):
    """A GeoTIFF of (bands, H, W), whose bands may have names."""
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{name}</Item>' for i, name in enumerate(names)
    )
    tags = [(42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True)] if names else []
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="separate", extratags=tags)


# --- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "lzw.tif"])
def test_orientation_equals_that_of_pillow(tmp_path, orientation, kind):
    path, exif = tmp_path / f"a.{kind}", Image.Exif()
    exif[274] = orientation
    photo = Image.fromarray(np.repeat(np.repeat(PHOTO // 64 * 64, 8, axis=0), 8, axis=1))
    if kind == "tif":
        tifffile.imwrite(path, np.asarray(photo), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    elif kind == "lzw.tif":
        photo.save(path, compression="tiff_lzw", tiffinfo={274: orientation})
    else:
        photo.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpg" else {}))
    marked = photo.copy()
    marked.getexif()[274] = orientation
    expected = np.moveaxis(np.asarray(ImageOps.exif_transpose(marked)), -1, 0)
    pixels = read_raster(path)
    np.testing.assert_allclose(pixels.astype(int), expected, atol=8 if kind == "jpg" else 0)
    assert read_header(path).size == pixels.shape[1:]


@pytest.mark.parametrize(
    ("shape", "axes", "order", "axis", "doubtful"),
    [
        ((16, 24), "", "auto", None, False),
        ((3, 16, 24), "", "auto", 0, False),
        ((16, 24, 3), "", "auto", 2, False),
        ((12, 128, 128), "", "auto", 0, False),
        ((128, 128, 200), "", "auto", 2, True),
        ((200, 128, 128), "", "auto", 0, True),
        ((200, 128, 128), "IYX", "auto", 0, False),
        ((200, 20, 30), "ZYX", "auto", 0, False),
        ((200, 20, 30), "QYX", "auto", 2, True),
        ((200, 20, 30), "QYX", "first", 0, False),
        ((16, 24, 3), "YXS", "first", 2, False),
        ((20, 30, 40), "", "last", 2, False),
    ],
)
def test_channel_axis(shape, axes, order, axis, doubtful):
    found = find_channel_axis(shape, axes, order)
    assert (found.index, found.is_doubtful) == (axis, doubtful)


def test_axes_of_length_one_are_dropped():
    assert squeeze_axes((1, 5, 1, 16, 20), "TCZYX") == ((5, 16, 20), "CYX")
    assert squeeze_axes((1, 1, 16, 20), "") == ((1, 16, 20), "")
    assert squeeze_axes((2, 3, 16, 20), "ZCYX") == ((2, 3, 16, 20), "ZCYX")


def test_deep_png_equals_its_tiff(tmp_path):
    """Pillow reduces 16 bits of colour to 8; both bytes of each number are kept, also of an interlaced file."""
    torchvision = pytest.importorskip("torchvision")
    del torchvision
    image = RNG.integers(0, 65536, (9, 13, 3), dtype=np.uint16)
    # a PNG with all filters, by zlib and the filters' definitions
    import struct
    import zlib

    lines, previous = b"", np.zeros(13 * 6, np.uint8)
    for number, row in enumerate(image.astype(">u2")):
        raw = np.frombuffer(row.tobytes(), np.uint8)
        left = np.concatenate([np.zeros(6, np.uint8), raw[:-6]])
        filtered = {0: raw, 1: raw - left, 2: raw - previous}[number % 3]
        lines += bytes([number % 3]) + filtered.astype(np.uint8).tobytes()
        previous = raw

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 13, 9, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png"), np.moveaxis(image, -1, 0))


def test_stack_of_lzw_pages(tmp_path):
    pages = [Image.fromarray(RNG.integers(0, 65536, (8, 12), dtype=np.uint16)) for _ in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif"), np.stack([np.asarray(page) for page in pages]))


def test_half_transparent_pixels_are_composited(tmp_path):
    pixels = np.full((4, 4, 4), 100, np.uint8)
    pixels[..., 3] = 51  # a fifth
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for alpha, expected in (("white", 0.2 * 100 + 0.8 * 255), ("black", 20), ("drop", 100)):
        assert (read_raster(tmp_path / "a.png", RasterOptions(alpha=alpha)) == round(expected)).all()


def test_names_of_bands(tmp_path):
    write_bands(tmp_path / "a.tif", np.zeros((4, 8, 8), np.uint16), ("B02", "B03", "B04", "B8A"))
    assert read_header(tmp_path / "a.tif").names == ("B02", "B03", "B04", "B8A")
    stack = np.zeros((3, 8, 9), np.uint16)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "RFP"]}}
    tifffile.imwrite(tmp_path / "b.ome.tif", stack, photometric="minisblack", metadata=metadata)
    assert read_header(tmp_path / "b.ome.tif").names == ("DAPI", "GFP", "RFP")


@pytest.mark.parametrize(
    ("count", "wanted", "last"), [(1, 4, 255), (3, 4, 255), (1, 2, 255), (4, 3, None), (3, 1, None)]
)
def test_channels_are_converted(count, wanted, last):
    x = convert_channels(np.full((count, 2, 2), 9, np.uint8), wanted)
    assert x.shape == (wanted, 2, 2)
    assert (x[0] == 9).all()
    assert last is None or (x[-1] == last).all()
    assert convert_channels(np.zeros((5, 2, 2)), 3) is None


# --- tiles -----------------------------------------------------------------------------------------------------------


def test_tiles_cover_a_picture():
    header = ImageHeader(1, (100, 70), np.dtype("uint8"))
    parts, small = find_parts([header, ImageHeader(1, (10, 70), np.dtype("uint8")), None], (32, 32), None)
    covered = np.zeros((100, 70), bool)
    for row in np.flatnonzero(parts.image == 0):
        covered[parts.top[row] : parts.top[row] + 32, parts.left[row] : parts.left[row] + 32] = True
    assert covered.all()
    assert small == 1
    assert (parts.image == 2).sum() == 1  # cannot be read; says so when it is
    overlapping, _ = find_parts([header], (32, 32), (16, 16))
    assert len(overlapping) == 6 * 4


def test_tiles_of_damaged_and_labelled_scenes(tmp_path, open_both, bad_samples, assert_refused):
    for number in range(10):
        write_bands(tmp_path / ("a", "b")[number % 2] / f"{number}.tif", np.full((4, 32, 32), number, np.uint16))
    (tmp_path / "a" / "x.tif").write_bytes(b"II*\0")
    datasets = open_both(MultispectralFiles, tmp_path, tile=16)
    assert sum(map(len, datasets)) == 41
    assert len(bad_samples(datasets)) == 1
    assert datasets[0].task.names == ("a", "b")
    again = pickle.loads(pickle.dumps(datasets[0]))
    np.testing.assert_array_equal(again[5]["inputs"]["image"], datasets[0][5]["inputs"]["image"])
    assert_refused(MultispectralFiles, tmp_path, "are smaller than dataset.tile=64,64; choose smaller tiles", tile=64)
    assert_refused(MultispectralFiles, tmp_path, "dataset.stride is for tiles; set dataset.tile", stride=8)


def test_tiles_of_one_picture_are_split_into_three(tmp_path):
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "a.npy", np.arange(64 * 40).reshape(64, 40).astype(np.float32))
    options = MultispectralFiles.Options(root=str(tmp_path / "d"), tile=8, stride=4, validation_fraction=0.25)
    rows = {}
    for split in ("train", "validation", "test"):
        dataset = MultispectralFiles(options, split)
        assert dataset.splits == ("train", "validation", "test")
        rows[split] = {row for i in range(len(dataset)) for row in (dataset[i]["inputs"]["image"][0] // 40)[:, 0]}
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    with pytest.raises(ConfigError, match="too few tiles are left for a validation split"):
        MultispectralFiles(options.model_copy(update={"tile": (40, 40), "stride": None}), "train")
    with pytest.raises(ConfigError, match="one image only, and it is one tile"):
        MultispectralFiles(options.model_copy(update={"tile": (64, 40)}), "train")


def test_arrays_are_cut_into_tiles(tmp_path, open_both):
    np.savez(tmp_path / "a.npz", images=RNG.integers(0, 256, (6, 16, 24), dtype=np.uint8))
    train, test = open_both(ImageFiles, tmp_path / "a.npz", tile=8)
    assert len(train) + len(test) == 6 * 6
    assert train.fields["image"].shape == (1, 8, 8)


# --- a trained encoder -----------------------------------------------------------------------------------------------


def write_photos(folder, mode, size=(12, 8), count=10):
    folder.mkdir()
    for number in range(count):
        image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        image.convert(mode).save(folder / f"{number}.png")
    return folder


def conformed(cls, folder, schema, **options):
    dataset = cls(cls.Options(root=str(folder), **options), "train")
    before = dataset.fingerprint()
    dataset.conform(schema)
    return dataset, before != dataset.fingerprint()


def test_other_channels_and_sizes_fit_a_trained_encoder(tmp_path):
    trained = ImageFiles(ImageFiles.Options(root=str(write_photos(tmp_path / "a", "RGB"))), "train")
    schema = trained.schema()
    assert (schema["dtype"], schema["size"]) == ("uint8", [8, 12])
    assert [column["name"] for column in schema["columns"]] == ["red", "green", "blue"]
    folder = write_photos(tmp_path / "b", "L", (20, 10))
    write_photos(folder / "odd", "L", (9, 9), count=1)
    grey, changed = conformed(ImageFiles, folder, schema)
    assert changed
    assert grey.fields["image"].shape == (3, None, None)
    shapes = {grey[index]["inputs"]["image"].shape for index in range(len(grey))}
    assert shapes <= {(3, 10, 20), (3, 9, 9)}
    assert "images of 1 channels are converted to the 3" in grey.warnings[-1]
    even, _ = conformed(ImageFiles, write_photos(tmp_path / "c", "L", (20, 10)), schema)
    assert even.fields["image"].shape == (3, 10, 20)
    same, changed = conformed(ImageFiles, tmp_path / "a", schema)
    assert not changed
    assert same.fields == trained.fields
    assert same.warnings == ()


def test_bands_are_matched_by_name(tmp_path):
    for folder, names in (("a", ("B02", "B03", "B04")), ("b", ("B8A", "B04", "B03", "B02")), ("c", ("B02", "B03"))):
        for number in range(10):
            bands = np.arange(len(names))[:, None, None] * np.ones((1, 8, 8), np.uint16)
            write_bands(tmp_path / folder / f"{number}.tif", bands.astype(np.uint16), names)
    schema = MultispectralFiles(MultispectralFiles.Options(root=str(tmp_path / "a")), "train").schema()
    assert [column["name"] for column in schema["columns"]] == ["B02", "B03", "B04"]
    other, changed = conformed(MultispectralFiles, tmp_path / "b", schema)
    assert changed
    assert other.fields["image"].shape == (3, 8, 8)
    assert other[0]["inputs"]["image"][:, 0, 0].tolist() == [3, 2, 1]
    assert other.schema()["columns"] == schema["columns"]
    assert "order of the training data: B02, B03, B04" in other.warnings[-1]
    with pytest.raises(DataError, match="have no band 'B04'"):
        conformed(MultispectralFiles, tmp_path / "c", schema)


def test_bands_without_names_must_be_as_many(tmp_path):
    for folder, count in (("a", 5), ("b", 4)):
        for number in range(10):
            write_bands(tmp_path / folder / f"{number}.tif", np.zeros((count, 16, 16), np.uint16))
    schema = MultispectralFiles(MultispectralFiles.Options(root=str(tmp_path / "a")), "train").schema()
    with pytest.raises(DataError, match="have 4 bands, and the encoder was trained on 5"):
        conformed(MultispectralFiles, tmp_path / "b", schema)
    conformed(MultispectralFiles, tmp_path / "a", {})  # an encoder whose data had no schema


# --- what is said ----------------------------------------------------------------------------------------------------


def test_summary(tmp_path):
    folder = write_photos(tmp_path / "a", "RGBA")
    (folder / "x").mkdir()
    train = ImageFiles(ImageFiles.Options(root=str(folder)), "train")
    assert [column.name for column in train.summary.columns] == ["red", "green", "blue"]
    assert train.summary.files == {".png": 10}
    assert train.summary.facts["sizes"] == "8 x 12"
    assert train.summary.facts["numbers"].startswith("uint8 ")
    assert train.summary.facts["transparency"] == "composited on white (dataset.alpha=white)"
    assert train.doubts == ()


def test_pixels_without_data_everywhere_are_a_bad_sample(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 8, 12), np.nan, np.float32))
    with pytest.raises(BadSample, match="no pixel holds data"):
        read_raster(tmp_path / "a.npy")
    assert (read_raster(tmp_path / "a.npy", RasterOptions(fill="zero")) == 0).all()


def test_doubts_and_warnings_of_a_tokenizer_reach_the_run(tmp_path, run_files, capsys):
    (tmp_path / "a").mkdir()
    for number in range(8):
        Image.new("RGB", (480, 480), (number, 99, 200 - number)).save(tmp_path / "a" / f"{number}.png")
    report = run_files("image", tmp_path / "a")
    assert any("10,800 numbers a token" in doubt for doubt in report["data"]["doubts"]), report["data"]["doubts"]
    assert report["data"]["columns"][0]["name"] == "red"
