"""Sample images for napari's menu *File > Open Sample*.

Knows napari's form of sample data. Does not know how tissue is drawn (see `seamscope.demo`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

_TURN = 0.02  # seconds

LayerData = tuple[Any, dict[str, Any], str]


def tissue_2d() -> list[LayerData]:
    """Synthetic electron microscopy of tissue, `(1024, 1024)` uint8."""
    return [_sample("tissue2d")]


def tissue_3d() -> list[LayerData]:
    """Synthetic electron microscopy of tissue, `(64, 192, 192)` uint8."""
    return [_sample("tissue3d")]


def channels_2d() -> list[LayerData]:
    """Synthetic electron microscopy, nuclei and membranes, `(3, 512, 512)` uint8."""
    return [_sample("channels2d")]


def stack_3d() -> list[LayerData]:
    """Synthetic z-stack, voxels of 40 x 20 x 20 nm, `(32, 192, 192)` uint8."""
    return [_sample("stack3d")]


def lapse_2d() -> list[LayerData]:
    """Synthetic time-lapse, `(5, 384, 384)` uint8."""
    return [_sample("lapse2d")]


def _while_the_window_answers(draw: Callable[[], Any]) -> Any:
    """Return what a function returns, called in a thread: a volume takes seconds to draw.

    napari wants a sample at once, so that this waits, and lets Qt work meanwhile.
    """
    from qtpy.QtCore import QEventLoop
    from qtpy.QtWidgets import QApplication

    waits = QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents  # a window is not closed meanwhile
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(draw)
        while not wait([drawing], _TURN).done:
            QApplication.processEvents(waits)
        return drawing.result()


def _sample(name: str) -> LayerData:
    from seamscope.docks.layers import opened_data
    from seamscope.images.image import open_image

    image = _while_the_window_answers(partial(open_image, f"demo:{name}"))
    look = {"name": name, "contrast_limits": (0, 255), "axis_labels": tuple(image.axes or "")}
    return image.data, {**look, **opened_data(image)}, "image"
