"""Measuring that runs out of time or is stopped, after any number of forward passes."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from families import Windows, family
from seamscope.errors import ModelError
from seamscope.models.implied import derived_by
from seamscope.models.input_search import Hints, InputSearch
from seamscope.models.model import Model, as_model
from seamscope.models.sentences import describe
from seamscope.models.trials import OVERTIME, OutOfPatience, Trials
from seamscope.recorded_graph import Dispatch


@pytest.fixture
def allow(monkeypatch):
    """Let a number of forward passes be made; then the time is over, except for what it takes."""
    run, overtime = Trials.__call__, Trials.overtime
    monkeypatch.setattr(Trials, "overtime", lambda trials, seconds: overtime(trials, None))

    def allowed(count: int) -> None:
        made = [0]

        def call(self: Trials, x: torch.Tensor) -> torch.Tensor:
            made[0] += 1
            if made[0] > count and self._end is not None:
                self._end = -math.inf
            return run(self, x)

        monkeypatch.setattr(Trials, "__call__", call)

    return allowed


def _network(channels: int) -> nn.Module:
    """Another network each time, of which nothing is kept."""
    torch.manual_seed(channels)
    return nn.Sequential(
        nn.Conv2d(1, channels, 7, padding=3), nn.MaxPool2d(4), nn.Upsample(scale_factor=4),
        nn.Conv2d(channels, 2, 1),
    ).eval()  # fmt: skip


def _measured(network: nn.Module, patience: float = 60.0) -> Model | None:
    model = as_model(network)
    said = ""
    with contextlib.suppress(ModelError):
        try:
            model.measure(patience=patience)
        except ModelError as refused:
            said = str(refused)
            raise
    assert not said or "`patience`" in said
    return None if said else model


def test_time_may_be_over_at_any_moment(allow) -> None:
    found = []
    for count in range(0, 66, 2):
        allow(count)
        model = _measured(_network(3 + count))
        found.append(model)
        if model is not None:
            assert set(model.facts.period) <= {4}  # by its operations, if not by a shift
            assert model.reach.halo is not None or model.reach.at_least is not None
            assert model.describe()
    assert found[0] is None
    assert found[-1] is not None
    assert found[-1].facts.period_found
    assert any(model is not None and not model.facts.period_found for model in found)


def test_no_operation_is_blamed_where_time_ran_out(allow) -> None:
    """The only layer that sees the whole tile takes statistics, which are not held fixed yet."""
    unfinished = 0
    for count in range(30, 70, 2):
        allow(count)
        torch.manual_seed(count)
        network = nn.Sequential(
            nn.Conv2d(1, 3, 7, padding=3), nn.InstanceNorm2d(3), nn.ReLU(),
            nn.Conv2d(3, 2, 5, padding=2),
        ).eval()  # fmt: skip
        model = _measured(network)
        if model is None:
            continue
        said = model.describe()
        assert model.reach.halo is None
        assert "other layers see" not in said
        assert "per-tile statistics" in said
        if model.reach.convolutional is None:
            unfinished += 1
            assert not model.reach.finished
            assert max(model.reach.at_least) <= 5
            assert "time ran out" in said
            assert model.reach.rest == ((5, 5), (5, 5))
        else:
            assert model.reach.convolutional == ((5, 5), (5, 5))
    assert unfinished


def test_what_was_not_finished_is_measured_again(allow) -> None:
    for count in range(20, 90, 2):  # as few as it takes to know anything
        network = _network(100 + count)
        allow(count)
        first = _measured(network)
        if first is not None:
            break
    allow(1000)
    again = _measured(network)  # as patiently: it would come no further
    second = _measured(network, patience=600.0)
    assert first is not None
    assert second is not None
    assert again is not None
    assert again.facts == first.facts
    assert second.facts.period_found
    assert second.reach.bounded


def _plain() -> nn.Module:
    return _network(99)


def _windows() -> nn.Module:
    return family("windows of 4")


def _valid() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 7), nn.ReLU(), nn.Conv2d(3, 2, 4), nn.Dropout(0.5).train())


@pytest.mark.parametrize("make", [_plain, _windows, _valid])
def test_one_size_is_enough_to_go_on(allow, make) -> None:
    """What operations imply for a size at which the network ran is what would be measured."""

    def measured(count: int) -> Model:
        allow(count)
        torch.manual_seed(5)
        network = make()
        with torch.no_grad():  # another network each time, of which nothing is kept
            next(network.parameters()).mul_(1 + count / 2048)
        model = as_model(network)
        model.measure()
        return model

    whole = measured(10_000)
    for count in (3, 8, 15, 30):
        model = measured(count)
        facts, reach = model.facts, model.reach
        if facts.lattice[0].fixed is None:
            break
        assert facts.period == whole.facts.period
        assert not facts.period_found
        assert [a.crop for a in facts.lattice] == [a.crop for a in whole.facts.lattice]
        assert reach.halo == whole.reach.halo
        assert (facts.noise > 0) == (whole.facts.noise > 0)
        assert any("ran out of time" in note for note in facts.notes)
    assert count > 3


def test_the_one_size_is_no_shorter_than_the_period(allow) -> None:
    """Windows of 9 patches of 8 px: at 64 px, the first size tried, no tile lies on the grid."""
    allow(30)
    torch.manual_seed(11)
    network = Windows(9, 8)
    reads = as_model(network)
    reads.measure()
    facts = reads.facts
    assert any("ran out of time" in note for note in facts.notes)
    assert facts.period == (72, 72)
    assert [axis.fixed for axis in facts.lattice] == [144, 144]


def test_a_network_that_cannot_be_read_needs_more_time(allow) -> None:
    class Reads(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1 if x.sum().tolist() > 1e9 else 2)

    allow(3)
    model = as_model(Reads(1, 2, 3, padding=1).eval())
    with pytest.raises(ModelError, match="operations do not show where tiles may start"):
        model.measure()
    allow(3)
    model = as_model(Reads(1, 2, 3, padding=1).eval()).stated(step=1)
    model.measure()
    assert model.facts.lattice[0].fixed
    assert model.describe()


def test_reading_ends_when_time_is_over_or_comes_to_its_end() -> None:
    """Each look at the clock takes a second: time is over between any two operations."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 9, padding=4), nn.MaxPool2d(2), *(nn.ReLU() for _ in range(9))]
    network = nn.Sequential(*layers, nn.Upsample(scale_factor=2)).eval()
    x = torch.randn(1, 1, 8, 8)  # shorter than the field: longer ones are read too
    whole, ended = derived_by(network, x, None), 0
    for patience in range(0, 160, 2):
        seconds = itertools.count()
        trials = Trials(network, patience=patience, clock=lambda seconds=seconds: next(seconds))
        try:
            assert derived_by(trials, x, None, check=trials.check) == whole
        except OutOfPatience:
            ended += 1
            assert next(seconds) <= patience + 4
    assert 20 < ended < 80


