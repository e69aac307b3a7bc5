"""What the presets of DABS and MetaMAE do not reproduce of the published codes' data and evaluation."""

from __future__ import annotations

# Both codes; docs/methods/protocol-differences.md has each point in full.
SHARED = (
    "HIGGS, Genomics, EuroSAT: splits by the published rule on the upstream's own order, so of equal sizes with other "
    "members; the published ones depend on TensorFlow Datasets",
    "traffic signs: names are sorted before the split; the published ones depend on the file system's order",
    "PAMAP2: windows are drawn once, not in each epoch, and none holds missing values; "
    "dataset.protocol=published draws the test's anew each time",
    "speech: the first or last part of a long clip is drawn once for each recording, not in each epoch",
    "PAWS-X: pairs with an empty sentence are left out; dataset.protocol=published keeps them",
    "AudioMNIST: resampled to 16 kHz, not read at 48 kHz; dataset.rate=48000 for an encoder of that rate",
    "Google Speech: test files are not in the training split; dataset.protocol=published puts them there",
    "secondary structure: padding is in neither loss nor metric; dataset.protocol=published with "
    "tokenizer.mask_padding=false counts it as MetaMAE does",
    "VQA: replaced answers are drawn with dataset.swap_seed, not with the run's seed",
    "FGVC-Aircraft: 100 classes, which is how many there are, not 102 outputs",
)
METAMAE = (
    "image with text: published without code; here two segments with type vectors, nearby tokens within a segment, and "
    "the mean of both losses (docs/methods/metamae.md)",
    "length: training ends after exactly 100,000 steps; the published code ends with an epoch and evaluates its "
    "checkpoint of step 100,000",
    "several GPUs: BatchNorm, contrast and inner loss see the whole batch; the published code divides the contrast "
    "and the inner loss among GPUs",
    "BERT's vocabulary: without the 30 unused rows of the published table (30,552); tokenizer.file names it",
    "splits of 90 % and 10 %: 10 % rounded down; the published code loses one more sample where 10 % is a whole "
    "number, as dataset.protocol=published does",
    *SHARED,
)
DABS = (
    "ShED: a single token that cannot move has label 0; in the published code it has label 1, on rows shorter than "
    "any of its data sets",
    "objectives that DABS does not have, such as metamae: their decoders and heads keep their own initialisation",
    "precision: bf16 where the hardware supports it, else fp32; published: 16-bit floats, mixed",
    "probe: features are computed once by the encoder in evaluation mode; in the published code its dropout stays on",
    "metrics: over the whole evaluation set; published: means over batches, and an AUROC that mixes in the training "
    "split",
    "probe during pretraining: none; evaluate.every fits the run's probes at intervals",
    "LibriSpeech in transfer: the first part of a long clip; published: the first or last part at random in training",
    "secondary structure: the published loss has padding as a class of its own, which no option reproduces",
    "ChestX-ray8: names are sorted before the split; the published one depends on the file system's order",
    "mC4: the first documents of each language, each once in an epoch; published: every loader process reads the whole "
    "stream in order",
    *SHARED,
)
