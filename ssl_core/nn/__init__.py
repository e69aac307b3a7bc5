"""Building blocks that any plugin may use."""

from ssl_core.nn.attention import Attention, attend, choose_kernel
from ssl_core.nn.decoder import Decoder
from ssl_core.nn.double_backward import attend_twice
from ssl_core.nn.dropout import Dropout
from ssl_core.nn.encoder import Encoder, EncoderOptions
from ssl_core.nn.heads import ReconstructionHead, masked_mean
from ssl_core.nn.indexing import (
    gather_rows,
    inverse,
    look_up,
    mean_rows,
    pick,
    places,
    scatter_rows,
    split_summary,
    with_summary,
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
    "attend",
    "attend_twice",
    "choose_kernel",
    "gather_rows",
    "initialise",
    "inverse",
    "look_up",
    "masked_mean",
    "mean_rows",
    "pick",
    "places",
    "scatter_rows",
    "sincos",
    "split_summary",
    "with_summary",
]