def test_a_forward_pass_in_which_time_ends_is_not_waited_for() -> None:
    ran = []

    class Deep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for number in range(1000):
                ran.append(number)
                x = x + 1
            return x

    seconds = itertools.count()
    trials = Trials(Deep(), patience=100, clock=lambda: next(seconds))
    with pytest.raises(ModelError, match="`patience`"):
        InputSearch(trials, Hints()).find()
    assert len(ran) < 110


class Ticks(Dispatch):
    """Each operation takes a second of a clock that is played."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.clock[0] += 1.0
        return func(*args, **(kwargs or {}))


class Slow(nn.Module):
    """A network that runs by such a clock."""

    def __init__(self, network: nn.Module, clock: list[float]) -> None:
        super().__init__()
        self.network, self.clock = network, clock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with Ticks(self.clock):
            return self.network(x)


def _normalized() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 7, padding=3), nn.InstanceNorm2d(3), nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 5, padding=2),
    )  # fmt: skip


def _positive() -> nn.Module:
    return nn.Sequential(_network(9), nn.ReLU())


def _large_windows() -> nn.Module:
    return Windows(9, 8)


@pytest.mark.parametrize("make", [_plain, _positive, _normalized, _windows, _large_windows])
def test_no_measurement_goes_on_when_time_is_over(make, monkeypatch) -> None:
    """Besides one forward pass, and the seconds for each of two things that need not be known."""
    clock = [0.0]

    def look() -> float:
        clock[0] += 0.01
        return clock[0]

    monkeypatch.setattr("seamscope.models.trials.time.monotonic", look)
    whole = as_model(make().eval())
    with torch.no_grad():
        began = clock[0]
        Slow(whole.module, clock)(torch.zeros(1, 1, 144, 144))
        one_pass = clock[0] - began
    ended = 0
    for passes in (0, 1, 2, 4, 6, 8, 12, 16, 24, 40):
        seconds = 5 + passes * one_pass
        network = make()
        with torch.no_grad():  # another network each time, of which nothing is kept
            next(network.parameters()).mul_(1 + passes / 2048)
        model, began = as_model(Slow(network, clock).eval()), clock[0]
        with contextlib.suppress(ModelError):
            model.measure(patience=seconds)
            ended += not model.facts.period_found or not model.reach.finished
        assert clock[0] - began <= seconds + one_pass + 2 * OVERTIME + 4
    assert ended


class Limited(nn.Conv2d):
    """Fails for large inputs that hold anything, as networks do whose windows are made for others.

    Sizes are tried with zeros, so that this one seems to take any.
    """

    def __init__(self) -> None:
        super().__init__(1, 2, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if max(x.shape[2:]) > 300 and x.any():
            raise RuntimeError("the table ends at 300")
        return super().forward(x)


def test_a_network_that_fails_while_it_is_measured_is_described_by_its_operations() -> None:
    torch.manual_seed(41)
    model = as_model(Limited().eval())
    model.measure(patience=None)
    assert model.reach.halo == ((2, 2), (2, 2))
    assert model.reach.agrees(model.facts) is None
    said = model.describe()
    assert "not measured" in said
    assert "the table ends at 300" in said


class Stopped:
    """Work that the user stops after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def phase(self, what: str, steps: str = "", before: int = 0) -> None: ...

    def step(self, done: int, total: int) -> None:
        self.left -= 1

    def note(self, sentence: str) -> None: ...

    def warn(self, sentence: str) -> None: ...

    def stopped(self) -> bool:
        return self.left <= 0


