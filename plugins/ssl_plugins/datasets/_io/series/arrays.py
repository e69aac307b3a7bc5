"""Reads arrays of time series: samples (n, channels, steps), or a recording a file, from npy, npz, mat and HDF5."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, DataError, nearest
from ssl_plugins.datasets._io.array_names import names_of_array
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.listing import FileEntry
from ssl_plugins.datasets._io.files.stores import is_store, load_store
from ssl_plugins.datasets._io.files.tar import TarSamples
from ssl_plugins.datasets._io.npz import (
    ARRAY_EXTENSIONS,
    GROUP_KEYS,
    LABEL_KEYS,
    RaggedMaps,
    SampleArray,
    read_arrays,
    role_keys,
)
from ssl_plugins.datasets._io.series.recordings import Recording
from ssl_plugins.datasets._io.series.wide import MIN_STEPS
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector

CONTAINER_EXTENSIONS = (".mat", ".h5", ".hdf5")
ARRAY_KEYS = ("series", "data", "x", "X")
HDF5_CURE = "pip install 'sslx[hdf5]'"
SAVE_CURE = (
    "save each series as a file of its own with numpy.save, an array (steps, channels) of numbers, or pad them with "
    "NaN to one array (n, channels, steps)"
)


@dataclass(frozen=True)
class ArrayLayout:
    """How arrays are read: each file a recording, with channels on the first or the last axis, or samples.

    doubt: a line if they may be meant otherwise.
    """

    files: bool
    channels_first: bool = False
    doubt: str = ""


def choose_array_layout(shapes: Mapping[Path, tuple[int, ...]], layout: str) -> ArrayLayout:
    """Decide by the shapes of all files whether each is a recording.

    Args:
        shapes: the shape of each file's array.
        layout: the option: "auto", "long" and "files" (a recording a file) or "wide" (samples).
    """
    ranks = {len(shape) for shape in shapes.values()}
    if layout == "wide" or ranks - {1, 2}:
        return ArrayLayout(False)
    if ranks == {1}:
        return ArrayLayout(True)
    wanted = layout in ("files", "long")
    flat = [shape for shape in shapes.values() if len(shape) == 2]
    heights, widths = ({shape[axis] for shape in flat} for axis in (0, 1))
    first, path = flat[0], next(iter(shapes))
    if len(heights) > 1 and len(widths) > 1:
        return ArrayLayout(wanted)
    channels_first = len(widths) > 1 or (len(heights) == 1 and first[0] < first[1])
    channels = first[0] if channels_first else first[1]
    if wanted:
        return ArrayLayout(True, channels_first)
    if len(shapes) == 1:
        if not channels_first and channels < MIN_STEPS:
            return ArrayLayout(True)
        doubt = ""
        if channels_first and channels < MIN_STEPS and first[1] >= MIN_STEPS * channels:
            doubt = (
                f"{path} of shape {first} is read as {first[0]} series of {first[1]} steps; set dataset.layout=files "
                f"if it is one recording of {first[0]} channels, or dataset.layout=wide if not"
            )
        return ArrayLayout(False, doubt=doubt)
    doubt = ""
    if channels >= MIN_STEPS:
        doubt = (
            f"each of {len(shapes)} files, such as {path} of shape {first}, is read as one recording of {channels} "
            f"channels; set dataset.layout=wide if each row is a series, or dataset.layout=files if not"
        )
    return ArrayLayout(True, channels_first, doubt)


def load_array(path: Path, key: str | None) -> Any:
    """The array of numbers of a file; that of an .npy file is memory-mapped.

    Raises:
        DataError: the file cannot be read, or holds no such array.
    """
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise _load_error(path, error) from None
    else:
        arrays = load_arrays(path)
        array = arrays[choose_key(path, arrays, key)]
    check_numbers(path, array)
    return array


def check_numbers(path: Path, array: Any) -> None:
    """Raises:
    DataError: it is no array of numbers.
    """
    if array.dtype.kind not in "uifb" or array.ndim == 0:
        raise DataError(f"{path} holds {array.dtype} of shape {array.shape}; {SAVE_CURE}")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz, .mat or HDF5 file by name.

    Raises:
        DataError: the file cannot be read.
    """
    ending = path.suffix.lower()
    try:
        if ending == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if ending == ".mat":
            return _load_mat(path)
        if is_store(path):
            return load_store(path)
        return _load_hdf5(path)
    except DataError:
        raise
    except Exception as error:
        raise _load_error(path, error) from None


