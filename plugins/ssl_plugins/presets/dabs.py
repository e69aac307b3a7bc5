"""The DABS benchmark (Tamkin et al., 2021 and 2022) as its published code runs it: preset `dabs`.

DABS fixes encoder, training and probe and leaves the objective free, and so does the preset: it goes with any
objective, and sets options of DABS's own. What it follows, and what not:

- Everything that shaped the published numbers is followed, slips of the objectives' code among them: e-Mix's
  coefficient broadcast over the batch (P18); Capri's softmax over predictions and its loss over unmasked tokens, too,
  with logits that are not normalised, so that it diverges on some data (P21). The objectives as intended are
  their classes' defaults; `--set` brings them back, e.g. `--set objective.coefficient=sample`.
- So are its data's constants, windows and batches, where MetaMAE's code has others, too: PAMAP2's test on subject 5
  alone and its 11 activities of 12 outputs (D44, D45), Fluorescence's probe with 512 (D48).
- ShED's label for a single token that cannot move (P36) is not followed: no data set of DABS is so short.
- What the data sets mend is not followed. `dataset.protocol=published`, or `transfer.protocol`, brings some of it back:
  Google Speech's test files among those for training (P11, D58), padding in the loss of secondary structure, but in its
  metric, too (D50), a test of PAMAP2 that is drawn anew (P22); also MetaMAE's rounding, not DABS's (D47). Nothing
  brings back the order in which a file system lists files (P24) or TFDS stores rows (2.0), the last part of long clips
  in transfer (D49), AudioMNIST at 48 kHz for an encoder of 16 kHz, a new coin for the part of a long clip in each epoch
  (2.5), new windows of PAMAP2 for training in each epoch (2.2), VQA's swaps by the run's seed (P25), and 102 outputs
  for Aircraft's 100 variants (D57).
- What only blurred the measurement is not followed: dropout in the frozen encoder while the probe is trained (P19,
  D54), and metrics averaged over batches (P30, D55).
- Not options of the engine: 16-bit mixed precision (bf16 is used where it pays), N(0, 1) for the cls token, which
  its learned position gives it, and for token embeddings (D05, D06), and torch's default start of linear maps.

As a benchmark it has the domains below (protocol 1.1): `sslx run --benchmark dabs --domain speech` pretrains, by
MetaMAE unless another objective is named, and probes on each transfer set. Two names of domains are ours:
natural_images_small, which DABS chooses by other names of data sets, and sensor_spectrogram, its older form of sensor.

Natural and medical images are the large ones, 224 x 224, but for natural_images_small. For text name BERT's or XLM-R's
vocabulary by `tokenizer.file` (protocol 2.6, 2.7).
"""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl
from ssl_plugins.presets import _published
from ssl_plugins.presets._published import DATA

PROTOCOL = {
    "encoder.dim": 256, "encoder.depth": 12, "encoder.heads": 8, "encoder.head_dim": 64, "encoder.mlp_ratio": 2.0,
    "encoder.dropout": 0.1, "encoder.positions": "learned", "encoder.final_norm": False, "encoder.pool": "all",
    "train.steps": 100_000, "train.lr": 1e-4, "train.weight_decay": 1e-4, "train.checkpoint_every": 20_000,
    "evaluate.linear": "adamw", "evaluate.epochs": 100, "evaluate.lr": 1e-4, "evaluate.weight_decay": 1e-4,
}  # fmt: skip
PROTOCOL_SOURCE = "published code of DABS (protocol 3.1 and 5): encoder, training, probe"

OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "emix": ("protocol 4.4, with the slip P18", {"objective.coefficient": "batch-mean"}),
    "shed": ("protocol 4.5", {"objective.ratio": 0.15}),
    "capri": (
        "protocol 4.6, with the slips P21",
        {
            "masking.ratio": 0.15, "objective.positions": "all", "objective.direction": "predictions",
            "objective.normalise": False,
        },
    ),
    "dabs-mae": ("protocol 4.1", {"masking.ratio": 0.15, "objective.squared": False}),
}  # fmt: skip

LARGE = {"tokenizer.size": 224, "tokenizer.patch": 16, "tokenizer.channels": 3, "tokenizer.normalise": "none"}
TEXT = {"tokenizer.length": 128, "tokenizer.mask_padding": False}

