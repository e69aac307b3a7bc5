"""The user's images with text: tables of images and captions, COCO's JSON, or a text file beside each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, Column, Continuous, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.class_names import conform_classes
from ssl_plugins.datasets._io.copies import copies_of_contents
from ssl_plugins.datasets._io.files.entry import FileList, SampleLocations
from ssl_plugins.datasets._io.files.listing import TABLE_EXTENSIONS, list_files, list_sources, splits_by_name
from ssl_plugins.datasets._io.files.tar import TAR, check_archive
from ssl_plugins.datasets._io.images.captions import (
    CaptionTable,
    read_caption_table,
    read_coco,
    read_tar,
    read_text_files,
)
from ssl_plugins.datasets._io.images.raster_survey import common_format, doubts_of_axes, read_values, sizes_in_words
from ssl_plugins.datasets._io.images.rasters import (
    RASTER_EXTENSIONS,
    Alpha,
    RasterOptions,
    convert_channels,
    read_raster,
)
from ssl_plugins.datasets._io.images.readers import TableImages
from ssl_plugins.datasets._io.splitting import Codes, SampleMetadata, draws_split
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

EXTENSIONS = (*TABLE_EXTENSIONS, TAR)
CHECKED_SAMPLES = 20


class CaptionFiles(UserData):
    """Your own images with captions: JSON, CSV or Parquet of images and one or two texts each, or image and .txt."""

    modality = "image-text"

    class Options(RowOptions):
        """Options of the user's images with captions. Image paths are relative to the file's folder."""

        image: str | None = Field(
            None, description="column or key of the image: its path, or in Parquet its bytes; by default image, "
            "file_name, filename, image_path, path or img",
        )  # fmt: skip
        caption: str = Field(
            "caption", description="column or key of the text, or of a list of texts; meta.text is the key text in meta"
        )
        pair: str | None = Field(None, description="column or key of a second text, such as the answer to a question")
        images: str | None = Field(
            None, description="folder that the paths of images are relative to; by default that of the file"
        )
        empty: Literal["refuse", "keep"] = Field(
            "refuse", description="an empty or missing caption: a bad sample, or an image without text"
        )
        alpha: Literal["white", "black", "drop"] = Field(
            "white", description="transparent pixels: composited on white or black, or used as if they were opaque"
        )

        @field_validator("images", mode="after")
        @classmethod
        def _absolute_images(cls, value: str | None) -> str | None:
            return None if value is None else str(Path(value).expanduser().absolute())

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        alpha: Alpha = options.alpha
        self.raster_options = RasterOptions(alpha=alpha)
        metadata = MetadataCollector(options.task)
        self.tables = self._read_tables(metadata)
        starts = np.cumsum([0, *map(len, self.tables)])
        if self.is_text_beside:
            paths = [Path(self.tables[0].name(index)) for index in range(len(self.tables[0]))]
            self.locations = SampleLocations(paths, np.arange(len(paths) + 1), unit="")
        else:
            rows = np.concatenate([table.rows for table in self.tables]) + 1
            self.locations = SampleLocations([table.path for table in self.tables], starts, rows)
        self.images = TableImages(self.tables, starts, self.locations)
        samples = metadata.metadata(self.locations)
        is_drawn = draws_split(samples.split, options)
        codes, names = self._image_codes(by_content=is_drawn)
        self.captions_per_image = len(codes) / max(1, len(names))
        samples = self._grouped_by_image(samples, codes, names) if is_drawn else samples
        self.assign_split(samples, target=metadata.target(), title=options.label or "label")
        self._check_samples()
        image_format = common_format(self.images, self.raster_options)
        self.doubts += doubts_of_axes(image_format)
        self.fields = {"image": Continuous((3, None, None), dtype=image_format.dtype.name), "caption": Text()}
        self.record_files([*(table.path for table in self.tables), *self._image_paths()])
        facts = {"sizes": sizes_in_words(image_format)}
        if self.captions_per_image > 1:
            whole = ", which are in one split" if _are_whole(codes, self.split_codes) else ""
            facts["captions"] = f"{self.captions_per_image:.3g} to an image{whole}"
        if split == "train":
            facts |= read_values(self.images, image_format, self.raster_options).facts(self.raster_options)
        self._summarise(facts)

    def _read_tables(self, metadata: MetadataCollector) -> list[CaptionTable]:
        options = self.options
        check_archive(options.root)
        entries = self._images_with_texts()
        self.is_text_beside = entries is not None
        if entries is not None:
            self.files = entries
            metadata.append_entries(entries)
            return [read_text_files(entries, Path(options.root))]
        self.files = sources = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, options)
        check_extensions(sources, EXTENSIONS, "list of images and captions")
        tables = []
        for entry in sources if options.test_root else splits_by_name(sources):
            ending = entry.path.suffix.lower()
            special = read_coco(entry.path, options) if ending == ".json" else None
            special = read_tar(entry.path) if ending == TAR else special
            if special is not None:
                metadata.append_file(entry, len(special))
            tables.append(special or read_caption_table(entry, options, metadata))
        return tables

    def _images_with_texts(self) -> FileList | None:
        """The images of a folder that holds texts and no table; None if root is something else."""
        root = Path(self.options.root)
        if not root.is_dir() or self.options.test_root is not None:
            return None
        names = {path.name.lower() for path in root.rglob("*")}
        if any(name.endswith(EXTENSIONS) for name in names) or not any(name.endswith(".txt") for name in names):
            return None
        return list_files(self.options.root, RASTER_EXTENSIONS, self.options.label_pattern, self.options)

    def _grouped_by_image(self, samples: SampleMetadata, codes: np.ndarray, names: list[str]) -> SampleMetadata:
        """The metadata with the image as the group, where an image has several captions and the data no groups.

        Args:
            samples: the metadata.
            codes: (n,) the image of each sample.
            names: names of the images.
        """
        samples = replace(samples, copies=self._copies(codes))
        if samples.group is not None or len(names) == len(codes) or len(names) < 2:
            return samples
        return replace(samples, group=Codes(codes, tuple(names)))

    def _copies(self, codes: np.ndarray) -> np.ndarray | None:
        """Numbers that the first samples of images of one content share; None if no file is a copy of another.

        Args:
            codes: (n,) the image of each sample.
        """
        _, first = np.unique(codes, return_index=True)
        same = copies_of_contents([table.stored_content(index) for table, index in map(self._locate, first.tolist())])
        if same is None:
            return None
        copies = np.arange(len(codes))
        copies[first] = first[same]
        return copies

    def _image_codes(self, by_content: bool) -> tuple[np.ndarray, list[str]]:
        """(n,) int32 the image of each sample, and the names of the images.

        Args:
            by_content: whether images without a name are told apart by their bytes, which must all be read.
        """
        index: dict[str, int] = {}
        codes = np.empty(sum(map(len, self.tables)), np.int32)
        position = 0
        for number, table in enumerate(self.tables):
            for name, row in zip(table.names.to_pylist(), table.rows.tolist(), strict=True):
                key = f"{table.folders[0]}/{name}" if name else by_content and table.digest(row)
                key = key or f"{number} row {row + 1}"
                codes[position] = index.setdefault(key, len(index))
                position += 1
        return codes, list(index)

    def _check_samples(self) -> None:
        """Refuse data of which no sample can be used, by naming the first.

        Raises:
            DataError: none of a few samples has an image and a caption.
        """
        chosen = np.unique(np.linspace(0, len(self.rows) - 1, CHECKED_SAMPLES).astype(int)).tolist()
        first = ""
        for index in chosen:
            try:
                self._texts_and_content(index)
                return
            except BadSample as error:
                first = first or f"{self.describe(index)}: {error}"
        raise DataError(f"none of {len(chosen)} samples of the {self.split} split can be used; {first}")

    def _image_paths(self) -> Iterator[Path]:
        """The image paths of this split, absent files included: the fingerprint changes when one is added."""
        for row in self.rows.tolist():
            table, index = self._locate(row)
            path = table.file(index)
            if path is not None:
                yield path

    def _locate(self, row: int) -> tuple[CaptionTable, int]:
        if self.is_text_beside:
            return self.tables[0], row
        file, index = self.locations.locate(row)
        return self.tables[file], index

    def _texts_and_content(self, index: int) -> tuple[list[str], str, Any]:
        """The texts, the image's name, and its path or bytes."""
        table, position = self._locate(int(self.rows[index]))
        texts, name = table.captions(position), table.name(position)
        if self.options.empty == "refuse" and not texts[0].strip():
            raise BadSample(f"the caption of '{name}' is empty; fill it in, or set dataset.empty=keep")
        return texts, name, table.content(position)

    def _summarise(self, facts: dict[str, str]) -> None:
        options = self.options
        columns = [Column(options.image or "image", kind="image"), Column(options.caption, kind="text")]
        columns += [Column(options.pair, kind="text")] if options.pair else []
        if self.task is not None:
            kind = "number" if self.task.kind == "number" else "category"
            columns.append(Column(self.task.title, "label", kind, self.task.names))
        self.record_summary(self.files, columns, [table.table for table in self.tables if table.table], facts)

    def schema(self) -> dict[str, Any]:
        """The type of the pixels, the number of texts, and the classes."""
        names = self.task.names if self.task is not None else ()
        dtype = getattr(self.fields["image"], "dtype", None)
        texts = 2 if self.options.pair else 1
        return {**super().schema(), "channels": 3, "dtype": dtype, "texts": texts, "classes": list(names)}

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Match the classes by name."""
        super().conform(schema)
        conform_classes(self, schema)

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, H, W) in the file's dtype, "caption": the text, or (2,) texts of a pair}.

        Raises:
            BadSample: the image cannot be read, or the caption is empty.
        """
        texts, name, content = self._texts_and_content(index)
        try:
            image = convert_channels(read_raster(content, self.raster_options), 3)
        except BadSample as error:
            raise BadSample(f"the image '{name}' {error}") from None
        if image is None:
            raise BadSample(f"the image '{name}' has other channels than grey or RGB; convert it")
        caption = np.array(texts if len(texts) > 1 else texts[0])
        return {"inputs": {"image": image, "caption": caption}, "label": self.label_of(index)}


def _are_whole(codes: np.ndarray, split: np.ndarray) -> bool:
    """Whether the samples of each image are in one split. codes: (n,) images; split: (n,) split codes."""
    pairs = np.unique(np.stack([codes, split.astype(codes.dtype)]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1]


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CaptionFiles]
