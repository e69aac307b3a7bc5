"""Random generators keyed by (seed, purpose, step), so that step k is a pure function of the three."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str, step: int = 0) -> int:
    """A seed in [0, 2^63) that depends on the three arguments and on nothing else."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator for one purpose at one step."""
    return torch.Generator().manual_seed(derive(seed, purpose, step))


def seed_torch(seed: int, purpose: str, step: int = 0) -> None:
    """Seed torch's global generators, used by initialisation, dropout and plugins that draw in `forward`."""
    torch.manual_seed(derive(seed, purpose, step))
