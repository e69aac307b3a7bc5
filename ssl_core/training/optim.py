"""Optimisers and parameter groups. The learning rate is in schedule.py."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ssl_core.errors import ConfigError
from ssl_core.nn.distributed import is_sharded
from ssl_core.nn.positions import Positions
from ssl_core.training.options import NATIVE_OPTIMIZERS, TrainOptions

CAPTURABLE = ("adamw", "adam")
"""Optimisers whose step a CUDA graph can record: torch's, made with `capturable=True`."""
TOKENS = ("cls_token", "mask_token")
BLOCK = re.compile(r"encoder\.(?:\w+\.)*?blocks\.(\d+)\.")
NUMBER = bool | int | float
GROUP = "group."
"""Prefix of state entries that belong to a parameter group."""
TRIAL_STEPS = 3
TRIAL_SIZE = 4

Group: TypeAlias = dict[str, Any]
Factory: TypeAlias = Callable[[list[Group]], torch.optim.Optimizer]


def is_capturable(name: str) -> bool:
    """Whether a CUDA graph can record the step of the optimiser with this name."""
    return name in CAPTURABLE


def make_optimizer(learner: nn.Module, options: TrainOptions, graphed: bool = False) -> torch.optim.Optimizer:
    """The optimiser that `options.optimizer` names, over all parameters of the learner.

    Args:
        learner: Module whose parameters are trained.
        options: Options of training.
        graphed: Make an optimiser whose step a CUDA graph can record; only for names with `is_capturable`.

    Raises:
        ConfigError: If the optimiser cannot be made, or if its state cannot be saved and restored exactly.
    """
    groups = parameter_groups(learner, options)
    if graphed:  # a graph reads the rate from memory; each group has a tensor of its own, as groups differ in rate
        for group in groups:
            device = group["params"][0].device
            group["lr"] = torch.tensor(options.lr * group["lr_scale"], device=device)
    if options.optimizer in NATIVE_OPTIMIZERS:
        return _native(groups, options, graphed)
    return _from_timm(groups, options)


def _native(groups: list[Group], options: TrainOptions, capturable: bool) -> torch.optim.Optimizer:
    """One of torch's optimisers in its fused implementation."""
    lr, decay = options.lr, options.weight_decay
    if options.optimizer == "sgd":
        for group in groups:  # torch has no fused step of sgd for sharded parameters
            group["fused"] = not is_sharded(group["params"][0])
        return torch.optim.SGD(groups, lr=lr, momentum=options.momentum, weight_decay=decay, fused=True)
    betas = options.betas or (0.9, 0.999)
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=betas, weight_decay=decay, fused=True, capturable=capturable)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=decay, fused=True, capturable=capturable)


def state_form(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor] | None:
    """The state that an optimiser keeps of a parameter: entries of the right shape and type, of no meaning otherwise.

    None if it keeps none, or if a trial of a single parameter is not possible.
    """
    group = next(group for group in optimizer.param_groups if any(one is parameter for one in group["params"]))
    trial = nn.Parameter(torch.zeros_like(parameter))
    trial.grad = torch.zeros_like(trial)
    twin = copy.copy(optimizer)  # with the same class, options and hooks
    twin.param_groups, twin.state = [{**group, "params": [trial]}], defaultdict(dict)
    try:
        with torch.random.fork_rng(devices=[]):
            twin.step()
    except Exception:
        return None
    state = {entry: value for entry, value in twin.state.get(trial, {}).items() if not entry.startswith(GROUP)}
    return state if state and all(isinstance(value, Tensor) for value in state.values()) else None


# --- parameter groups -------------------------------------------------------------------------------------------------


