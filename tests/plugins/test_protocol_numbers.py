"""Published sizes of the data sets, order of their classes, constants, and `dataset.protocol=published`."""

from __future__ import annotations

import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ssl_core import ConfigError, plugins
from ssl_plugins.datasets.public import (
    audio_mnist,
    eurosat,
    fluent_speech,
    genomics_ood,
    google_speech,
    higgs,
    librispeech,
    pamap2,
    pamap2_spectrogram,
    pfam,
    wm811k,
)

MINIATURES = Path(__file__).parents[1] / "miniatures"

# Samples of the training and the test split in the benchmark's published code; None if it does not fix the number.
BENCHMARK: dict[str, tuple[int | None, int | None]] = {
    "cifar10": (50_000, 10_000), "cifar10_small": (50_000, 10_000),
    "librispeech": (281_241, None),
    "genomics": (900_000, 100_000), "genomics_transfer_id": (90_000, 10_000),
    "genomics_transfer_ood": (540_000, 60_000),
    "pfam_transfer": (180_000, 20_000), "scop": (12_312, 736), "secondary_struct": (8_678, 2_170),
    "stability": (None, 2_512), "fluorescence": (21_446, 5_362),
    "higgs": (8_910_000, 990_000), "higgs_transfer": (990_000, 110_000),
    "eurosat": (21_870, 2_430), "eurosat_transfer": (2_430, 270),
    "wafer": (574_657, 63_850), "wafer_transfer": (155_655, 17_295),
}  # fmt: skip
# Splits that the upstreams define, as in docs/datasets.md.
UPSTREAM: dict[str, tuple[int | None, int | None]] = {
    "imagenet": (1_281_167, 50_000), "aircraft": (6_667, 3_333), "aircraft_small": (6_667, 3_333),
    "cu_birds": (5_994, 5_794), "cu_birds_small": (5_994, 5_794), "dtd": (3_760, 1_880), "dtd_small": (3_760, 1_880),
    "traffic_sign": (31_367, 7_842), "traffic_sign_small": (31_367, 7_842),
    "chexpert": (223_414, 234), "xray8": (100_908, 11_212),
    "mscoco": (117_266, 4_952), "mismatched_caption": (117_266, 4_952),
    "audio_mnist": (24_000, 6_000), "fluent_speech_location": (26_250, 3_793), "fluent_speech_action": (26_250, 3_793),
    "fluent_speech_object": (26_250, 3_793), "google_speech": (94_830, 11_005), "voxceleb1": (145_265, 8_251),
    "librispeech": (281_241, 2_703), "pfam": (32_207_059, None),
    "wikitext103": (1_165_029, 2_461), "cola": (8_551, 1_043), "mnli_matched": (392_702, 9_815),
    "mnli_mismatched": (392_702, 9_832), "mrpc": (3_668, 408), "qnli": (104_743, 5_463), "qqp": (None, 40_430),
    "rte": (2_490, 277), "sst2": (67_349, 872), "stsb": (5_749, 1_500), "wnli": (635, 71), "paws_en": (49_401, 2_000),
}  # fmt: skip
TOTALS = {"librispeech_transfer": 2_703, "vgg_flower": 8_189, "vgg_flower_small": 8_189}
# No fixed size: random windows, a stream, or no number known.
WITHOUT_COUNTS = {
    "pamap2",
    "pamap2_spectrogram",
    "mc4",
    "vqa",
    *(f"paws_{of}" for of in ("fr", "es", "de", "zh", "ja", "ko")),
}

PUBLIC = {
    entry.name: entry.value for entry in plugins.load().entries("dataset") if getattr(entry.value, "source", None)
}


def test_sizes_of_public_data_sets():
    assert set(PUBLIC) == {*BENCHMARK, *UPSTREAM, *TOTALS, *WITHOUT_COUNTS}
    for name, cls in PUBLIC.items():
        counts = dict(cls.source.sample_counts)
        for table in (BENCHMARK, UPSTREAM):
            expected = dict(zip(("train", "test"), table.get(name, (None, None)), strict=True))
            expected = {split: count for split, count in expected.items() if count is not None}
            assert expected.items() <= counts.items(), name
        if name in TOTALS:
            assert counts == {"total": TOTALS[name]}
        if name in WITHOUT_COUNTS:
            assert counts == {}


