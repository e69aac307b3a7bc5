"""Capture of a training step as one CUDA graph, which launches all its kernels at once.

A step consists of about a thousand small kernels. On a large GPU they run for a few milliseconds, and launching them
one by one takes ten times as long.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable

import torch

from ssl_core.pipeline.prefetch import TensorDict

StepFunction = Callable[[TensorDict, TensorDict], TensorDict]
FIRST_STEPS = 3  # eager steps of equal shapes before the capture, for compilation and the optimiser's state
PATIENCE = 100  # steps after which the capture is given up if shapes keep changing
AHEAD = 8  # largest number of queued steps: each of them holds its batch in memory


class GraphedStep:
    """A step function that is captured once and then replayed, for inputs and draws of the shapes that it saw first.

    A replay reads all other tensors at their addresses of the capture, so weights and the optimiser's state must be
    updated in place. Python code of the step runs during the capture only. Steps of other shapes run eagerly. If the
    step cannot be captured, all steps run eagerly.

    Args:
        step_fn: The step: inputs and draws to tensors such as the loss.
        device: A CUDA device.
        warn: Called with one line that tells why the step cannot be captured.
        reset: Called after a failed capture, to discard its gradients.
    """

    def __init__(
        self,
        step_fn: StepFunction,
        device: torch.device,
        warn: Callable[[str], None],
        reset: Callable[[], None] = lambda: None,
    ) -> None:
        self.step_fn, self.device, self.warn, self.reset = step_fn, device, warn, reset
        self.stream = torch.cuda.Stream(device)
        self.static_inputs: tuple[TensorDict, TensorDict] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.shapes: dict[str, torch.Size] = {}
        self.static_outputs: TensorDict = {}
        self.eager_count, self.stable_count, self.disabled = 0, 0, False
        self.pending: deque[torch.cuda.Event] = deque()

    def __call__(self, inputs: TensorDict, draws: TensorDict) -> TensorDict:
        """The same as `step_fn(inputs, draws)`. A replay overwrites the tensors that the previous replay returned."""
        shapes = {name: value.shape for name, value in (*inputs.items(), *draws.items())}
        caller = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            if self.graph is None and not self.disabled:
                values = self._warm_up(inputs, draws, shapes)
            elif self.disabled or shapes != self.shapes:
                values = self.step_fn(inputs, draws)
            else:
                values = self._replay(inputs, draws)
            self.pending.append(self.stream.record_event())
        caller.wait_stream(self.stream)
        if len(self.pending) > AHEAD:
            self.pending.popleft().synchronize()
        return values

    def _warm_up(self, inputs: TensorDict, draws: TensorDict, shapes: dict[str, torch.Size]) -> TensorDict:
        """An eager step, or the capture and its first replay if the shapes were the same for FIRST_STEPS steps."""
        self.eager_count += 1
        self.stable_count = self.stable_count + 1 if shapes == self.shapes else 1
        self.shapes = shapes
        if self.stable_count < FIRST_STEPS:
            if self.eager_count >= PATIENCE:
                self._give_up("batches or draws differ in shape from step to step")
            return self.step_fn(inputs, draws)
        if self.stable_count == FIRST_STEPS:
            values, location = _find_synchronization(self.step_fn, inputs, draws)
            if location:
                self._give_up(f"a step waits for the device: {location}")
            return values
        if self._capture(inputs, draws):
            return self._replay(inputs, draws)
        return self.step_fn(inputs, draws)

    def _give_up(self, reason: str) -> None:
        self.disabled = True
        self.warn(f"warning: steps cannot be replayed as a CUDA graph ({reason}), so each is launched kernel by kernel")

    def _replay(self, inputs: TensorDict, draws: TensorDict) -> TensorDict:
        assert self.graph is not None
        assert self.static_inputs is not None
        for target, source in zip(self.static_inputs, (inputs, draws), strict=True):
            for name, value in source.items():
                target[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return dict(self.static_outputs)

    def _capture(self, inputs: TensorDict, draws: TensorDict) -> bool:
        """Capture the step without running it. Returns whether that succeeded."""
        static_inputs = ({k: v.clone() for k, v in inputs.items()}, {k: v.clone() for k, v in draws.items()})
        graph, pool, rng_state = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.get_rng_state()
        try:
            # thread_local: other threads copy the next batches to the device meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                values = self.step_fn(*static_inputs)
        except Exception as error:
            self.reset()
            torch.set_rng_state(rng_state)
            _reset_failed_capture(self.device, pool)
            cause = error.__context__ or error  # ending the capture raises an error of its own
            self._give_up(next(iter(str(cause).strip().splitlines()), type(cause).__name__))
            return False
        self.graph, self.static_inputs, self.static_outputs = graph, static_inputs, values
        return True


def _find_synchronization(step_fn: StepFunction, inputs: TensorDict, draws: TensorDict) -> tuple[TensorDict, str]:
    """The step's result, and the file and line where it waits for the device, which a capture does not allow."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            values = step_fn(inputs, draws)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    return values, f"{waits[0].filename}, line {waits[0].lineno}" if waits else ""


def _reset_failed_capture(device: torch.device, pool: tuple[int, int]) -> None:
    """End the capture for the allocator and the device's generator, which do not notice that it failed."""
    index = torch.cuda.current_device() if device.index is None else device.index
    default = torch.cuda.default_generators[index]
    fresh = torch.Generator(default.device).manual_seed(default.initial_seed())
    default.graphsafe_set_state(fresh.graphsafe_get_state())
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        with contextlib.suppress(AttributeError, RuntimeError):  # private functions, which some versions of torch lack
            getattr(torch._C, name)(index, pool)
