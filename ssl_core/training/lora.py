"""Low-rank adapters (LoRA; Hu et al., ICLR 2022) in an encoder, by the library peft."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_core.errors import ConfigError
from ssl_core.training.optim import BLOCK

CURE = "pip install 'sslx[lora]'"


def add_lora(encoder: nn.Module, rank: int, alpha: float) -> Any:
    """Put adapters beside all linear maps of the encoder's numbered blocks, in place; only these then train.

    Each map x W becomes x W + (alpha / rank) x A B, with A of `rank` columns drawn from torch's generator and B of
    zeros, so that the output is the same at first.

    Returns:
        peft's tuner; `merge_lora` takes it.

    Raises:
        ConfigError: peft is not installed, or there is no linear map in a numbered block.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError:
        raise ConfigError(f"--train lora needs the library peft: {CURE}; or use --train last:2") from None
    names = linear_maps(encoder)
    if not names:
        raise ConfigError(
            "--train lora needs an encoder with linear maps in numbered blocks (modules blocks.0. ...); use --train all"
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]
    return LoraModel(encoder, config, "default")


def linear_maps(encoder: nn.Module) -> list[str]:
    """Names of the linear maps inside the encoder's numbered blocks."""
    return [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and BLOCK.match(f"encoder.{name}.")
    ]


def merge_lora(tuner: Any) -> None:
    """Add the adapters to the weights that they are beside and remove them: the encoder is a plain module again."""
    tuner.merge_and_unload()
