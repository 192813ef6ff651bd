"""What the file of the image lets its reader choose: image, resolution, and intensity of no data.

Knows the controls of a layer's file. Does not know networks, tiles or runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject, Signal

from seamscope.docks.actions import Action
from seamscope.docks.layers import nodata_of, opened_as, propose_nodata, set_nodata
from seamscope.docks.looks import in_dock
from seamscope.docks.prediction.layer_file import LayerFile
from seamscope.docks.prediction.options import Options
from seamscope.errors import SeamscopeError
from seamscope.images.stored import Offer

_OPEN_TIP = "Open the file again, as Seamscope reads it, as a layer of its own."


class FileChoices(QObject):
    """Offers what is in the file of a layer.

    Parameters
    ----------
    options
        Has the controls.
    viewer
        Gets the layers that are opened.

    Signals
    -------
    changed
        Other pixels stand for no data.
    opened : (napari.layers.Image)
        A layer of the same file was added, to be taken for the image.
    failed : (str)
        Nothing was opened: one sentence.
    """

    changed = Signal()
    opened = Signal(object)
    failed = Signal(str)

    def __init__(self, options: Options, viewer: Any) -> None:
        super().__init__(options)
        self._options, self._viewer = options, viewer
        self._layer: ImageLayer | None = None
        self._file: LayerFile | None = None
        options.series.value_changed.connect(self._choose_series)
        options.level.value_changed.connect(self._choose_level)
        options.nodata.value_changed.connect(self._choose_nodata)

    def show_for(self, layer: ImageLayer | None) -> None:
        """Offer the other images and resolutions of a layer's file."""
        self._layer = layer
        self._file = None if layer is None else LayerFile.of(layer)
        if layer is None or self._file is None:
            self._options.set_file(Offer(), None, False)
            return
        offer, own = self._file.offer, opened_as(layer)
        propose_nodata(layer, offer.nodata)
        takes_nodata = not layer.rgb and not (own is not None and own.missing)
        self._options.set_file(offer, nodata_of(layer), takes_nodata)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the file was read."""
        return () if self._file is None else self._file.notes

    @property
    def actions(self) -> list[Action]:
        """What to do where napari and Seamscope read a file differently."""
        if self._file is None or not self._file.otherwise:
            return []
        act = partial(self._open, partial(self._file.open_as_read, self._viewer))
        return [Action("Open with Seamscope", _OPEN_TIP, act)]

    def _choose_nodata(self) -> None:
        if self._layer is not None:
            set_nodata(self._layer, self._options.nodata.value())
            self.changed.emit()

    def _choose_series(self) -> None:
        if self._file is not None:
            number = self._options.series.value()
            self._open(partial(self._file.open_series, self._viewer, number))

    def _choose_level(self) -> None:
        if self._file is not None:
            level = self._options.level.value()
            self._open(partial(self._file.open_level, self._viewer, level))

    def _open(self, add: Callable[[], ImageLayer]) -> None:
        """Add a layer of the same file."""
        try:
            layer = add()
        except SeamscopeError as error:
            self.failed.emit(in_dock(error))
        else:
            self.opened.emit(layer)


__all__ = ["FileChoices"]
