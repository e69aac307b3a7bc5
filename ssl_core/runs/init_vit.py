"""Vision transformers of timm and transformers as `TransformerEncoder` with a tokenizer of images, from local files.

Both store a plain pre-norm ViT: patches by a convolution, a cls token, learned positions for cls token and patches,
blocks (LayerNorm, attention with biases, LayerNorm, GELU MLP), a final LayerNorm. What the formats do not say (heads,
epsilon) comes from config.json or is assumed, and said.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssl_core.config.schema import Part
from ssl_core.data import Continuous
from ssl_core.errors import CheckpointError
from ssl_core.plugins import Catalogue
from ssl_core.runs.init import InitSource, SourceKind

CONFIG = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
INDEX = "model.safetensors.index.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CONTAINERS = ("model", "state_dict", "model_state_dict")
"""Keys of files that hold more than weights."""
PREFIXES = ("module.", "backbone.", "model.", "vit.")
TYPES = ("vit", "vit_mae", "vit_msn", "ijepa")
HEAD_DIM = 64
"""Width of a head in all ViTs of Dosovitskiy et al. (2021) but the largest."""
HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Heads of ViT-H, g and G (Zhai et al., 2022), by width."""
TIMM_EPS, TRANSFORMERS_EPS = 1e-6, 1e-12
NO_EPS = "the file does not say the epsilon of its norms: {:g}, unless encoder.norm_eps is set"
NO_ARGUMENTS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Arguments of timm's `create_model` that read or fetch files; a config.json must not set them."""
IGNORED = re.compile(r"(head|head_dist|fc|pooler|classifier|decoder|lm_head)\.|(embeddings\.)?mask_token|decoder_")
"""Tensors that no feature depends on."""
UNSUPPORTED = {
    "norm_pre.": "a norm before the first block", "reg_token": "register tokens", "dist_token": "a distillation token",
    "attn.q_norm.": "norms of queries and keys", "attn.norm.": "a norm in the attention",
    "patch_embed.norm.": "a norm of the patches", "mlp.norm.": "a norm in the MLP", "mlp.w12.": "a gated MLP",
    "rel_pos": "relative positions", "attn_pool.": "attention pooling", "gamma_1": "LayerScale of BEiT",
    "distillation_token": "a distillation token",
}  # fmt: skip
ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_tanh": "gelu_tanh",
}  # fmt: skip


@dataclass
class VitWeights:
    """A ViT in the names of `TransformerEncoder`.

    encoder, tokenizer: tensors by name. options: those of encoder and tokenizer, by dotted path. assumed: options of
    the encoder that are not known. notes: what was assumed or left out.
    """

    encoder: dict[str, Tensor] = field(default_factory=dict)
    tokenizer: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_vit(path: Path) -> bool:
    """Whether a path is a file of weights, or a folder with one and a config.json of timm or transformers."""
    if path.is_file():
        return path.suffix in SUFFIXES
    about = _read_config(path)
    return "model_type" in about or "architecture" in about


def read_vit(path: Path, catalogue: Catalogue) -> InitSource:
    """A ViT as an encoder with a tokenizer of images.

    Args:
        path: a folder with config.json and weights, or a file of weights.
        catalogue: the installed plugins; those called "image" and "transformer" are used.

    Raises:
        CheckpointError: it cannot be read, or is no plain ViT.
        ConfigError: the plugins are missing.
    """
    folder = path if path.is_dir() else path.parent
    about = _read_config(path) if path.is_dir() else {}
    kind: SourceKind = "transformers" if "model_type" in about else "timm"
    if kind == "transformers" and about["model_type"] not in TYPES:
        raise CheckpointError(
            f"{path} holds a model of the type '{about['model_type']}'; a run can start from {', '.join(TYPES[:2])}"
        )
    tensors = _without_prefix(_read_weights(path))
    if "embeddings.patch_embeddings.projection.weight" in tensors:
        kind, weights = "transformers", _from_transformers(tensors, about, path)
    elif "patch_embed.proj.weight" in tensors:
        kind, weights = "timm", _from_timm(tensors, about, path)
    else:
        raise CheckpointError(
            f"{path} holds no ViT in the names of timm (patch_embed.proj.weight) or transformers "
            f"(embeddings.patch_embeddings.projection.weight); its first tensor is '{next(iter(tensors), '')}'"
        )
    weights.options |= _constants(folder if path.is_dir() else None, about)
    return _build(path, kind, weights, catalogue)