def _load_error(path: Path, error: Exception) -> DataError:
    text = " ".join(str(error).split())
    if "pickle" in text.lower() or "object" in text.lower():
        return DataError(f"{path} holds Python objects, as an array of series of different lengths does; {SAVE_CURE}")
    if isinstance(error, zipfile.BadZipFile | EOFError):
        text = f"only a part of a file; write it again ({text})"
    return DataError(f"{path} cannot be read as arrays: {text:.200}")


def _load_mat(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat  # slow to import

    try:
        content = loadmat(path)
    except NotImplementedError:  # version 7.3 is HDF5
        return {name: array.T for name, array in _load_hdf5(path).items()}
    return {name: array for name, array in content.items() if not name.startswith("__")}


def _load_hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} is HDF5; reading it needs {HDF5_CURE}") from None
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("#"):
            return
        if item.dtype.kind in "uifb":
            arrays[name] = item[()]
        elif h5py.check_string_dtype(item.dtype) is not None:
            arrays[name] = np.asarray(item[()])  # bytes, so that a text in another encoding is refused by its name
        elif h5py.check_ref_dtype(item.dtype) is h5py.Reference:
            arrays[name] = _cells(file, item[()])

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return arrays


def _cells(file: Any, references: Any) -> np.ndarray:
    """The values that references name, as MATLAB writes cell arrays: texts, or arrays of numbers."""
    cells = np.empty(np.shape(references), object)
    for index in np.ndindex(cells.shape):
        item = file[references[index]] if references[index] else None
        if getattr(item, "dtype", np.dtype(object)).kind not in "uifb":
            continue
        values = item[()]  # type: ignore[index]
        is_text = item.attrs.get("MATLAB_class") == b"char"  # type: ignore[union-attr]
        is_empty = bool(item.attrs.get("MATLAB_empty", 0))  # type: ignore[union-attr]
        cells[index] = "" if is_empty else "".join(map(chr, np.ravel(values))) if is_text else values
    return cells


def choose_key(path: Path, arrays: Mapping[str, np.ndarray], key: str | None) -> str:
    """The name of the array of series: the option, one of `ARRAY_KEYS`, or the only large array of numbers.

    Raises:
        DataError: there is no such array.
    """
    if key is not None:
        if key not in arrays:
            raise DataError(f"{path} has no array '{key}'; set dataset.key: {nearest(key, list(arrays), 'array')}")
        return key
    named = [name for name in arrays if name.rsplit("/", 1)[-1] in ARRAY_KEYS]
    numeric = [
        name
        for name, array in arrays.items()
        if array.dtype.kind in "uifb" and max(array.shape, default=0) >= MIN_STEPS
        and name not in (*LABEL_KEYS, *GROUP_KEYS)
    ]  # fmt: skip
    candidates = named or numeric
    if len(candidates) != 1:
        held = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise DataError(f"{path} holds {held or 'no array'}; name the array of series in dataset.key, e.g. series")
    return candidates[0]


def read_samples(entry: FileEntry, metadata: MetadataCollector, options: Any, several: bool = False) -> Sequence[Any]:
    """The samples of a file, (n, channels, steps) or (n, steps); their labels and groups go to `metadata`.

    A single label or group is that of all samples of its file where there are several files, else it says nothing.

    Raises:
        ConfigError, DataError: as `read_arrays`.
    """
    path, key = entry.path, options.key
    if path.suffix.lower() in ARRAY_EXTENSIONS:
        if path.suffix.lower() == ".npy":
            load_array(path, key)  # its messages are about series
        return read_arrays(path, ARRAY_KEYS if key is None else (key,), entry, metadata, options)
    arrays = load_arrays(path)
    name = choose_key(path, arrays, key)
    array = arrays[name]
    check_numbers(path, array)
    block: dict[str, Any] = {"": pa.nulls(len(array))}
    read = {name}
    for kind, keys in zip(("label", "group"), role_keys(path, arrays, options), strict=True):
        own = next((other for other in keys if other in arrays), None)
        if own is None or (arrays[own].size == 1 < len(array) and not several):
            continue
        values = np.reshape(arrays[own], -1)
        values = np.repeat(values, len(array)) if len(values) == 1 else values
        block[kind] = names_of_array(path, f"'{name}'", len(array), kind, values)
        read.add(own)
    columns = {kind: kind for kind in block if kind}
    metadata.append(block, columns, entry, lambda row: f"{path} sample {row + 1}")
    samples = SampleArray(path, array)
    samples.unused = tuple(other for other in arrays if other not in read)
    return [samples]


