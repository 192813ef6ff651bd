"""The page *Layers*: by what each layer normalizes, in a table and in words.

Knows the table and the sentence below it. Does not know how layers are found or measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from seamscope.docks.controls import stack
from seamscope.docks.looks import in_dock, plain, text_label
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.layer_table import LayerTable


class LayersPage(QWidget):
    """The layers of the network.

    Signals
    -------
    chosen : (int)
        Number of the layer that is now current.
    """

    chosen = Signal(int)

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self.table = LayerTable()
        self.meaning = text_label()
        stack(self, self.table, self.meaning).setStretch(0, 1)
        self.table.chosen.connect(self._layer_chosen)
        bench.audited.connect(self._show_audit)

    def show_deviations(self, deviations: Sequence[float]) -> None:
        """Show how much tiles deviate at each layer; nothing for none."""
        self.table.show_deviations(deviations)

    def _show_audit(self) -> None:
        self.table.show_audit(self._bench.audit)
        self.meaning.setText("")

    def _layer_chosen(self, number: int) -> None:
        audit = self._bench.audit
        assert audit is not None
        self.meaning.setText(plain(in_dock(audit.layers[number].meaning)))
        self.chosen.emit(number)


__all__ = ["LayersPage"]