def _build(path: Path, kind: SourceKind, weights: VitWeights, catalogue: Catalogue) -> InitSource:
    """The modules with the weights."""
    tokenizer_class, encoder_class = catalogue.tokenizer("image"), catalogue.encoder("transformer")
    own = {
        section: {key.partition(".")[2]: v for key, v in weights.options.items() if key.startswith(f"{section}.")}
        for section in ("tokenizer", "encoder")
    }
    fields = {"image": Continuous((own["tokenizer"]["channels"], *own["tokenizer"]["size"]))}
    tokenizer_options = tokenizer_class.Options(**own["tokenizer"])
    encoder_options = encoder_class.Options(**own["encoder"])
    with torch.random.fork_rng(devices=[]):
        tokenizer = tokenizer_class(tokenizer_options, fields, own["encoder"]["dim"])
        encoder = encoder_class(encoder_options, tokenizer.layout)
    for module, tensors in ((tokenizer, weights.tokenizer), (encoder, weights.encoder)):
        state = module.state_dict()
        wrong = [n for n in tensors if n not in state or state[n].shape != tensors[n].shape]
        wrong += [n for n in state if n not in tensors and n not in ("mean", "std")]
        if wrong:
            shape = tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else "absent"
            raise CheckpointError(f"{path} is no plain ViT: '{wrong[0]}' is {shape}; start from another")
        module.load_state_dict({**state, **tensors})
    parts = (
        Part(name="image", **tokenizer_options.model_dump(mode="json")),
        Part(name="transformer", **encoder_options.model_dump(mode="json")),
    )
    options = {"modality": "image", "tokenizer.name": "image", "encoder.name": "transformer"}
    return InitSource(
        path, kind, tokenizer.eval(), encoder.eval(), *parts, fields, {**options, **weights.options},
        notes=tuple(weights.notes), assumed=frozenset(weights.assumed),
        has_constants="tokenizer.normalise" in weights.options,
    )  # fmt: skip


# --- formats ---------------------------------------------------------------------------------------------------------


