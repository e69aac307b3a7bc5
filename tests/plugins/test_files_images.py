"""Data set `files` for images of four modalities: formats, modes, sizes, arrays, bad samples."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from ssl_plugins.datasets.user.files_images import ImageFiles, MedicalImageFiles, MultispectralFiles, WaferFiles


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        write_image(
            tmp_path / "p" / ("cat", "dog")[i % 2] / f"{i:02}.png", rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        )
    return tmp_path / "p"


def test_pixels_and_classes_of_a_folder(photos, open_both):
    datasets = open_both(ImageFiles, photos)
    assert [len(d) for d in datasets] == [16, 4]
    assert datasets[0].fields["image"].shape == (3, 8, 12)
    assert datasets[0].task.names == ("cat", "dog")
    for dataset in datasets:
        for index in range(len(dataset)):
            path = dataset.describe(index)
            expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
            np.testing.assert_array_equal(dataset[index]["inputs"]["image"], expected)
            assert dataset[index]["label"] == ("/dog/" in path)


def test_split_by_pattern_and_grey(photos, open_both):
    for name in ("cat", "dog"):
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
    write_image(photos / "test" / "cat" / "x.png", np.full((8, 12), 200, np.uint8))
    train, test = open_both(ImageFiles, photos, label_pattern=r"(?P<split>\w+)/(?P<label>\w+)/")
    assert (len(train), len(test)) == (20, 1)
    assert (test[0]["inputs"]["image"] == 200).all()  # grey among colour: copied to three channels
    grey = open_both(ImageFiles, photos, mode="grey", label_pattern=r"(?P<split>\w+)/(?P<label>\w+)/")[0]
    assert grey[0]["inputs"]["image"].shape == (1, 8, 12)


def test_train_and_test_folders(photos, open_both, assert_refused):
    for number, path in enumerate(sorted(photos.glob("*/*.png"))):
        place = photos / ("test" if number % 4 == 0 else "train") / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    for name in ("cat", "dog"):
        (photos / name).rmdir()
    train, test = open_both(ImageFiles, photos)
    assert (len(train), len(test)) == (15, 5)
    assert train.task.names == ("cat", "dog")
    for split, dataset in (("train", train), ("test", test)):
        for index in range(len(dataset)):
            assert f"/{split}/{dataset.task.names[dataset[index]['label']]}/" in dataset.describe(index)
    train, _ = open_both(ImageFiles, photos, label_pattern=r"(?P<label>\d)\.png")  # without a split group
    assert (len(train), len(train.task.names)) == (15, 10)
    (photos / "train").rename(photos / "val")
    assert_refused(ImageFiles, photos, "folders test, val", "call those to use train, val and test")


def test_channels_of_tif_npz_and_transparent_png(tmp_path, open_both, assert_refused):
    rng = np.random.default_rng(0)
    for number in range(10):
        stack = rng.integers(0, 4096, (4, 8, 12), dtype=np.uint16)
        (tmp_path / "tif").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "tif" / f"{number}.tif", stack, photometric="minisblack")
        write_image(tmp_path / "png" / f"{number}.png", rng.integers(0, 256, (8, 12, 4), dtype=np.uint8))
    for kind in (ImageFiles, MedicalImageFiles):
        (train, _) = open_both(kind, tmp_path / "tif")
        assert train.fields["image"].shape == (4, 8, 12)
        assert train.fields["image"].dtype == "uint16"
        np.testing.assert_array_equal(train[0]["inputs"]["image"], tifffile.imread(train.describe(0)))
        assert open_both(kind, tmp_path / "png")[0][0]["inputs"]["image"].shape == (3, 8, 12)
    np.savez(tmp_path / "a.npz", images=rng.random((10, 2, 8, 12), dtype=np.float32))
    assert open_both(ImageFiles, tmp_path / "a.npz")[0][0]["inputs"]["image"].shape == (2, 8, 12)
    assert open_both(MultispectralFiles, tmp_path / "png")[0].fields["image"].shape == (4, 8, 12)
    (tmp_path / "deep").mkdir()
    tifffile.imwrite(tmp_path / "deep" / "a.tif", np.zeros((2, 3, 8, 12), np.uint8), photometric="minisblack")
    assert_refused(ImageFiles, tmp_path / "deep", "none of the 1 files is a readable image", "as its own file")


def test_options_without_effect_are_refused(tmp_path, photos, assert_refused):
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 8, 12), np.uint8))
    assert_refused(
        ImageFiles, tmp_path / "a.npz", "dataset.label_pattern is for names of files", label_pattern="(?P<label>a)"
    )
    assert_refused(ImageFiles, photos, "dataset.test_root is for an .npz", test_root=str(photos))


def test_images_of_another_format_are_bad_samples(photos, open_both, bad_samples, assert_refused):
    write_image(photos / "cat" / "small.png", np.zeros((4, 4, 3), np.uint8))
    tifffile.imwrite(photos / "dog" / "bands.tif", np.zeros((8, 12, 7), np.uint8), photometric="minisblack")
    (photos / "dog" / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    messages = bad_samples(open_both(ImageFiles, photos))
    assert {path.rsplit("/", 1)[1] for path in messages} == {"small.png", "bands.tif", "broken.jpg"}
    message = {path.rsplit("/", 1)[1]: text for path, text in messages.items()}
    assert "4 pixels high and 4 wide, the others 8 and 12" in message["small.png"]
    assert "dataset.sizes=any" in message["small.png"]
    assert "has 7 channels, and 3 are needed" in message["bands.tif"]
    assert "cannot be read" in message["broken.jpg"]
    free = open_both(ImageFiles, photos, sizes="any")
    assert free[0].fields["image"].shape == (3, None, None)
    assert len(bad_samples(free)) == 2
    (photos.parent / "void").mkdir()
    assert_refused(ImageFiles, photos.parent / "void", "void holds no file ending in .png")
    assert_refused(ImageFiles, photos.parent / "none", "none does not exist")
    (photos.parent / "b").mkdir()
    (photos.parent / "b" / "x.png").write_bytes(b"not an image")
    assert_refused(ImageFiles, photos.parent / "b", "none of the 1 files is a readable image")


def test_16_bit_palette_and_alpha(tmp_path, open_both):
    deep = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    for i in range(4):
        write_image(tmp_path / "deep" / f"{i}.png", deep)
    scan = open_both(MedicalImageFiles, tmp_path / "deep")[0][0]["inputs"]["image"]
    assert scan.dtype == np.uint16
    np.testing.assert_array_equal(scan[0], deep)
    (tmp_path / "mixed").mkdir()
    colour = np.random.default_rng(0).integers(0, 256, (8, 12, 4), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "mixed" / "a.png")
    Image.fromarray(colour[..., :3]).quantize(16).save(tmp_path / "mixed" / "b.png")
    datasets = open_both(ImageFiles, tmp_path / "mixed")
    assert {d[0]["inputs"]["image"].shape for d in datasets} == {(3, 8, 12)}


@pytest.mark.parametrize("layout", ["last", "first", "planar", "npy"])
def test_any_number_of_bands(tmp_path, open_both, layout, bad_samples):
    bands = np.random.default_rng(0).integers(-9, 9000, (5, 16, 20), dtype=np.int16)
    for i in range(10):
        if layout == "npy":
            np.save(tmp_path / f"{i}.npy", bands + i)
        elif layout == "last":
            tifffile.imwrite(tmp_path / f"{i}.tif", (bands + i).transpose(1, 2, 0), photometric="minisblack")
        else:
            planar = {"planarconfig": "separate"} if layout == "planar" else {}
            tifffile.imwrite(tmp_path / f"{i}.tif", bands + i, photometric="minisblack", **planar)
    datasets = open_both(MultispectralFiles, tmp_path)
    assert datasets[0].fields["image"].shape == (5, 16, 20)
    for dataset in datasets:
        number = int(dataset.describe(0).rsplit("/", 1)[1].split(".")[0])
        np.testing.assert_array_equal(dataset[0]["inputs"]["image"], bands + number)
    np.save(tmp_path / "x.npy", bands[:3])
    (text,) = bad_samples(open_both(MultispectralFiles, tmp_path)).values()
    assert text == "has 3 bands, the others have 5; remove it"


def test_ragged_wafer_maps(tmp_path, open_both, assert_refused):
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (10 + i % 4, 12), dtype=np.uint8) for i in range(20)]
    arrays = {
        "pixels": np.concatenate([m.ravel() for m in maps]),
        "offset": np.cumsum([0, *(m.size for m in maps)]),
        "height": np.array([len(m) for m in maps], np.uint16),
        "width": np.full(20, 12, np.uint16),
        "label": np.arange(20, dtype=np.int8) % 2,
        "label_names": np.array(["Ring", "None"]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    datasets = open_both(WaferFiles, tmp_path / "a.npz")
    assert datasets[0].task.names == ("None", "Ring")
    for dataset in datasets:
        for index in range(len(dataset)):
            number = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            np.testing.assert_array_equal(dataset[index]["inputs"]["map"][0], maps[number])
            assert dataset[index]["label"] == 1 - number % 2
    assert len(open_both(WaferFiles, tmp_path / "a.npz", test_root=str(tmp_path / "a.npz"))[1]) == 20
    np.savez(tmp_path / "b.npz", **arrays | {"offset": arrays["offset"] + 1 * (np.arange(21) > 3)})
    assert_refused(WaferFiles, tmp_path / "b.npz", "offset, height and width do not fit")
    np.savez(tmp_path / "c.npz", wafers=maps[0])
    assert_refused(WaferFiles, tmp_path / "c.npz", "c.npz holds wafers", "must be called images")


def ragged_maps(**overrides):
    """Arrays of twenty maps of 4 x 5."""
    arrays = {
        "pixels": np.arange(400, dtype=np.int64) % 3,
        "offset": np.arange(21) * 20,
        "height": np.full(20, 4, np.uint16),
        "width": np.full(20, 5, np.uint16),
        "label": np.arange(20, dtype=np.int8) % 2,
        "label_names": np.array(["Ring", "Scratch"]),
    }
    return arrays | overrides


def test_unlabelled_wafer_maps(tmp_path, open_both, assert_refused):
    path = tmp_path / "a.npz"
    labels = np.arange(20, dtype=np.int8) % 2
    np.savez(path, **ragged_maps(label=np.where(np.arange(20) == 6, -1, labels)))
    train, test = open_both(WaferFiles, path)
    assert [train[i]["label"] for i in range(len(train))].count(None) == 1
    assert None not in [test[i]["label"] for i in range(len(test))]
    np.savez(path, **ragged_maps(label=np.full(20, -1)))
    assert open_both(WaferFiles, path)[0].task is None
    for wrong in (2, -2):
        np.savez(path, **ragged_maps(label=np.where(np.arange(20) == 6, wrong, labels)))
        assert_refused(WaferFiles, path, f"a.npz sample 7: label {wrong} has no name in 'label_names'", "2, from 0")
    np.savez(path, **ragged_maps(label=labels.astype(np.float32)))
    assert_refused(WaferFiles, path, "'label' is float32", "index of a name")


def test_inconsistent_wafer_maps_are_refused(tmp_path, assert_refused):
    path = tmp_path / "a.npz"
    for overrides, *parts in (
        ({"pixels": np.zeros(399)}, "offset goes from 0 to 400, but there are 399 pixels"),
        ({"offset": np.arange(21) * 20 - 20}, "offset goes from -20 to 380"),
        ({"width": np.full(19, 5)}, "do not fit together"),
        ({"height": np.full(20, 4.0)}, "'height' is float64 of shape (20,)"),
        ({"label": np.zeros(19, np.int8)}, "has 20 samples, but 19 labels"),
        ({"pixels": np.zeros(0), "offset": np.zeros(1, int), "height": np.zeros(0, int), "width": np.zeros(0, int)}
         | {"label": np.zeros(0, int)}, "holds no samples"),
    ):  # fmt: skip
        np.savez(path, **ragged_maps(**overrides))
        assert_refused(WaferFiles, path, "a.npz", *parts)


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_arrays_that_are_not_images_are_refused(tmp_path, assert_refused, ending):
    path = tmp_path / f"a.{ending}"
    for array, *parts in (
        (np.zeros((0, 8, 8)), "holds no samples; fill it or leave it out"),
        (np.zeros((9, 5), np.uint8), "a sample is uint8 of shape (5,), not an image; arrays are numbers (n, height"),
        (np.zeros((9, 8, 8), "U1"), "a sample is <U1 of shape (8, 8), not an image"),
        (np.zeros(()), "has the shape (); save one array of numbers whose first axis is the samples"),
        (np.zeros(9), "has the shape (9,); save one array of numbers"),
    ):  # fmt: skip
        np.savez(path, images=array) if ending == "npz" else np.save(path, array)
        assert_refused(ImageFiles, path, f"a.{ending}", *parts)


def test_corrupt_npz_is_refused(tmp_path, assert_refused):
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 8, 8), np.uint8))
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    assert_refused(ImageFiles, tmp_path / "b.npz", "b.npz is not an .npz file, or only a part of one")
    whole[300] ^= 255
    (tmp_path / "c.npz").write_bytes(whole)
    assert_refused(ImageFiles, tmp_path / "c.npz", "c.npz cannot be read as arrays", "CRC")


def test_size_is_free_where_any_map_differs(tmp_path, open_both):
    sizes = [(4, 5), (5, 4), (10, 2), (4, 5)] * 5
    height, width = (np.array(side) for side in zip(*sizes, strict=True))
    np.savez(tmp_path / "a.npz", **ragged_maps(height=height, width=width))
    train, _ = open_both(WaferFiles, tmp_path / "a.npz", sizes="auto")
    assert train.fields["map"].shape == (1, None, None)
    assert {train[i]["inputs"]["map"].shape[1:] for i in range(len(train))} == set(sizes)


def test_npz_with_named_splits(tmp_path, open_both):
    rng = np.random.default_rng(0)
    parts = {"train": 12, "val": 3, "test": 5}
    arrays = {f"{n}_images": rng.integers(0, 256, (k, 8, 8), dtype=np.uint8) for n, k in parts.items()}
    arrays |= {f"{n}_labels": (np.arange(k) % 2)[:, None] for n, k in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    train, test = open_both(MedicalImageFiles, tmp_path / "a.npz")
    assert (len(train), len(test)) == (12, 5)
    np.testing.assert_array_equal(test[4]["inputs"]["image"][0], arrays["test_images"][4])
    assert pickle.loads(pickle.dumps(test))[3]["label"] == 1


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "csv.gz", "tsv.gz"])
def test_na_strings_are_class_names_in_a_table_of_paths(photos, open_both, ending):
    words = ("None", "NA", "null", "nan")
    paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    frame = pd.DataFrame(
        {"path": paths, "label": [words[i % 4] for i in range(20)], "group": [words[i % 3] for i in range(20)]}
    )
    table = photos / f"table.{ending}"

    def write():
        if ending == "parquet":
            frame.to_parquet(table)
        else:
            frame.to_csv(table, index=False, sep="\t" if "tsv" in ending else ",")
        return table

    assert open_both(ImageFiles, write(), test_groups="NA")[0].task.names == tuple(sorted(words))
    frame.loc[2, "path"] = " "
    (warning,) = open_both(ImageFiles, write(), test_groups="NA")[0].warnings
    assert f"1 of the {len(frame)} files" in warning
    assert "row 3: no path" in warning


@pytest.mark.parametrize("modality", ["image", "medical-image", "multispectral", "wafer"])
def test_runs(tmp_path, photos, run_files, modality):
    data = photos
    if modality == "wafer":
        data = tmp_path / "w"
        for i in range(20):
            (data / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            np.save(data / "ab"[i % 2] / f"{i}.npy", np.random.default_rng(i).integers(0, 3, (9, 9 + i % 2)))
    assert run_files(modality, data)["scores"]


def test_real_water_tiles_and_cifar10(shared_data, open_both):
    tiles = open_both(MultispectralFiles, shared_data / "water_seg_12band" / "data" / "images")[0]
    assert tiles.fields["image"].shape == (12, 128, 128)
    assert tiles[0]["inputs"]["image"].dtype == np.int16
    train, test = open_both(ImageFiles, shared_data / "cifar10", label_pattern=r"(?P<split>train|test)/(?P<label>\w+)/")
    assert (len(train), len(test), train.task.size) == (10000, 2000, 10)


def test_real_wm811k_and_pneumoniamnist(shared_data, open_both):
    folder = shared_data / "wm811k"
    train, test = open_both(WaferFiles, folder / "train.npz", test_root=str(folder / "test.npz"))
    assert (len(train), len(test), train.task.size) == (18051, 12450, 9)
    scans = open_both(MedicalImageFiles, shared_data / "pneumoniamnist" / "pneumoniamnist.npz")
    assert [len(d) for d in scans] == [4708, 624]
