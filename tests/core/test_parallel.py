"""Batches that are divided among processes: the same training as in one process. Threads imitate the processes here;
tests/cli/test_processes.py starts real ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import ConfigError, Geometry, Tokens, plugins
from ssl_core.nn.distributed import batch_rows, batch_total, gather_batch, process_count, use_group, weighted_mean
from ssl_core.pipeline.sampler import draws_of, rows_of
from ssl_core.testing.harness import Harness, Setting
from ssl_core.testing.layouts import CASES, sample
from ssl_core.testing.objectives import parallel_equals_single
from ssl_core.testing.parallel import ThreadGroup, train_in_threads
from ssl_core.training.metrics_log import MetricAverager
from ssl_core.training.parallel import agree, average_gradients, check_alike, copy_from_main, is_main, join

ROWS = 12
SHIPPED = {e.name: e.value for e in plugins.load().entries("objective") if e.origin.plugin.startswith("sslx:")}
OTHERWISE: dict[str, list[dict[str, Any]]] = {  # options that couple the rows of a batch in another way
    "capri": [{"negatives": "batch", "direction": "both"}, {"positions": "all", "direction": "predictions"}],
    "dabs-mae": [{"squared": True}],
    "emix": [{"coefficient": "batch-mean"}],
    "ijepa": [{"momentum": 0.5, "loss": "l2"}],
    "m3ae": [{"absent": "zero"}, {"all_tokens": True}],
    "mae": [{"norm_targets": True}],
    "metamae": [{"inner_mean": "sample"}, {"inner_steps": 2, "nearby_ratio": 0.5}, {"first_order": True}],
}
VARIANTS = [(name, {}) for name in SHIPPED] + [(name, values) for name, more in OTHERWISE.items() for values in more]


class Padded(Harness):
    """A learner whose tokens are partly padding: other counts in each row, none at all of one segment in some rows."""

    def forward(self, inputs: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Any:
        own = dict(inputs)
        valid = own.pop("valid")
        plain = self.tokenizer(own)
        tokens: Tokens = replace(plain, geometry=Geometry(valid=valid))
        if self.teacher is None:
            return self.objective(tokens, self.encoder, draws)
        teacher = self.teacher.view(own, tokens, self.encoder)
        return self.objective(tokens, self.encoder, draws, replace(teacher, tokens=tokens))


def padded(name: str, values: Mapping[str, Any], case: str) -> tuple[Padded, list[tuple[dict[str, Tensor], Any]]]:
    """A learner in float64, and three batches with their draws."""
    setting = Setting(SHIPPED[name], values, case)
    learner = setting.build()
    learner.__class__ = Padded
    learner = learner.double()
    length = learner.tokenizer.layout.length
    batches = []
    for seed in range(3):
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in sample(learner.tokenizer, ROWS).items()}
        generator = torch.Generator().manual_seed(seed)
        valid = torch.arange(length) < torch.randint(length // 3, length + 1, (ROWS, 1), generator=generator)
        draws = learner.draw(ROWS, generator, Geometry(valid=valid)) | {"progress": torch.tensor(0.5).double()}
        batches.append((inputs | {"valid": valid}, {n: _double(v) for n, v in draws.items()}))
    return learner, batches  # type: ignore[return-value]


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def gap(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference of parameters and buffers, relative to the largest value of each."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1)) for a, b in pairs if a.numel())


@pytest.mark.parametrize(("name", "values"), VARIANTS, ids=lambda value: str(value))
def test_processes_train_what_one_process_trains_on_padded_rows(name: str, values: dict[str, Any]) -> None:
    learner, batches = padded(name, values, "continuous_and_discrete")
    start = copy.deepcopy(learner)
    (single,) = train_in_threads(learner, batches, 1)
    assert gap(single, start) > 1e-4, "the steps must change something"
    for part in train_in_threads(learner, batches, 3):  # two: the check of the conformance kit
        assert gap(single, part) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["metamae", "emix"])
def test_same_number_same_bits(name: str, case: str) -> None:
    learner, batches = padded(name, {}, case)
    first, second = (train_in_threads(learner, batches, 2) for _ in range(2))
    for one, other in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(first[0].parameters(), first[1].parameters(), strict=True):
        assert torch.equal(one, other), "both processes hold the same weights"


class Averaging(ThreadGroup):
    """The negative control: it averages where it must sum."""

    def all_reduce(self, value: Tensor) -> Tensor:
        return super().all_reduce(value) / self.size


@pytest.mark.parametrize("name", ["metamae", "emix"])
def test_a_group_that_averages_instead_of_summing_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batches = padded(name, {}, "continuous_and_discrete")
    (single,) = train_in_threads(learner, batches, 1)
    monkeypatch.setattr("ssl_core.testing.parallel.ThreadGroup", Averaging)
    assert gap(single, train_in_threads(learner, batches, 2)[0]) > 1e-6


@pytest.mark.parametrize("name", ["metamae", "mae", "dabs-mae", "m3ae", "shed", "capri", "ijepa"])
def test_a_divisor_of_the_own_rows_alone_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batches = padded(name, {}, "continuous_and_discrete")
    (single,) = train_in_threads(learner, batches, 1)

    def own(group: ThreadGroup, value: Tensor) -> Tensor:  # sums of more than one number are gradients
        return torch.stack(group._exchange(value)).sum(dim=0) if value.numel() > 2 else value * group.size

    monkeypatch.setattr(ThreadGroup, "all_reduce", own)
    assert gap(single, train_in_threads(learner, batches, 2)[0]) > 1e-6


def test_kit_finds_an_objective_that_compares_rows_without_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl_plugins.objectives.metamae as metamae

    monkeypatch.setattr(metamae, "gather_batch", lambda rows: rows)
    with pytest.raises(Exception, match="differs by .* from a single process"):
        parallel_equals_single(Setting(SHIPPED["metamae"], {}, "discrete"))


def test_gather_is_the_transpose_of_scatter_twice() -> None:
    """Values by hand: two processes with the rows 1, 2 and 3, 4, and a cube of the sum of all rows."""
    group = ThreadGroup(2)

    def work(rank: int) -> tuple[float, float, float]:
        rows = torch.tensor([1.0, 2.0] if rank == 0 else [3.0, 4.0], dtype=torch.float64, requires_grad=True)
        loss = gather_batch(rows).sum() ** 3
        (first,) = torch.autograd.grad(loss, rows, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), rows)
        return loss.item(), first[0].item(), second[0].item()

    # each process has the loss (1 + 2 + 3 + 4)^3; the gradients of both, 3 * 10^2, are summed; those of the four first
    # derivatives, summed over the processes twice, are 2 * 2 * 2 * 6 * 10
    for loss, first, second in group.run(work):
        assert loss == 1000
        assert first == 2 * 300
        assert second == 2 * 2 * 2 * 60


def test_weighted_mean_over_processes() -> None:
    group = ThreadGroup(3)
    values, weights = torch.arange(6.0).double(), torch.tensor([1.0, 0, 0, 0, 2, 1]).double()
    parts = group.run(lambda r: weighted_mean(values[2 * r : 2 * r + 2], weights[2 * r : 2 * r + 2]))
    torch.testing.assert_close(torch.stack(parts).mean(), torch.tensor((0 + 8 + 5) / 4).double())
    nothing = group.run(lambda r: weighted_mean(values[:2], torch.zeros(2).double()))
    assert [part.item() for part in nothing] == [0, 0, 0]


def test_views_are_gathered_in_the_order_of_one_process() -> None:
    whole = torch.arange(12)  # 6 samples in 2 views
    group = ThreadGroup(3)
    for rank, (rows, gathered, numbers) in enumerate(
        group.run(
            lambda rank: (own := whole[rows_of(group, 12, 2)], gather_batch(own, 2), batch_rows(4, own.device, 2))
        )
    ):
        assert rows.tolist() == [2 * rank, 2 * rank + 1, 6 + 2 * rank, 7 + 2 * rank]
        assert torch.equal(gathered, whole)
        assert torch.equal(numbers, rows)


def test_draws_are_divided_by_rows_and_the_rest_is_shared() -> None:
    draws = {"rows": torch.arange(8).view(8, 1), "shared": torch.arange(5), "progress": torch.tensor(0.3)}
    group = ThreadGroup(2)
    parts = group.run(lambda rank: draws_of(group, draws, 8, 2))
    assert [part["rows"].flatten().tolist() for part in parts] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert all(torch.equal(part["shared"], draws["shared"]) and part["progress"] == draws["progress"] for part in parts)


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_batch(x) is x
    assert process_count() == 1
    assert torch.equal(batch_total(x), x)
    assert not batch_total(x).requires_grad
    with use_group(ThreadGroup(1)):
        assert process_count() == 1


def test_gradients_and_weights_of_processes() -> None:
    group = ThreadGroup(2)

    def work(rank: int) -> tuple[list[Any], float]:
        layer = torch.nn.Linear(2, 1)
        for value in layer.parameters():
            torch.nn.init.constant_(value, rank + 1.0)
        copy_from_main(layer, group)
        layer.weight.grad = torch.full((1, 2), 1.0 + 2 * rank)
        average_gradients(layer.parameters(), group)
        check_alike(layer, group)
        return [layer.weight.grad.tolist(), layer.bias.grad], layer.bias.item()

    for gradients, weight in group.run(work):
        assert gradients == [[[2.0, 2.0]], None]
        assert weight == 1.0


def test_metrics_are_means_over_the_batches_of_all_processes_that_count() -> None:
    """Batches with losses 1 and 3 in one process, 5 and NaN in the other; the same after a checkpoint in between."""
    group, losses = ThreadGroup(2), [[1.0, 3.0], [5.0, math.nan]]

    def work(rank: int) -> list[dict[str, float]]:
        averager, saved = MetricAverager(), MetricAverager()
        for loss in losses[rank]:
            averager.add({"loss": torch.tensor(loss), "accuracy": torch.tensor(rank)})
            saved.add({"loss": torch.tensor(loss), "accuracy": torch.tensor(rank)})
            saved.average_over(group)
            saved = MetricAverager(**saved.state())
        empty = MetricAverager()
        empty.add({"loss": torch.tensor(math.nan), "accuracy": torch.tensor(1.0)})
        for one in (averager, saved, empty):
            one.average_over(group)
        return [averager.means(), saved.means(), empty.means()]

    for whole, resumed, empty in group.run(work):
        assert whole == resumed == {"train/loss": pytest.approx(3), "train/accuracy": pytest.approx(1 / 3)}
        assert empty == {}


def test_processes_act_on_any_signal_and_on_the_clock_of_the_first() -> None:
    group = ThreadGroup(3)
    assert group.run(lambda rank: agree(15 if rank == 2 else 0, 1.5 + rank, group)) == [(15, 1.5)] * 3
    assert agree(2, 0.1, None) == (2, 0.1)


def test_gradients_of_different_parameters_are_refused() -> None:
    group = ThreadGroup(2)

    def work(rank: int) -> None:
        layer = torch.nn.Linear(2, 1)
        (layer.weight if rank else layer.bias).sum().backward()
        check_alike(layer, group)

    with pytest.raises(Exception, match="gradients of different parameters"):
        group.run(work)


def test_an_environment_that_is_incomplete_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ConfigError, match="MASTER_PORT is not set; start the processes by sslx run"), join():
        pass


def test_a_process_by_itself_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with join() as group:
        assert group is None
        assert is_main()
