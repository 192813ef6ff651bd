"""The layers that normalize, in a table.

Knows audits and how they are written in a row. Does not know what is measured of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from seamscope.docks.normalization.texts import AFFINE, SOURCES
from seamscope.normalization.audit import Audit, NormLayer
from seamscope.text import figure_text

_COLUMNS = {
    "Layer": "Its name in the network, where the file has names.",
    "Kind": "Kind of normalization.",
    "Ch.": "Number of channels that it normalizes.",
    "Statistics": "Where mean and variance come from.",
    "Scale": "Whether scale and shift are learned (affine); – where that cannot be seen. Hidden\n"
    "beside deviations, for which the table is too narrow.",
    "Deviation": "How much the statistics of single tiles differ from the whole image's, in\n"
    "standard deviations. Press Measure in the page Features.",
}
_SCALE, _DEVIATION = len(_COLUMNS) - 2, len(_COLUMNS) - 1


class LayerModel(QAbstractTableModel):
    """One row for each layer of an audit."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: Sequence[NormLayer] = ()
        self._deviations: Sequence[float] = ()

    def show_audit(self, audit: Audit | None) -> None:
        """Show other layers."""
        self.beginResetModel()
        self.layers = () if audit is None else audit.layers
        self._deviations = ()
        self.endResetModel()

    def show_deviations(self, deviations: Sequence[float]) -> None:
        """Show what was measured, one number for each layer; nothing for none."""
        self._deviations = deviations
        if self.layers:
            last = len(self.layers) - 1
            self.dataChanged.emit(self.index(0, _DEVIATION), self.index(last, _DEVIATION))

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Answer Qt."""
        return 0 if parent is not None and parent.isValid() else len(self.layers)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Answer Qt."""
        return 0 if parent is not None and parent.isValid() else len(_COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Answer Qt."""
        layer = self.layers[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{self._name(index.row())}\n{layer.meaning}"
        return self._row(index.row(), layer)[index.column()] if role == _SHOWN else None

    def _row(self, number: int, layer: NormLayer) -> tuple[str, ...]:
        deviation = figure_text(self._deviations[number]) if self._deviations else ""
        return (
            *(self._name(number), layer.kind, str(layer.channels), SOURCES[layer.statistics]),
            *(AFFINE[layer.affine], deviation),
        )

    def _name(self, number: int) -> str:
        return self.layers[number].name or f"no. {number + 1}"

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Answer Qt."""
        if orientation == Qt.Orientation.Vertical:
            return None
        name = list(_COLUMNS)[section]
        return {_SHOWN: name, Qt.ItemDataRole.ToolTipRole: _COLUMNS[name]}.get(role)


_SHOWN = Qt.ItemDataRole.DisplayRole


class LayerTable(QTableView):
    """The layers in the order of the forward pass; arrow keys walk through them.

    Signals
    -------
    chosen : (int)
        Number of the layer that is now current.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.layers = LayerModel()
        self.setModel(self.layers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setMinimumHeight(220)
        self.setToolTip("Choose a layer, to read what it means and to see its features.")
        self.setAccessibleName("Normalization layers")
        rows = self.verticalHeader()
        rows.setVisible(False)
        rows.setDefaultSectionSize(rows.fontMetrics().height() + 6)
        self.setTextElideMode(Qt.TextElideMode.ElideLeft)  # names differ at their ends
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self._show_columns(False)
        self.selectionModel().currentRowChanged.connect(self._current_changed)

    def show_audit(self, audit: Audit | None) -> None:
        """Show the layers of an audit; none is chosen."""
        self.layers.show_audit(audit)
        self._show_columns(False)

    def show_deviations(self, deviations: Sequence[float]) -> None:
        """Show how much tiles deviate at each layer, in the room of another column."""
        self.layers.show_deviations(deviations)
        self._show_columns(bool(deviations))

    def _show_columns(self, deviations: bool) -> None:
        self.setColumnHidden(_DEVIATION, not deviations)
        self.setColumnHidden(_SCALE, deviations)  # else no name of a layer can be read

    def choose(self, number: int) -> None:
        """Choose a layer."""
        self.setCurrentIndex(self.layers.index(number, 0))

    def _current_changed(self, current: QModelIndex, _: QModelIndex) -> None:
        if current.isValid():
            self.chosen.emit(current.row())
