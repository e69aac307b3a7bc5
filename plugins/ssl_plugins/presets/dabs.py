"""The DABS benchmark (Tamkin et al., 2021 and 2022) as its published code runs it: preset `dabs`.

DABS fixes encoder, training and probe and leaves the objective free, and so does the preset: it applies to any
objective, and for DABS's own objectives it sets their published options, too. What it follows:

- What shaped the published numbers, slips of the objectives' code included: e-Mix weights both terms by the batch mean
  (docs/methods/emix.md); Capri scores all tokens by a softmax over the predictions, with logits that are not
  normalised, so that it diverges on some data (docs/methods/capri.md). The objectives as intended are the defaults of
  their classes; `--set` restores them, e.g. `--set objective.coefficient=sample`.
- The initial weights: PyTorch's defaults of linear maps, and embeddings, positions and cls token normal with standard
  deviation 1. So the random_init row is DABS's baseline.
- DABS's constants, windows and batches where MetaMAE's differ: PAMAP2's test on subject 5 alone and 11 of its 12
  activities; the probe of Fluorescence with batches of 512.

What it does not follow is in `deviations`, which `sslx show dabs` prints: what the data sets correct, of which
`dataset.protocol=published`, or `transfer.protocol`, restores a part; what only adds noise to the measurement, such as
dropout in the frozen encoder of the probe; and 16-bit mixed precision.

As a benchmark it has the domains below: `sslx run --benchmark dabs --domain speech` pretrains, by MetaMAE unless
another objective is named, and probes on each transfer set. Two names of domains are not DABS's: natural_images_small,
which DABS selects by other names of data sets, and sensor_spectrogram, its older form of sensor.

Natural and medical images are 224 x 224, except in natural_images_small. For text set `tokenizer.file` to the
vocabulary of bert-base-uncased, for text in many languages to that of xlm-roberta-base.
"""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl
from ssl_plugins.presets import _benchmark_data
from ssl_plugins.presets._benchmark_data import MODALITY_OPTIONS
from ssl_plugins.presets._deviations import DABS

PROTOCOL = {
    "encoder.dim": 256, "encoder.depth": 12, "encoder.heads": 8, "encoder.head_dim": 64, "encoder.mlp_ratio": 2.0,
    "encoder.dropout": 0.1, "encoder.positions": "learned", "encoder.final_norm": False, "encoder.pool": "all",
    "train.steps": 100_000, "train.lr": 1e-4, "train.weight_decay": 1e-4, "train.checkpoint_every": 20_000,
    "encoder.init": "torch",
    "evaluate.linear": "adamw", "evaluate.epochs": 100, "evaluate.lr": 1e-4, "evaluate.weight_decay": 1e-4,
    "evaluate.token_batches": "samples",
}  # fmt: skip
PROTOCOL_SOURCE = "published code of DABS: encoder, training, probe (docs/methods/protocol-differences.md)"

# By objective: what its source adds, options.
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "emix": (
        "batch mean of the weights, a slip of the code; docs/methods/emix.md", {"objective.coefficient": "batch-mean"},
    ),
    "shed": ("docs/methods/shed.md", {"objective.ratio": 0.15}),
    "capri": (
        "scored tokens and softmax axis are slips of the code; docs/methods/capri.md",
        {
            "masking.ratio": 0.15, "objective.positions": "all", "objective.direction": "predictions",
            "objective.normalise": False,
        },
    ),
    "dabs-mae": ("docs/methods/dabs-mae.md", {"masking.ratio": 0.15, "objective.squared": False}),
}  # fmt: skip

# Linear maps keep PyTorch's default, as do embedding tables, N(0, 1).
TORCH_LINEAR = {"tokenizer.init": "torch"}
NORMAL_TABLE = {"tokenizer.init_std": 1.0}
IMAGE_224 = {
    "tokenizer.size": 224, "tokenizer.patch": 16, "tokenizer.channels": 3, "tokenizer.normalise": "none",
} | TORCH_LINEAR  # fmt: skip
TEXT = {"tokenizer.length": 128, "tokenizer.mask_padding": False}

# By modality: pretraining set, batch, batch of the probe, tokenizer options.
MODALITIES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "image": ("ImageNet", 64, 64, IMAGE_224),
    "time-series": ("PAMAP2", 256, 256, MODALITY_OPTIONS["time-series"] | TORCH_LINEAR),
    "medical-image": ("CheXpert", 64, 64, IMAGE_224),
    "image-text": ("MSCOCO", 64, 64, MODALITY_OPTIONS["image-text"] | TORCH_LINEAR | NORMAL_TABLE),
    "speech": ("LibriSpeech", 64, 64, MODALITY_OPTIONS["speech"] | TORCH_LINEAR),
    "text": ("WikiText-103", 128, 128, TEXT | NORMAL_TABLE),
    "multilingual-text": ("mC4", 128, 128, TEXT | NORMAL_TABLE),
    "genomics": ("Genomics", 32, 64, MODALITY_OPTIONS["genomics"] | NORMAL_TABLE),
    "protein": ("Pfam", 128, 128, MODALITY_OPTIONS["protein"] | NORMAL_TABLE),
    "tabular": ("HIGGS", 256, 256, MODALITY_OPTIONS["tabular"] | TORCH_LINEAR),
    "multispectral": ("EuroSAT", 64, 64, MODALITY_OPTIONS["multispectral"] | TORCH_LINEAR),
    "wafer": ("WM-811K", 128, 128, MODALITY_OPTIONS["wafer"] | TORCH_LINEAR),
}

