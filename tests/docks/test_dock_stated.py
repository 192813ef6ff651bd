"""What the user states of a network in the dock Tiled prediction."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("napari")

from hands import PATIENCE, load

from seamscope.models.model import as_model

NETWORKS = '''
import torch
from torch import nn

class Fixed(nn.Module):
    """Takes one size, and its error says nothing of it."""
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
    def forward(self, x):
        if tuple(x.shape[2:]) != (52, 76):
            raise ValueError("not this")
        return self.conv(x)

class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
    def forward(self, x):
        return nn.functional.dropout(self.conv(x), 0.3, training=True)
'''


@pytest.fixture
def networks(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETWORKS)
    return path


def _wait(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.job.busy, timeout=PATIENCE)


def test_an_error_leads_to_the_control_that_it_names(open_docks, qtbot, networks):
    dock = open_docks("prediction")
    rows = dock.network.statements
    assert not rows.isExpanded()
    folded = rows.toggleButton()
    assert folded.text() == "▸ Network options"  # superqt's own arrow is black in all themes
    assert folded.iconSize().isEmpty()
    assert folded.accessibleName() == "Network options"
    dock.set_model(f"{networks}:Fixed", trust=True)
    _wait(qtbot, dock)
    assert dock.model is None
    assert "State a size it takes (input size)" in dock.facts.text()
    assert rows.isExpanded()
    assert rows.input_size.window().focusWidget() is rows.input_size
    rows.input_size.setText("52,76")
    rows.input_size.editingFinished.emit()
    _wait(qtbot, dock)
    assert [axis.fixed for axis in dock.model.facts.lattice] == [52, 76]
    assert rows.text() == "▾ Network options (1 stated)"


def test_all_that_the_command_line_takes_is_stated_and_kept_for_one_network(
    open_docks, qtbot, networks
):
    dock = open_docks("prediction")
    rows = dock.network.statements
    load(qtbot, dock, f"{networks}:Dropping")  # asks first
    dock.network.load(f"{networks}:Dropping", trust=True)
    _wait(qtbot, dock)
    assert dock.model.facts.noise > 0
    rows.dropout.set_value(False)
    _wait(qtbot, dock)
    assert dock.model.facts.noise == 0
    rows.kind.set_value("values")
    _wait(qtbot, dock)
    rows.step.setText("12")
    rows.step.editingFinished.emit()
    _wait(qtbot, dock)
    assert (dock.model.facts.kind, dock.model.facts.period) == ("values", (12, 12))
    assert rows.value() == {"dropout": False, "kind": "values", "step": 12}
    load(qtbot, dock, as_model(torch.nn.Conv2d(1, 1, 3, padding=1)))
    assert rows.value() == {}  # that was of another network
    rows.kind.set_value("embeddings")
    _wait(qtbot, dock)
    assert dock.model.facts.kind == "embeddings"
