"""Plain reference implementation of MAE and MetaMAE: oracle of the tests and baseline of the speed benchmark.

One function for each equation, over a dictionary of parameters: no modules, no timm, no fused attention, tokens always
in their natural order. It shares no code with the engine, so the two can be compared.

Source: H. Jang et al., "Modality-Agnostic Self-Supervised Learning with Meta-Learned Masked Auto-Encoder" (MetaMAE),
2023, equations 1 to 5, Algorithm 1, Tables 7 and 8. Where the text of the paper and its published code disagree, this
file follows the code, which produced the paper's numbers; "as in the published code" marks each such place.

Shapes: B samples, L tokens of a sample, V visible and H hidden tokens (V + H = L), D encoder width, d decoder width.

Names of parameters, for piece i of the token sequence and block j:
    tokenizer.i.{weight (D, size), bias}  or  tokenizer.i.table (size, D)
    encoder.cls_token (D,), decoder.project.{weight, bias}, decoder.mask_token (d,), head.i.{weight, bias}
    encoder.types, decoder.types (pieces, width)                      only for sequences of several pieces
    {encoder,decoder}.blocks.j.{norm1,norm2}.{weight,bias}
    {encoder,decoder}.blocks.j.attn.qkv.bias                          only with `qkv_bias`
    {encoder,decoder}.blocks.j.{attn.qkv.weight, attn.proj.{weight,bias}, mlp.fc1.{weight,bias}, mlp.fc2.{weight,bias}}
    {encoder,decoder}.norm.{weight, bias}
    projector.first.weight, projector.norm.{weight, bias}, projector.last.weight
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]
LAYER_NORM_EPS = 1e-5
BATCH_NORM_EPS = 1e-5
LEARNER_NAMES = (
    (r"^tokenizer\.(embed|table)", r"tokenizer.parts.0.\1"),
    (r"^tokenizer\.parts\.(\d+)\.(?:embed\.)?", r"tokenizer.\1."),
    (r"^objective\.", ""),
    (r"\.(?:transformer|positions)\.", "."),
    (r"^head\.maps\.", "head."),
    (r"^projector\.0\.", "projector.first."),
    (r"^projector\.1\.", "projector.norm."),
    (r"^projector\.3\.", "projector.last."),
)


@dataclass(frozen=True)
class Piece:
    """One part of the token sequence.

    kind "continuous": patches of shape `patch`, cut from (B, C, *space), with `size` numbers each, on `grid`.
    kind "discrete": tokens on `grid`, each an id of a vocabulary of `size` entries.
    """

    kind: Literal["continuous", "discrete"]
    grid: tuple[int, ...]
    size: int
    patch: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens."""
        return math.prod(self.grid)


class Form(NamedTuple):
    """What differs between published transformers of the same size: epsilon of the LayerNorms, GELU exact or by tanh.

    The defaults are MetaMAE's. MAE has an epsilon of 1e-6, M3AE also the approximation by tanh.
    """

    eps: float = LAYER_NORM_EPS
    tanh: bool = False


