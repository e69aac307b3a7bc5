"""Features that several processes compute together: that of rank 0 asks, all compute, that of rank 0 has the result.

Batches are dealt out in turn, and each is computed as one process computes it, so that the features have the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Batch
from ssl_core.evaluation.protocols import FeatureSpec
from ssl_core.nn.distributed import Group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.runs.encoder import EMBED_BATCH

Compute = Callable[[Mapping[str, Tensor]], Tensor]
COMPUTED = "features"


@dataclass(frozen=True)
class Request:
    """What to compute.

    kind: of the features. split: name of the split. spec: pooled features or those of tokens. index: (n,) samples, by
    their numbers in the split.
    """

    kind: str
    split: str
    spec: FeatureSpec
    index: np.ndarray


def send(group: Group, request: Request | None) -> None:
    """Send a request from the process of rank 0 to the others; None: there are no more."""
    if request is None:
        _sum(group, torch.zeros(2, dtype=torch.int64))
        return
    values = {"kind": request.kind, "split": request.split, "spec": asdict(request.spec)}
    text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8).to(torch.int64)
    _sum(group, torch.tensor([len(text), len(request.index)]))
    _sum(group, text)
    _sum(group, torch.from_numpy(np.ascontiguousarray(request.index, dtype=np.int64)))


def receive(group: Group) -> Request | None:
    """The request that the process of rank 0 sends; None: there are no more."""
    length, count = _sum(group, torch.zeros(2, dtype=torch.int64)).tolist()
    if not length:
        return None
    text = bytes(_sum(group, torch.zeros(length, dtype=torch.int64)).tolist())
    values = json.loads(text)
    spec: dict[str, Any] = values.pop("spec")
    layers = None if spec["layers"] is None else tuple(spec["layers"])
    index = _sum(group, torch.zeros(count, dtype=torch.int64)).numpy()
    return Request(**values, spec=FeatureSpec(**spec | {"layers": layers}), index=index)


def _sum(group: Group, value: Tensor) -> Tensor:
    """The value of rank 0: the others give zeros."""
    return group.all_reduce(value)


def in_turns(
    group: Group, compute: Compute, split: PreprocessedSplit, index: np.ndarray, device: torch.device
) -> Iterator[Batch]:  # fmt: skip
    """Features of batches of `EMBED_BATCH` samples in order; each process has to iterate to the end.

    Args:
        group: the processes.
        compute: maps a batch's inputs to (B, D), or to (B, L, D).
        split: the samples.
        index: (n,) numbers of samples in the split, not empty.
        device: where they are computed.

    Yields:
        The features of each batch as its only input, `COMPUTED`, float32 on the CPU, and its labels.
    """
    batches = [index[start : start + EMBED_BATCH] for start in range(0, len(index), EMBED_BATCH)]
    for first in range(0, len(batches), group.size):
        own = batches[min(first + group.rank, len(batches) - 1)]  # the last again where there is none for this process
        part = compute(split.take(own).to(device).inputs).detach().float().cpu()
        whole = part.new_zeros((EMBED_BATCH, *part.shape[1:]))
        whole[: len(part)] = part
        gathered = group.all_gather(whole).split(EMBED_BATCH)
        for rows, one in zip(batches[first : first + group.size], gathered, strict=False):
            label = None if split.labels is None else torch.from_numpy(split.labels[rows])
            yield Batch({COMPUTED: one[: len(rows)]}, label)
