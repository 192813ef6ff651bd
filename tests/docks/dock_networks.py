"""For tests of docks: networks instant, slow or failing when told to; a canvas that rests."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import torch
from torch import nn

from seamscope.models.model import Model, as_model


class _Gate:
    """Counts the calls of a network, and holds those beyond a number until it is opened."""

    def __init__(self) -> None:
        self.calls, self.most = 0, math.inf
        self.open = threading.Event()


_GATES: list[_Gate] = []


class Net(nn.Module):
    """Two convolutions around pooling by 2: period 2, a halo of a few pixels, softmax."""

    def __init__(self, ndim: int = 2, channels: int = 1, classes: int = 3, norm: bool = False):
        super().__init__()
        torch.manual_seed(5)
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        self.first = convolution(channels, 4, 3, padding=1)
        self.norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[ndim](4) if norm else nn.Identity()
        self.pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[ndim](2)
        self.up = nn.Upsample(scale_factor=2)
        self.last = convolution(4, classes, 3, padding=1)
        self.delay = 0.0
        self.gate = len(_GATES)  # a number, so that copies of the network share it
        _GATES.append(_Gate())
        self.calls_until_failure = -1
        self.most_tiles = 99

    @property
    def calls(self) -> int:
        """How often this network or a copy of it was called."""
        return _GATES[self.gate].calls

    def hold(self, calls: int) -> None:
        """Let so many more calls pass; the next one waits for `release`."""
        gate = _GATES[self.gate]
        gate.open.clear()
        gate.most = gate.calls + calls

    def release(self) -> None:
        """Let all calls pass."""
        _GATES[self.gate].most = math.inf
        _GATES[self.gate].open.set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = _GATES[self.gate]
        gate.calls += 1
        if gate.calls > gate.most:
            gate.open.wait()
        time.sleep(self.delay)
        if self.delay:
            x.flatten()[0].item()  # who reads numbers is run for every tile, also when freezing
        if self.calls_until_failure == 0:
            raise RuntimeError("expected all tensors to be on the same device")
        self.calls_until_failure -= 1
        if x.shape[0] > self.most_tiles:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        y = self.last(self.up(self.pool(self.norm(self.first(x)))))
        return y.softmax(1) if y.shape[1] > 1 else y.sigmoid()


_SHARED: list[Model] = []


def shared(net: nn.Module) -> Model:
    """A measured model that all tests of a file may use; `at_rest` is called after each."""
    model = as_model(net.eval())
    model.describe()
    _SHARED.append(model)
    return model


def measured(**arguments) -> Model:
    """A network with facts and reach already known."""
    return shared(Net(**arguments))


def at_rest() -> None:
    """Forget delays and failures that a test has set on shared networks."""
    for model in _SHARED:
        model.module.release()
        model.module.delay, model.module.calls_until_failure = 0.0, -1
        model.module.most_tiles = 99


def whole(model: Model, image: np.ndarray) -> np.ndarray:
    """Prediction ``(C, *spatial)`` of a whole image at once: what tiles must add up to."""
    x = torch.from_numpy(np.asarray(image, np.float32))
    x = x[None] if x.ndim == len(model.facts.lattice) + 1 else x[None, None]
    with torch.inference_mode():
        return model.module(x)[0].numpy()


def undrawn(viewer):
    """Hide a viewer's canvas: napari 0.9 crashes on software OpenGL where layers are removed."""
    viewer.window._qt_viewer.canvas.native.hide()
    return viewer
