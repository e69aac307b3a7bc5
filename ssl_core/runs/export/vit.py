"""An image encoder as `ViTModel` of the library transformers, where each of its weights has a place there.

The names of the weights are those of ViT checkpoints on the Hugging Face hub, which every version of transformers
reads. Q, K and V are one matrix here and three there; a patch is a vector here, with the channel last, and a kernel of
a convolution there; position vectors are stored there, also fixed ones. All values stay the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssl_core.contracts import Tokenizer
from ssl_core.nn.encoder import TransformerEncoder
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.tokenizers import GridTokenizer, patchify

FORM = "vit"
"""The name of this form of weights in sslx.json."""
CONSTANTS = ("tokenizer.mean", "tokenizer.std")
"""Buffers that a ViTModel does not have."""
_TABLE = "encoder.positions.table"
_BLOCK = {
    "norm1": "layernorm_before", "attn.proj": "attention.output.dense", "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip
_QKV = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_EMBED = "embeddings.patch_embeddings.projection"


def why_no_vit(encoder: PretrainedEncoder) -> str | None:
    """Why an encoder is no ViTModel, in words; None if it is one."""
    tokenizer, network = encoder.tokenizer, encoder.encoder
    if type(network) is not TransformerEncoder:
        return f"its encoder '{encoder.config.encoder.name}' is another network"
    forward, geometry = type(tokenizer).forward, type(tokenizer).geometry
    plain = forward is GridTokenizer.forward and geometry is Tokenizer.geometry
    if not isinstance(tokenizer, GridTokenizer) or not plain or len(tokenizer.patch) != 2:
        return "its input is no image that is cut into patches"
    options = network.options
    if not options.final_norm:
        return "it has no LayerNorm after the last block (encoder.final_norm=false)"
    if options.layer_scale is not None:
        return "its blocks have LayerScale (encoder.layer_scale)"
    if options.head_dim not in (None, options.dim // options.heads):
        return "its heads are wider or narrower than dim / heads (encoder.head_dim)"
    return None


def vit_config(encoder: PretrainedEncoder) -> dict[str, Any]:
    """config.json of a ViTModel."""
    options, tokenizer = encoder.encoder.options, encoder.tokenizer
    assert isinstance(tokenizer, GridTokenizer)
    return {
        "architectures": ["ViTModel"], "model_type": "vit", "hidden_size": options.dim,
        "num_hidden_layers": options.depth, "num_attention_heads": options.heads,
        "intermediate_size": int(options.dim * options.mlp_ratio),
        "hidden_act": {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[options.act], "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "layer_norm_eps": options.norm_eps, "image_size": list(tokenizer.shape),
        "patch_size": list(tokenizer.patch), "num_channels": tokenizer.channels, "qkv_bias": options.qkv_bias,
        "pooler_output_size": options.dim, "pooler_act": "linear", "dtype": "float32",
    }  # fmt: skip


def to_vit(encoder: PretrainedEncoder) -> dict[str, Tensor]:
    """The weights of a ViTModel by name. Its pooler is the identity: `pooler_output` is the cls token."""
    tokenizer, network = encoder.tokenizer, encoder.encoder
    assert isinstance(tokenizer, GridTokenizer)
    assert isinstance(network, TransformerEncoder)
    state = {name: value.detach().float().cpu() for name, value in encoder.state_dict().items()}
    dim, channels = encoder.dim, tokenizer.channels
    height, width = tokenizer.patch
    kernel = state["tokenizer.embed.weight"].view(dim, height, width, channels).permute(0, 3, 1, 2)
    out = {
        "embeddings.cls_token": state["encoder.cls_token"].view(1, 1, dim),
        "embeddings.position_embeddings": network.positions().detach().float().cpu()[None],
        f"{_EMBED}.weight": kernel, f"{_EMBED}.bias": state["tokenizer.embed.bias"],
        "layernorm.weight": state["encoder.transformer.norm.weight"],
        "layernorm.bias": state["encoder.transformer.norm.bias"],
        "pooler.dense.weight": torch.eye(dim), "pooler.dense.bias": torch.zeros(dim),
    }  # fmt: skip
    for number in range(len(network.transformer.blocks)):
        own, theirs = f"encoder.transformer.blocks.{number}", f"encoder.layer.{number}"
        for kind in ("weight", "bias"):
            for mine, name in _BLOCK.items():
                out[f"{theirs}.{name}.{kind}"] = state[f"{own}.{mine}.{kind}"]
            joint = state.get(f"{own}.attn.qkv.{kind}")
            if joint is not None:
                parts = joint.chunk(3)
                out |= {f"{theirs}.{name}.{kind}": part for name, part in zip(_QKV, parts, strict=True)}
    return {name: value.contiguous() for name, value in out.items()}


def from_vit(tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor], learned: bool) -> dict[str, Tensor]:
    """The inverse of `to_vit`.

    Args:
        tensors: the weights of the ViTModel.
        constants: what a ViTModel does not have: mean and std of the tokenizer.
        learned: whether the position vectors are weights.

    Raises:
        KeyError: one of the tensors is missing.
    """
    kernel = tensors[f"{_EMBED}.weight"]
    out = {
        **constants,
        "tokenizer.embed.weight": kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1),
        "tokenizer.embed.bias": tensors[f"{_EMBED}.bias"],
        "encoder.cls_token": tensors["embeddings.cls_token"].flatten(),
        "encoder.transformer.norm.weight": tensors["layernorm.weight"],
        "encoder.transformer.norm.bias": tensors["layernorm.bias"],
    }
    if learned:
        out[_TABLE] = tensors["embeddings.position_embeddings"][0]
    number = 0
    while f"encoder.layer.{number}.layernorm_before.weight" in tensors:
        own, theirs = f"encoder.transformer.blocks.{number}", f"encoder.layer.{number}"
        for kind in ("weight", "bias"):
            for mine, name in _BLOCK.items():
                out[f"{own}.{mine}.{kind}"] = tensors[f"{theirs}.{name}.{kind}"]
            if f"{theirs}.{_QKV[0]}.{kind}" in tensors:
                parts = [tensors[f"{theirs}.{name}.{kind}"] for name in _QKV]
                out[f"{own}.attn.qkv.{kind}"] = torch.cat(parts)
        number += 1
    return out


@torch.no_grad()
def hidden_states(encoder: PretrainedEncoder, pixels: Tensor) -> Tensor:
    """A ViTModel's `last_hidden_state`, (B, 1 + L, D) on the CPU in fp32, of normalised images (B, C, H, W)."""
    source = copy.deepcopy(encoder).to("cpu").float().eval()
    tokenizer = source.tokenizer
    assert isinstance(tokenizer, GridTokenizer)
    return source.encoder(tokenizer.embed(patchify(pixels, tokenizer.patch)))