def test_splits_are_ceil_of_90_and_floor_of_10_percent():
    """In exact arithmetic (docs/methods/protocol-differences.md)."""
    rows = {  # of each part of the upstream's data
        "genomics": 1_000_000, "genomics_transfer_id": 100_000, "genomics_transfer_ood": 600_000,
        "higgs": 9_900_000, "higgs_transfer": 1_100_000, "eurosat": 24_300, "eurosat_transfer": 2_700,
        "wafer": 638_507, "wafer_transfer": 172_950,
    }  # fmt: skip
    for name, count in rows.items():
        assert (PUBLIC[name].source.sample_counts["train"], PUBLIC[name].source.sample_counts["test"]) == (
            -(-9 * count // 10), count // 10,
        )  # fmt: skip


def test_number_of_pamap2_windows_is_an_option():
    """50,000 and 10,000 as published. They are random, so there is no count to verify the recordings by."""
    for cls in (pamap2.Pamap2, pamap2_spectrogram.Pamap2Spectrogram):
        options = cls.Options()
        assert (options.train_size, options.test_size) == (50_000, 10_000)
        assert dict(cls.source.sample_counts) == {}


# --- classes and constants -------------------------------------------------------------------------------------------


def test_order_of_the_classes():
    """A few classes of each data set, by their index in the published list."""
    words = google_speech.WORDS
    assert len(words) == 36
    expected = {0: "eight", 4: "yes", 5: "up", 9: "four", 19: "seven", 20: "one", 23: "marvin", 34: "learn"}
    assert {index: words[index] for index in expected} == expected
    assert words[35] == "_background_noise_"
    location, action, thing = (
        cls.words for cls in (
            fluent_speech.FluentSpeechLocation, fluent_speech.FluentSpeechAction, fluent_speech.FluentSpeechObject,
        )
    )  # fmt: skip
    assert location == ("none", "kitchen", "bedroom", "washroom")
    assert action == ("change language", "activate", "deactivate", "increase", "decrease", "bring")
    assert (len(thing), thing[0], thing[1], thing[3], thing[8], thing[10], thing[13]) == (
        14, "none", "music", "volume", "socks", "Chinese", "German",
    )  # fmt: skip
    assert (genomics_ood.KNOWN[0], genomics_ood.KNOWN[6], genomics_ood.KNOWN[9]) == (
        "Bacillus", "Salmonella", "Yersinia",
    )  # fmt: skip
    assert wm811k.NAMES == (
        "none", "random", "donut", "scratch", "center", "loc", "edge-loc", "edge-ring", "near-full",
    )  # fmt: skip
    assert (eurosat.NAMES[0], eurosat.NAMES[6], eurosat.NAMES[9]) == ("AnnualCrop", "PermanentCrop", "SeaLake")
    assert (audio_mnist.TEST[0], audio_mnist.TEST[-1], audio_mnist.VALIDATION[1]) == (26, 51, 47)


def test_constants_of_the_pamap2_spectrograms():
    """Some values, and the sum of all weighted by their index, so that no value can change unnoticed."""
    mean, std = pamap2_spectrogram.MEAN, pamap2_spectrogram.STD
    assert (mean[0], mean[6], mean[19], mean[36], mean[51]) == (
        -10.12912214, 0.04085698, -0.20944169, 1.94817929, -10.2161264,
    )  # fmt: skip
    assert (std[0], std[10], std[18], std[35], std[51]) == (
        7.52822918, 3.59042373, 6.76148597, 6.72132295, 5.33158206,
    )  # fmt: skip
    for values, expected in ((mean, -4827.90305693), (std, 5785.11848709)):
        weighted_sum = math.fsum(index * value for index, value in enumerate(values, start=1))
        assert weighted_sum == pytest.approx(expected, rel=0, abs=1e-8)


# --- protocol=published: one test row fewer --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Miniatures of Genomics, Pfam and HIGGS, read only."""
    folder = tmp_path_factory.mktemp("data")
    for family in ("bio", "sensor"):
        writers = runpy.run_path(str(MINIATURES / f"{family}.py"))["WRITERS"]
        selected = [writer for (_, name), writer in writers.items() if name.startswith(("genomics", "pfam", "higgs"))]
        for writer in dict.fromkeys(selected):
            writer(folder)
    return folder


@pytest.mark.parametrize(
    "cls",
    [
        genomics_ood.Genomics, genomics_ood.GenomicsTransferID, genomics_ood.GenomicsTransferOOD, pfam.PfamTransfer,
        higgs.Higgs, higgs.HiggsTransfer,
    ],
)  # fmt: skip
def test_published_test_split_lacks_its_first_row_if_a_tenth_is_whole(cls, root):
    """MetaMAE's code rounds (1 - 0.9) n down in floating point (docs/methods/protocol-differences.md)."""

    def rows(split: Any, protocol: str) -> list[int]:
        return cls(cls.Options(root=str(root), protocol=protocol), split).rows.tolist()

    train, test = rows("train", "fixed"), rows("test", "fixed")
    count = len(train) + len(test)
    is_whole = count % 10 == 0
    assert rows("train", "published") == train
    assert rows("test", "published") == test[is_whole:]
    assert is_whole == (cls not in (genomics_ood.GenomicsTransferOOD, higgs.Higgs))
    assert len(rows("test", "published")) == int((1 - 0.9) * count)


def test_published_rounding():
    """(1 - 0.9) n in floating point: 109,999 of 1,100,000 and so on."""
    from ssl_plugins.datasets.public._arrays import head_tail

    for count, expected in ((9_900_000, 989_999), (1_100_000, 109_999), (600_000, 59_999), (200_000, 19_999)):
        assert len(head_tail(np.arange(count), "test", "published")) == expected


# --- long clips ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    runpy.run_path(str(MINIATURES / "speech.py"))["WRITERS"]["speech", "librispeech"](folder)
    return folder


def open_librispeech(speech: Path, split: Any, **options: Any) -> librispeech.LibriSpeech:
    return librispeech.LibriSpeech(librispeech.LibriSpeech.Options(root=str(speech), **options), split)


def parts_of(dataset: librispeech.LibriSpeech, longest: int) -> list[str]:
    """Which part of each recording its sample is: first or last."""
    parts = []
    for index, path in enumerate(dataset.paths):
        recording = soundfile.read(dataset.folder / path, dtype="float32")[0]
        wave = dataset[index]["inputs"]["waveform"]
        assert wave.shape == (1, longest)
        assert len(recording) > longest
        first, last = (np.array_equal(wave[0], part) for part in (recording[:longest], recording[-longest:]))
        assert first != last
        parts.append("first" if first else "last")
    return parts


def test_part_of_a_long_clip_is_random_in_training_and_the_first_in_the_test(speech):
    train = open_librispeech(speech, "train", longest=900, side="random")
    sides = parts_of(train, 900)
    assert set(sides) == {"first", "last"}
    assert parts_of(train, 900) == parts_of(open_librispeech(speech, "train", longest=900, side="random"), 900) == sides
    assert parts_of(open_librispeech(speech, "train", longest=900, side="random", side_seed=1), 900) != sides
    assert set(parts_of(open_librispeech(speech, "train", longest=900), 900)) == {"first"}
    assert set(parts_of(open_librispeech(speech, "test", longest=900, side="random"), 900)) == {"first"}
    coins = [train._keeps_end(index) for index in range(4000)]
    assert abs(np.mean(coins) - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_short_clips_are_unchanged_and_side_needs_longest(speech):
    train, default = open_librispeech(speech, "train", longest=10**6, side="random"), open_librispeech(speech, "train")
    for index in range(len(train)):
        np.testing.assert_array_equal(train[index]["inputs"]["waveform"], default[index]["inputs"]["waveform"])
    with pytest.raises(ConfigError, match=r"dataset\.side=random of 'librispeech' needs dataset\.longest"):
        open_librispeech(speech, "train", side="random")


def test_cropping_options_change_the_fingerprint(speech):
    options: tuple[Mapping[str, Any], ...] = ({}, {"longest": 900}, {"longest": 900, "side": "random"})
    assert len({open_librispeech(speech, "train", **values).fingerprint() for values in options}) == 3
