"""Data preparation that the published codes of DABS and MetaMAE have in common, by modality and by data set.

docs/methods/protocol-differences.md lists where the two disagree; each preset's own module sets those values.
"""

from __future__ import annotations

from typing import Any

# By modality. The shapes are those of Table 16 of the MetaMAE paper.
MODALITY_OPTIONS: dict[str, dict[str, Any]] = {
    "speech": {  # 1 x 224 x 224, patch 16 x 16
        "tokenizer.n_mels": 224, "tokenizer.frames": 224, "tokenizer.patch": (16, 16),
        "tokenizer.samples": 150_526, "tokenizer.hop": 672, "tokenizer.n_fft": 2048, "tokenizer.win_length": 2048,
        "tokenizer.square": True, "tokenizer.top_db": 80.0, "tokenizer.ref": "absolute",
        "tokenizer.padding": "content",
    },
    # 52 x 320, patch 5, raw units
    "time-series": {"tokenizer.length": 320, "tokenizer.patch": 5, "tokenizer.normalise": "none"},
    # 28 raw numbers through one shared linear map
    "tabular": {"tokenizer.normalise": "none", "tokenizer.weights": "shared"},
    # 13 x 64 x 64, patch 8 x 8, each band by its own mean and deviation: EuroSAT's are in DATASET_OPTIONS
    "multispectral": {"tokenizer.size": 64, "tokenizer.patch": 8, "tokenizer.normalise": "measured"},
    # grey levels in three channels, 32 x 32, patch 4 x 4
    "wafer": {
        "tokenizer.size": 32, "tokenizer.patch": 4, "tokenizer.channels": 3, "tokenizer.normalise": "none",
    },
    "genomics": {"tokenizer.length": 250},
    # 128 residues; padding counts as data
    "protein": {"tokenizer.length": 128, "tokenizer.pad": "X", "tokenizer.mask_padding": False},
    # 3 x 224 x 224, patch 16 x 16, and 32 ids; padding counts as data
    "image-text": {
        "tokenizer.size": 224, "tokenizer.patch": 16, "tokenizer.channels": 3, "tokenizer.normalise": "none",
        "tokenizer.length": 32, "tokenizer.mask_padding": False,
    },
}  # fmt: skip


# Mean and standard deviation of all values of the spectrograms in dB.
SPEECH_CONSTANTS: dict[str, tuple[float, float]] = {
    "librispeech": (-22.924, 12.587),
    "librispeech_transfer": (-22.924, 12.587),
    "audio_mnist": (-90.293, 11.799),
    "fluent_speech_location": (-31.809, 13.127),
    "fluent_speech_action": (-31.809, 13.127),
    "fluent_speech_object": (-31.809, 13.127),
    "google_speech": (-46.847, 19.151),
    "voxceleb1": (-37.075, 19.776),
}
# By band, in the order B1 to B8, B9, B10, B11, B12, B8A, in the units of the sensor.
EUROSAT_MEAN = (
    1354.3003, 1117.7579, 1042.2800, 947.6443, 1199.6334, 2001.9829, 2372.5579, 2299.6663, 731.0175, 12.0956,
    1822.4083, 1119.5759, 2598.4456,
)  # fmt: skip
EUROSAT_STD = (
    244.0469, 323.4128, 385.0928, 584.1638, 566.0543, 858.5753, 1083.6704, 1103.0342, 402.9594, 4.7207, 1002.4071,
    759.6080, 1228.4104,
)  # fmt: skip


def _constants(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Options that normalise by these constants."""
    return {"tokenizer.normalise": "given", "tokenizer.mean": mean, "tokenizer.std": std}


# By modality and data set.
DATASET_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    **{("speech", name): _constants((mean,), (std,)) for name, (mean, std) in SPEECH_CONSTANTS.items()},
    **{("multispectral", name): _constants(EUROSAT_MEAN, EUROSAT_STD) for name in ("eurosat", "eurosat_transfer")},
    # batch of the probe (MetaMAE, Table 16)
    ("genomics", "genomics_transfer_ood"): {"evaluate.batch_size": 32},
}
# Training takes the first or the last part of a long clip, except for transfer to LibriSpeech in MetaMAE's code.
for _name in SPEECH_CONSTANTS:
    if _name != "librispeech_transfer":
        DATASET_OPTIONS["speech", _name] |= {"dataset.longest": 150_526, "dataset.side": "random"}
