"""README.md of a Hugging Face folder: a model card written from what the encoder keeps of its run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.fields import describe_field
from ssl_core.runs.saved import origins_of_parts
from ssl_core.tokenizers import GridTokenizer

LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"
FEATURE_COLUMNS = {"trained": "this encoder", "random_init": "random weights", "raw_input": "raw input"}
POOLS = {"tokens": "[:, 1:].mean(dim=1)", "all": ".mean(dim=1)", "cls": "[:, 0]"}


def model_card(encoder: PretrainedEncoder, why_no_vit: str | None) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        encoder: the encoder.
        why_no_vit: why transformers cannot open it, in words; None if it can.
    """
    config = encoder.config
    parts = [
        _front_matter(encoder, why_no_vit is None),
        f"# {_words(config.modality).capitalize()} encoder, self-supervised by {_text(config.objective.name)}",
        _what_it_is(encoder),
        "## Use\n\n```python\nimport sslx  # pip install sslx\n\nencoder = sslx.load(FOLDER)\n"
        "features = encoder.embed(x)  # n raw samples to (n, " + str(encoder.dim) + ")\n```\n\n"
        "`FOLDER` is this folder, or what `huggingface_hub.snapshot_download(REPOSITORY)` returns. `encoder` is a\n"
        "`torch.nn.Module`: it trains in any loop. A raw sample holds:\n\n" + _fields(encoder),
        _transformers(encoder, why_no_vit),
        _data(encoder),
        _training(encoder),
        _evaluation(encoder),
        "## To be written by the author\n\nTODO: the licence (also in the first lines of this file), what the encoder\n"
        "is meant for and not meant for, where its training data come from and who is in them, and a contact.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(encoder: PretrainedEncoder, is_vit: bool) -> str:
    config = encoder.config
    tags = ["self-supervised-learning", config.objective.name, config.modality, *(["vit"] if is_vit else [])]
    images = config.modality in ("image", "medical-image", "multispectral", "wafer")
    lines = [
        f"license: TODO  # an identifier of {LICENCES}",
        f"library_name: {'transformers' if is_vit else 'sslx'}",
        f"pipeline_tag: {'image-feature-extraction' if images else 'feature-extraction'}",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
    ]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(encoder: PretrainedEncoder) -> str:
    count = sum(parameter.numel() for parameter in encoder.parameters())
    options = encoder.config.encoder.options
    blocks = f", {options['depth']} blocks, {options['heads']} heads" if {"depth", "heads"} <= options.keys() else ""
    layout = " + ".join(
        f"{one.length} tokens of '{_text(one.name)}' ({' x '.join(map(str, one.grid))})"
        for one in encoder.tokenizer.layout.segments
    )
    return (
        f"Turns a sample into {encoder.dim} numbers, without labels having been used to train it. Network:\n"
        f"{_text(encoder.config.encoder.name)}, width {encoder.dim}{blocks}, {count:,} parameters. Input: {layout}."
    )


def _fields(encoder: PretrainedEncoder) -> str:
    return "\n".join(f"- `{name}`: {describe_field(field)}" for name, field in encoder.fields.items())


def _transformers(encoder: PretrainedEncoder, why_no_vit: str | None) -> str:
    if why_no_vit is not None:
        return (
            f"## With transformers\n\n`AutoModel` cannot open this folder: the encoder is no `ViTModel`, because "
            f"{why_no_vit}.\nThe loader above gives the features."
        )
    tokenizer = encoder.tokenizer
    assert isinstance(tokenizer, GridTokenizer)
    pool = encoder.encoder.options.pool
    mean = "" if pool == "cls" else " `ViTModel` itself has no mean over tokens: the line above takes it."
    size = f"(n, {tokenizer.channels}, {tokenizer.shape[0]}, {tokenizer.shape[1]})"
    return (
        "## With transformers\n\n```python\nimport torch\nfrom transformers import AutoModel\n\n"
        "model = AutoModel.from_pretrained(FOLDER).eval()\n"
        f"mean = torch.tensor({_numbers(tokenizer.mean)}).view(-1, 1, 1)\n"
        f"std = torch.tensor({_numbers(tokenizer.std)}).view(-1, 1, 1)\n"
        f"pixel_values = (x * {tokenizer.unit!r} - mean) / std\n"
        f"features = model(pixel_values).last_hidden_state{POOLS[pool]}\n```\n\n"
        f"`x` is {size} in the form that preprocessing.json describes; `encoder.preprocess` of the loader above makes\n"
        f"it of raw samples.{mean} `pooler_output` is the cls token."
    )


def _data(encoder: PretrainedEncoder) -> str:
    evaluation, dataset = encoder.provenance.evaluation, encoder.config.dataset.name
    names = {"files": "files of the author's own", "memory": "arrays of the author's own"}
    samples = ", ".join(f"{count:,} {split}" for split, count in evaluation.get("samples", {}).items())
    lines = [f"Data set: {names.get(dataset, _text(f'{encoder.config.modality}/{dataset}'))}."]
    if samples:
        lines.append(f"Samples: {samples}.")
    return "## Training data\n\n" + " ".join(lines)


def _training(encoder: PretrainedEncoder) -> str:
    config, origin = encoder.config, encoder.provenance
    evaluation = origin.evaluation
    rows = {
        "objective": config.objective.name,
        "masking": ", ".join(part.name for part in config.maskings.values()),
        "steps": f"{origin.steps:,} of {config.train.steps:,}",
        "batch size": str(config.train.batch_size),
        "learning rate": f"{config.train.lr:g}",
        "seed": str(config.seed),
        "presets": "; ".join(config.preset_sources),
        "hardware": str(evaluation.get("device", "")),
        "precision": str(evaluation.get("precision", "")),
        "training time": f"{evaluation['pretrain_seconds']:,.0f} s" if "pretrain_seconds" in evaluation else "",
        "versions": ", ".join(f"{name} {value}" for name, value in origin.versions.items() if name != "platform"),
        "plugins": ", ".join(where for kind in origins_of_parts(encoder).values() for where in kind.values()),
    }
    body = [(name, value) for name, value in rows.items() if value]
    return "## Training\n\n" + _table(("", ""), body) + "\n\nAll options are in sslx.json."


def _evaluation(encoder: PretrainedEncoder) -> str:
    evaluation = encoder.provenance.evaluation
    scores = [score for score in evaluation.get("scores", []) if score["value"] is not None]
    if not scores:
        return "## Evaluation\n\nThe features were not evaluated."
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for score in scores:
        key = tuple(str(score[name]) for name in ("dataset", "task", "probe", "metric"))
        error = "" if score.get("standard_error") is None else f" ± {score['standard_error']:.3f}"
        found.setdefault(key, {})[score["features"]] = f"{score['value']:.3f}{error}"
    header = ("data", "task", "probe", "metric", *FEATURE_COLUMNS.values())
    rows = [
        (*key, *(values.get(kind, "-") for kind in FEATURE_COLUMNS))
        for key, values in found.items()
        if values.keys() & FEATURE_COLUMNS.keys()  # a classical baseline has none of them
    ]
    return (
        f"## Evaluation\n\nProbes of frozen features on the {evaluation['split']} split, beside the same network with\n"
        f"random weights and the raw input; one seed, ± standard error over samples.\n\n" + _table(header, rows)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(value: str) -> str:
    """Words of the user in Markdown: nothing of it is markup."""
    line = " ".join(str(value).split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in line)


def _words(name: str) -> str:
    return _text(name.replace("-", " "))


def _numbers(values: Any) -> str:
    return "[" + ", ".join(repr(value) for value in values.tolist()) + "]"


def generic_config(encoder: PretrainedEncoder) -> Mapping[str, Any]:
    """config.json of an encoder that transformers does not know: what the hub shows and counts downloads by."""
    options = encoder.config.encoder.options
    known: dict[str, Any] = {name: options[name] for name in ("depth", "heads", "mlp_ratio") if name in options}
    return {
        "model_type": "sslx", "library_name": "sslx", "modality": encoder.config.modality,
        "objective": encoder.config.objective.name, "hidden_size": encoder.dim, **known, "dtype": "float32",
    }  # fmt: skip
