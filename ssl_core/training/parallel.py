"""Training in several processes, each with its part of every batch, on torch.distributed.

The processes are described by the environment that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. Each computes the order of samples and the draws of the whole batch and takes its own rows, so that a step
is the step of a single process up to rounding. Only the process of rank 0 writes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_core.errors import ConfigError, SslxError
from ssl_core.nn.distributed import Group, is_sharded

WAIT = timedelta(days=7)
"""Longest wait for another process: one evaluates while the others wait. A process that ends is noticed at once."""
LOST = 75
"""Exit code of a process that has lost another one: EX_TEMPFAIL of sysexits.h."""
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

GO_ON = "go on with --resume"
_joined: TorchGroup | None = None
_cure = GO_ON


class LostProcess(SslxError):
    """Another process has ended."""

    exit_code = LOST


class TorchGroup(Group):
    """The default group of torch.distributed."""

    def __init__(self) -> None:
        self._rank, self._size = dist.get_rank(), dist.get_world_size()

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._size

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum over the processes, a new tensor; the same bits in all of them."""
        total = value.clone(memory_format=torch.contiguous_format)
        with _connection():
            dist.all_reduce(total)
        return total

    def all_gather(self, value: Tensor) -> Tensor:
        """The processes' tensors, all of one shape, one after the other along the first axis."""
        if value.dtype == torch.bool:  # which no backend takes
            return self.all_gather(value.to(torch.uint8)).to(torch.bool)
        rows = value.new_empty((self.size * value.shape[0], *value.shape[1:]))
        with _connection():
            dist.all_gather_into_tensor(rows, value.contiguous())
        return rows


@contextmanager
def _connection() -> Iterator[None]:
    """Raises:
    LostProcess: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def watch_connection() -> Iterator[None]:
    """For code that computes and communicates, as a sharded module does: tell a lost connection from other errors.

    Raises:
        LostProcess: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # gloo has no class of its own
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> LostProcess:
    first = str(error).strip().splitlines()[0]
    return LostProcess(f"the connection to another process is lost ({first}); {_cure}")


def is_worker(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment describes one of several processes."""
    environment = os.environ if environment is None else environment
    return environment.get("WORLD_SIZE", "1") != "1" and "RANK" in environment


@contextmanager
def join(cure: str = GO_ON) -> Iterator[Group | None]:
    """Join the processes that the environment describes, until the context is left. None for a process by itself.

    Args:
        cure: what to do if another process ends, in words.

    Raises:
        ConfigError: the environment is incomplete, or there are fewer CUDA devices than processes on this machine.
        SslxError: the other processes cannot be reached.
    """
    global _joined, _cure
    if _joined is not None or not is_worker():
        yield _joined
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"the environment variable {missing[0]} is not set; start the processes by sslx run --processes or torchrun"
        )
    backend = "gloo"
    if torch.cuda.is_available():
        local, devices = local_rank(), torch.cuda.device_count()
        if local >= devices:
            raise ConfigError(
                f"there are {devices} CUDA devices and more processes on this machine; lower --processes to {devices}, "
                f"or hide the devices by CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    began_here = not dist.is_initialized()  # a script may have done so
    try:
        if began_here:
            dist.init_process_group(backend, timeout=WAIT)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise SslxError(f"process {os.environ['RANK']} cannot reach the others ({first})") from error
    _joined, _cure = TorchGroup(), cure
    try:
        yield _joined
    finally:
        _joined, _cure = None, GO_ON
        if began_here:
            dist.destroy_process_group()


def joined() -> Group | None:
    """The processes that this one has joined; None for a process by itself."""
    return _joined


def is_first() -> bool:
    """Whether the environment gives this process rank 0, or describes no other process."""
    return not is_worker() or os.environ["RANK"] == "0"


def is_main() -> bool:
    """Whether this process writes: the only one, or the one of rank 0."""
    return _joined is None or _joined.rank == 0


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK") or os.environ["RANK"])


def gather_bytes(group: Group, data: bytes) -> list[bytes]:
    """The bytes that each process gives, in the order of their ranks."""
    lengths = group.all_gather(torch.tensor([len(data)])).tolist()
    padded = torch.zeros((1, max(1, *lengths)), dtype=torch.uint8)
    padded[0, : len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    rows = group.all_gather(padded)
    return [row[:length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]


def wait_for_all(group: Group | None) -> None:
    """Wait until each process has come here."""
    if group is not None:
        group.all_reduce(torch.zeros(1))


def average_gradients(parameters: Iterable[Tensor], group: Group) -> None:
    """Replace each gradient by its mean over the processes: one sum of all gradients, in a fixed order.

    Gradients that are sharded are means already.
    """
    gradients: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None and not is_sharded(parameter.grad):
            gradients.setdefault((parameter.grad.device, parameter.grad.dtype), []).append(parameter.grad)
    for parts in gradients.values():
        total = group.all_reduce(torch.cat([part.flatten() for part in parts])).div_(group.size)
        for part, mean in zip(parts, total.split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))


def check_alike(learner: nn.Module, group: Group) -> None:
    """Check that the gradients of all processes are of the same parameters.

    Raises:
        SslxError: they are not, so that their mean has no meaning.
    """
    names = [name for name, parameter in learner.named_parameters() if parameter.grad is not None]
    mine = torch.tensor([hash_of(names)], dtype=torch.int64)
    if len(set(group.all_gather(mine).tolist())) > 1:
        raise SslxError(
            "the processes have gradients of different parameters: the loss depends on the data in Python code; train "
            "in one process"
        )


def hash_of(names: Iterable[str]) -> int:
    """A number in [0, 2^62) that depends on the names, the same in each process."""
    return int.from_bytes(hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest(), "little") >> 2


def copy_from_main(module: nn.Module, group: Group) -> None:
    """Give all processes the parameters and buffers of rank 0: processors that round differently then start alike."""
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            rows = group.all_gather(value.detach().reshape(1, -1))
            value.copy_(rows[0].view_as(value))


def largest(values: Sequence[float], group: Group | None) -> list[float]:
    """The largest of each value over all processes."""
    if group is None:
        return list(values)
    found: list[float] = group.all_gather(torch.tensor([list(values)], dtype=torch.float64)).amax(0).tolist()
    return found


def agree(signal: int, seconds: float, group: Group | None) -> tuple[int, float]:
    """What all processes act on: the number of a signal that any of them has received, and the clock of rank 0.

    Args:
        signal: The number of the signal that this process has received; 0 if none.
        seconds: Its clock.
        group: The processes; None for a single one.
    """
    if group is None:
        return signal, seconds
    values = group.all_gather(torch.tensor([[float(signal), seconds]], dtype=torch.float64))
    return int(values[:, 0].max()), float(values[0, 1])