PAMAP2 = {"dataset.test_subjects": (5,), "dataset.activities": "dabs"}
IMAGE_32 = {"tokenizer.size": 32, "tokenizer.patch": 4, "train.batch_size": 256, "evaluate.batch_size": 256}
SPECTROGRAM = IMAGE_32 | {"tokenizer.normalise": "none"} | PAMAP2
GLUE_TASKS = ("cola", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
IMAGE_TASKS = ("aircraft", "cu_birds", "dtd", "traffic_sign", "vgg_flower")
FLUENT_TASKS = ("fluent_speech_location", "fluent_speech_action", "fluent_speech_object")
PAWS_TASKS = tuple(f"paws_{language}" for language in ("en", "fr", "es", "de", "zh", "ja", "ko"))

# By modality and data set. The probe of Fluorescence has batches of 512 in DABS, 128 in MetaMAE.
DATASET_OPTIONS: dict[tuple[str, str], dict[str, Any]] = _benchmark_data.DATASET_OPTIONS | {
    ("protein", "fluorescence"): {"evaluate.batch_size": 512},
}

# By domain: modality, pretraining set, transfer sets, options that differ from those of the modality.
# CheXpert is a transfer set in DABS's results, though not in its code's dictionary of transfer sets.
DOMAINS: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any]]] = {
    "natural_images": ("image", "imagenet", ("cifar10", *IMAGE_TASKS), {}),
    "natural_images_small": ("image", "cifar10_small", tuple(f"{name}_small" for name in IMAGE_TASKS), IMAGE_32),
    "sensor": ("time-series", "pamap2", ("pamap2",), PAMAP2),
    "sensor_spectrogram": ("multispectral", "pamap2_spectrogram", ("pamap2_spectrogram",), SPECTROGRAM),
    "medical_images": ("medical-image", "chexpert", ("chexpert", "xray8"), {}),
    "captioned_images": ("image-text", "mscoco", ("mismatched_caption", "vqa"), {}),
    "speech": (
        "speech", "librispeech", ("audio_mnist", *FLUENT_TASKS, "google_speech", "librispeech_transfer", "voxceleb1"),
        {},
    ),
    "text": ("text", "wikitext103", GLUE_TASKS, {}),
    "multi_text": ("multilingual-text", "mc4", PAWS_TASKS, {}),
    "genomics": ("genomics", "genomics", ("genomics_transfer_id", "genomics_transfer_ood"), {}),
    "proteins": (
        "protein", "pfam", ("pfam_transfer", "scop", "secondary_struct", "stability", "fluorescence"), {},
    ),
    "particle_physics": ("tabular", "higgs", ("higgs_transfer",), {}),
    "satellite_images": ("multispectral", "eurosat", ("eurosat_transfer",), {}),
    "semiconductors": ("wafer", "wafer", ("wafer_transfer",), {}),
}  # fmt: skip


@hookimpl
def register_presets() -> list[Preset]:
    presets = [Preset("dabs", PROTOCOL, PROTOCOL_SOURCE, deviations=DABS)]
    for objective, (note, values) in OBJECTIVES.items():
        presets.append(Preset("dabs", values, f"published code of DABS ({note})", objective))
    for modality, (pretraining_set, batch, probe_batch, options) in MODALITIES.items():
        values = options | {"train.batch_size": batch, "evaluate.batch_size": probe_batch}
        source = f"published code of DABS: {pretraining_set}, shapes, batches, initial embeddings"
        presets.append(Preset("dabs", values, source, modality=modality))
    for domain, (modality, dataset, transfer, options) in DOMAINS.items():
        by_dataset = {name: options | DATASET_OPTIONS.get((modality, name), {}) for name in (dataset, *transfer)}
        values = {"objective.name": "metamae"} | by_dataset.pop(dataset)
        source = f"published code of DABS: domain {domain}"
        presets.append(Preset("dabs", values, source, None, modality, dataset, domain=domain, transfer=transfer))
        source = "published code of DABS: constants and batch of the data set"
        for name, values in by_dataset.items():
            if values:
                presets.append(Preset("dabs", values, source, None, modality, name))
    return presets
