"""The worst seams, in a table that is sorted by any of its columns.

Knows seams and how they are written in a row. Does not know where they lie on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from seamscope.seams.measures import Seam
from seamscope.seams.report import SeamReport
from seamscope.text import figure_text

_SORTED_BY = Qt.ItemDataRole.UserRole


class _Column(NamedTuple):
    name: str
    tip: str
    value: Callable[[Seam], Any]
    text: Callable[[Seam], str]


def tiles_of(seam: Seam) -> str:
    """The two tiles: ``3, 4 | 3, 5``."""
    return f"{_index(seam.lower)} | {_index(seam.upper)}"


def mismatch_of(seam: Seam) -> float:
    """Largest mismatch of its channels; 0 where all are absent."""
    return max((m for m in seam.soft if m is not None), default=0.0)


def _index(index: Sequence[int]) -> str:
    return ", ".join(map(str, index))


_TILES = _Column(
    "Tiles", "Row and column of the two tiles beside the seam, counted from 0.",
    lambda b: (b.frame, b.lower, b.axis), tiles_of,
)  # fmt: skip
_FRAME = _Column(
    "Frame", "Time point or the like.", lambda b: b.frame, lambda b: _index(b.frame)
)  # fmt: skip
_NUMBERS = (
    _Column(
        "Max", "Max difference of both predictions, where neither is discarded. 0 is seamless.",
        lambda b: (b.max_dist, b.mean_dist), lambda b: figure_text(b.max_dist),
    ),
    _Column(
        "Mean", "Mean difference of both predictions there.", lambda b: b.mean_dist,
        lambda b: figure_text(b.mean_dist),
    ),
    _Column(
        "Disagree",
        "Disagreement of both tiles' probabilities, in the channel that agrees least:\n"
        "1 − Dice; 0 is perfect agreement, 1 none.",
        mismatch_of,
        lambda b: figure_text(mismatch_of(b)),
    ),
)  # fmt: skip


class SeamModel(QAbstractTableModel):
    """One row for each seam of a report."""

    def __init__(self) -> None:
        super().__init__()
        self.seams: Sequence[Seam] = ()
        self._columns: tuple[_Column, ...] = (_TILES, *_NUMBERS)

    def show_report(self, report: SeamReport | None) -> None:
        """Show other seams."""
        self.beginResetModel()
        self.seams = report.seams if report is not None else ()
        frames = report is not None and report.plan.frames > 1
        self._columns = (_TILES, *(_FRAME,) * frames, *_NUMBERS)
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Answer Qt."""
        return 0 if parent is not None and parent.isValid() else len(self.seams)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Answer Qt."""
        return 0 if parent is not None and parent.isValid() else len(self._columns)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Answer Qt."""
        column, seam = self._columns[index.column()], self.seams[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(seam)
        if role == _SORTED_BY:
            return column.value(seam)
        if role == Qt.ItemDataRole.ToolTipRole:
            return column.tip
        if role == Qt.ItemDataRole.TextAlignmentRole and column in _NUMBERS:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Answer Qt."""
        if orientation == Qt.Orientation.Vertical:
            return section + 1 if role == Qt.ItemDataRole.DisplayRole else None
        if role == Qt.ItemDataRole.DisplayRole:
            return self._columns[section].name
        return self._columns[section].tip if role == Qt.ItemDataRole.ToolTipRole else None


class _Sorted(QSortFilterProxyModel):
    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:  # noqa: N802
        model = self.sourceModel()
        return bool(model.data(left, _SORTED_BY) < model.data(right, _SORTED_BY))


class SeamTable(QTableView):
    """The worst seams; arrow keys walk through them.

    Signals
    -------
    chosen : (Seam)
        Another row is current.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._seams = SeamModel()
        self._sorted = _Sorted()
        self._sorted.setSourceModel(self._seams)
        self.setModel(self._sorted)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setSortingEnabled(True)
        self.setMinimumHeight(150)
        self.setToolTip("Click a seam, or walk with the arrow keys: the view goes there.")
        self.setAccessibleName("Worst seams")
        rows = self.verticalHeader()
        rows.setVisible(False)
        rows.setDefaultSectionSize(rows.fontMetrics().height() + 6)
        self.selectionModel().currentRowChanged.connect(self._current_changed)

    def show_report(self, report: SeamReport | None) -> None:
        """Show the seams of a report, worst first; none is chosen."""
        self._seams.show_report(report)
        self._sorted.invalidate()
        numbers = self._seams.columnCount() - len(_NUMBERS)
        self.sortByColumn(numbers, Qt.SortOrder.DescendingOrder)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)

    @property
    def seam(self) -> Seam | None:
        """The seam that is chosen."""
        index = self._sorted.mapToSource(self.currentIndex())
        return self._seams.seams[index.row()] if index.isValid() else None

    def step(self, rows: int) -> None:
        """Choose the row so many further down; the first or last where there is none."""
        last = self._sorted.rowCount() - 1
        if last >= 0:
            now = self.currentIndex().row()  # -1 where none is chosen
            self.choose(min(max(now + rows, 0), last))

    def choose(self, row: int) -> None:
        """Choose what is shown in this row."""
        self.setCurrentIndex(self._sorted.index(row, 0))

    def _current_changed(self, current: QModelIndex, _: QModelIndex) -> None:
        if current.isValid():
            self.chosen.emit(self.seam)
