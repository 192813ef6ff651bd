"""The menu *Protocol* of the dock *Tiled prediction*: save, load, copy as a command; and remember.

Knows which control shows which entry of a protocol. Does not know how a protocol is written (see
`seamscope.planning.protocol`), or how a command is (see `seamscope.cli.protocols`).
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from seamscope.cli.protocols import command_of
from seamscope.docks.layers import check_image, file_of_layer
from seamscope.docks.sentences import sentence
from seamscope.docks.session import Fixed
from seamscope.errors import SeamscopeError, SettingsError
from seamscope.models.formats.spec import absolute
from seamscope.models.formats.trust import config_folder
from seamscope.models.model import Model
from seamscope.planning.protocol import (
    FixedStatistics,
    Protocol,
    check_network,
    load_statistics,
    network_of,
)
from seamscope.progress import Work
from seamscope.settings import WORDS, Settings

if TYPE_CHECKING:
    from seamscope.docks.prediction.dock import PredictionDock

_FILES = "Protocols (*.toml);;All files (*)"
# Settings that follow from the image, the network or the region, and not from habit.
_OF_ONE_IMAGE = ("area", "channel", "channel_axis", "memory")
_GRID = ("tile", "halo", "overlap")
# Settings that are right for one network and wrong for another, whose results look as good.
_OF_ONE_NETWORK = ("normalize", "percentiles", "threshold", "background", "channel", *_GRID)


class Protocols(QObject):
    """What the dock's controls say, as a protocol, and back.

    Parameters
    ----------
    dock
        Whose controls they are.

    Attributes
    ----------
    button
        The menu, to be placed.
    extra
        Settings of a loaded protocol that have no control.
    """

    def __init__(self, dock: PredictionDock) -> None:
        super().__init__(dock)
        self._dock = dock
        self._wanted: Protocol | None = None  # whose network is being loaded
        self._known: Protocol | None = None  # of the last run, as it was on screen
        self._owner = ""  # fingerprint of the network that the controls were set for
        self.extra: dict[str, Any] = {}
        self._absent = ""  # a device that this machine lacks
        self._dropped = ""  # intensities that were chosen for the network before
        self.button = self._menu()

    # -- from the controls to a protocol

    def protocol(self) -> Protocol:
        """Return what the controls say.

        Raises
        ------
        SettingsError
            Where the plan is not possible yet, or the network is in no file.
        """
        if self._dock.plan is None:
            raise SettingsError("Choose an image and a network first.")
        return Protocol.of(self._dock.case())

    def command(self) -> str:
        """Return a command for a shell with the same result.

        Raises
        ------
        SeamscopeError
            Where no command gives it: the layer or the network is in no file.
        """
        layer = check_image(self._dock.layer)
        name, image = file_of_layer(layer, self._dock.axes.text().strip() or None)
        protocol = self.protocol().reading(image)
        stem = Path(name.removeprefix("demo:")).name.partition(".")[0]
        return command_of(protocol, name, f"{stem}_prediction.ome.zarr")

    def save(self, path: str) -> None:
        """Write a protocol to a file."""
        file = Path(path)
        file = file if file.suffix else file.with_suffix(".toml")
        self._try(lambda: self.protocol().save(file), f"Protocol saved to {file.name}.")

    def copy(self) -> None:
        """Put the command on the clipboard."""

        def put() -> None:
            text = self.command()
            clipboard = QGuiApplication.clipboard()
            if clipboard is not None:
                clipboard.setText(text)

        self._try(put, "Command copied. Paste it into a terminal.")

    # -- from a protocol to the controls

    def load(self, path: str) -> None:
        """Set the controls as a protocol says, and load its network."""
        self._try(lambda: self.take(Protocol.load(path)), f"Protocol {Path(path).name} loaded.")

    def take(self, protocol: Protocol) -> None:
        """Set the controls as a protocol says, and load its network.

        Raises
        ------
        SettingsError
            When it has no network.
        """
        if protocol.network is None:
            raise SettingsError(
                "The protocol has no network, only a recipe of labels. Use it on the command line: "
                "seamscope run PROTOCOL IMAGE OUT."
            )
        dock = self._dock
        axes, layer = protocol.image.axes, dock.layer
        if axes is not None and layer is not None and len(axes) == layer.ndim:
            dock.axes.setText(axes)
        self._set(protocol.settings)
        self._wanted, self._owner = protocol, protocol.network.fingerprint
        model = dock.plain
        if model is not None and is_network_of(protocol, model):
            self.ready(model)
            dock.refresh()
        else:
            dock.model_picker.set_value(protocol.network.path)

    def _set(self, settings: Settings) -> None:
        """Set the controls, except those that need the network first."""
        dock = self._dock
        self.extra = {}
        with dock.quietly():
            dock.blend.set_value(settings.blend)
            dock.options.set_values(settings)
        device = settings.device
        self._absent = device if dock.options.device.value() != device else ""
        shown = {**dock.options.values(), "seams": dock.options.seams.value(), "area": None}
        for name, value in vars(settings).items():
            if name not in (*_GRID, "blend", "memory", "device") and value != shown.get(
                name, vars(Settings())[name]
            ):
                self.extra[name] = value

    def stated(self, spec: Any) -> dict[str, Any]:
        """Return what the protocol states of a network that is being loaded."""
        wanted = self._wanted
        if wanted is None or wanted.network is None or wanted.network.path != spec:
            self._wanted, self.extra, self._absent = None, {}, ""
            return {}
        return dict(wanted.network.stated)

    def check(self, model: Model) -> None:
        """Refuse a network that is not the protocol's.

        Raises
        ------
        SettingsError
            Naming both fingerprints.
        """
        if self._wanted is not None and self._wanted.network is not None:
            check_network(model, self._wanted.network.fingerprint)

    def ready(self, model: Model) -> None:
        """Set what depends on the network: as its protocol says, or as in the last run with it."""
        last = self._of_last_run(model)
        wanted, self._wanted = self._wanted or last, None
        if self._owner != model.fingerprint:
            self._take_over(model, None if last is None else last.settings)
            self._owner = model.fingerprint
        if wanted is None:
            return
        self._set_tiles(wanted.settings)
        if wanted.statistics is not None:
            self._fix(model, wanted.statistics)

    def _take_over(self, model: Model, settings: Settings | None) -> None:
        """Set the options for another network; those chosen before the first one stay."""
        options = self._dock.options
        before = options.normalize.value()
        with self._dock.quietly():
            if self._owner:
                options.set_network_values(Settings())
            if settings is not None:
                self._dock.offer_classes(model)  # one of them may be the background
                options.set_network_values(settings)
        known = Settings() if settings is None else settings
        self.extra.pop("percentiles", None)
        if known.percentiles != Settings().percentiles:  # no control shows them
            self.extra["percentiles"] = known.percentiles
        reset = before != "auto" and options.normalize.value() == "auto"
        self._dropped = before if reset else ""

    def _set_tiles(self, settings: Settings) -> None:
        dock = self._dock
        with dock.quietly():
            if dock.image is not None and dock.plain is not None:
                dock.grid.offer_sizes(dock.plain, dock.image)
            dock.grid.set_values(settings.tile, settings.halo, settings.overlap)

    def _fix(self, model: Model, statistics: FixedStatistics) -> None:
        """Read the fixed statistics, in a thread."""

        def read(*, work: Work) -> Model:
            return model.with_statistics(load_statistics(statistics.path, statistics.digest))

        def use(network: Model | None) -> None:
            if network is not None:
                self._dock.session.fix(Fixed(model, network, None))

        self._dock.job.start("reading the fixed statistics", read, use)

    @property
    def notes(self) -> tuple[str, ...]:
        """What no control shows."""
        said = []
        if self._absent:
            said.append(f"The protocol's device {self._absent} is not on this machine.")
        if self._dropped and self._dock.options.normalize.value() == "auto":
            said.append(
                f"Image intensities are Auto again: {self._dropped} was chosen for another network."
            )
        if not self.extra:
            return tuple(said)
        values = ", ".join(f"{WORDS[name].label} {_said(v)}" for name, v in self.extra.items())
        said.append(
            f"Settings that have no control here: {values}. They are those of the protocol, or of "
            "the last run. Load another network to undo this."
        )
        return tuple(said)

    # -- from one session to the next

    def remember(self) -> None:
        """Keep the settings of a run for the next session."""
        self._dropped = ""
        own = self._dock.settings()
        changes = {name: vars(Settings())[name] for name in _OF_ONE_IMAGE}
        model = self._dock.plain
        with contextlib.suppress(SeamscopeError, OSError):  # no reason not to run
            network = None if model is None or model.spec is None else network_of(model)
            self._known = Protocol(network, own.but(**changes))
            _last().parent.mkdir(parents=True, exist_ok=True)
            self._known.save(_last())

    def recall(self) -> None:
        """Set the controls as they were at the last run, except what its network needs."""
        with contextlib.suppress(SeamscopeError):  # the first time, or of another version
            self._known = Protocol.load(_last())
            usual = {name: vars(Settings())[name] for name in _OF_ONE_NETWORK}
            self._set(self._known.settings.but(**usual))
            self.extra, self._absent = {}, ""

    def _of_last_run(self, model: Model) -> Protocol | None:
        known = self._known
        if known is None or known.network is None:
            return None
        return known if known.network.fingerprint == model.fingerprint else None

    # -- the menu

    def _menu(self) -> QPushButton:
        made = QPushButton()
        made.setText("Protocol ▾")
        made.setToolTip("Save or load all choices, or copy them as a command.")
        made.setStyleSheet("QPushButton::menu-indicator { image: none; }")
        menu = QMenu(made)
        menu.setToolTipsVisible(True)
        for text, tip, act in (
            ("Save protocol …", "Write all choices to a file.", self._ask_where_to_save),
            ("Load protocol …", "Set all choices from a file.", self._ask_what_to_load),
            ("Copy as command", "Copy a command with the same result.", self.copy),
        ):
            action = menu.addAction(text)
            action.setToolTip(tip)
            action.triggered.connect(partial(_call, act))
        made.setMenu(menu)
        return made

    def _ask_where_to_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self._dock, "Save protocol", "protocol.toml", _FILES)
        if name:
            self.save(name)

    def _ask_what_to_load(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self._dock, "Load protocol", "", _FILES)
        if name:
            self.load(name)

    def _try(self, act: Any, done: str) -> None:
        """Do something, and show that it is done or why not."""
        panel = self._dock.panel
        try:
            act()
        except Exception as error:
            panel.show_problem(sentence(error, "The protocol"))
        else:
            panel.say(done)


def _call(act: Any, _: Any = None) -> None:
    act()


def _last() -> Path:
    return config_folder() / "last.toml"


def is_network_of(protocol: Protocol, model: Model) -> bool:
    """Whether a network is loaded from the file that a protocol names."""
    if protocol.network is None or model.spec is None:
        return False
    return absolute(model.spec) == protocol.network.path


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{axis} {a} to {b}" for axis, (a, b) in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_said, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["Protocols", "is_network_of"]