# By modality: pretraining set, where in the protocol, batch, batch of the probe, data.
MODALITIES: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "image": ("ImageNet", "2.1", 64, 64, LARGE),
    "time-series": ("PAMAP2", "2.2", 256, 256, DATA["time-series"]),
    "medical-image": ("CheXpert", "2.3", 64, 64, LARGE),
    "image-text": ("MSCOCO", "2.4", 64, 64, DATA["image-text"]),
    "speech": ("LibriSpeech", "2.5", 64, 64, DATA["speech"]),
    "text": ("WikiText-103", "2.6", 128, 128, TEXT),
    "multilingual-text": ("mC4", "2.7", 128, 128, TEXT),
    "genomics": ("Genomics", "2.8", 32, 64, DATA["genomics"]),
    "protein": ("Pfam", "2.9", 128, 128, DATA["protein"]),
    "tabular": ("HIGGS", "2.10", 256, 256, DATA["tabular"]),
    "multispectral": ("EuroSAT", "2.10", 64, 64, DATA["multispectral"]),
    "wafer": ("WM-811K", "2.10", 128, 128, DATA["wafer"]),
}


SENSOR = {"dataset.test_subjects": (5,), "dataset.activities": "dabs"}
SMALL = {"tokenizer.size": 32, "tokenizer.patch": 4, "train.batch_size": 256, "evaluate.batch_size": 256}
SPECTROGRAM = {
    "tokenizer.size": 32, "tokenizer.patch": 4, "tokenizer.normalise": "none", "train.batch_size": 256,
    "evaluate.batch_size": 256, **SENSOR,
}  # fmt: skip
GLUE = ("cola", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
PICTURES = ("aircraft", "cu_birds", "dtd", "traffic_sign", "vgg_flower")
FLUENT = ("fluent_speech_location", "fluent_speech_action", "fluent_speech_object")

# By modality and data set: what belongs to one set. 2.9: batch of the probe, in which both codes differ (D48).
SETS: dict[tuple[str, str], dict[str, Any]] = _published.SETS | {
    ("protein", "fluorescence"): {"evaluate.batch_size": 512},
}

# By domain: where in the protocol, modality, pretraining set, transfer sets, what differs from the modality's values.
# CheXpert is in DABS's results as a transfer set, too, though not in its dictionary of them.
DOMAINS: dict[str, tuple[str, str, str, tuple[str, ...], dict[str, Any]]] = {
    "natural_images": ("2.1", "image", "imagenet", ("cifar10", *PICTURES), {}),
    "natural_images_small": ("2.1", "image", "cifar10_small", tuple(f"{name}_small" for name in PICTURES), SMALL),
    "sensor": ("2.2", "time-series", "pamap2", ("pamap2",), SENSOR),
    "sensor_spectrogram": ("2.2", "multispectral", "pamap2_spectrogram", ("pamap2_spectrogram",), SPECTROGRAM),
    "medical_images": ("2.3", "medical-image", "chexpert", ("chexpert", "xray8"), {}),
    "captioned_images": ("2.4", "image-text", "mscoco", ("mismatched_caption", "vqa"), {}),
    "speech": (
        "2.5", "speech", "librispeech",
        ("audio_mnist", *FLUENT, "google_speech", "librispeech_transfer", "voxceleb1"), {},
    ),
    "text": ("2.6", "text", "wikitext103", GLUE, {}),
    "multi_text": (
        "2.7", "multilingual-text", "mc4", tuple(f"paws_{of}" for of in ("en", "fr", "es", "de", "zh", "ja", "ko")), {},
    ),
    "genomics": ("2.8", "genomics", "genomics", ("genomics_transfer_id", "genomics_transfer_ood"), {}),
    "proteins": (
        "2.9", "protein", "pfam", ("pfam_transfer", "scop", "secondary_struct", "stability", "fluorescence"), {},
    ),
    "particle_physics": ("2.10", "tabular", "higgs", ("higgs_transfer",), {}),
    "satellite_images": ("2.10", "multispectral", "eurosat", ("eurosat_transfer",), {}),
    "semiconductors": ("2.10", "wafer", "wafer", ("wafer_transfer",), {}),
}  # fmt: skip


@hookimpl
def register_presets() -> list[Preset]:
    presets = [Preset("dabs", PROTOCOL, PROTOCOL_SOURCE)]
    for objective, (where, values) in OBJECTIVES.items():
        presets.append(Preset("dabs", values, f"published code of DABS ({where})", objective))
    for modality, (name, where, batch, probe_batch, data) in MODALITIES.items():
        values = data | {"train.batch_size": batch, "evaluate.batch_size": probe_batch}
        source = f"published code of DABS (protocol {where}): {name}, shapes and batch"
        presets.append(Preset("dabs", values, source, modality=modality))
    for domain, (where, modality, pretraining, transfer, values) in DOMAINS.items():
        source = f"DABS (protocol 1.1 and {where}): domain {domain}"
        of = {name: values | SETS.get((modality, name), {}) for name in (pretraining, *transfer)}
        proposed = {"objective.name": "metamae"} | of.pop(pretraining)
        presets.append(Preset("dabs", proposed, source, None, modality, pretraining, domain=domain, transfer=transfer))
        source = f"published code of DABS (protocol {where}): what belongs to the set"
        presets += [Preset("dabs", own, source, None, modality, name) for name, own in of.items() if own]
    return presets