class TarArrays:
    """The arrays of a tar file, each member (.npy) a series of its own. Their headers are read at once.

    Raises:
        DataError: a member is no array of numbers (channels, steps), (steps, channels) or (steps,).
    """

    line_numbers = None
    unit = "sample"

    def __init__(self, tar: TarSamples) -> None:
        self.tar, self.path, self.names = tar, tar.path, tar.names
        self.shapes: set[tuple[int, ...]] = set()
        for member in tar.members:
            try:
                with member.open() as file:
                    shape, _, dtype = _npy_header(file)
            except (BadSample, ValueError, EOFError) as error:
                raise DataError(
                    f"{member.path} cannot be read as an array: {' '.join(str(error).split()):.200}; write it again "
                    f"with numpy.save, or leave its tar file out with dataset.exclude={tar.path.name}"
                ) from None
            if dtype.kind not in "uifb" or len(shape) not in (1, 2):
                raise DataError(f"{member.path} holds {dtype} of shape {shape}; {SAVE_CURE}")
            self.shapes.add(shape)

    def __len__(self) -> int:
        return len(self.tar)

    def __getitem__(self, index: int) -> np.ndarray:
        array: np.ndarray = np.load(io.BytesIO(self.tar.content(index)), allow_pickle=False)
        return array


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array in an .npy file.

    Raises:
        ValueError: it is no such file.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def read_array_recording(entry: FileEntry, key: str | None, channels_first: bool) -> Recording:
    """A file's array as one recording, (steps,), (steps, channels) or (channels, steps).

    Raises:
        DataError: the file cannot be read, or its array has more axes.
    """
    array = load_array(entry.path, key)
    if array.ndim > 2:
        raise DataError(
            f"{entry.path} has shape {array.shape}; a recording is an array (steps, channels), so leave "
            f"dataset.layout=files out, or save each recording as a file of its own"
        )
    values = np.array(array, dtype=np.float32)  # a copy, so that the file does not stay open
    values = values[:, np.newaxis] if values.ndim == 1 else values.T if channels_first else values
    return Recording(entry, np.ascontiguousarray(values), tuple(map(str, range(values.shape[1]))))


def choose_order(arrays: Sequence[Any], order: str) -> tuple[bool, str]:
    """Whether the channels of samples are on the last axis, and a line if that is doubtful.

    Args:
        arrays: the arrays of all files.
        order: the option: "auto", "first" or "last".
    """
    shapes = {shape: array.path for array in arrays for shape in array.shapes if len(shape) == 2}
    if order != "auto" or not shapes:
        return order == "last", ""
    shape, path = next(iter(shapes.items()))
    if shape[0] <= shape[1]:
        return False, ""
    last = shape[1] < MIN_STEPS <= shape[0]
    steps, channels = shape if last else shape[::-1]
    return last, (
        f"samples of shape {shape} in {path} are read as {channels} channels of {steps} steps; set "
        f"dataset.order={'last' if last else 'first'} if that is right, or dataset.order={'first' if last else 'last'}"
    )


def sample_shape(arrays: Sequence[Any], channels_last: bool = False) -> tuple[int, list[int]]:
    """Number of channels of all samples, and their different lengths, ascending.

    Raises:
        DataError: the arrays hold no series, or samples with different numbers of channels.
    """
    path_of: dict[tuple[int, ...], Path] = {}  # by the shape without samples and steps
    for array in arrays:
        if isinstance(array, RaggedMaps):
            raise DataError(
                f"{array.path} holds pixels, offset, height and width, which are wafer maps, not time series; name "
                f"an array (n, channels, steps) {ARRAY_KEYS[0]}, or use --modality wafer"
            )
        held = getattr(array, "array", None)
        if held is not None and (held.ndim not in (2, 3) or held.dtype.kind not in "uifb"):
            raise DataError(
                f"{array.path} holds {held.dtype} of shape {held.shape}; time series are arrays of numbers "
                f"(n, channels, steps) or (n, steps)"
            )
        for shape in array.shapes:
            path_of.setdefault(shape[1:] if channels_last else shape[:-1], array.path)
    if len(path_of) > 1:
        (first, first_path), (second, second_path) = list(path_of.items())[:2]
        raise DataError(
            f"{second_path}: samples are {_channels(second)}, those of {first_path} {_channels(first)}; fix or "
            f"remove one"
        )
    (channels,) = path_of
    steps_axis = 0 if channels_last else -1
    return channels[0] if channels else 1, sorted({shape[steps_axis] for array in arrays for shape in array.shapes})


def _channels(shape: tuple[int, ...]) -> str:
    """Describes the shape of a sample without its steps."""
    return f"of {shape[0]} channels" if shape else "without channels"
