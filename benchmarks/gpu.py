"""What a GPU gives: ``python -m benchmarks.gpu [--device cuda:0] [--size 4096]``, five minutes.

Needs nothing but the package. Without a GPU it says so and ends. Parts:

- *equality*: predictions of the device against those of the CPU;
- *throughput*: pixels a second of whole runs, and as a share of the network alone over the same
  tiles, its input on the device already (goal: 95%);
- *memory*: what the plan says of one batch, and what it took;
- *out of memory*: a run that gets too little, and what it gives in the end;
- *statistics and gradients*: fixed statistics and gradient maps against those of the CPU.

Differences are in standard deviations of the CPU's result.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from benchmarks.networks import network

from seamscope.fixed_statistics.freezing import freeze_statistics
from seamscope.models.model import Model, as_model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.run import Finished, Reduced, open_output, run
from seamscope.receptive_field.gradients import absolute_gradient
from seamscope.settings import Precision, Settings

GOAL = 0.95
NOISE = 1e-4  # as for seams: below are orders of summation, above are artifacts


@dataclass(frozen=True)
class Row:
    """One result: what was measured, its value in words, and whether it is as it should be."""

    name: str
    value: str
    good: bool | None = None

    def __str__(self) -> str:
        mark = {True: "  ok", False: "  LOOK", None: ""}[self.good]
        return f"  {self.name:<44}{self.value}{mark}"


@dataclass(frozen=True)
class Bench:
    """A device and the sizes that are measured on it."""

    device: str
    size: int = 4096
    tile: int = 512
    halo: int = 48
    repeats: int = 3

    def image(self, size: int) -> np.ndarray:
        """Noise ``(size, size)``."""
        return np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)

    def settings(self, device: str, **more: Any) -> Settings:
        """How all parts run: equal tiles, nothing measured."""
        asked = {"tile": self.tile, "halo": self.halo, "normalize": "none", "seams": "none"}
        return Settings(device=device, **{**asked, **more})

    def predicted(self, model: Model, image: np.ndarray, settings: Settings) -> Ran:
        """Predict once."""
        case = Case.open(image, model, settings)
        events: list[Any] = []
        with open_output(case) as output:
            events = list(run(case, output))
            return Ran(case.plan, events, output.array)

    # -- parts

    def equality(self) -> Iterator[Row]:
        """The device against the CPU, for a network with each kind of statistics."""
        image = self.image(2 * self.tile)
        for norm in ("batch", "instance"):
            model = as_model(network(norm, 2))
            right = self.predicted(model, image, self.settings("cpu", accelerate=False))
            for name, more in WAYS.items():
                found = self.predicted(model, image, self.settings(self.device, **more))
                yield _difference(f"{norm} norm, {name}", found.result, right.result, more)

    def throughput(self) -> Iterator[Row]:
        """Whole runs against the network alone."""
        image, pixels = self.image(self.size), self.size**2
        model = as_model(network("batch", 2))
        for name, more in WAYS.items():
            settings = self.settings(self.device, **more)
            runs = [self.predicted(model, image, settings) for _ in range(self.repeats + 1)][1:]
            taken = min(each.seconds for each in runs)
            alone = self.forward_seconds(model, runs[0].plan, more)
            value = f"{pixels / taken / 1e6:8.1f} Mpx/s, {alone / taken:6.1%} of the network alone"
            yield Row(name, f"{value} ({runs[0].way})", alone / taken >= GOAL)

    def forward_seconds(self, model: Model, plan: Plan, more: dict[str, Any]) -> float:
        """Shortest time of the network alone over all tiles of a plan, in the same precision."""
        module = network("batch", 2).to(self.device)
        kind = _TYPES[more.get("precision", "float32")]
        tile = torch.randn(plan.settings.batch, 1, *plan.grid.tile_shape, device=self.device)
        if more.get("accelerate"):
            module = module.to(memory_format=torch.channels_last)
            tile = tile.contiguous(memory_format=torch.channels_last)
        batches = math.ceil(plan.tiles / plan.settings.batch)
        autocast = torch.autocast(self.device.partition(":")[0], kind, enabled=kind != _PLAIN)

        def over_all() -> None:
            for _ in range(batches):
                module(tile)

        with torch.inference_mode(), autocast:
            over_all()
            return min(self.seconds(over_all) for _ in range(self.repeats))

    def seconds(self, call: Callable[[], object]) -> float:
        """Time a call, to the moment at which the device has finished."""
        self.wait()
        begin = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begin

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def memory(self) -> Iterator[Row]:
        """What the plan says of a batch, and what it took."""
        if not self.device.startswith("cuda"):
            yield Row("memory of a batch", "measured on a GPU only")
            return
        model = as_model(network("batch", 2))
        for batch in (1, 4):
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            settings = self.settings(self.device, batch=batch, accelerate=False)
            ran = self.predicted(model, self.image(2 * self.tile), settings)
            took = torch.cuda.max_memory_allocated(self.device) - before
            planned = ran.plan.bytes_per_tile
            value = f"planned {planned / 2**20:7.0f} MiB, took {took / 2**20:7.0f} MiB"
            yield Row(f"batch {batch}", value, 0.5 <= took / planned <= 1.1)

    def out_of_memory(self) -> Iterator[Row]:
        """Let the process have less than a batch needs."""
        if not self.device.startswith("cuda"):
            yield Row("out of memory", "measured on a GPU only")
            return
        model, image = as_model(network("batch", 2)), self.image(4 * self.tile)
        settings = self.settings(self.device, batch=8, accelerate=False)
        enough = self.predicted(model, image, settings)
        torch.cuda.empty_cache()
        all_of_it = torch.cuda.mem_get_info(self.device)[1]
        used = torch.cuda.memory_reserved(self.device)
        limit = (used + 0.6 * enough.plan.bytes_per_tile) / all_of_it
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit), self.device)
        try:
            scarce = self.predicted(model, image, settings)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)
        said = [event.reason for event in scarce.events if isinstance(event, Reduced)]
        yield Row("reduced", " ".join(said) or "never: there was enough memory", bool(said))
        yield _difference("result with too little memory", scarce.result, enough.result, {})

    def statistics_and_gradients(self) -> Iterator[Row]:
        """The device against the CPU."""
        image, model = self.image(2 * self.tile), as_model(network("instance", 2))
        found = {
            device: freeze_statistics(image, model, settings=self.settings(device))
            for device in ("cpu", self.device)
        }
        means = [
            np.concatenate([layer.mean.ravel() for layer in found[device].layers])
            for device in (self.device, "cpu")
        ]
        yield _difference("fixed statistics (means)", *means, {})
        side, plain = self.tile, network("batch", 2)
        tile, at = torch.from_numpy(image[None, None, :side, :side]), (side // 2, side // 2)
        right = absolute_gradient(plain, tile, at, 0).numpy()
        moved = absolute_gradient(plain.to(self.device), tile.to(self.device), at, 0)
        yield _difference("gradient map", moved.cpu().numpy(), right, {})


@dataclass(frozen=True)
class Ran:
    """A whole run."""

    plan: Plan
    events: list[Any]
    result: np.ndarray

    @property
    def last(self) -> Finished:
        """The event at its end."""
        assert isinstance(self.events[-1], Finished)
        return self.events[-1]

    @property
    def seconds(self) -> float:
        """From the first tile's start."""
        return self.last.seconds

    @property
    def way(self) -> str:
        """Name of the network's equivalent."""
        return str(self.last.figures["network"])


