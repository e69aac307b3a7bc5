"""The user's images with text: JSON lines or a table of image paths and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, Continuous, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.file_listing import TABLE_EXTENSIONS, list_sources
from ssl_plugins.datasets._io.rasters import read_image
from ssl_plugins.datasets._io.tables import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.texts import JSON_EXTENSIONS, locations_of, read_text_source
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

EXTENSIONS = (*JSON_EXTENSIONS, *TABLE_EXTENSIONS)


class CaptionFiles(UserData):
    """Your own images with captions: JSONL, CSV or Parquet of image paths and one or two texts each."""

    modality = "image-text"

    class Options(RowOptions):
        """Options of the user's images with captions. Image paths are relative to the file's folder."""

        image: str = Field("image", description="column or key of the image's path")
        caption: str = Field("caption", description="column or key of the text")
        pair: str | None = Field(None, description="column or key of a second text, such as the answer to a question")
        empty: Literal["refuse", "keep"] = Field(
            "refuse", description="an empty caption: a bad sample, or an image without text"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        entries = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, options)
        check_extensions(entries, EXTENSIONS, "list of images and captions")
        metadata = MetadataCollector(options.task)
        column_of = {"image": options.image, "caption": options.caption}
        column_of |= {"pair": options.pair} if options.pair else {}
        self.sources = [read_text_source(entry, column_of, options, metadata) for entry in entries]
        self.locations = locations_of(self.sources, [entry.path for entry in entries])
        self.assign_split(metadata.metadata(self.locations), target=metadata.target(), title=options.label or "label")
        self.fields = {"image": Continuous((3, None, None)), "caption": Text()}
        self.record_files([*self.locations.paths, *self._image_paths()])
        self.record_summary(entries)

    def _image_paths(self) -> Iterator[Path]:
        """The image paths of this split, absent files included: the fingerprint changes when one is added."""
        visited = set()
        for row in self.rows.tolist():
            file, index = self.locations.locate(row)
            try:
                path = self._image_path(file, self.sources[file].texts(index)[0])
            except BadSample:
                continue  # the path is not text
            if path not in visited:
                visited.add(path)
                yield path

    def _image_path(self, file: int, name: str) -> Path:
        return Path(self.locations.paths[file]).parent / name

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, H, W) uint8, "caption": the text, or (2,) texts of a pair}.

        Raises:
            BadSample: the image cannot be read, or the caption is empty.
        """
        file, index_in_file = self.locations.locate(int(self.rows[index]))
        name, *texts = self.sources[file].texts(index_in_file)
        if self.options.empty == "refuse" and not texts[0].strip():
            raise BadSample(f"the caption of '{name}' is empty; fill it in, or set dataset.empty=keep")
        path = self._image_path(file, name)
        if not name or not path.is_file():
            raise BadSample(f"there is no image '{name}'; paths are relative to the file's folder")
        try:
            image = read_image(path, "RGB")
        except BadSample as error:
            raise BadSample(f"the image '{name}' {error}") from None
        caption = np.array(texts if len(texts) > 1 else texts[0])
        return {"inputs": {"image": image, "caption": caption}, "label": self.label_of(index)}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CaptionFiles]