METAMAE_FORM = Form()


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model. The defaults are those of MetaMAE, Table 7.

    dropout: probability in the encoder; the decoder has no dropout.
    explicit: write out LayerNorm, GELU, softmax and linear maps. Otherwise use torch's functions for them, as in the
    published code (the fair baseline for speed). Attention is written out in both cases.
    """

    pieces: tuple[Piece, ...]
    dim: int = 256
    depth: int = 12
    heads: int = 8
    mlp: int = 512
    decoder_dim: int = 128
    decoder_depth: int = 4
    decoder_heads: int = 4
    decoder_mlp: int = 256
    projector: tuple[int, int] = (1024, 128)
    dropout: float = 0.0
    explicit: bool = True
    qkv_bias: bool = False
    decoder_qkv_bias: bool = False
    form: Form = METAMAE_FORM
    decoder_form: Form = METAMAE_FORM

    @property
    def length(self) -> int:
        """Number of tokens L of a sample."""
        return sum(piece.length for piece in self.pieces)


class MetaMAE(NamedTuple):
    """Result of `metamae_loss`.

    statistics: (mean, unbiased variance) of the projector's batch norm, in both of its passes.
    """

    loss: Tensor
    outer: Tensor
    contrast: Tensor
    latent: Tensor
    adapted: Tensor
    statistics: tuple[tuple[Tensor, Tensor], ...]


# ---------------------------------------------------------------------------------------------------- layers


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, explicit: bool) -> Tensor:
    """Map (..., in) to (..., out); weight (out, in)."""
    if not explicit:
        return F.linear(x, weight, bias)
    y = x @ weight.T
    return y if bias is None else y + bias


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, explicit: bool, eps: float = LAYER_NORM_EPS) -> Tensor:
    """Normalise the last axis with its mean and biased variance, then scale and shift."""
    if not explicit:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred * centred).mean(dim=-1, keepdim=True)
    return centred / (variance + eps).sqrt() * weight + bias


def gelu(x: Tensor, explicit: bool, tanh: bool = False) -> Tensor:
    """Multiply x by the cumulative distribution function of the standard normal distribution, exact or by tanh."""
    if tanh:  # Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2))) if explicit else F.gelu(x)


def softmax(scores: Tensor, explicit: bool) -> Tensor:
    """Softmax over the last axis."""
    if not explicit:
        return scores.softmax(dim=-1)
    powers = (scores - scores.amax(dim=-1, keepdim=True).detach()).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout of training."""
    return F.dropout(x, p) if p > 0 else x


