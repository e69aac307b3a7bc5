"""A folder for the Hugging Face hub: weights, config.json, model card, and what `sslx.load` needs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.errors import ConfigError, SslxError
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.export import preprocessing, vit
from ssl_core.runs.export.card import generic_config, model_card
from ssl_core.runs.saved import CONSTANTS, ENTRIES, FILES, WEIGHTS, write_encoder
from ssl_core.utils.files import new_folder, write_json, write_text

CONFIG, CARD = "config.json", "README.md"
KNOWN = {WEIGHTS, FILES, CONFIG, CARD, CONSTANTS, preprocessing.FILE}
CHECKED_IMAGES = 2
TOLERANCE = 1e-4
"""Largest difference of the features of transformers, as a share of the largest, or absolute below 1."""


def write_hf(encoder: PretrainedEncoder, folder: Path, *, overwrite: bool) -> tuple[float | None, tuple[str, ...]]:
    """Write a folder that `sslx.load` opens and, if the encoder is a plain ViT, `AutoModel.from_pretrained`, too.

    Returns:
        The largest difference of the features of transformers, None if it does not open the folder; and lines on that.

    Raises:
        ConfigError: the folder cannot be used, or the encoder is a ViT and transformers is not installed.
        SslxError: the features of transformers differ.
    """
    reason, difference = vit.why_no_vit(encoder), None
    if reason is None:
        _check_library()
    with new_folder(folder, overwrite=overwrite, marker=ENTRIES, known=KNOWN) as work:
        if reason is None:
            write_encoder(encoder, work, form=vit.FORM)
            write_json(work / CONFIG, vit.vit_config(encoder))
            difference = _check_vit(encoder, work)
        else:
            write_encoder(encoder, work)
            write_json(work / CONFIG, generic_config(encoder))
        preprocessing.write_description(encoder, work)
        write_text(work / CARD, model_card(encoder, reason))
    todo = f"fill in the TODO fields of {folder / CARD}: the licence first"
    opens = "AutoModel.from_pretrained opens it" if reason is None else f"AutoModel does not open it: {reason}"
    return difference, (opens, todo)


def _check_library() -> None:
    try:
        importlib.import_module("transformers")
    except ImportError:
        raise ConfigError("a ViT is checked with the library transformers: pip install 'sslx[hf]'") from None


@torch.no_grad()
def _check_vit(encoder: PretrainedEncoder, folder: Path) -> float:
    """Compare the token features of transformers with the encoder's, on random images. Returns the difference.

    Raises:
        SslxError: they differ by more than rounding.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model: Any = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
    config = vit.vit_config(encoder)
    shape = (CHECKED_IMAGES, config["num_channels"], *config["image_size"])
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    expected = vit.hidden_states(encoder, pixels)
    actual = model(pixels).last_hidden_state
    difference = float((actual - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN fails, too
        raise SslxError(
            f"the features of transformers differ from the encoder's by {difference:.3g}; nothing was written, export "
            f"to safetensors, and report this"
        )
    return difference
