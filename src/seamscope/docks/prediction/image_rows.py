"""The rows of the image: which layer is predicted, and what its axes are.

Knows the viewer's image layers. Does not know networks, or what is in a layer's file.
"""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFormLayout, QLineEdit, QSizePolicy

from seamscope.docks.layers import axes_of, check_image, image_of
from seamscope.docks.looks import set_row
from seamscope.images.image import Image


class ImageRows(QObject):
    """Offers the image layers of a viewer.

    Parameters
    ----------
    viewer
        Has the layers.
    parent
        The dock.

    Signals
    -------
    layer_changed
        Another layer is chosen, or none.
    axes_changed
        The axes were edited.
    """

    layer_changed = Signal()
    axes_changed = Signal()

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.box = ComboBox(choices=self._layers, nullable=True)
        # names of results are long, and the dock would be cut off at its side
        self.box.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.box.native.setToolTip("Image layer to predict.")
        self.axes = QLineEdit()
        self.axes.setPlaceholderText("one letter of tczyx for each axis, e.g. zyx")
        self.axes.setToolTip(
            "What the image's axes are, in order: t time, c channel, z, y, x.\n"
            "Axes that the network does not take are predicted one by one; to give a\n"
            "2D network several slices as its channels, call that axis c."
        )
        self.box.changed.connect(self._chosen)
        self.axes.editingFinished.connect(self._edited)

    def add_to(self, form: QFormLayout) -> None:
        """Add the rows to a form."""
        self._form = form
        form.addRow("Image", self.box.native)
        form.addRow("Axes", self.axes)

    @property
    def layer(self) -> ImageLayer | None:
        """The image layer that is chosen."""
        value = self.box.value
        return value if isinstance(value, ImageLayer) else None

    @property
    def letters(self) -> str | None:
        """One letter for each axis, as entered; None where nothing is."""
        return self.axes.text().strip() or None

    def image(self) -> Image:
        """Return the image that the layer shows; its pixels are not read.

        Raises
        ------
        SeamscopeError
            When there is no layer, it holds no numbers, or the axes do not fit.
        """
        return image_of(check_image(self.layer), self.letters)

    def layers_changed(self, _: Any = None) -> None:
        """Offer the layers that there are now."""
        before = self.layer
        with self.box.changed.blocked():
            self.box.reset_choices()
            if self.layer is None:
                self.box.value = self._likely()
        if self.layer is not before or self.layer is None:
            self._chosen()

    def _layers(self, _: Any = None) -> list[tuple[str, ImageLayer]]:
        return [(x.name, x) for x in self._viewer.layers if isinstance(x, ImageLayer)]

    def _likely(self) -> ImageLayer | None:
        """The selected image layer, else the lowest; one of our own results only if chosen."""
        layers = [layer for _, layer in self._layers()]
        active = self._viewer.layers.selection.active
        own = [layer for layer in layers if "seamscope" not in layer.metadata]
        return active if active in own else next(iter(own), None)

    def _chosen(self, _: Any = None) -> None:
        layer = self.layer
        self.axes.setText((axes_of(layer) or "") if layer is not None else "")
        set_row(self._form, self.axes, layer is not None and layer.ndim != 2)
        self.layer_changed.emit()

    def _edited(self) -> None:
        self.axes_changed.emit()


__all__ = ["ImageRows"]
