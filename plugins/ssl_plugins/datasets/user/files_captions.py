"""Own pictures with text: JSON lines or a table of image paths and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, Continuous, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.file_listing import sources
from ssl_plugins.datasets._io.rasters import read_picture
from ssl_plugins.datasets._io.tables import ENDINGS, MarkColumns, check_endings
from ssl_plugins.datasets._io.texts import JSON_ENDINGS, places_of, read_part
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

KNOWN = (*JSON_ENDINGS, *ENDINGS)


class CaptionFiles(UserData):
    """Your own pictures with captions: JSONL, CSV or Parquet of image paths and texts, one or a pair each."""

    modality = "image-text"

    class Options(RowOptions):
        """Options of own pictures with captions. Paths of pictures are relative to the file's folder."""

        image: str = Field("image", description="column or key of the picture's path")
        caption: str = Field("caption", description="column or key of the text")
        pair: str | None = Field(None, description="column or key of a second text, such as the answer to a question")
        empty: Literal["refuse", "keep"] = Field(
            "refuse", description="an empty caption: a bad sample, or a picture without text"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        items = sources(options.root, options.test_root, KNOWN, options.label_pattern)
        check_endings(items, KNOWN, "list of pictures and captions")
        marks = MarkColumns(options.task)
        wanted = {"image": options.image, "caption": options.caption}
        wanted |= {"pair": options.pair} if options.pair else {}
        self.parts = [read_part(item, wanted, options, marks) for item in items]
        self.places = places_of(self.parts, [item.path for item in items])
        self.settle(marks.said(self.places), target=marks.numbers(), title=options.label or "label")
        self.fields = {"image": Continuous((3, None, None)), "caption": Text()}
        self.stamp([*self.places.paths, *self._pictures()])

    def _pictures(self) -> Iterator[Path]:
        """The pictures of this split, also those that are not there: one that is mended or added is read anew."""
        seen = set()
        for row in self.rows.tolist():
            number, place = self.places.part(row)
            try:
                path = self._path(number, self.parts[number].texts(place)[0])
            except BadSample:
                continue  # its name is no text
            if path not in seen:
                seen.add(path)
                yield path

    def _path(self, number: int, name: str) -> Path:
        return Path(self.places.paths[number]).parent / name

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, H, W) bytes, "caption": the text, or (2,) of a pair}.

        Errors: BadSample for a picture that cannot be read, or an empty caption.
        """
        number, place = self.places.part(int(self.rows[index]))
        name, *texts = self.parts[number].texts(place)
        if self.options.empty == "refuse" and not texts[0].strip():
            raise BadSample(f"the caption of '{name}' is empty; fill it in, or set dataset.empty=keep")
        path = self._path(number, name)
        if not name or not path.is_file():
            raise BadSample(f"there is no picture '{name}'; paths are relative to the file's folder")
        try:
            picture = read_picture(path, "RGB")
        except BadSample as error:
            raise BadSample(f"the picture '{name}' {error}") from None
        caption = np.array(texts if len(texts) > 1 else texts[0])
        return {"inputs": {"image": picture, "caption": caption}, "label": self.label_of(index)}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CaptionFiles]