def parameter_groups(learner: nn.Module, options: TrainOptions) -> list[Group]:
    """Parameters in groups of equal weight decay and equal share of the learning rate, in order of first appearance.

    Each group has the keys "params", "weight_decay" and "lr_scale"; `set_rate` multiplies the rate by "lr_scale".
    By default there is one group.

    Raises:
        ConfigError: If `options.layer_decay` is set and the encoder has no numbered blocks.
    """
    exempt = no_decay_names(learner) if options.no_decay else frozenset()
    scales = {} if options.layer_decay is None else layer_scales(learner, options.layer_decay)
    groups: dict[tuple[float, float, bool], Group] = {}
    for name, parameter in learner.named_parameters():
        decay, scale = 0.0 if name in exempt else options.weight_decay, scales.get(name, 1.0)
        # one fused call takes sharded parameters or whole ones, not both
        key = decay, scale, is_sharded(parameter)
        group = groups.setdefault(key, {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def no_decay_names(learner: nn.Module) -> frozenset[str]:
    """Names of parameters without weight decay: with one axis or none, cls and mask tokens, position tables."""
    positions = {
        id(parameter)
        for module in learner.modules()
        if isinstance(module, Positions)
        for parameter in module.parameters()
    }
    return frozenset(
        name
        for name, parameter in learner.named_parameters()
        if parameter.dim() <= 1 or name.rpartition(".")[2] in TOKENS or id(parameter) in positions
    )


def layer_scales(learner: nn.Module, decay: float) -> dict[str, float]:
    """By parameter name: `decay` ** (blocks + 1 - layer), as in BEiT (Bao et al., 2022, appendix H).

    Raises:
        ConfigError: If no parameter of the encoder lies in a numbered block.
    """
    layers = layer_numbers(learner)
    if not layers:
        raise ConfigError(
            "train.layer_decay needs an encoder with numbered blocks (parameters encoder. ... blocks.0. ...); "
            "leave train.layer_decay out"
        )
    top = max(layers.values())
    return {name: decay ** (top - layer) for name, layer in layers.items()}


def layer_numbers(learner: nn.Module) -> dict[str, int]:
    """The layer of each parameter by name; empty if no parameter of the encoder lies in a numbered block.

    The tokenizer and what the encoder registers before its first block are layer 0, block i (from 0) is layer i + 1,
    and everything else (final norm, objective, head) is the last layer, which is the number of blocks plus one.
    """
    names = [name for name, _ in learner.named_parameters()]
    blocks = {name: int(match[1]) for name in names if (match := BLOCK.match(name))}
    if not blocks:
        return {}
    top, first = max(blocks.values()) + 2, names.index(next(iter(blocks)))
    layers = {}
    for number, name in enumerate(names):
        embeds = name.startswith("tokenizer.") or (name.startswith("encoder.") and number < first)
        layers[name] = blocks[name] + 1 if name in blocks else 0 if embeds else top
    return layers


# --- timm's optimisers ------------------------------------------------------------------------------------------------


def _from_timm(groups: list[Group], options: TrainOptions) -> torch.optim.Optimizer:
    """An optimiser of timm's factory, whose state a checkpoint can hold."""
    from timm.optim import create_optimizer_v2

    def make(trained: list[Group]) -> torch.optim.Optimizer:
        extra: dict[str, Any] = {} if options.betas is None else {"betas": options.betas}
        return create_optimizer_v2(
            trained,
            opt=options.optimizer,
            lr=options.lr,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            **extra,
        )

    dims = sorted({parameter.dim() for group in groups for parameter in group["params"]})
    try:
        with torch.compiler.set_stance("force_eager"):  # kron would compile its step for the trial
            scalars = _scalar_state(make, dims)
            exact = _resumes_exactly(make, dims, scalars)
        optimizer = make(groups)
    except Exception as error:  # a missing package, an option that it does not take, a step that needs more than .grad
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"train.optimizer={options.optimizer} cannot be used ({reason}); use adamw") from error
    if not exact:
        raise ConfigError(
            f"train.optimizer={options.optimizer} keeps state that a checkpoint cannot hold, so that a stopped run "
            f"could not resume exactly; use adamw"
        )
    scalars.attach(optimizer)
    return optimizer


@dataclass
class ScalarState:
    """State of an optimiser that a checkpoint of one tensor per parameter and entry cannot hold as it is.

    `entries` are Python numbers in the state of a parameter, `groups` numbers or tensors in a parameter group that a
    step changes, both by key and type. The hooks convert them: between two steps a number is a 0-dimensional tensor of
    64 bits, and a group's values are state entries of its first parameter that has state; during a step the optimiser
    sees its own form.
    """

    entries: dict[str, type] = field(default_factory=dict)
    groups: dict[str, type] = field(default_factory=dict)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Register the hooks, if there is anything to convert."""
        if self.entries or self.groups:
            optimizer.register_step_pre_hook(self._to_numbers)
            optimizer.register_step_post_hook(self._to_tensors)

    def _to_numbers(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, state in self._states(optimizer):
            for key, kind in self.groups.items():
                if _group_entry(key) in state:
                    value = state.pop(_group_entry(key))
                    group[key] = value if kind is Tensor else kind(value.item())
            for key, kind in self.entries.items():
                if isinstance(state.get(key), Tensor):
                    state[key] = kind(state[key].item())

    def _to_tensors(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        done: set[int] = set()
        for group, state in self._states(optimizer):
            if id(group) not in done:
                done.add(id(group))
                state.update({_group_entry(key): _as_tensor(group[key]) for key in self.groups if key in group})
            state.update({key: _as_tensor(state[key]) for key in self.entries if key in state})

    @staticmethod
    def _states(optimizer: torch.optim.Optimizer) -> Iterable[tuple[Group, dict[str, Any]]]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if optimizer.state.get(parameter):
                    yield group, optimizer.state[parameter]


def _group_entry(key: str) -> str:
    return f"{GROUP}{key}"


def _as_tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value)


def _scalar_state(make: Factory, dims: list[int]) -> ScalarState:
    """The numbers that an optimiser keeps in its state, and those of its groups that a step changes."""
    optimizer = make(_trial_groups(dims))
    (group,) = optimizer.param_groups
    before = {key: copy.deepcopy(value) for key, value in group.items() if isinstance(value, NUMBER | Tensor)}
    _trial_steps(optimizer, 0)
    states = [state for state in optimizer.state.values() if isinstance(state, Mapping)]
    entries = {key: type(value) for state in states for key, value in state.items() if isinstance(value, NUMBER)}
    changed = {
        key: Tensor if isinstance(value, Tensor) else type(value)
        for key, value in group.items()
        if isinstance(value, NUMBER | Tensor) and not (key in before and bool(before[key] == value))
    }
    return ScalarState(entries, changed)


def _resumes_exactly(make: Factory, dims: list[int], scalars: ScalarState) -> bool:
    """Whether small parameters get the same values with and without a restart from one saved tensor per entry."""
    whole = make(_trial_groups(dims))
    scalars.attach(whole)
    _trial_steps(whole, 0)
    again = make(_trial_groups(dims))
    scalars.attach(again)
    pairs = list(zip(_parameters(whole), _parameters(again), strict=True))
    for one, other in pairs:
        other.data.copy_(one.data)
        for key, value in whole.state.get(one, {}).items():
            if not isinstance(value, Tensor):
                return False
            again.state[other][key] = value.detach().clone()
    for optimizer in (whole, again):
        _trial_steps(optimizer, TRIAL_STEPS)
    return all(torch.equal(one, other) for one, other in pairs)


def _trial_groups(dims: list[int]) -> list[Group]:
    """One group with a parameter of each number of axes; the same values each time."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(TRIAL_SIZE,) * dim for dim in dims]
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return [{"params": parameters, "lr_scale": 1.0}]


def _trial_steps(optimizer: torch.optim.Optimizer, start: int) -> None:
    """Steps with gradients that depend on the number of the step alone."""
    with torch.random.fork_rng(devices=[]):
        for number in range(start, start + TRIAL_STEPS):
            generator = torch.Generator().manual_seed(number)
            torch.manual_seed(number)
            for parameter in _parameters(optimizer):
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
