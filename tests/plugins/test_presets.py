"""The presets hold the values of the papers and of their published codes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ssl_core import ConfigError, Continuous, Discrete, Learner, Text, plugins
from ssl_core.config.resolve import resolve
from ssl_core.config.schema import RunConfig
from ssl_core.runs.build import build_learner
from ssl_plugins.presets import dabs, metamae

# Fields of the data sets in Table 16 of the MetaMAE paper, and of those that only DABS has.
FIELDS = {
    "speech": {"waveform": Continuous((1, None), 16_000.0)},
    "time-series": {"series": Continuous((52, 320))},
    "tabular": {"numeric": Continuous((28,))},
    "multispectral": {"image": Continuous((13, 64, 64))},
    "genomics": {"sequence": Discrete(250, 4)},
    "protein": {"sequence": Text()},
    "wafer": {"map": Continuous((1, None, None))},
    "image": {"image": Continuous((3, None, None))},
    "image-text": {"image": Continuous((3, None, None)), "caption": Text()},
    "medical-image": {"image": Continuous((1, None, None))},
    "text": {"text": Text()},
    "multilingual-text": {"text": Text()},
}
# By segment: number of tokens, numbers per token or size of the vocabulary (MetaMAE, Table 16).
SHAPES = {
    "speech": [(196, 256)], "time-series": [(64, 260)], "tabular": [(28, 1)], "multispectral": [(64, 832)],
    "genomics": [(250, 4)], "protein": [(128, 26)], "wafer": [(64, 48)], "image": [(64, 48)],
    "image-text": [(196, 768), (32, None)],
}  # fmt: skip
DABS_SHAPES = {
    "image": [(196, 768)],
    "medical-image": [(196, 768)],
    "text": [(128, None)],
    "multilingual-text": [(128, None)],
}
# Trainable parameters, in millions, counted on the published code.
TOTALS = {
    "time-series": 7.37, "tabular": 7.54, "multispectral": 7.59, "genomics": 7.04, "protein": 7.31, "speech": 7.37,
    "wafer": 7.56,
}  # fmt: skip
# Batches of pretraining and probe (Table 16).
BATCHES = {"time-series": (256, 256), "tabular": (256, 256), "genomics": (32, 64), "protein": (128, 128)}
TOKEN_MODALITIES = ("genomics", "protein", "image-text", "text", "multilingual-text")
SHARING = ("metamae-shared2", "metamae-shared3", "metamae-shared-modality")


@pytest.fixture(scope="module")
def catalogue() -> plugins.Catalogue:
    return plugins.load()


class StubDataset:
    """The attributes of a data set that a tokenizer reads."""

    def __init__(self, modality: str) -> None:
        self.fields = FIELDS[modality]


def config_of(catalogue, modality: str, objective: str = "metamae", preset: str | None = None, **more) -> RunConfig:
    if modality not in catalogue.tokenizers or all(of != modality for of, _ in catalogue.datasets):
        pytest.skip(f"modality '{modality}' is not installed")
    values = {"objective.name": objective, "modality": modality} | more
    return resolve(catalogue, values | ({} if preset is None else {"preset": preset}))[0]


def learner_of(catalogue, config: RunConfig) -> Learner:
    from ssl_core.config.resolve import plugins_of

    return build_learner(config, plugins_of(config, catalogue), StubDataset(config.modality).fields)


def shapes(learner: Learner) -> list[tuple[int, int]]:
    return [(segment.length, segment.size) for segment in learner.tokenizer.layout.segments]


def table_8_values(config: RunConfig) -> tuple:
    options = config.objective.options
    return (
        options["alpha"],
        options["contrast_weight"],
        options["depth"],
        config.encoder.dropout,
        config.masking.options["ratio"],
    )


def test_every_preset_resolves_to_options_that_exist(catalogue):
    for entry in catalogue.presets:
        preset = entry.value
        if preset.modality not in (None, *catalogue.tokenizers):
            continue  # presets for a modality that is blocked or not installed cannot be resolved
        objectives = [preset.objective] if preset.objective else ["metamae", "mae", "emix", "dabs-mae"]
        for objective in objectives:
            values = {"objective.name": objective, "modality": preset.modality or "speech"}
            values |= {"dataset.name": preset.dataset} if preset.dataset else {}
            values |= {} if preset.default else {"preset": preset.name}
            config, _ = resolve(catalogue, values)
            assert any(preset.source in source for source in config.preset_sources)


def test_table_8_is_complete():
    columns = Counter(row.column for row in metamae.TABLE_8.values())
    expected = ["PAMAP2", "HIGGS", "EuroSAT", "Genom", "Pfam", "Libri", "WaferMap", "ImageNet32", "MSCOCO"]
    assert columns == Counter(expected)
    ratios = {row.column: row.ratio for row in metamae.TABLE_8.values()}
    assert ratios["Pfam"] == ratios["WaferMap"] == 0.15
    assert ratios["HIGGS"] == ratios["Genom"] == ratios["MSCOCO"] == 0.5
    assert ratios["PAMAP2"] == ratios["EuroSAT"] == ratios["Libri"] == ratios["ImageNet32"] == 0.85


def test_metamae_on_speech_has_the_values_of_the_paper(catalogue):
    """Tables 7, 8 and 16 and appendix A, for LibriSpeech."""
    config = config_of(catalogue, "speech", preset="metamae")
    assert table_8_values(config) == (0.1, 1.0, 4, 0.0, 0.85)
    assert (config.train.steps, config.train.lr, config.train.batch_size) == (100_000, 1e-4, 64)
    assert (config.train.weight_decay, config.train.precision, config.train.schedule) == (1e-4, "fp32", "constant")
    encoder = config.encoder
    assert (encoder.dim, encoder.depth, encoder.heads, encoder.dropout) == (256, 12, 8, 0.0)
    assert (encoder.head_dim, encoder.positions, encoder.final_norm, encoder.pool) == (None, "sincos", True, "tokens")
    evaluate = config.evaluate
    assert (evaluate.linear, evaluate.epochs, evaluate.batch_size) == ("adam", 100, 64)
    assert learner_of(catalogue, config).tokenizer.layout.segments[0].grid == (14, 14)
    assert any("Table 8, column Libri" in source for source in config.preset_sources)


@pytest.mark.parametrize("modality", sorted(SHAPES))
def test_shapes_batches_and_parameter_counts_of_metamae(catalogue, modality):
    """The number of parameters equals that of the published encoder, decoder and projector."""
    config = config_of(catalogue, modality, preset="metamae")
    learner = learner_of(catalogue, config)
    for (length, size), (expected_length, expected_size) in zip(shapes(learner), SHAPES[modality], strict=True):
        assert (length, size if expected_size else None) == (expected_length, expected_size)
    assert (config.train.batch_size, config.evaluate.batch_size) == BATCHES.get(
        modality, (128, 128) if modality == "wafer" else (64, 64)
    )
    if modality in TOTALS:
        total = sum(learner.parameter_counts().values())
        assert total / 1e6 == pytest.approx(TOTALS[modality], abs=0.006)


def test_table_8_applies_automatically_and_can_be_disabled(catalogue):
    assert table_8_values(config_of(catalogue, "speech")) == (0.1, 1.0, 4, 0.0, 0.85)
    config = config_of(catalogue, "speech", preset="none")
    assert config.preset_sources == ()
    assert config.objective.options["alpha"] == 0.5  # the class's own default


def test_mae_takes_the_rows_of_table_8_that_concern_it(catalogue):
    config = config_of(catalogue, "time-series", "mae")
    assert (config.objective.options["depth"], config.encoder.dropout) == (4, 0.1)
    assert config.masking.options["ratio"] == 0.85
    assert "alpha" not in config.objective.options


@pytest.mark.parametrize(
    ("preset", "modality", "expected"),
    [
        ("metamae-shared2", "tabular", (0.5, 0.1, 6, 0.1, 0.5)),  # Table 9: depth is that of Table 8
        ("metamae-shared3", "tabular", (0.5, 0.1, 4, 0.1, 0.5)),
        ("metamae-shared3", "speech", (0.5, 0.1, 4, 0.0, 0.85)),
        ("metamae-shared-modality", "protein", (0.1, 0.01, 2, 0.0, 0.15)),  # Table 10, tokens
        ("metamae-shared-modality", "genomics", (0.1, 0.01, 2, 0.0, 0.5)),
        ("metamae-shared-modality", "wafer", (0.1, 0.1, 4, 0.0, 0.15)),  # Table 10, RGB
    ],
)
def test_shared_values_are_those_of_tables_9_and_10(catalogue, preset, modality, expected):
    config = config_of(catalogue, modality, preset=preset)
    assert table_8_values(config) == expected
    paper = config_of(catalogue, modality, preset="metamae")
    for part in ("train", "evaluate", "tokenizer"):
        assert getattr(config, part) == getattr(paper, part)
    assert config.masking == paper.masking


def test_sharing_within_tokens_equals_table_8_for_genomics(catalogue):
    """Table 10 reports 69.4 for both, since the shared values are those of Genomics."""
    shared = config_of(catalogue, "genomics", preset="metamae-shared-modality")
    assert table_8_values(shared) == table_8_values(config_of(catalogue, "genomics", preset="metamae"))


def test_sharing_presets_are_refused_outside_their_tables(catalogue):
    with pytest.raises(ConfigError, match="'metamae-shared-modality' has nothing for objective 'metamae'"):
        config_of(catalogue, "speech", preset="metamae-shared-modality")
    with pytest.raises(ConfigError, match="'metamae-shared2' has nothing for objective 'mae'"):
        config_of(catalogue, "speech", "mae", preset="metamae-shared2")


def test_parameter_count_of_the_dabs_encoder(catalogue):
    """788,480 parameters a block, 9,461,760 in 12 blocks; a learned position for each token and the cls token."""
    config = config_of(catalogue, "speech", "shed", preset="dabs")
    encoder = learner_of(catalogue, config).encoder
    blocks = [sum(p.numel() for p in block.parameters()) for block in encoder.transformer.blocks]
    assert blocks == [788_480] * 12
    assert sum(blocks) == 9_461_760
    rest = sum(p.numel() for p in encoder.parameters()) - sum(blocks)
    assert rest == (1 + 196) * 256 + 256  # no final norm
    assert (config.encoder.pool, config.encoder.dropout) == ("all", 0.1)


@pytest.mark.parametrize("objective", ["emix", "shed", "capri", "dabs-mae"])
def test_training_and_probe_of_dabs(catalogue, objective):
    config = config_of(catalogue, "speech", objective, preset="dabs")
    train, evaluate = config.train, config.evaluate
    assert (train.steps, train.lr, train.weight_decay, train.batch_size) == (100_000, 1e-4, 1e-4, 64)
    assert (train.schedule, train.warmup_steps, train.grad_clip) == ("constant", 0, 0.0)
    assert (evaluate.linear, evaluate.epochs, evaluate.lr, evaluate.weight_decay) == ("adamw", 100, 1e-4, 1e-4)


def test_options_of_the_dabs_objectives(catalogue):
    """The preset follows slips of the published code that are not the defaults of the objectives."""

    def changed_options(objective):
        config = config_of(catalogue, "speech", objective, preset="dabs")
        default = config_of(catalogue, "speech", objective)
        changed = {k: v for k, v in config.objective.options.items() if default.objective.options[k] != v}
        return changed, config.masking and config.masking.options["ratio"]

    assert changed_options("emix") == ({"coefficient": "batch-mean"}, None)
    assert changed_options("shed") == ({}, None)
    assert changed_options("capri") == ({"positions": "all", "direction": "predictions", "normalise": False}, 0.15)
    assert changed_options("dabs-mae") == ({}, 0.15)


def test_dabs_applies_to_any_objective(catalogue):
    """The encoder is that of DABS, and Table 8 applies beneath."""
    config = config_of(catalogue, "speech", "metamae", preset="dabs")
    assert config.encoder.head_dim == 64
    assert table_8_values(config) == (0.1, 1.0, 4, 0.1, 0.85)


@pytest.mark.parametrize("modality", sorted(dabs.MODALITIES))
def test_shapes_and_batches_of_dabs(catalogue, modality):
    config = config_of(catalogue, modality, "shed", preset="dabs")
    learner = learner_of(catalogue, config)
    expected = (SHAPES | DABS_SHAPES)[modality]
    for (length, size), (expected_length, expected_size) in zip(shapes(learner), expected, strict=True):
        assert (length, size if expected_size else None) == (expected_length, expected_size)
    paper = metamae.TABLE_8.get((modality, None))
    if paper is not None:  # both have the same batches
        assert (config.train.batch_size, config.evaluate.batch_size) == (paper.batch, paper.probe_batch)


# Tokenizer options other than shapes: padding counts as data, and nothing but speech and EuroSAT is normalised.
SPECTROGRAM = {
    "n_mels": 224, "frames": 224, "samples": 150_526, "hop": 672, "n_fft": 2048, "win_length": 2048, "square": True,
    "top_db": 80.0, "ref": "absolute", "padding": "content", "crop": "start", "amin": 1e-10, "power": 2.0, "fmin": 0.0,
    "fmax": None, "fill": "zeros", "place": "start", "band_norm": "none",
}  # fmt: skip
TOKENIZER_OPTIONS = {
    "speech": SPECTROGRAM, "time-series": {"normalise": "none"}, "tabular": {"normalise": "none", "weights": "shared"},
    "image": {"normalise": "none"}, "wafer": {"normalise": "none", "channels": 3}, "protein": {"mask_padding": False},
    "image-text": {"normalise": "none", "mask_padding": False},
}  # fmt: skip
DABS_TOKENIZER_OPTIONS = TOKENIZER_OPTIONS | {
    "medical-image": {"normalise": "none", "channels": 3}, "text": {"mask_padding": False},
    "multilingual-text": {"mask_padding": False},
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "modality", "expected"),
    [("metamae", *one) for one in TOKENIZER_OPTIONS.items()]
    + [("dabs", *one) for one in DABS_TOKENIZER_OPTIONS.items()],
)
def test_tokenizer_options_are_the_published_ones(catalogue, preset, modality, expected):
    options = config_of(catalogue, modality, preset=preset).tokenizer.options
    assert {key: options[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("preset", "modality"),
    [
        *((preset, modality) for preset in ("dabs", "metamae") for modality in TOKEN_MODALITIES),
        *((preset, modality) for preset in SHARING for modality in ("genomics", "protein")),
    ],
)
def test_initial_embeddings_are_the_published_ones(catalogue, preset, modality):
    """DABS: N(0, 1). MetaMAE: Xavier uniform, bounded by sqrt(6 / (entries + width)), deviation bound / sqrt(3)."""
    torch.manual_seed(0)
    learner = learner_of(catalogue, config_of(catalogue, modality, preset=preset))
    (table,) = [value for name, value in learner.tokenizer.named_parameters() if name.rpartition(".")[2] == "table"]
    bound = (6 / sum(table.shape)) ** 0.5
    if preset == "dabs":
        assert table.std().item() == pytest.approx(1.0, rel=0.08)
    else:
        assert table.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert table.abs().max().item() <= bound


def test_initial_embeddings_without_a_preset_have_the_default_deviation(catalogue):
    torch.manual_seed(0)
    tokenizer = learner_of(catalogue, config_of(catalogue, "protein")).tokenizer
    assert tokenizer.table.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize(("modality", "batch"), [("text", 128), ("multilingual-text", 128), ("medical-image", 64)])
def test_batches_of_modalities_that_only_dabs_has(catalogue, modality, batch):
    config = config_of(catalogue, modality, "shed", preset="dabs")
    assert (config.train.batch_size, config.evaluate.batch_size) == (batch, batch)


FLUENT = (-31.809, 13.127)
SPEECH_CONSTANTS = {  # mean and standard deviation, copied from the published code
    "librispeech": (-22.924, 12.587), "librispeech_transfer": (-22.924, 12.587), "audio_mnist": (-90.293, 11.799),
    "fluent_speech_location": FLUENT, "fluent_speech_action": FLUENT, "fluent_speech_object": FLUENT,
    "google_speech": (-46.847, 19.151), "voxceleb1": (-37.075, 19.776),
}  # fmt: skip
PRESETS = ["dabs", "metamae", "metamae-shared2", "metamae-shared3"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("dataset", "expected"), SPEECH_CONSTANTS.items())
def test_speech_is_normalised_by_the_published_constants(catalogue, preset, dataset, expected):
    options = config_of(catalogue, "speech", preset=preset, **{"dataset.name": dataset}).tokenizer.options
    assert (options["normalise"], options["mean"], options["std"]) == ("given", [expected[0]], [expected[1]])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dataset", ["eurosat", "eurosat_transfer"])
def test_each_band_of_eurosat_is_normalised_by_the_published_constants(catalogue, preset, dataset):
    options = config_of(catalogue, "multispectral", preset=preset, **{"dataset.name": dataset}).tokenizer.options
    assert options["normalise"] == "given"
    assert options["mean"] == [
        1354.3003, 1117.7579, 1042.2800, 947.6443, 1199.6334, 2001.9829, 2372.5579, 2299.6663, 731.0175, 12.0956,
        1822.4083, 1119.5759, 2598.4456,
    ]  # fmt: skip
    assert options["std"] == [
        244.0469, 323.4128, 385.0928, 584.1638, 566.0543, 858.5753, 1083.6704, 1103.0342, 402.9594, 4.7207, 1002.4071,
        759.6080, 1228.4104,
    ]  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("modality", ["speech", "multispectral"])
def test_other_data_is_normalised_by_measured_constants(catalogue, preset, modality):
    """The published constants apply to the published sets only."""
    options = config_of(catalogue, modality, preset=preset).tokenizer.options
    assert (options["normalise"], options["mean"]) == ("measured", [])


@pytest.mark.parametrize("preset", PRESETS)
def test_part_of_a_long_clip_is_random_but_for_transfer_to_librispeech(catalogue, preset):
    """There MetaMAE's code takes the first part (docs/methods/protocol-differences.md)."""
    random = (150_526, "random")
    for dataset, expected in (
        ("librispeech", random), ("voxceleb1", random), ("google_speech", random),
        ("librispeech_transfer", (None, "start")),
    ):  # fmt: skip
        options = config_of(catalogue, "speech", preset=preset, **{"dataset.name": dataset}).dataset.options
        assert (options["longest"], options["side"]) == expected


