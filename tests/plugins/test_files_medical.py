"""Scans in DICOM and NIfTI files, and TIFFs whose compression needs imagecodecs; each skips without its library."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssl_plugins.datasets._io.images import raster_medical
from ssl_plugins.datasets._io.images.rasters import RasterOptions, read_header, read_raster
from ssl_plugins.datasets.user.files_images import ImageFiles, MedicalImageFiles


def write_dicom(path, pixels, *, slope=None, intercept=None, photometric="MONOCHROME2", bits=12):
    """A DICOM file of (H, W) or (frames, H, W) uint16."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, data.file_meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, bits, bits - 1, 0
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    if slope is not None:
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.PixelData = pixels.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


def write_nifti(path, volume, slope=None):
    """A NIfTI file of (x, y, z)."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(volume, np.eye(4))
    if slope is not None:
        image.header.set_slope_inter(slope, 5)
    nibabel.save(image, path)


SCAN = np.arange(96, dtype=np.uint16).reshape(8, 12) * 40


def test_dicom_is_in_units_of_its_rescale_slope(tmp_path):
    write_dicom(tmp_path / "a.dcm", SCAN, slope=2, intercept=-1024)
    pixels = read_raster(tmp_path / "a.dcm")
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[0], SCAN * 2.0 - 1024)
    header = read_header(tmp_path / "a.dcm")
    assert (header.channels, header.size, header.dtype.name, header.slices) == (1, (8, 12), "float32", None)


def test_dicom_monochrome1_is_inverted(tmp_path):
    write_dicom(tmp_path / "a.dcm", SCAN, photometric="MONOCHROME1")
    pixels = read_raster(tmp_path / "a.dcm")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[0], 4095 - SCAN)


def test_dicom_that_begins_like_a_tiff(tmp_path, capfd):
    write_dicom(tmp_path / "a.dcm", SCAN)
    whole = bytearray((tmp_path / "a.dcm").read_bytes())
    whole[:8] = b"II*\0\xff\xff\xff\0"
    (tmp_path / "a.dcm").write_bytes(whole)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.dcm")[0], SCAN)
    (tmp_path / "b.tif").write_bytes(whole[:100])
    assert read_header(tmp_path / "b.tif") is None
    assert capfd.readouterr().err == ""


def test_dicom_is_known_by_its_content(tmp_path, open_both):
    for number in range(10):
        write_dicom(tmp_path / f"{number}.png", SCAN + number)
    train, _ = open_both(ImageFiles, tmp_path)
    number = int(train.describe(0).rsplit("/", 1)[1].split(".")[0])
    np.testing.assert_array_equal(train[0]["inputs"]["image"][0], SCAN + number)


@pytest.mark.parametrize("ending", ["dcm", "nii", "nii.gz"])
def test_slices_of_a_volume_are_samples_of_one_split(tmp_path, open_both, ending):
    volumes = np.random.default_rng(0).integers(0, 4000, (5, 6, 8, 12)).astype(np.uint16)
    for number, volume in enumerate(volumes):
        path = tmp_path / f"{number}.{ending}"
        if ending == "dcm":
            write_dicom(path, volume)
        else:  # x to the right, y to the front, z to the head
            write_nifti(path, np.ascontiguousarray(volume[:, ::-1].transpose(2, 1, 0)).astype(np.int16))
    datasets = open_both(MedicalImageFiles, tmp_path)
    assert [len(d) for d in datasets] == [24, 6]
    assert datasets[0].fields["image"].shape == (1, 8, 12)
    assert datasets[0].summary.facts["slices"] == "30 of 5 files (dataset.slices=each)"
    numbers = []
    for dataset in datasets:
        numbers.append(set())
        for index in range(len(dataset)):
            path, number = dataset.describe(index).split(" slice ")
            volume = int(path.rsplit("/", 1)[1].split(".")[0])
            np.testing.assert_array_equal(dataset[index]["inputs"]["image"][0], volumes[volume, int(number) - 1])
            numbers[-1].add(volume)
    assert not numbers[0] & numbers[1]
    middle, _ = open_both(MedicalImageFiles, tmp_path, slices="middle")
    assert middle.fields["image"].shape == (1, 8, 12)
    volume = int(middle.describe(0).rsplit("/", 1)[1].split(".")[0])
    np.testing.assert_array_equal(middle[0]["inputs"]["image"][0], volumes[volume, 3])
    stacks, _ = open_both(MedicalImageFiles, tmp_path, slices="channels")
    assert stacks.fields["image"].shape == (6, 8, 12)
    np.testing.assert_array_equal(stacks[0]["inputs"]["image"], volumes[volume])


def test_one_volume_is_split_by_slices(tmp_path, open_both):
    write_nifti(tmp_path / "a.nii", np.zeros((12, 8, 10), np.int16))
    train, test = open_both(MedicalImageFiles, tmp_path)
    assert [len(train), len(test)] == [8, 2]
    assert [test.describe(i).rsplit(" ", 1)[1] for i in range(2)] == ["9", "10"]
    assert "one image only" in train.warnings[0]


def test_nifti_scale_and_axes(tmp_path):
    volume = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    write_nifti(tmp_path / "a.nii", volume, slope=2)
    np.testing.assert_allclose(read_raster(tmp_path / "a.nii")[0], 2 * volume[:, ::-1, 0].T + 5)
    write_nifti(tmp_path / "b.nii", np.zeros((2, 3, 4, 5), np.int16))
    with pytest.raises(Exception, match="2 x 3 x 4 x 5; save each volume"):
        read_raster(tmp_path / "b.nii")


@pytest.mark.parametrize(("kind", "library"), [("dicom", "pydicom"), ("nifti", "nibabel")])
def test_missing_library_is_named_as_an_extra(tmp_path, monkeypatch, assert_refused, kind, library):
    head = bytearray(400)
    head[128:132] = b"DICM" if kind == "dicom" else b"\0\0\0\0"
    head[344:348] = b"n+1\0" if kind == "nifti" else b"\0\0\0\0"
    (tmp_path / ("a.dcm" if kind == "dicom" else "a.nii")).write_bytes(head)
    monkeypatch.setitem(sys.modules, library, None)
    assert_refused(MedicalImageFiles, tmp_path, "which needs", f"pip install 'sslx[{kind}]'")


def test_compression_without_a_codec_names_the_extra(tmp_path, monkeypatch, assert_refused):
    """LZW with more bands than Pillow reads; the array of Pillow's images is the fallback."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    image = Image.fromarray(np.zeros((8, 12, 3), np.uint8))
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    (tmp_path / "a.tif").write_bytes(whole)

    def refuse(*args, **options):
        raise OSError

    monkeypatch.setattr("ssl_plugins.datasets._io.images.raster_tiff.Image.open", refuse)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", _needs_imagecodecs)
    with pytest.raises(Exception, match=r"compressed by LZW, which needs pip install 'sslx\[imagecodecs\]'"):
        read_raster(tmp_path / "a.tif")


def _needs_imagecodecs(*args, **options):
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


@pytest.mark.parametrize("compression", ["lzw", "zstd", "jpeg2000", "deflate"])
def test_compressed_bands(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    bands = np.random.default_rng(0).integers(0, 4000, (5, 16, 20), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", bands, compression=compression, photometric="minisblack", metadata={"axes": "CYX"}
    )
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif"), bands)


def test_nifti_header_is_told_from_other_bytes():
    assert not raster_medical.is_nifti(b"\x89PNG" + bytes(348))
    assert not raster_medical.is_dicom(bytes(400))
    assert RasterOptions().slices == "channels"
