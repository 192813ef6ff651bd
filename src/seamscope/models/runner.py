"""A network on a device.

Knows how batches of tiles go through a network, and which devices this machine has. Does not know
tiles' positions, or what was measured of the network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import ModelError, SettingsError
from seamscope.models.speed.acceleration import Run
from seamscope.settings import Precision
from seamscope.tiling import Slices, Tile, TileGrid

if TYPE_CHECKING:
    from seamscope.models.facts import Facts
    from seamscope.models.model import Model

Array: TypeAlias = npt.NDArray[Any]

_PRECISIONS: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Speed:
    """How long a network takes for tiles of several sizes, on one device of this machine.

    Attributes
    ----------
    seconds
        Pairs ``(input pixels of the tile, seconds per input pixel)``, by size.
    """

    seconds: tuple[tuple[int, float], ...]

    def per_pixel(self, pixels: int) -> float:
        """Seconds per input pixel for a tile of so many pixels: interpolated in its logarithm."""
        return float(self.per_pixel_of(pixels))

    def per_pixel_of(self, pixels: npt.ArrayLike) -> Array:
        """Seconds per input pixel for tiles of many sizes, as `per_pixel`."""
        sizes, rates = zip(*self.seconds, strict=True)
        return np.asarray(np.interp(np.log(pixels), np.log(sizes), rates))


class Runner:
    """A network on a device: batches of tiles in, batches of predictions out.

    Parameters
    ----------
    model
        The network; its module is moved to `device` and stays there.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        Floating point type of the computation; inputs and outputs stay float32.
    """

    def __init__(self, model: Model, device: str, precision: Precision) -> None:
        self._model = model
        self.device = torch.device(device)
        self._autocast = precision != "float32"
        self._dtype = _PRECISIONS[precision]
        self.module = model.module.to(self.device)
        self.run: Run = model.run_plain
        self._at: Any = getattr(model.module, "at", None) if model.statistics else None

    def at(self, grid: TileGrid, tiles: Sequence[Tile]) -> None:
        """Say which tiles come next, to a network whose statistics depend on the place.

        It holds for the next batch only: without it, the average over the image is used.
        """
        if self._at is not None:
            self.at_places([grid.place(tile) for tile in tiles])

    def at_places(self, places: Sequence[Sequence[int]] | None) -> None:
        """Say the same by the input pixel at which each sample begins; None: nowhere."""
        if self._at is not None:
            self._at(places)

    def __call__(self, batch: Array, keep: Slices | None = None) -> Array:
        """Predict ``(N, C, *spatial)`` float32; returns ``(N, C', *spatial')`` float32.

        `keep` is the part of the prediction that is wanted, by default all of it; the rest need
        not be computed.
        """
        # inference_mode is entered here and left here: it must never be held across a yield
        with torch.inference_mode(), self._precision():
            x = torch.from_numpy(batch).to(self.device)
            y = self.run(x, keep).float()
        self._check_channels(y)
        self.at_places(None)
        return y.cpu().numpy()

    def _check_channels(self, y: torch.Tensor) -> None:
        facts: Facts | None = vars(self._model).get("facts")
        if facts is None or facts.any_channels or y.shape[1] == facts.out_channels:
            return
        raise ModelError(
            f"The network returned {facts.out_channels} channels when it was measured and "
            f"{y.shape[1]} for a tile: wrap it in a module that always returns as many."
        )

    def example(self, batch: Array) -> torch.Tensor:
        """Bring a batch to where the network is."""
        return torch.from_numpy(batch).to(self.device)

    def synchronize(self) -> None:
        """Wait until the device has finished, for timing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self._autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)


def best_device() -> str:
    """Return the fastest device this machine has: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_here(device: str) -> bool:
    """Return whether this machine has a device that a plan names."""
    return torch.cuda.is_available() or not device.startswith("cuda")


def check_device(device: str) -> str:
    """Resolve ``"auto"``; refuse a device this machine does not have.

    Raises
    ------
    SettingsError
        Naming the devices there are.
    """
    if device == "auto":
        return best_device()
    try:
        kind = torch.device(device)
        torch.empty(1, device=kind)
    except Exception as error:
        present = ["cpu"]
        present += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        present += ["mps"] if torch.backends.mps.is_available() else []
        raise SettingsError(
            f"Device {device!r} cannot be used on this machine: choose auto or one of "
            f"{', '.join(present)}."
        ) from error
    return str(kind)


__all__ = ["Runner", "Speed", "best_device", "check_device", "is_here"]
