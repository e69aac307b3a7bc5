"""Whether a model is being exported, so that it must consist of PyTorch's own operators."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Whether `torch.export` traces the model at this moment.

    A module that has a faster way of its own, such as a custom operator or flex attention, then takes PyTorch's own
    operators: a program that is loaded without sslx, and ONNX, know no others.
    """
    check = getattr(torch.compiler, "is_exporting", None)  # since PyTorch 2.7
    return check is not None and bool(check())
