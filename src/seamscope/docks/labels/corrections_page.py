"""Corrections by hand: tools, keys, undo, suspicious objects and crops.

Knows clicks, keys and buttons. Does not know what a correction does: that is
`seamscope.segmentation.corrections`.

Each tool acts on a place: the one that is clicked while its button is down, or the one below the
pointer when its key is pressed. Merging and splitting take two places; dragging with Shift merges
all objects on the line, or draws the two strokes that a split keeps apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QPushButton, QWidget

from seamscope.docks.controls import BUSY, allow, button, fill
from seamscope.docks.job_row import JobRow
from seamscope.docks.labels.background import Crops, Suspects
from seamscope.docks.labels.live import WAIT, Live
from seamscope.docks.labels.paint_window import Change, PaintWindow, region_in_view
from seamscope.docks.labels.pointing import Place, Pointer, Pointing
from seamscope.docks.layers import area_in_view, camera, image_of, look_at
from seamscope.docks.looks import boxed, in_dock, plain, text_label
from seamscope.docks.window import canvas_side
from seamscope.errors import SeamscopeError, SettingsError
from seamscope.images.image import Image
from seamscope.segmentation.corrections import Corrections
from seamscope.segmentation.false_splits import Candidate
from seamscope.segmentation.review import Suspect

Tool = Literal["merge", "split", "delete", "lock"]

KEYS = {
    "merge": "J",
    "split": "C",
    "delete": "D",
    "lock": "K",
    "paint": "W",
    "undo": "U",
    "redo": "Y",
    "next": "N",
}
_TITLES = {
    "merge": "Merge",
    "split": "Split",
    "delete": "Delete",
    "lock": "Lock",
    "paint": "Paint",
    "undo": "Undo",
    "redo": "Redo",
    "next": "Next suspicious object",
}
_TIPS = {
    "merge": "Click two objects to make one of them, or drag a line with Shift over several.",
    "split": "Click two places of one object: it is cut at the highest ridge between them.\n"
    "Or drag two strokes with Shift, one over each part.",
    "delete": "Click an object to make it background.",
    "lock": "Click an object to keep it as it is, at any threshold. Click again to unlock it.",
    "paint": "Paint and erase with napari's tools, in a window around the view. Press again to\n"
    "keep what was painted.",
    "undo": "Take the latest correction back.",
    "redo": "Repeat the correction that was taken back.",
    "next": "Go to the next object whose border is uncertain, that a seam may cut, or whose\n"
    "size is odd.",
    "discard": "Close the window, and leave out what was painted.",
    "crops": "Write image and labels around all corrected places, for training.",
    "open": "Apply the corrections in a file.",
}
_HINTS = {
    "merge": "Click two objects, or drag a line with Shift over several.",
    "split": "Click two places in one object, or drag a stroke with Shift over each part.",
    "delete": "Click the objects to delete.",
    "lock": "Click objects to lock or unlock them.",
}
_TOOLS: tuple[Tool, ...] = ("merge", "split", "delete", "lock")
_NO_OBJECTS = "First press Segment: corrections need the objects of the whole image."
_PAINTING = "First keep what was painted (press Keep), or discard it."
_MOST_PAINTED = 2048  # pixels of a window along an axis
_ROOM = 160  # pixels around a suspicious object, at least


class CorrectionsPage(QWidget):
    """Corrects what `Live` shows.

    Parameters
    ----------
    viewer
        That is clicked.
    live
        The objects.
    row
        Shows long work.

    Signals
    -------
    message : (str)
        Why something is not done; empty when all is well.
    """

    message = Signal(str)

    def __init__(self, viewer: Any, live: Live, row: JobRow) -> None:
        super().__init__()
        self._viewer, self._live, self._row = viewer, live, row
        self._mark: Sequence[Place] = ()
        self._marks: Any = None
        self._suspects: list[Suspect] = []
        self._visited = 0
        self._said = ""
        self.candidates: Sequence[Candidate] = ()
        self.window: PaintWindow | None = None
        self.buttons: dict[str, QPushButton] = {
            name: button(f"{_TITLES[name]}  ({key})", f"{_TIPS[name]}\nKey {key}.")
            for name, key in KEYS.items()
        }
        self.discard = button("Discard", _TIPS["discard"])
        self.crops = button("Export crops …", _TIPS["crops"])
        self.open = button("Open corrections …", _TIPS["open"])
        self.text = text_label()
        self._lay_out()
        for tool in _TOOLS:
            self.buttons[tool].setCheckable(True)
            self.buttons[tool].clicked.connect(partial(self._clicked_tool, tool))
        for name in ("paint", "undo", "redo", "next"):
            self.buttons[name].clicked.connect(self._act_of(name))
        self.discard.clicked.connect(self._discard)
        self.crops.clicked.connect(self._choose_crops)
        self.open.clicked.connect(self._choose_file)
        self.show_state()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        for i, name in enumerate(("merge", "split", "delete", "lock", "undo", "redo")):
            grid.addWidget(self.buttons[name], i // 2, i % 2)
        grid.addWidget(self.buttons["paint"], 3, 0)
        grid.addWidget(self.discard, 3, 1)
        grid.addWidget(self.buttons["next"], 4, 0, 1, 2)
        fill(self, grid, self.text, (self.open, self.crops))

    # -- coming and going

    def follow(self) -> None:
        """Hear clicks."""
        self._viewer.mouse_drag_callbacks.append(self._pressed)

    def leave(self) -> None:
        """Hear no clicks, and close the window."""
        if self._pressed in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._pressed)
        self.take_tool(None)
        self._discard()

    def bind_keys(self, layer: Any) -> None:
        """Let keys act while a layer is selected."""
        for tool in _TOOLS:
            layer.bind_key(KEYS[tool], self._at_pointer(tool), overwrite=True)
        for name in ("paint", "undo", "redo", "next"):
            layer.bind_key(KEYS[name], self._act_of(name), overwrite=True)

    def _at_pointer(self, tool: Tool) -> Callable[[Any], None]:
        def act(_: Any) -> None:
            dims = self._viewer.dims
            position, shown = self._viewer.cursor.position, dims.displayed
            direction = camera(self._viewer).calculate_nd_view_direction(dims.ndim, shown)
            self._act_at(tool, Pointer(position, direction, shown))

        return act

    def _act_of(self, name: str) -> Callable[..., None]:
        acts = {
            "paint": self.paint,
            "undo": self.undo,
            "redo": self.redo,
            "next": self.next_suspect,
        }
        return lambda *_: acts[name]()

    # -- state

    @property
    def tool(self) -> Tool | None:
        """The tool whose button is down."""
        return next((name for name in _TOOLS if self.buttons[name].isChecked()), None)

    def _clicked_tool(self, tool: Tool, _: Any = None) -> None:
        self.take_tool(tool)

    def take_tool(self, tool: Tool | None) -> None:
        """Press the button of one tool, and release the others."""
        for name in _TOOLS:
            wanted = name == tool and self.buttons[name].isChecked()
            self.buttons[name].setChecked(wanted)
        self._set_mark(())
        self.show_state()

    def forget(self) -> None:
        """Other objects are shown."""
        self._suspects, self._visited, self.candidates = [], 0, ()
        self._said = ""
        self._set_mark(())
        self._discard()
        self.show_state()

    def show_state(self, _: Any = None) -> None:
        """Say what can be done, and what was."""
        edits = self._live.corrections
        ready = edits is not None
        painting = self.window is not None
        there, over = (ready, _NO_OBJECTS), (not painting, _PAINTING)
        free = not self._row.busy, BUSY
        made = edits is not None and bool(len(edits)), "Nothing was corrected yet."
        undone = edits is not None and edits.can_redo, "Nothing was undone."
        for name in (*_TOOLS, "paint"):
            allow(self.buttons[name], there, *[over] * (name != "paint"))
        allow(self.buttons["next"], there, over, free)
        allow(self.buttons["undo"], there, made, over)
        allow(self.buttons["redo"], there, undone, over)
        self.discard.setVisible(painting)
        key = KEYS["paint"]
        self.buttons["paint"].setText(f"Keep  ({key})" if painting else f"Paint  ({key})")
        allow(self.open, there, over)
        allow(self.crops, there, made, free)
        self.text.setText(self._state_text(edits))

    def _state_text(self, edits: Corrections | None) -> str:
        if edits is None:
            classes = self._live.recipe.kind == "classes" and self._live.whole
            return (
                "Classes have no objects to correct: choose the recipe components."
                if classes
                else "Corrections need the objects of the whole image: press <i>Segment</i>."
            )
        parts = []
        if self._said:
            parts.append(plain(self._said))
        if self.window is not None:
            parts.append("Paint in the layer <i>paint</i> (keys M, P, E, F), then press Keep.")
        elif self._mark:
            parts.append("Now the second place.")
        elif self.tool is not None:
            parts.append(_HINTS[self.tool])
        count = len(edits)
        kept = (
            f"saved in {plain(edits.path.name)}"
            if edits.path is not None
            else "kept in memory: name a file on the page <i>Write</i> to save them"
        )
        parts.append(f"<b>{count} correction{'s' * (count != 1)}</b>, {kept}.")
        return "<br>".join(parts) + left_out(edits.skipped)

    # -- clicks

    def _pressed(self, _: Any, event: Any) -> Iterator[None]:
        tool = self.tool
        if tool is None or self._live.corrections is None or event.button != 1:
            return
        line = "Shift" in event.modifiers and tool in ("merge", "split")
        points = [Pointer.of(event)]
        eye = camera(self._viewer)
        moved_by_mouse, eye.mouse_pan = eye.mouse_pan, eye.mouse_pan and not line
        yield
        while event.type == "mouse_move":
            points.append(Pointer.of(event))
            yield
        eye.mouse_pan = moved_by_mouse
        if line and len(points) > 1:
            self.draw(tool, points)
        elif len(points) == 1:
            self._act_at(tool, points[0])

    def _pointing(self) -> Pointing | None:
        """What is under the pointer; None, and said why, where that cannot be known."""
        layer, found = self._live.layer, self._live.found
        if layer is None or found is None:
            return None
        if self._viewer.dims.ndisplay == 3 and layer.ndim == 2:
            self.message.emit("These labels have no third axis: switch the view to 2D.")
            return None
        return Pointing(layer, found)

    def _act_at(self, tool: Tool, pointer: Pointer) -> None:
        pointing = self._pointing()
        place = None if pointing is None else pointing.place(pointer)
        if place is not None and self._live.corrections is not None and self.window is None:
            self.act(tool, place)

    def draw(self, tool: Tool, stroke: Sequence[Pointer]) -> None:
        """Use a tool along a stroke."""
        pointing = self._pointing()
        if pointing is None:
            return
        named = [(pointing.name(place), place) for place in pointing.places(stroke)]
        on_objects = [place for name, place in named if name]
        objects: dict[int, Place] = {}
        for name, place in named:
            if name:
                objects.setdefault(name, place)
        if tool == "merge":
            if len(objects) < 2:
                self.message.emit("The line crosses fewer than two objects: draw it over several.")
            else:
                self.correct(lambda edits: edits.merge(*objects.values()))
        elif not on_objects:
            self.message.emit(
                "The stroke lies on the background: draw it over a part of an object."
            )
        elif not self._mark:
            self._set_mark(on_objects)
            self.show_state()
        else:
            first = self._mark
            self._set_mark(())
            self.correct(lambda edits: edits.split(first, on_objects))

    def act(self, tool: Tool, place: Place) -> None:
        """Use a tool at a place."""
        if tool == "delete":
            self.correct(lambda edits: edits.delete(place))
        elif tool == "lock":
            self.correct(
                lambda edits: edits.unlock(place) if edits.is_locked(place) else edits.lock(place)
            )
        elif not self._mark:
            self._set_mark([place])
            self.show_state()
        else:
            first = self._mark
            self._set_mark(())
            if tool == "merge":
                self.correct(lambda edits: edits.merge(first[0], place))
            else:
                self.correct(lambda edits: edits.split(first, [place]))

    def _set_mark(self, places: Sequence[Place]) -> None:
        """Show the first places of a merge or a split."""
        self._mark = list(places)
        layer = self._live.layer
        if layer is None or layer not in self._viewer.layers:
            return
        there = self._marks is not None and self._marks in self._viewer.layers
        if not there and not self._mark:
            return
        if not there or self._marks.ndim != layer.ndim:
            self._marks = self._viewer.add_points(
                np.zeros((0, layer.ndim)),
                name="marks",
                ndim=layer.ndim,
                size=1,
                face_color="#ff5d8f",
                border_width=0,
                metadata={"seamscope": {}},
                scale=layer.scale,
                translate=layer.translate,
                units=layer.units,
                axis_labels=layer.axis_labels,
            )
            self._viewer.layers.selection.active = layer
        self._marks.data = np.asarray(self._mark, float).reshape(-1, layer.ndim)
        if self._mark:
            self._marks.size = self._dot_size()

    def _dot_size(self) -> float:
        """Pixels of a mark, so that it is seen."""
        with contextlib.suppress(SettingsError):
            area = area_in_view(self._live.layer, self._live.axes, self._viewer)
            return max(1.0, max(high - low for low, high in area.values()) / 100)
        return 1.0

    def correct(self, act: Callable[[Corrections], object]) -> bool:
        """Make a correction, show it, and say what went wrong."""
        edits = self._live.ready()
        if edits is None:
            self.message.emit(WAIT)
            return False
        try:
            act(edits)
        except SeamscopeError as error:
            self.message.emit(in_dock(error))
            self.show_state()
            return False
        self.message.emit("")
        self._live.refresh_corrections()
        self.show_state()
        return True

    def undo(self) -> None:
        """Take the latest correction back."""
        self.correct(lambda edits: edits.undo())

    def redo(self) -> None:
        """Repeat the correction that was taken back."""
        self.correct(lambda edits: edits.redo())

    # -- painting

    def paint(self) -> None:
        """Open the window, or keep what was painted in it."""
        if self.window is not None:
            self._keep()
            return
        found, layer = self._live.found, self._live.layer
        if found is None or layer is None or self._live.ready() is None:
            return
        if self._viewer.dims.ndisplay == 3:
            self.message.emit("Painting is done in slices: switch the view to 2D.")
            return
        try:
            area = area_in_view(layer, self._live.axes, self._viewer)
        except SettingsError as error:
            self.message.emit(in_dock(error))
            return
        region = region_in_view(area, self._live.axes, found.shape, _MOST_PAINTED)
        self.take_tool(None)
        names = found.paint_named(region)
        self.window = PaintWindow(self._viewer, layer, region, names)
        key = KEYS["paint"]
        self.window.layer.bind_key(key, lambda _: self.paint(), overwrite=True)
        self.show_state()

    def _keep(self) -> None:
        window = self.window
        assert window is not None
        if window.present:
            if self._live.ready() is None:
                self.message.emit(WAIT)
                return
            for change in list(window.changes()):
                if not self.correct(partial(_painted, corner=window.corner, change=change)):
                    return  # what was not kept stays in the window
                window.keep(change)
        self._discard()

    def _discard(self, _: Any = None) -> None:
        window, self.window = self.window, None
        if window is not None:
            window.close()
            self.show_state()

    # -- what to look at

    def next_suspect(self) -> None:
        """Go to the next suspicious object."""
        found = self._live.found
        if found is None or self._row.busy:
            return
        if self._visited < len(self._suspects):
            self._go_to(self._suspects[self._visited])
            self._visited += 1
            return

        def done(listed: list[Suspect] | None) -> None:
            if listed is None:
                return
            self._suspects, self._visited = listed, 0
            if listed:
                self.next_suspect()
            else:
                self._said = "No object is suspicious."
                self.show_state()

        work = Suspects(found, self.candidates)
        self._row.start("looking for suspicious objects", work, done)

    def _go_to(self, suspect: Suspect) -> None:
        self._said = f"{self._visited + 1} of {len(self._suspects)}. {suspect.sentence}"
        self.go_to_place(suspect.place)
        self.show_state()

    def go_to_place(self, place: Place) -> None:
        """Move the view to a place."""
        layer = self._live.layer
        if layer is not None and layer in self._viewer.layers:
            look_at(layer, [float(p) for p in place], _ROOM, self._viewer, canvas_side(self))

    # -- files

    def place_chosen(self, path: Path | None) -> None:
        """Corrections that are in memory go to a file from now on."""
        edits = self._live.corrections
        if edits is None or edits.path is not None or path is None:
            return
        try:
            edits.keep_in(path)
        except SeamscopeError as error:
            self.message.emit(in_dock(error))
        self.show_state()

    def _choose_file(self, _: Any = None) -> None:
        name, _kind = QFileDialog.getOpenFileName(
            self, "Open corrections", "", "Corrections (*.corrections);;All files (*)"
        )
        if name:
            self.open_file(name)

    def open_file(self, path: str) -> None:
        """Use the corrections in a file."""
        live = self._live
        if live.corrections is None or self._row.busy or self._unsaved():
            return
        base = live.corrections.base.at(live.recipe)

        def done(opened: Corrections | None) -> None:
            if opened is not None and live.whole and not self._unsaved():
                live.corrections = opened
                live.refresh_corrections()
                self.show_state()

        name = f"opening {Path(path).name}"
        self._row.start(name, lambda **_: Corrections(base, path), done)

    def _unsaved(self) -> bool:
        """Refuse to replace corrections that no file holds."""
        edits = self._live.corrections
        unsaved = edits is not None and edits.path is None and len(edits) > 0
        if unsaved:
            self.message.emit("Save these corrections first: name a file on the page Write.")
        return unsaved

    def _choose_crops(self, _: Any = None) -> None:
        name = QFileDialog.getExistingDirectory(self, "Folder for crops")
        if name:
            self.export_crops(name)

    def export_crops(self, folder: str) -> None:
        """Write crops of image and labels around corrected places."""
        edits, image = self._live.ready(), self._pictured()
        if edits is None or self._row.busy:
            return
        if image is None:
            self.message.emit("No image of the labels' size is known: show it in a layer.")
            return

        def done(files: list[Any] | None) -> None:
            if files is not None:
                count = len(files)
                self._said = f"{count} crop{'s' * (count != 1)} in {folder}."
                self.show_state()

        self._row.start("exporting crops", Crops(edits, image, folder), done)

    def _pictured(self) -> Image | None:
        """The image that was predicted, else the prediction itself."""
        source = self._live.source
        if source is not None and source.run is not None:
            run = source.run
            image = image_of(run.layer, run.plan.layout.axes)
            sizes = [n for n, a in zip(image.shape, image.axes or "", strict=True) if a != "c"]
            found = self._live.found
            if found is not None and tuple(sizes) == found.shape:
                return image
        return self._live.image


def _painted(edits: Corrections, corner: Place, change: Change) -> None:
    if change.erased:
        edits.erase(corner, change.mask)
    else:
        edits.paint(corner, change.mask, change.place)


def left_out(skipped: Sequence[str]) -> str:
    """Say which corrections do not fit the objects of a recipe; nothing where all do."""
    if not skipped:
        return ""
    more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return boxed(f"Left out at this setting: {skipped[0]}{more}", "warning")


__all__ = ["KEYS", "CorrectionsPage", "left_out"]