@pytest.mark.parametrize("after", [0, 3, 20])
def test_measuring_stops_at_its_next_forward_pass(after) -> None:
    network = family("anisotropic, 3D")
    with torch.no_grad():  # another network than that of other tests, whose facts are kept
        next(network.parameters()).mul_(1 + (1 + after) / 64)
    model = as_model(network)
    with pytest.raises(InterruptedError):
        model.measure(work=Stopped(after))


def test_time_is_asked_for_within_a_forward_pass() -> None:
    now, ran = [0.0], []

    def forward(x: torch.Tensor) -> torch.Tensor:
        for number in range(4):
            x = x + 1
            ran.append(number)
            now[0] += 2.0
        return x

    trials = Trials(forward, patience=3.0, clock=lambda: now[0])
    with pytest.raises(ModelError, match="ran on no input within the time given"):
        InputSearch(trials, Hints()).find()
    assert ran == [0, 1]
    assert not trials.finished


class Cut(nn.Module):
    """A stem whose output is cut by 1 px before and 12 px after."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 7, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1),
            nn.Upsample(scale_factor=4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x)
        return y[:, :, 3:-10, 3:-10]


def _uneven() -> nn.Module:
    return family("poolings by 3 and 2")


@pytest.mark.parametrize("make", [Cut, _uneven])
def test_what_is_said_without_a_measurement_is_right(allow, make) -> None:
    """A crop is at its side, and the one size holds whole periods: there, maps end evenly."""

    def measured(count: int) -> Model | None:
        allow(count)
        torch.manual_seed(5)
        network = make().eval()
        with torch.no_grad():  # another network each time, of which nothing is kept
            next(network.parameters()).mul_(1 + count / 2048)
        return _measured(network)

    whole = measured(10_000)
    assert whole is not None
    ended = 0
    for count in range(2, 80, 4):
        model = measured(count)
        if model is None:
            continue
        ended += not model.reach.finished or bool(model.reach.unmeasured)
        assert model.facts.period == whole.facts.period
        assert all(a.fixed is None or a.fixed % a.period == 0 for a in model.facts.lattice)
        for axis, right in zip(model.facts.lattice, whole.facts.lattice, strict=True):
            assert abs(axis.crop[0] - right.crop[0]) <= 1  # it lies between two pixels
        for one, right in zip(model.reach.halo or (), whole.reach.halo, strict=True):
            assert one[0] >= right[0]
            assert one[1] >= right[1]
    assert ended


def test_nothing_is_called_seamless_on_a_grid_that_was_not_found() -> None:
    model = as_model(_network(7))
    assert "without seams" in model.describe()
    unread = replace(model.facts, period_found=False, implied=None)
    said = describe(unread, model.reach)
    assert "without seams" not in said
    assert "Its period was not found" in said