def attention(x: Tensor, params: Parameters, at: str, heads: int, explicit: bool) -> Tensor:
    """Multi-head self-attention with head width D / heads. The qkv projection has a bias if `params` do."""
    rows, tokens, dim = x.shape
    joint = linear(x, params[f"{at}.qkv.weight"], params.get(f"{at}.qkv.bias"), explicit)
    query, key, value = (
        part.reshape(rows, tokens, heads, dim // heads).transpose(1, 2) for part in joint.split(dim, dim=-1)
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(dim // heads)
    mixed = softmax(scores, explicit) @ value
    mixed = mixed.transpose(1, 2).reshape(rows, tokens, dim)
    return linear(mixed, params[f"{at}.proj.weight"], params[f"{at}.proj.bias"], explicit)


def mlp(x: Tensor, params: Parameters, at: str, p: float, explicit: bool, tanh: bool = False) -> Tensor:
    """Two linear maps with a GELU between them."""
    inner = gelu(linear(x, params[f"{at}.fc1.weight"], params[f"{at}.fc1.bias"], explicit), explicit, tanh)
    inner = dropout(inner, p)
    return dropout(linear(inner, params[f"{at}.fc2.weight"], params[f"{at}.fc2.bias"], explicit), p)


def transformer(
    x: Tensor, params: Parameters, at: str, depth: int, heads: int, p: float, explicit: bool, form: Form = METAMAE_FORM
) -> Tensor:
    """`depth` pre-norm blocks and a final LayerNorm (Table 7)."""

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], explicit, form.eps)

    for j in range(depth):
        block = f"{at}.blocks.{j}"
        x = x + dropout(attention(norm(x, f"{block}.norm1"), params, f"{block}.attn", heads, explicit), p)
        x = x + mlp(norm(x, f"{block}.norm2"), params, f"{block}.mlp", p, explicit, form.tanh)
    return norm(x, f"{at}.norm")


# ---------------------------------------------------------------------------------------------------- tokens


def cut_patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut (B, C, *space) into (B, L, prod(patch) * C): patches row-major; in a patch space first, channel last."""
    axes = len(patch)
    for axis, size in enumerate(patch):
        x = x.unfold(2 + axis, size, size)
    x = x.movedim(1, -1)
    return x.reshape(x.shape[0], math.prod(x.shape[1 : 1 + axes]), -1)


def targets_of(batch: Sequence[Tensor], sizes: Sizes) -> list[Tensor]:
    """Return the targets of each piece: patches (B, Ls, size) or ids (B, Ls)."""
    pairs = zip(batch, sizes.pieces, strict=True)
    return [cut_patches(x, piece.patch) if piece.kind == "continuous" else x for x, piece in pairs]


def embed(params: Parameters, targets: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """Embed every token, (B, L, D): a linear map of its patch, or the entry of its id in the embedding table."""
    embeddings = []
    for i, (target, piece) in enumerate(zip(targets, sizes.pieces, strict=True)):
        if piece.kind == "continuous":
            weight, bias = params[f"tokenizer.{i}.weight"], params[f"tokenizer.{i}.bias"]
            embeddings.append(linear(target, weight, bias, sizes.explicit))
        else:
            embeddings.append(params[f"tokenizer.{i}.table"][target])
    return torch.cat(embeddings, dim=1)


def sine_and_cosine(place: float, dim: int) -> list[float]:
    """[sin(p w_0), ..., cos(p w_0), ...] with w_i = 10000^(-i / (dim / 2)), i = 0 .. dim / 2 - 1."""
    angles = [place * 10000.0 ** (-i / (dim / 2)) for i in range(dim // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


@functools.cache
def position_table(pieces: tuple[Piece, ...], dim: int) -> Tensor:
    """Fixed positions (1 + L, dim), rounded to float32; the first, of the cls token, is zero.

    The axes of a piece share the width equally, the last axis first: in 2-D one half for the column, the other for the
    row.
    """
    rows = [[0.0] * dim]
    for piece in pieces:
        axes = len(piece.grid)
        share = dim // (2 * axes) * 2
        for place in itertools.product(*(range(size) for size in piece.grid)):
            vector = [number for coordinate in reversed(place) for number in sine_and_cosine(coordinate, share)]
            rows.append(vector + [0.0] * (dim - len(vector)))
    return torch.tensor(rows, dtype=torch.float64).to(torch.float32)


def positions(params: Parameters, at: str, sizes: Sizes, dim: int) -> Tensor:
    """Positions (1 + L, dim): the fixed table, plus a learned vector for each piece if there are several."""
    like = params["encoder.cls_token"]
    table = position_table(sizes.pieces, dim).to(like)
    if len(sizes.pieces) == 1:
        return table
    kinds = [params[f"{at}.types"][i].expand(piece.length, dim) for i, piece in enumerate(sizes.pieces)]
    return table + torch.cat([like.new_zeros(1, dim), *kinds])


def hidden_from(visible: Tensor, length: int) -> Tensor:
    """Return a mask (B, L), True for tokens that are not among the visible positions (B, V)."""
    everything = torch.ones(len(visible), length, dtype=torch.bool, device=visible.device)
    return everything.scatter(1, visible, False)


# ------------------------------------------------------------------------------------- encoder, decoder, losses


def encode(params: Parameters, embeddings: Tensor, visible: Tensor, sizes: Sizes) -> Tensor:
    """Encode the visible tokens, Z = f(S) of Eq. 1; returns the latent (B, 1 + V, D), cls token first.

    content: embeddings (B, L, D). visible: positions (B, V).
    """
    table = positions(params, "encoder", sizes, sizes.dim)
    placed = embeddings + table[1:]
    at = visible.unsqueeze(-1).expand(-1, -1, sizes.dim)
    summary = (params["encoder.cls_token"] + table[0]).expand(embeddings.shape[0], 1, sizes.dim)
    row = dropout(torch.cat([summary, placed.gather(1, at)], dim=1), sizes.dropout)
    return transformer(row, params, "encoder", sizes.depth, sizes.heads, sizes.dropout, sizes.explicit, sizes.form)


def decode(params: Parameters, latent: Tensor, visible: Tensor, sizes: Sizes) -> Tensor:
    """Decode the whole sequence, (B, L, d): latents at the visible positions, mask tokens elsewhere, plus positions."""
    known = linear(latent, params["decoder.project.weight"], params["decoder.project.bias"], sizes.explicit)
    width = sizes.decoder_dim
    masks = params["decoder.mask_token"].expand(len(latent), sizes.length, width)
    row = masks.scatter(1, visible.unsqueeze(-1).expand(-1, -1, width), known[:, 1:])
    row = torch.cat([known[:, :1], row], dim=1) + positions(params, "decoder", sizes, width)
    depth, heads = sizes.decoder_depth, sizes.decoder_heads
    decoded = transformer(row, params, "decoder", depth, heads, 0.0, sizes.explicit, sizes.decoder_form)
    return decoded[:, 1:]


def predict(params: Parameters, decoded: Tensor, sizes: Sizes) -> list[Tensor]:
    """Predict patches or logits (B, Ls, size) of each piece: a linear map, for ids followed by the embedding table."""
    predictions, start = [], 0
    for i, piece in enumerate(sizes.pieces):
        part = decoded[:, start : start + piece.length]
        start += piece.length
        part = linear(part, params[f"head.{i}.weight"], params[f"head.{i}.bias"], sizes.explicit)
        predictions.append(part if piece.kind == "continuous" else part @ params[f"tokenizer.{i}.table"].T)
    return predictions


def token_losses(
    params: Parameters, latent: Tensor, visible: Tensor, targets: Sequence[Tensor], sizes: Sizes
) -> Tensor:
    """Distance d of Eq. 1 for every token, (B, L): mean square (as in the published code) or cross-entropy."""
    losses = []
    predictions = predict(params, decode(params, latent, visible, sizes), sizes)
    for predicted, target, piece in zip(predictions, targets, sizes.pieces, strict=True):
        if piece.kind == "continuous":
            losses.append(((predicted - target) ** 2).mean(dim=-1))
        else:
            right = predicted.gather(-1, target.unsqueeze(-1)).squeeze(-1)
            losses.append(predicted.logsumexp(dim=-1) - right)
    return torch.cat(losses, dim=1)


def weighted_mean(losses: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Compute sum(w l) / sum(w) over the batch; for several pieces within each piece, then the mean over the pieces."""
    means, start = [], 0
    for piece in sizes.pieces:
        span = slice(start, start + piece.length)
        start += piece.length
        if len(sizes.pieces) == 1 or bool(weights[:, span].sum() > 0):
            means.append((weights[:, span] * losses[:, span]).sum() / weights[:, span].sum())
    return torch.stack(means).mean()


def normalise_patches(targets: Sequence[Tensor], sizes: Sizes) -> list[Tensor]:
    """Each patch minus its mean, over the root of its unbiased variance plus 1e-6 (MAE's published code)."""
    out = []
    for target, piece in zip(targets, sizes.pieces, strict=True):
        if piece.kind == "continuous":
            centred = target - target.sum(dim=-1, keepdim=True) / piece.size
            variance = (centred * centred).sum(dim=-1, keepdim=True) / (piece.size - 1)
            target = centred / (variance + 1e-6).sqrt()
        out.append(target)
    return out


def mae_loss(
    params: Parameters, batch: Sequence[Tensor], visible: Tensor, sizes: Sizes, norm_targets: bool = False
) -> Tensor:
    """Eq. 1: the mean loss of the hidden tokens, a scalar.

    batch: one tensor for each piece, (B, C, *space) or ids (B, Ls). visible: int64 positions (B, V) of visible tokens.
    norm_targets: score patches normalised by `normalise_patches` (He et al., CVPR 2022).
    """
    targets = targets_of(batch, sizes)
    latent = encode(params, embed(params, targets, sizes), visible, sizes)
    targets = normalise_patches(targets, sizes) if norm_targets else targets
    hidden = hidden_from(visible, sizes.length)
    return weighted_mean(token_losses(params, latent, visible, targets, sizes), hidden.to(latent.dtype), sizes)


# ---------------------------------------------------------------------------------------------------- MetaMAE


def dilate(hidden: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """Return a mask (B, L) of hidden tokens that have a visible neighbour along an axis of their own piece."""
    near, start = torch.zeros_like(hidden), 0
    for piece in pieces:
        steps = [math.prod(piece.grid[axis + 1 :]) for axis in range(len(piece.grid))]
        for number, place in enumerate(itertools.product(*(range(size) for size in piece.grid))):
            for axis, step in enumerate(steps):
                if place[axis] > 0:
                    near[:, start + number] |= ~hidden[:, start + number - step]
                if place[axis] < piece.grid[axis] - 1:
                    near[:, start + number] |= ~hidden[:, start + number + step]
        start += piece.length
    return near & hidden


def choose_nearby(hidden: Tensor, pieces: Sequence[Piece], ratio: float, generator: torch.Generator) -> Tensor:
    """Return a mask (B, L): each touching token with probability `ratio`, independently, as in the published code."""
    return dilate(hidden, pieces) & (torch.rand(hidden.shape, generator=generator) < ratio)


def inner_loss(losses: Tensor, weights: Tensor, sizes: Sizes, mean: Literal["batch", "sample"]) -> Tensor:
    """Loss whose gradient adapts the latent: the sum over samples of their mean loss over visible and nearby tokens.

    mean: "batch", as in the published code, is B sum(s l) / sum(s) with sums over the whole batch; "sample" divides by
    the number of tokens of each sample.
    """
    if mean == "batch":
        return losses.shape[0] * weighted_mean(losses, weights, sizes)
    return torch.stack([weighted_mean(losses[i : i + 1], weights[i : i + 1], sizes) for i in range(len(losses))]).sum()


def project(params: Parameters, pooled: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Projector h of Section 2.2, (B, D) to (B, P), with (mean, unbiased variance) of its batch norm.

    Linear without bias, batch norm, ReLU, linear without bias, as in the published code; Table 7 lists no activation.
    """
    x = pooled @ params["projector.first.weight"].T
    mean = x.mean(dim=0)
    variance = ((x - mean) ** 2).mean(dim=0)
    x = (x - mean) / (variance + BATCH_NORM_EPS).sqrt()
    x = (x * params["projector.norm.weight"] + params["projector.norm.bias"]).clamp(min=0)
    unbiased = variance * len(pooled) / max(len(pooled) - 1, 1)
    return x @ params["projector.last.weight"].T, (mean.detach(), unbiased.detach())


def task_contrast(z: Tensor, adapted: Tensor, temperature: float) -> Tensor:
    """Eqs. 3 and 4 over the 2B vectors [z; z*], each against all the others (as in the published code); a scalar."""
    count = len(z)
    vectors = torch.cat([z, adapted])
    vectors = vectors / (vectors**2).sum(dim=1, keepdim=True).sqrt()
    similarity = vectors @ vectors.T / temperature
    itself = torch.eye(2 * count, dtype=torch.bool, device=z.device)
    others = similarity.masked_fill(itself, -math.inf)
    partner = torch.cat([torch.arange(count, 2 * count), torch.arange(count)]).to(z.device)
    positive = similarity.gather(1, partner.unsqueeze(1)).squeeze(1)
    return (others.logsumexp(dim=1) - positive).mean()


def adapt(
    params: Parameters,
    latent: Tensor,
    visible: Tensor,
    chosen: Tensor,
    targets: Sequence[Tensor],
    sizes: Sizes,
    *,
    alpha: float,
    steps: int,
    first_order: bool,
    mean: Literal["batch", "sample"],
) -> Tensor:
    """Adapt the latent with Eq. 2, Z* = Z - alpha grad L(Z), `steps` times; returns (B, 1 + V, D)."""
    support = (~hidden_from(visible, sizes.length) | chosen).to(latent.dtype)
    keeps_graph = torch.is_grad_enabled()
    for _ in range(steps):
        with torch.enable_grad():
            point = latent if latent.requires_grad else latent.detach().requires_grad_()
            loss = inner_loss(token_losses(params, point, visible, targets, sizes), support, sizes, mean)
            (gradient,) = torch.autograd.grad(loss, point, create_graph=keeps_graph and not first_order)
        latent = latent - alpha * gradient
    return latent


def metamae_loss(
    params: Parameters,
    batch: Sequence[Tensor],
    visible: Tensor,
    chosen: Tensor,
    sizes: Sizes,
    *,
    alpha: float = 0.5,
    contrast_weight: float = 0.1,
    temperature: float = 0.5,
    steps: int = 1,
    first_order: bool = False,
    mean: Literal["batch", "sample"] = "batch",
) -> MetaMAE:
    """Eq. 5: the loss of the hidden tokens with the adapted latent, plus `lam` times the task contrast.

    batch, visible: as in `mae_loss`. chosen: mask (B, L) of the nearby hidden tokens in the inner loss (Section 2.2).
    alpha: inner step size. temperature: tau. steps: number of inner steps. first_order: omit the second derivative.
    mean: as in `inner_loss`.
    """
    targets = targets_of(batch, sizes)
    latent = encode(params, embed(params, targets, sizes), visible, sizes)
    adapted = adapt(
        params, latent, visible, chosen, targets, sizes, alpha=alpha, steps=steps, first_order=first_order, mean=mean
    )
    hidden = hidden_from(visible, sizes.length)
    outer = weighted_mean(token_losses(params, adapted, visible, targets, sizes), hidden.to(latent.dtype), sizes)
    z, first = project(params, latent[:, 1:].mean(dim=1))
    z_adapted, second = project(params, adapted[:, 1:].mean(dim=1))
    contrast = task_contrast(z, z_adapted, temperature)
    return MetaMAE(outer + contrast_weight * contrast, outer, contrast, latent, adapted, (first, second))


# ---------------------------------------------------------------------------------------------------- start


def parameter_shapes(sizes: Sizes, metamae: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the shape of every trainable parameter; the projector only with `metamae`."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.cls_token": (sizes.dim,), "decoder.mask_token": (sizes.decoder_dim,)}

    def linear_map(name: str, rows: int, columns: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    for i, piece in enumerate(sizes.pieces):
        if piece.kind == "continuous":
            linear_map(f"tokenizer.{i}", sizes.dim, piece.size)
        else:
            shapes[f"tokenizer.{i}.table"] = (piece.size, sizes.dim)
        linear_map(f"head.{i}", piece.size if piece.kind == "continuous" else sizes.dim, sizes.decoder_dim)
    parts = (("encoder", sizes.dim, sizes.depth, sizes.mlp, sizes.qkv_bias),
             ("decoder", sizes.decoder_dim, sizes.decoder_depth, sizes.decoder_mlp,
              sizes.decoder_qkv_bias))  # fmt: skip
    for part, width, depth, inner, qkv_bias in parts:
        if len(sizes.pieces) > 1:
            shapes[f"{part}.types"] = (len(sizes.pieces), width)
        for j in range(depth):
            block = f"{part}.blocks.{j}"
            norm(f"{block}.norm1", width)
            linear_map(f"{block}.attn.qkv", 3 * width, width, bias=qkv_bias)
            linear_map(f"{block}.attn.proj", width, width)
            norm(f"{block}.norm2", width)
            linear_map(f"{block}.mlp.fc1", inner, width)
            linear_map(f"{block}.mlp.fc2", width, inner)
        norm(f"{part}.norm", width)
    linear_map("decoder.project", sizes.decoder_dim, sizes.dim)
    if metamae:
        inner, out = sizes.projector
        linear_map("projector.first", inner, sizes.dim, bias=False)
        norm("projector.norm", inner)
        linear_map("projector.last", out, inner, bias=False)
    return shapes


def initial_parameters(sizes: Sizes, generator: torch.Generator, metamae: bool = True) -> dict[str, Tensor]:
    """Initialise leaf tensors (float32, CPU, requiring gradients) as in MetaMAE's published code.

    Linear maps and embedding tables: Xavier uniform. Biases: 0. Norms: weight 1, bias 0. Cls, mask and type vectors:
    N(0, 0.02). Bias of the patch map, and the projector: U(-1/sqrt(in), 1/sqrt(in)), as torch's `nn.Linear`.
    """
    shapes = parameter_shapes(sizes, metamae)
    parameters: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        x = torch.zeros(shape)
        if name.endswith((".summary", ".mask_token", ".types")):
            x.normal_(0, 0.02, generator=generator)
        elif name.startswith("projector.") and len(shape) == 2:
            bound = 1 / math.sqrt(shape[1])
            x.uniform_(-bound, bound, generator=generator)
        elif name.startswith("tokenizer.") and name.endswith(".bias"):
            bound = 1 / math.sqrt(shapes[name.removesuffix("bias") + "weight"][1])
            x.uniform_(-bound, bound, generator=generator)
        elif len(shape) == 2:
            bound = math.sqrt(6 / (shape[0] + shape[1]))
            x.uniform_(-bound, bound, generator=generator)
        elif "norm" in name and name.endswith(".weight"):
            x.fill_(1)
        parameters[name] = x.requires_grad_()
    return parameters


def parameters_of(learner: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the `dict(named_parameters())` of an sslx Learner to the names of this file; the tensors are shared."""
    parameters = {}
    for name, tensor in learner.items():
        for pattern, replacement in LEARNER_NAMES:
            name = re.sub(pattern, replacement, name)
        parameters[name] = tensor
    return parameters
