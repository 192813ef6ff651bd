"""What the colours of a picture mean: a bar with its limits, and the quantity below it.

Knows how a bar is painted. Does not know pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils import Colormap
from qtpy.QtCore import QRect, Qt
from qtpy.QtGui import QColor, QImage, QPainter
from qtpy.QtWidgets import QSizePolicy, QWidget

from seamscope.text import figure_text


class ColorBar(QWidget):
    """Colours over black and over white, with their limits and what they mean.

    Attributes
    ----------
    limits
        Values at both ends.
    unit
        What the values are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limits = (0.0, 1.0)
        self.unit = ""
        self._colors: Colormap | None = None
        self.setMinimumHeight(2 * self.fontMetrics().height() + 6)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_scale(
        self, colors: Colormap, limits: tuple[float, float], unit: str, tip: str = ""
    ) -> None:
        """Show colours between these limits."""
        self._colors, self.limits, self.unit = colors, limits, unit
        low, high = map(figure_text, limits)
        self.setToolTip(tip or f"{unit}: {low} to {high}")
        self.setAccessibleName(f"{unit}: {low} to {high}")
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw it."""
        if self._colors is None:
            return
        painter = QPainter(self)
        text = self.fontMetrics().height()
        bar = QRect(0, 1, self.width(), self.height() - text - 3)
        for ground, place in (("#000000", 0), ("#ffffff", 1)):
            half = QRect(
                bar.x(), bar.y() + place * bar.height() // 2, bar.width(), bar.height() // 2
            )
            painter.fillRect(half, QColor(ground))
        painter.drawImage(bar, _gradient(self._colors))
        below = QRect(0, bar.bottom() + 1, self.width(), text + 1)
        painter.setPen(self.palette().color(self.foregroundRole()))
        low, high = map(figure_text, self.limits)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, low)
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, self.unit)
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, high)
        painter.end()


def _gradient(colors: Colormap) -> QImage:
    values = colors.map(np.linspace(0, 1, 256))
    bytes_ = np.ascontiguousarray((values * 255).round().astype(np.uint8))
    return QImage(bytes_.data, 256, 1, 256 * 4, QImage.Format.Format_RGBA8888).copy()


__all__ = ["ColorBar"]
