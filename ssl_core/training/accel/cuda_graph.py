"""A whole training step as one CUDA graph: some thousand small kernels, launched at once.

The kernels of a step take a few milliseconds on a large GPU, and their launch one by one takes ten times as long.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable

import torch

from ssl_core.pipeline.prefetch import TensorDict

Whole = Callable[[TensorDict, TensorDict], TensorDict]
FIRST_STEPS = 3  # of the same shapes, done as they come: what happens once (compiling, the optimiser's state) is over
PATIENCE = 100  # steps after which shapes that never stay the same are not waited for any longer
AHEAD = 8  # steps that may wait for the device: what is queued holds its batches


class GraphedStep:
    """A step, recorded once and then replayed, for batches and draws of the shapes that came first.

    What the step reads besides is read where it lies, so weights and the optimiser's numbers must stay in their places,
    and what it decides in Python is decided once. Steps of other shapes are done as they come, and so are all where the
    step cannot be recorded: `say` then hears why, and `undo` forgets the gradients of an attempt.
    """

    def __init__(
        self, step: Whole, device: torch.device, say: Callable[[str], None], undo: Callable[[], None] = lambda: None
    ) -> None:
        self.step, self.device, self.say, self.undo = step, device, say, undo
        self.stream = torch.cuda.Stream(device)
        self.given: tuple[TensorDict, TensorDict] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.shapes: dict[str, torch.Size] = {}
        self.values: TensorDict = {}
        self.tried, self.alike, self.fails = 0, 0, False
        self.queued: deque[torch.cuda.Event] = deque()

    def __call__(self, inputs: TensorDict, draws: TensorDict) -> TensorDict:
        """The same as `step(inputs, draws)`; a replay overwrites the tensors of the one before."""
        shapes = {name: value.shape for name, value in (*inputs.items(), *draws.items())}
        caller = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            if self.graph is None and not self.fails:
                values = self._first(inputs, draws, shapes)
            elif self.fails or shapes != self.shapes:
                values = self.step(inputs, draws)
            else:
                values = self._replayed(inputs, draws)
            self.queued.append(self.stream.record_event())
        caller.wait_stream(self.stream)
        if len(self.queued) > AHEAD:
            self.queued.popleft().synchronize()
        return values

    def _first(self, inputs: TensorDict, draws: TensorDict, shapes: dict[str, torch.Size]) -> TensorDict:
        """A step before there is a graph; records it once the shapes have stayed the same."""
        self.tried += 1
        self.alike = self.alike + 1 if shapes == self.shapes else 1
        self.shapes = shapes
        if self.alike < FIRST_STEPS:
            if self.tried >= PATIENCE:
                self._give_up("batches or draws differ in shape from step to step")
            return self.step(inputs, draws)
        if self.alike == FIRST_STEPS:
            values, waits = _watched(self.step, inputs, draws)
            if waits:
                self._give_up(f"a step waits for the device: {waits}")
            return values
        if self._record(inputs, draws):
            return self._replayed(inputs, draws)
        return self.step(inputs, draws)

    def _give_up(self, why: str) -> None:
        self.fails = True
        self.say(f"warning: steps cannot be replayed as a CUDA graph ({why}), so each is launched kernel by kernel")

    def _replayed(self, inputs: TensorDict, draws: TensorDict) -> TensorDict:
        assert self.graph is not None
        assert self.given is not None
        for kept, given in zip(self.given, (inputs, draws), strict=True):
            for name, value in given.items():
                kept[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return dict(self.values)

    def _record(self, inputs: TensorDict, draws: TensorDict) -> bool:
        """Whether the step could be recorded, which does not do it."""
        given = ({k: v.clone() for k, v in inputs.items()}, {k: v.clone() for k, v in draws.items()})
        graph, pool, chance = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.get_rng_state()
        try:
            # other threads bring the next batches meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                values = self.step(*given)
        except Exception as error:
            self.undo()
            torch.set_rng_state(chance)
            _mend(self.device, pool)
            cause = error.__context__ or error  # the end of the recording only says that there was one
            self._give_up(next(iter(str(cause).strip().splitlines()), type(cause).__name__))
            return False
        self.graph, self.given, self.values = graph, given, values
        return True


def _watched(step: Whole, inputs: TensorDict, draws: TensorDict) -> tuple[TensorDict, str]:
    """What the step gives, and where it waited for the device, if it did: recording that would fail, at a price."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            values = step(inputs, draws)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waits = [one for one in heard if "synchronizing CUDA operation" in str(one.message)]
    return values, f"{waits[0].filename}, line {waits[0].lineno}" if waits else ""


def _mend(device: torch.device, pool: tuple[int, int]) -> None:
    """After a recording that failed, the allocator and the device's generator still think that it goes on."""
    index = torch.cuda.current_device() if device.index is None else device.index
    default = torch.cuda.default_generators[index]
    fresh = torch.Generator(default.device).manual_seed(default.initial_seed())
    default.graphsafe_set_state(fresh.graphsafe_get_state())
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        with contextlib.suppress(AttributeError, RuntimeError):  # torch's own business: what there is of it
            getattr(torch._C, name)(index, pool)
