"""A whole training step as one CUDA graph: some thousand small kernels, launched at once.

The kernels of a step take a millisecond or two on a large GPU, and their launch one by one takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Named = dict[str, Tensor]
Whole = Callable[[Named, Named], Named]
FIRST_STEPS = 3  # done as they come, so that whatever happens once (compiling, the optimiser's state) is over


class GraphedStep:
    """A step, recorded once and then replayed, for batches and draws of the shapes of the first.

    What the step reads besides is read where it lies, so weights and the optimiser's numbers must stay in their places,
    and what it decides in Python is decided once. Steps of other shapes, and all of them where the step cannot be
    recorded, are done as they come; `say` then hears why.
    """

    def __init__(self, step: Whole, say: Callable[[str], None]) -> None:
        self.step, self.say = step, say
        self.stream = torch.cuda.Stream()
        self.given: tuple[Named, Named] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.shapes: dict[str, torch.Size] = {}
        self.values: Named = {}
        self.done, self.fails = 0, False

    def __call__(self, inputs: Named, draws: Named) -> Named:
        """The same as `step(inputs, draws)`; a replay overwrites the tensors of the one before."""
        shapes = {name: value.shape for name, value in (*inputs.items(), *draws.items())}
        caller = torch.cuda.current_stream()
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            if self.done < FIRST_STEPS or self.fails:
                self.done += 1
                self.shapes = self.shapes or shapes
                values = self.step(inputs, draws)
            elif shapes != self.shapes:
                values = self.step(inputs, draws)
            else:
                values = self._replayed(inputs, draws)
        caller.wait_stream(self.stream)
        return values

    def _replayed(self, inputs: Named, draws: Named) -> Named:
        if self.graph is None and not self._record(inputs, draws):
            self.fails = True
            return self.step(inputs, draws)
        assert self.graph is not None
        assert self.given is not None
        for kept, given in zip(self.given, (inputs, draws), strict=True):
            for name, value in given.items():
                kept[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return dict(self.values)

    def _record(self, inputs: Named, draws: Named) -> bool:
        """Whether the step could be recorded, which does not do it."""
        given = ({k: v.clone() for k, v in inputs.items()}, {k: v.clone() for k, v in draws.items()})
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads bring the next batches meanwhile
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                values = self.step(*given)
        except Exception as error:
            _mend_chance()
            cause = error.__context__ or error  # the end of the recording only says that there was one
            first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
            self.say(
                f"warning: steps cannot be replayed as a CUDA graph ({first}), so each is launched kernel by kernel"
            )
            return False
        self.graph, self.given, self.values = graph, given, values
        return True


def _mend_chance() -> None:
    """After a recording that failed, the device's generator still thinks that it goes on, and refuses to draw."""
    default = torch.cuda.default_generators[torch.cuda.current_device()]
    fresh = torch.Generator(default.device).manual_seed(default.initial_seed())
    default.graphsafe_set_state(fresh.graphsafe_get_state())
