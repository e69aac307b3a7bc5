"""The encoder sharded among the processes by FSDP2 of torch (`train.shard=encoder`).

Each process keeps its rows of each parameter of the encoder, of its gradient and of the optimiser's state. A block's
parameters are gathered before it computes, and its gradients are averaged after it. All other parts of the learner stay
replicated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_core.errors import ConfigError
from ssl_core.nn.distributed import Group, is_sharded
from ssl_core.training.learner import Learner
from ssl_core.training.options import NATIVE_OPTIMIZERS, TrainOptions

ENCODER, BLOCKS = "encoder", "blocks"


def check_shard(options: TrainOptions, group: Group | None) -> None:
    """Check that the encoder can be sharded, if the options say so.

    Raises:
        ConfigError: There is one process, or an option excludes it; the message names the cure.
    """
    if options.shard == "none":
        return
    if group is None:
        raise ConfigError(
            "train.shard=encoder divides the encoder among several processes, and there is one; add --processes 2, or "
            "set train.shard=none"
        )
    if options.optimizer not in NATIVE_OPTIMIZERS:
        raise ConfigError(
            f"train.shard=encoder gives the optimiser a part of each tensor, and train.optimizer={options.optimizer} "
            f"may need the whole; set train.optimizer=adamw, or train.shard=none"
        )
    if options.compile == "on":
        raise ConfigError(
            "train.shard=encoder gathers parameters while a step computes, which train.compile=on excludes; set "
            "train.compile=off, or train.shard=none"
        )


class Shards:
    """What is sharded of a learner: its encoder, and that of its teacher.

    Meanwhile sharded copies are in the place of these modules, which keep their buffers, and no parameters. They come
    back for what a process does alone, such as a probe, and at the end.

    Args:
        learner: The learner, the same in all processes. Its teacher is there.
        options: Nothing is sharded with `train.shard=none`; all methods then do nothing.

    Raises:
        ConfigError: As `check_shard`.
    """

    def __init__(self, learner: Learner, options: TrainOptions, group: Group | None) -> None:
        check_shard(options, group)
        self.pairs: list[tuple[nn.Module, nn.Module, nn.Module]] = []
        """Owner, its encoder, and the sharded copy."""
        if options.shard == "none":
            return
        owners = [learner] if learner.teacher is None else [learner, learner.teacher.parts]
        for owner in owners:
            whole = getattr(owner, ENCODER, None)
            if whole is not None:
                part = _sharded(whole)
                self.pairs.append((owner, whole, part))
                _free(whole)
                setattr(owner, ENCODER, part)

    @contextmanager
    def whole(self, keep: bool = True, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
        """Have the modules back in their places, with whole tensors, while the context is open.

        All processes must open it together: each sends its parts. What is written into the tensors is lost.

        Args:
            keep: Whether this process needs the tensors. Without, its modules stay without parameters.
            optimizer: Gather its state, too, for a checkpoint: it is then found under the whole parameters. All
                gathered tensors then lie on the CPU.
        """
        self._gather(keep, optimizer)
        try:
            yield
        finally:
            for owner, whole, part in self.pairs:
                for parameter in whole.parameters():
                    if optimizer is not None:
                        optimizer.state.pop(parameter, None)
                _free(whole)
                setattr(owner, ENCODER, part)

    def end(self) -> None:
        """Put the modules back for good, with whole tensors, in all processes. All must call it together."""
        self._gather(keep=True)
        self.pairs.clear()

    @torch.no_grad()
    def _gather(self, keep: bool, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Fill the modules and put them into their places."""
        for owner, whole, part in self.pairs:
            targets = dict(whole.named_parameters())
            for name, source in part.named_parameters():
                device = source.device if optimizer is None else torch.device("cpu")
                value = _whole_tensor(source)
                if keep:
                    targets[name].data = value.to(device)
                state = {} if optimizer is None else optimizer.state.get(source, {})
                entries = {entry: _whole_tensor(value) for entry, value in state.items()}
                if keep and optimizer is not None and entries:
                    optimizer.state[targets[name]] = {entry: value.to(device) for entry, value in entries.items()}
            for target, buffer in zip(whole.buffers(), part.buffers(), strict=True):
                target.copy_(buffer)
            setattr(owner, ENCODER, whole)


def place_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor on the device of a parameter: of one that is sharded this process's part, of the same shape."""
    value = value.to(parameter.device)
    if not is_sharded(parameter):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor  # half a second to import, for runs that shard

    assert isinstance(parameter, DTensor)
    # each process has read the whole tensor: nothing is sent
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _sharded(whole: nn.Module) -> nn.Module:
    """A copy of an encoder, sharded: each of its numbered blocks by itself, and the rest."""
    from torch.distributed.device_mesh import DeviceMesh  # as above
    from torch.distributed.fsdp import fully_shard

    part = copy.deepcopy(whole)
    device = next(part.parameters()).device
    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)
    scalars = {parameter for parameter in part.parameters() if not parameter.dim()}  # have no rows to divide
    lists = [module for name, module in part.named_modules() if name.rpartition(".")[2] == BLOCKS]
    # also the root is freed after each forward pass: that of a teacher has no backward pass that would do it
    for module in (*(block for blocks in lists for block in blocks.children()), part):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
    part.register_forward_hook(_watch_derivatives)
    return part


def _watch_derivatives(module: nn.Module, inputs: Any, output: Tensor | list[Tensor]) -> None:
    """Forward hook: find a second derivative, for which FSDP2 has freed the parameters that it would need."""
    for tensor in output if isinstance(output, list) else [output]:
        if tensor.requires_grad:
            tensor.register_hook(_refuse_second)


def _refuse_second(gradient: Tensor) -> None:
    """Raises:
    ConfigError: The backward pass of the encoder is to be differentiated.
    """
    if torch.is_grad_enabled():
        raise ConfigError(
            "the objective differentiates the encoder twice, which train.shard=encoder cannot do; set train.shard=none"
        )


def _whole_tensor(value: Tensor) -> Tensor:
    """The tensor of all processes."""
    return value.full_tensor() if is_sharded(value) else value.detach()  # type: ignore[attr-defined]


def _free(module: nn.Module) -> None:
    """Leave a module without the memory of its parameters."""
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)
