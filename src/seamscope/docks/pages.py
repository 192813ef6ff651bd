"""Pages behind tabs, as high as the one that is seen.

Knows sizes of pages. Does not know what is on them.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QTabWidget, QWidget


class Pages(QTabWidget):
    """Tabs that take the height of their current page.

    Qt's own take that of the highest one, and with it comes a scroll bar beside a page that is
    half empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tabBar().setAccessibleName("Pages")
        self.tabBar().setStyleSheet(_TABS)
        self.currentChanged.connect(self._resize)

    def add(self, page: QWidget, name: str, tip: str) -> None:
        """Add a page behind a tab with a tip."""
        self.setTabToolTip(self.addTab(page, name), tip)

    def hasHeightForWidth(self) -> bool:  # noqa: N802
        """Report to Qt that sentences wrap."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802
        """Answer Qt."""
        page = self.currentWidget()
        own = 0
        if page is not None:
            inside = width - self._beside
            own = page.sizeHint().height()
            if page.hasHeightForWidth():
                own = max(page.heightForWidth(inside), page.minimumSizeHint().height())
        return own + self._above

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Answer Qt."""
        page = self.currentWidget()
        height = 0 if page is None else page.minimumSizeHint().height()
        return QSize(super().minimumSizeHint().width(), height + self._above)

    def sizeHint(self) -> QSize:  # noqa: N802
        """Answer Qt."""
        width = super().sizeHint().width()
        return QSize(width, self.heightForWidth(width))

    @property
    def _above(self) -> int:
        """Height of the tabs and of the frame."""
        return self.tabBar().sizeHint().height() + 2 * _FRAME

    @property
    def _beside(self) -> int:
        return 2 * _FRAME

    def _resize(self, _: Any = None) -> None:
        self.updateGeometry()


# a pixel less than napari's on each side: beside a scroll bar six tabs fit into a dock
_TABS = "QTabBar::tab { padding: 3px 5px; }"
_FRAME = 3  # of a page, on each side, at most


__all__ = ["Pages"]