_PLAIN = torch.float32
_TYPES: dict[Precision, torch.dtype] = {"float32": _PLAIN, "bfloat16": torch.bfloat16}
WAYS: dict[str, dict[str, Any]] = {
    "float32": {"accelerate": False},
    "float32, fastest equivalent": {"accelerate": True},
    "bfloat16": {"precision": "bfloat16", "accelerate": False},
    "float32, batch 4": {"accelerate": False, "batch": 4},
}


def _difference(name: str, found: np.ndarray, right: np.ndarray, more: dict[str, Any]) -> Row:
    """Largest difference, in standard deviations; bfloat16 has three digits and is not judged."""
    off = float(np.abs(found - right).max() / right.std())
    return Row(name, f"{off:.1e}", None if "precision" in more else off <= NOISE)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "equality": Bench.equality,
    "throughput": Bench.throughput,
    "memory": Bench.memory,
    "out of memory": Bench.out_of_memory,
    "statistics and gradients": Bench.statistics_and_gradients,
}


def report(bench: Bench) -> list[Row]:
    """Print all parts; one that fails is a row, and the others are measured all the same."""
    rows = []
    for title, part in PARTS.items():
        print(f"\n{title}", flush=True)
        try:
            for row in part(bench):
                print(row, flush=True)
                rows.append(row)
        except Exception as error:  # whatever a driver raises
            rows.append(Row(title, f"{type(error).__name__}: {error}".splitlines()[0], False))
            print(rows[-1], flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--size", type=int, default=Bench.size, help="pixels along each side")
    asked = parser.parse_args(arguments)
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no GPU that PyTorch can use: nothing is measured.")
        return
    # convolutions in TF32 have three digits: they would differ from the CPU by more than noise
    torch.backends.cudnn.allow_tf32 = False
    kind = asked.device
    if kind.startswith("cuda"):
        kind = torch.cuda.get_device_name(asked.device)
    print(f"{kind}, torch {torch.__version__}")
    rows = report(Bench(asked.device, asked.size))
    bad = [row.name for row in rows if row.good is False]
    print(f"\nTo look at: {', '.join(bad)}." if bad else "\nAll as it should be.")


if __name__ == "__main__":
    main()
