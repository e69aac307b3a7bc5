"""Building blocks that any plugin may use."""

from ssl_core.nn.attention import Attention, attend, choose_kernel
from ssl_core.nn.decoder import Decoder
from ssl_core.nn.distributed import batch_rows, batch_total, gather_batch, process_count, weighted_mean
from ssl_core.nn.double_backward import double_backward_attention
from ssl_core.nn.dropout import Dropout
from ssl_core.nn.encoder import Encoder, EncoderOptions, TransformerEncoder
from ssl_core.nn.exporting import is_exporting
from ssl_core.nn.heads import ReconstructionHead, masked_mean, normalise_targets, restore_patches, score_prediction
from ssl_core.nn.indexing import (
    all_position_ids,
    embedding_lookup,
    gather_mask,
    gather_tokens,
    invert_permutation,
    mean_pool,
    prepend_cls,
    scatter_tokens,
)
from ssl_core.nn.positions import Positions, sincos
from ssl_core.nn.transformer import Transformer, TransformerBlock, initialise

__all__ = [
    "Attention",
    "Decoder",
    "Dropout",
    "Encoder",
    "EncoderOptions",
    "Positions",
    "ReconstructionHead",
    "Transformer",
    "TransformerBlock",
    "TransformerEncoder",
    "all_position_ids",
    "attend",
    "batch_rows",
    "batch_total",
    "choose_kernel",
    "double_backward_attention",
    "embedding_lookup",
    "gather_batch",
    "gather_mask",
    "gather_tokens",
    "initialise",
    "invert_permutation",
    "is_exporting",
    "masked_mean",
    "mean_pool",
    "normalise_targets",
    "prepend_cls",
    "process_count",
    "restore_patches",
    "scatter_tokens",
    "score_prediction",
    "sincos",
    "weighted_mean",
]