def test_batches_of_the_probe_by_data_set(catalogue):
    """32 for Genomics-OOD (MetaMAE, Table 16); 512 in DABS and 128 in MetaMAE for Fluorescence."""
    for preset, modality, dataset, expected in (
        ("metamae", "genomics", "genomics_transfer_ood", 32),
        ("metamae-shared-modality", "genomics", "genomics_transfer_ood", 32),
        ("metamae", "genomics", "genomics_transfer_id", 64),
        ("dabs", "genomics", "genomics_transfer_ood", 32),
        ("dabs", "protein", "fluorescence", 512),
        ("metamae", "protein", "fluorescence", 128),
        ("dabs", "protein", "stability", 128),
    ):
        config = config_of(catalogue, modality, preset=preset, **{"dataset.name": dataset})
        assert config.evaluate.batch_size == expected


def test_subjects_and_activities_of_pamap2(catalogue):
    """DABS and MetaMAE differ (docs/methods/protocol-differences.md)."""
    for preset, dataset, modality, expected in (
        ("dabs", "pamap2", "time-series", ([5], "dabs")),
        ("dabs", "pamap2_spectrogram", "multispectral", ([5], "dabs")),
        ("metamae", "pamap2", "time-series", ([5, 6], "all")),
    ):
        options = config_of(catalogue, modality, preset=preset, **{"dataset.name": dataset}).dataset.options
        assert (options["test_subjects"], options["activities"]) == expected


