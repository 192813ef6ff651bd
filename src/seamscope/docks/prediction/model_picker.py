"""Which network: demo networks, recent ones, a file, or a typed factory; and whether to trust it.

Knows model strings, what was used lately, and how to ask. Does not load anything.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QFrame,
    QLabel,
    QPlainTextEdit,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from seamscope.docks.controls import beside, button, stack
from seamscope.docks.looks import boxed, text_label
from seamscope.docks.remembered import remembered
from seamscope.errors import SeamscopeError, TrustError
from seamscope.models.formats import Code, Consent, code_of

_MOST_RECENT = 8
_MOST_UNKNOWN = 6  # that are shown one by one
_DEMOS = {
    "demo:batchnorm": "Demo 2D BatchNorm",
    "demo:instancenorm": "Demo 2D InstanceNorm",
    "demo:batchnorm3d": "Demo 3D BatchNorm",
    "demo:instancenorm3d": "Demo 3D InstanceNorm",
}
_REMEMBERED = "Remembered by a hash of the content. If one byte changes, the question comes again."
_ASKED_AGAIN = (
    "Not possible here: what runs is not known from the content, which is all that a hash covers."
)
_BROWSE = 36  # width of a button with three dots
_HINT = "choose, type, or drop a file"
_HELP = (
    "The network: a demo, a file (.pt2, TorchScript, ONNX), a package of bioimage.io or MONAI\n"
    "(zip or folder), or a Python factory and its weights:\n"
    "    cells.pt2\n"
    "    package.zip#boundary                     one of several outputs\n"
    "    unet.py:UNet(depth=3)@weights.safetensors\n"
    "    monai.networks.nets:BasicUNet(spatial_dims=2)@weights.pth\n"
    "Files can be dropped anywhere on this dock, or onto the viewer."
)
_FILES = (
    "Networks (*.pt2 *.pt *.pth *.ckpt *.ts *.torchscript *.onnx *.zip rdf.yaml bioimageio.yaml "
    "*.safetensors);;All files (*)"
)


def recent_models() -> list[str]:
    """Model strings used lately, the latest first."""
    found = remembered().value("models/recent", [])
    return [found] if isinstance(found, str) else [str(each) for each in found or ()]


def remember_model(spec: str) -> None:
    """Put a model string on top of the recent ones; demo networks are offered anyway."""
    if spec.startswith("demo:"):
        return
    others = [each for each in recent_models() if each != spec]
    remembered().setValue("models/recent", [spec, *others][:_MOST_RECENT])


def friendly(spec: str) -> str:
    """What to call a model string in a list."""
    return _DEMOS.get(spec, spec)


class ModelPicker(QWidget):
    """Editor of a model string, and the question whether its code may run.

    Attributes
    ----------
    consent
        The question; to be placed where there is room for it.

    Signals
    -------
    asked : (str, bool)
        Load this network; whether its code may run.
    """

    asked = Signal(str, object)

    def __init__(self) -> None:
        super().__init__()
        self.box = _spec_box()
        self.browse = button("…", "Choose a file, such as cells.pt2 or package.zip.")
        self.browse.setAccessibleName("Choose a file of a network")
        self.browse.setMaximumWidth(_BROWSE)
        self.consent = ConsentPanel()
        stack(self, beside(self.box, self.browse))
        self._spec = ""
        self.refill()
        self.box.activated.connect(self._activated)
        self.box.lineEdit().returnPressed.connect(self._entered)
        self.browse.clicked.connect(self._browse)
        self.consent.answered.connect(self._answered)
        self.consent.source_wanted.connect(self._show_source)

    def value(self) -> str:
        """Model string that was chosen last; empty for none."""
        return self._spec

    def set_value(self, spec: str) -> None:
        """Ask for a network, as if it had been typed."""
        self.show_value(spec)
        self.consent.hide()
        if spec:
            self.asked.emit(spec, False)

    def show_value(self, spec: str) -> None:
        """Show a model string without asking for it."""
        self._spec = spec
        with QSignalBlocker(self.box):
            index = self.box.findData(spec)
            self.box.setCurrentIndex(index)
            self.box.setEditText(friendly(spec))
        self.box.setToolTip(f"{spec}\n\n{_HELP}" if spec else _HELP)
        self.box.lineEdit().setCursorPosition(0)

    def show_name(self, name: str) -> None:
        """Show what has no model string: a network that was handed over."""
        with QSignalBlocker(self.box):
            self.box.setCurrentIndex(-1)
            self.box.setEditText(name)

    def refill(self) -> None:
        """Offer demo networks and recent ones."""
        recent = recent_models()
        with QSignalBlocker(self.box):
            self.box.clear()
            for spec in [*recent, *_DEMOS]:
                self.box.addItem(friendly(spec), spec)
                self.box.setItemData(self.box.count() - 1, spec, Qt.ItemDataRole.ToolTipRole)
            if recent:
                self.box.insertSeparator(len(recent))
        self.show_value(self._spec)

    def ask_consent(self, error: TrustError) -> None:
        """Ask whether code may run, naming what would."""
        self.consent.ask(error)

    def _activated(self, index: int) -> None:
        spec = self.box.itemData(index)
        if spec:
            self.set_value(str(spec))

    def _entered(self) -> None:
        text = self.box.currentText().strip()
        index = self.box.findText(text)
        self.set_value(str(self.box.itemData(index)) if index >= 0 else text)

    def _browse(self) -> None:
        start = str(Path(self._spec.rpartition("@")[2]).parent) if self._spec else ""
        name, _ = QFileDialog.getOpenFileName(self, "Choose a network", start, _FILES)
        if name:
            self.set_value(name)

    def _answered(self, yes: bool) -> None:
        self.consent.hide()
        if yes:
            self.asked.emit(self._spec, self.consent.given())

    def _show_source(self) -> None:
        """Open a window with what would run; nothing of it is run for that."""
        try:
            code = code_of(self._spec)
        except SeamscopeError as error:  # the file went away meanwhile
            code = (Code.of(str(error)),)
        self.source = SourceWindow(self._spec, code, self)
        self.source.show()


def _spec_box() -> QComboBox:
    box = QComboBox()
    box.setEditable(True)
    box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    box.setCompleter(None)
    box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    box.lineEdit().setPlaceholderText(_HINT)
    box.lineEdit().setAcceptDrops(False)  # a dropped file is for the dock, not its text for here
    return box


def _boxes(unknown: Sequence[str]) -> str:
    """What only running shows, in red; a line of empty space after it."""
    shown = [f"Unknown: {line}." for line in unknown[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        shown.append(f"{len(unknown) - _MOST_UNKNOWN} more are unknown.")
    boxes = "".join(boxed(line, "error") for line in shown)
    return f"{boxes}<br>" if boxes else ""


class SourceWindow(QDialog):
    """The code that loading a network would run, to be read before it is trusted."""

    def __init__(self, spec: str, code: Sequence[Code], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"What loading {_short(spec)} would run")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(800, 600)
        self.text = QPlainTextEdit("\n\n\n".join(map(_readable, code)))
        self.text.setReadOnly(True)
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.unknown = text_label()
        self.unknown.setText(_boxes([line for each in code for line in each.unknown]))
        self.unknown.setVisible(bool(self.unknown.text()))
        column = QVBoxLayout(self)
        column.addWidget(self.unknown)
        column.addWidget(self.text, 1)


def _readable(code: Code) -> str:
    return f"# {code.what}\n\n{code.text or '# (it has no text that could be read)'}"


class ConsentPanel(QFrame):
    """The question whether code of a file may run.

    Signals
    -------
    answered : bool
        Whether it may.
    source_wanted
        The code is to be shown first.
    """

    answered = Signal(bool)
    source_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._digests: frozenset[str] = frozenset()
        self.setObjectName("seamscope_consent")
        self.setStyleSheet("#seamscope_consent { border: 1px solid #e3b617; border-radius: 4px; }")
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.text.setTextFormat(Qt.TextFormat.RichText)
        self.yes = button("Run it, I trust this file", "Load the network, and run its code.")
        self.no = button("Do not load", "Run nothing of the file.")
        self.read = button("Read it first", "Show the code. Nothing of it is run for that.")
        self.remember = QCheckBox("Do not ask again while it stays the same")
        self.remember.setToolTip(_REMEMBERED)
        column = stack(self, self.text, self.read, self.remember, (self.yes, self.no))
        column.setContentsMargins(9, 9, 9, 9)
        self.read.clicked.connect(self.source_wanted)
        self.yes.clicked.connect(self._say_yes)
        self.no.clicked.connect(self._say_no)
        self.hide()

    def ask(self, error: TrustError) -> None:
        """Show the question."""
        self._digests = error.digests
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in error.would_run)
        self.remember.setChecked(not error.unknown)
        self.remember.setEnabled(not error.unknown)
        self.remember.setToolTip(_ASKED_AGAIN if error.unknown else _REMEMBERED)
        self.text.setText(
            f"<b>Loading {html.escape(_short(error.source))} would run code:</b><ul>{lines}</ul>"
            f"{_boxes(error.unknown)}It can do whatever you can. Run it only if you trust where it "
            "comes from." + (f"<br>{html.escape(error.reason)}" if error.reason else "")
        )
        self.show()

    def given(self) -> Consent:
        """Return the consent to the code that is shown, and to no other."""
        return Consent(self._digests, self.remember.isChecked())

    def _say_yes(self) -> None:
        self.answered.emit(True)

    def _say_no(self) -> None:
        self.answered.emit(False)


def _short(spec: str) -> str:
    return spec if len(spec) < 60 else f"…{spec[-58:]}"