def _from_timm(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> VitWeights:
    """A VisionTransformer of timm; MAE's, DINO's and DeiT's published files have the same names."""
    _refuse(tensors, path)
    out = VitWeights()
    depth = _depth(tensors, r"blocks\.(\d+)\.", path)
    for number in range(depth):
        block = f"blocks.{number}."
        for name, value in tensors.items():
            if name.startswith(block):
                rest = name.removeprefix(block).replace("ls1.", "scale1.").replace("ls2.", "scale2.")
                out.encoder[f"transformer.{block}{rest}"] = value
    _common(out, tensors, "patch_embed.proj", "cls_token", "pos_embed", path)
    final = "norm.weight" in tensors
    if final:
        out.encoder |= {f"transformer.norm.{part}": tensors[f"norm.{part}"] for part in ("weight", "bias")}
    elif "fc_norm.weight" in tensors:
        out.notes.append("fc_norm, a norm of the pooled features, is left out: tokens have no final norm")
    if "blocks.0.mlp.fc1.weight" not in tensors:
        raise CheckpointError(f"{path} has no 'blocks.0.mlp.fc1.weight' and so no plain MLP; start from another ViT")
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    heads, eps, act = _timm_model(about, out)
    scale = tensors.get("blocks.0.ls1.gamma")
    _form(
        out, depth=depth, hidden=hidden, heads=heads, norm_eps=eps, act=act, final_norm=final,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors, layer_scale=None if scale is None else 1e-5,
    )  # fmt: skip
    return out


def _from_transformers(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> VitWeights:
    """A ViTModel of transformers, in the names of its files (encoder.layer.N) or of version 5 in memory (layers.N)."""
    _refuse(tensors, path)
    out = VitWeights()
    new = any(name.startswith("layers.") for name in tensors)
    stem = "layers" if new else "encoder.layer"
    depth = _depth(tensors, rf"{re.escape(stem)}\.(\d+)\.", path)
    qkv = ("attention.q_proj", "attention.k_proj", "attention.v_proj") if new else tuple(
        f"attention.attention.{part}" for part in ("query", "key", "value")
    )  # fmt: skip
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj" if new else "attention.output.dense",
        "mlp.fc1": "mlp.fc1" if new else "intermediate.dense", "mlp.fc2": "mlp.fc2" if new else "output.dense",
    }  # fmt: skip
    bias = f"{stem}.0.{qkv[0]}.bias" in tensors
    try:
        for number in range(depth):
            block, own = f"{stem}.{number}.", f"transformer.blocks.{number}."
            for part in ("weight", "bias") if bias else ("weight",):
                out.encoder[f"{own}attn.qkv.{part}"] = torch.cat([tensors[f"{block}{name}.{part}"] for name in qkv])
            for target, origin in names.items():
                for part in ("weight", "bias"):
                    out.encoder[f"{own}{target}.{part}"] = tensors[f"{block}{origin}.{part}"]
        _common(
            out, tensors, "embeddings.patch_embeddings.projection", "embeddings.cls_token",
            "embeddings.position_embeddings", path,
        )  # fmt: skip
        out.encoder |= {f"transformer.norm.{part}": tensors[f"layernorm.{part}"] for part in ("weight", "bias")}
        hidden = tensors[f"{stem}.0.{names['mlp.fc1']}.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{path} is no plain ViT: it has no tensor {error}; start from another") from None
    if not about:
        out.notes.append(NO_EPS.format(TRANSFORMERS_EPS))
    _form(
        out, depth=depth, hidden=hidden, heads=about.get("num_attention_heads"),
        norm_eps=about.get("layer_norm_eps", TRANSFORMERS_EPS), act=about.get("hidden_act", "gelu"), final_norm=True,
        qkv_bias=bias, layer_scale=None,
    )  # fmt: skip
    if about.get("model_type") == "vit":
        out.options["encoder.pool"] = "cls"
    return out


def _common(
    out: VitWeights, tensors: Mapping[str, Tensor], patches: str, cls: str, positions: str, path: Path
) -> None:  # fmt: skip
    """Patch embedding, cls token and positions, and the options that follow from their shapes."""
    missing = next((n for n in (f"{patches}.weight", f"{patches}.bias", cls, positions) if n not in tensors), None)
    if missing is not None:
        raise CheckpointError(f"{path} has no '{missing}', which encoder 'transformer' needs; start from another ViT")
    kernel, table = tensors[f"{patches}.weight"], tensors[positions][0]
    dim, channels, *patch = kernel.shape
    if len(patch) != 2:
        raise CheckpointError(f"{path} has patches of {len(patch)} axes; a run can start from a ViT of images, with 2")
    # a patch here is row-major with the channel last, a convolution's kernel has the channel first
    out.tokenizer = {
        "embed.weight": kernel.permute(0, 2, 3, 1).reshape(dim, -1).contiguous(),
        "embed.bias": tensors[f"{patches}.bias"],
    }
    side = math.isqrt(len(table))
    if side * side == len(table) and side > 1:  # no position of the cls token
        table = torch.cat([torch.zeros_like(table[:1]), table])
    elif side * side != len(table) - 1:
        raise CheckpointError(
            f"{path} has positions for {len(table) - 1} patches, which are no square; start from a ViT of square images"
        )
    out.encoder["cls_token"], out.encoder["positions.table"] = tensors[cls].reshape(dim), table
    out.options |= {
        "tokenizer.size": [side * patch[0], side * patch[1]], "tokenizer.patch": list(patch),
        "tokenizer.channels": channels, "encoder.dim": dim, "encoder.positions": "learned", "encoder.head_dim": None,
    }  # fmt: skip


def _form(
    out: VitWeights, *, depth: int, hidden: int, heads: int | None, norm_eps: float, act: str, final_norm: bool,
    qkv_bias: bool, layer_scale: float | None,
) -> None:  # fmt: skip
    """The options of the blocks."""
    dim = out.options["encoder.dim"]
    if heads is None:
        heads = HEADS.get(dim, max(1, dim // HEAD_DIM))
        out.assumed.append("heads")
        out.notes.append(f"the file does not say the number of heads: {heads}, unless encoder.heads is set")
    if act not in ACTIVATIONS:
        raise CheckpointError(
            f"its activation '{act}' is none of encoder.act (gelu, gelu_tanh); start from another ViT"
        )
    ratio = hidden / dim
    out.options |= {
        "encoder.depth": depth, "encoder.heads": heads, "encoder.norm_eps": norm_eps, "encoder.act": ACTIVATIONS[act],
        "encoder.mlp_ratio": ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim,
        "encoder.final_norm": final_norm, "encoder.qkv_bias": qkv_bias, "encoder.layer_scale": layer_scale,
    }  # fmt: skip


def _timm_model(about: Mapping[str, Any], out: VitWeights) -> tuple[int | None, float, str]:
    """Heads, epsilon and activation of the architecture that timm's config.json names, or what is assumed without."""
    name = about.get("architecture")
    if name is None:
        out.notes.append(NO_EPS.format(TIMM_EPS))
        return None, TIMM_EPS, "gelu"
    import timm

    args = {key: value for key, value in (about.get("model_args") or {}).items() if key not in NO_ARGUMENTS}
    try:
        if not timm.is_model(name):  # create_model would look for it on the Hub
            raise RuntimeError("unknown")
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, **{**args, "num_classes": 0})
        block: Any = model.get_submodule("blocks.0")
        pool, act = str(model.global_pool), block.mlp.act
        heads, eps, kind = int(block.attn.num_heads), float(block.norm1.eps), type(act).__name__
        tanh = getattr(act, "approximate", "none") == "tanh" or kind == "GELUTanh"
        out.options["encoder.pool"] = "cls" if pool == "token" else "tokens"
        return heads, eps, ("gelu_tanh" if tanh else "gelu") if kind.startswith("GELU") else kind
    except (RuntimeError, AttributeError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"timm's architecture '{name}' cannot be used ({' '.join(str(error).split())[:200]}); give the file of "
            f"weights alone, with encoder.heads and encoder.norm_eps"
        ) from None


def _constants(folder: Path | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and deviation of the channels, as the model's preprocessing has them; empty if it is not known."""
    entries = about.get("pretrained_cfg") or {}
    mean, std = entries.get("mean"), entries.get("std")
    if folder is not None and mean is None:
        entries = _read_json(folder / "preprocessor_config.json")
        mean, std = entries.get("image_mean"), entries.get("image_std")
        if entries.get("do_normalize") is False:
            mean = std = None
    if not mean or not std:
        return {}
    return {"tokenizer.normalise": "given", "tokenizer.mean": list(mean), "tokenizer.std": list(std)}


# --- files -----------------------------------------------------------------------------------------------------------


def _read_config(path: Path) -> dict[str, Any]:
    return _read_json(path / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none, or if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the files of a folder, as float32.

    Raises:
        CheckpointError: there is none, it is damaged, or holds more than tensors.
    """
    files = [path]
    if path.is_dir():
        shards = sorted(set(_read_json(path / INDEX).get("weight_map", {}).values()))
        names = [Path(name).name for name in shards] or [name for name in FILES if (path / name).is_file()][:1]
        files = [path / name for name in names]
    if not files:
        raise CheckpointError(f"{path} holds no weights ({', '.join(FILES[:2])}); put the file beside {CONFIG}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_file(file)
    return {name: value.float() for name, value in tensors.items() if value.is_floating_point()}


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; put it beside {CONFIG}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds other objects than tensors, which are not read; save its weights as .safetensors"
        ) from None
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}); get it anew") from None
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no tensors by name; save the state dict of the model")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefix that all weights of the ViT have, and without heads and decoders."""
    out = dict(tensors)
    for prefix in PREFIXES * 2:
        inner = {name.removeprefix(prefix): value for name, value in out.items() if name.startswith(prefix)}
        if any(name.startswith(("patch_embed.", "embeddings.", *PREFIXES)) for name in inner):
            out = inner
    return {name: value for name, value in out.items() if not IGNORED.match(name)}


def _refuse(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises:
    CheckpointError: a part that encoder 'transformer' does not have.
    """
    for part, what in UNSUPPORTED.items():
        if any(part in name for name in tensors):
            raise CheckpointError(f"{path} has {what}, which encoder 'transformer' has not; start from a plain ViT")


def _depth(tensors: Mapping[str, Tensor], pattern: str, path: Path) -> int:
    numbers = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise CheckpointError(f"{path} holds no complete list of blocks; start from another ViT")
    return len(numbers)