def test_small_images_of_dabs_are_small_in_transfer_too(catalogue):
    for dataset, expected in (("dtd_small", (32, 4, 256)), ("cifar10_small", (32, 4, 256)), ("dtd", (224, 16, 64))):
        config = config_of(catalogue, "image", preset="dabs", **{"dataset.name": dataset})
        options = config.tokenizer.options
        assert (options["size"], options["patch"], config.evaluate.batch_size) == expected


def test_row_of_a_data_set_overrides_the_row_of_its_modality(catalogue, monkeypatch):
    """In `metamae-table8` and in `metamae`."""
    row = metamae.Row("Own", 0.25, 0.75, 2, 0.05, 0.4, 8, 16)
    monkeypatch.setitem(metamae.TABLE_8, ("speech", "synthetic"), row)
    own = plugins.Catalogue.from_plugins({"own:presets": metamae})
    monkeypatch.setattr(catalogue, "presets", own.presets)
    for preset in (None, "metamae"):
        config = config_of(catalogue, "speech", preset=preset)
        assert table_8_values(config) == (0.25, 0.75, 2, 0.05, 0.4)
    assert (config.train.batch_size, config.evaluate.batch_size) == (8, 16)
    assert table_8_values(config_of(catalogue, "speech", **{"dataset.name": "librispeech"})) == (0.1, 1.0, 4, 0.0, 0.85)
