"""Where the result goes and who computes it: refused with a sentence, begun, or gone on with.

Knows the rows *Run on* and *Save to*. Does not know plans, or how a result is shown.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from qtpy.QtCore import QObject, QSignalBlocker, Signal

from seamscope.docks.actions import Action
from seamscope.docks.job_row import JobRow
from seamscope.docks.layers import file_of_layer, name_of, path_of, pixels
from seamscope.docks.looks import in_dock
from seamscope.docks.prediction.place_row import PlaceRow
from seamscope.docks.run_on import RunOn
from seamscope.docks.tasks import begin_on_disk
from seamscope.errors import OutputError, SeamscopeError
from seamscope.execution.run import check_shared
from seamscope.images.image import Image
from seamscope.images.results.create import Room, room_for, would_overwrite
from seamscope.images.stored import files_behind
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.text import bytes_text

_NO_PLACE = (
    "Workers write the result to a file. Choose its place (Save to …), on a disk that all of them "
    "see."
)
_MOST_DRAWN = 1 << 24  # pixels of a plane that napari may read at once
_ONE_RESOLUTION = (
    "{} would have one resolution: to draw it, napari reads all of it, and does not answer "
    "meanwhile. Write {}: it has several, and is shown while it grows."
)
_EXISTS = "{} exists. Choose another name, or replace it."
_READ = (
    "The layer {} is read from {}, which a result would replace. Choose another name. To replace a "
    "file that you no longer need, remove its layer first."
)
_RESULT_SHARE = 0.5  # of the free memory, that a result may take
_RESULT_MOST = 2 << 30  # bytes of a result in memory: napari draws larger ones slowly
_TOO_LARGE = (
    "The result takes {}, and at most {} of a result are kept in memory here. Write it to a file: "
    "it is shown while it grows."
)
_BESIDE_TIP = "Write the result to {}: it is shown while it grows."
_SAVE_TIP = "Choose a folder and a name for the result."
_REPLACE_TIP = "Remove the file, and write the new result in its place."
_GO_ON_TIP = (
    "Predict what is left. The result is, bit for bit, that of a run without a break. Image, "
    "network and settings must be those that it was begun with."
)
_AGAIN_TIP = "Remove what is written, and predict everything again."


class Destination(QObject):
    """Where a result goes, and how.

    Parameters
    ----------
    viewer
        The files of its layers are never replaced.
    run_on, place
        The rows.
    job
        Shows that a file is being opened.

    Signals
    -------
    begun : (napari.layers.Image, Case, Output)
        The file is open, and the run can begin.
    failed : (Exception)
        It is not.
    """

    begun = Signal(object, object, object)
    failed = Signal(object)

    def __init__(self, viewer: Any, run_on: RunOn, place: PlaceRow, job: JobRow) -> None:
        super().__init__(place)
        self._viewer = viewer
        self._run_on, self._place, self._job = run_on, place, job

    @property
    def on(self) -> int | str | None:
        """Who computes (see `seamscope.predict`)."""
        return self._run_on.value()

    @property
    def target(self) -> str:
        """Path of the result; empty for memory."""
        return self._place.value()

    @property
    def unfinished(self) -> bool:
        """Whether there is an unfinished result to go on with."""
        return bool(self.target) and self._place.found.share is not None

    def too_large(self, plan: Plan) -> str:
        """Say why a plan's result cannot be kept in memory; empty where it can."""
        most = min(psutil.virtual_memory().available * _RESULT_SHARE, _RESULT_MOST)
        needed = plan.result_bytes
        return "" if needed <= most else _TOO_LARGE.format(bytes_text(needed), bytes_text(most))

    def show_for(self, layer: ImageLayer | None) -> None:
        """Propose a place for the result of an image."""
        if layer is not None:
            self._place.propose(layer.name, name_of(layer))

    def room(self, plan: Plan, image: Image) -> Room | None:
        """Return the space that a plan's result takes; None where it is not known."""
        if not self.target or self._place.found.problem:
            return None
        shape, dtype, axes, chunks = plan.out_shape, plan.out_dtype, plan.out_axes, plan.out_chunks
        size_of = self._place.size_of
        with contextlib.suppress(OutputError):  # of the kind of file, raised again by the run
            return room_for(self.target, shape, dtype, axes, chunks, size_of, image)
        return None

    def problem(self, layer: ImageLayer, image: Image, model: Model, plan: Plan) -> str:
        """Return why a run cannot begin; empty where it can."""
        found, target, on = self._place.found, self.target, self.on
        if self._run_on.problem:
            return self._run_on.problem
        if not target:
            return _NO_PLACE if on is not None else self.too_large(plan)
        if found.problem:
            return in_dock(found.problem)
        if self._read:
            return self._read
        if found.whole and found.share is None:
            return _EXISTS.format(Path(target).name)
        if found.share is None and self._pyramid_instead(plan):
            return _ONE_RESOLUTION.format(Path(target).name, Path(self._pyramid_instead(plan)).name)
        room = self.room(plan, image)
        if room is not None and room.problem:
            return in_dock(room.problem)
        if image.opener is None:  # workers open the file of the layer
            image = replace(image, opener=name_of(layer) or None)
        try:
            check_shared(image, model, target or None, on)
        except SeamscopeError as error:
            return in_dock(error)
        return ""

    def _pyramid_instead(self, plan: Plan) -> str:
        """Return the place to write to instead, where napari could not draw this one."""
        target, sides = self.target, zip(plan.out_shape, plan.out_axes, strict=True)
        if not target.endswith(".zarr") or target.endswith(".ome.zarr"):
            return ""
        plane = math.prod(n for n, axis in sides if axis in "yx")
        return f"{target.removesuffix('.zarr')}.ome.zarr" if plane > _MOST_DRAWN else ""

    @property
    def _read(self) -> str:
        """Say which layer reads what a result would replace; empty where none does.

        A layer is lazy, or napari has changed its pixels: its file cannot be known by the image.
        """
        target = self.target
        if self._place.problem:
            return ""
        for layer in self._viewer.layers:
            for path in _files_of(layer):
                # layers of an unfinished result, or of its arrays, may stay: a run goes on with it
                unfinished = Path(f"{target}.partial") in (path, *path.parents)
                if not unfinished and would_overwrite(target, path):
                    file = Path(target) if path.is_relative_to(target) else path
                    return _READ.format(layer.name, file.name)
        return ""

    def actions(self, run: Callable[..., object], plan: Plan) -> list[Action]:
        """Return what can be done about the place.

        Parameters
        ----------
        run
            Begins the run, with ``resume`` or ``overwrite``.
        plan
            Of that run.
        """
        found, target = self._place.found, self.target
        save = Action("Save to …", _SAVE_TIP, self._place.ask)
        if not target:
            proposed = self._place.proposed
            take = partial(self._place.set_value, proposed)
            beside = Action(f"Write {Path(proposed).name}", _BESIDE_TIP.format(proposed), take)
            return [beside, save] if self.on is not None or self.too_large(plan) else []
        if self._read:
            return [save]
        pyramid = self._pyramid_instead(plan)
        if pyramid and found.share is None and not found.problem:
            take = partial(self._place.set_value, pyramid)
            return [Action(f"Write {Path(pyramid).name}", _BESIDE_TIP.format(pyramid), take), save]
        again = partial(run, overwrite=True)
        if found.share is not None:
            begin_again = Action("Begin again", _AGAIN_TIP, again)
            return [go_on(found.share, partial(run, resume=True)), begin_again]
        if found.problem:
            return [save]
        return [Action("Replace it", _REPLACE_TIP, again), save] if found.whole else []

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is at the place."""
        share = self._place.found.share
        if not self.target or share is None:
            return ()
        name = Path(self.target).name
        return (f"{name} is unfinished: {_percent(share)} is predicted. Go on, or begin again.",)

    def begin(
        self,
        case: Case,
        layer: ImageLayer,
        axes: str | None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Open the file, beside the window.

        Parameters
        ----------
        case
            As it was wanted.
        layer, axes
            Of the image.
        resume, overwrite
            Whether an unfinished result is continued, or what is there is replaced.
        """
        if self._read:
            self.failed.emit(OutputError(self._read))
            return
        in_file = partial(file_of_layer, layer, axes) if name_of(layer) else None
        function = partial(
            begin_on_disk,
            case,
            self.target,
            self.on,
            in_file,
            resume=resume,
            overwrite=overwrite,
        )

        def opened(made: tuple[Case, object] | None) -> None:
            if made is not None:
                self.begun.emit(layer, *made)

        self._job.start("opening the result", function, opened, failed=self.failed.emit)

    def ended(self, target: str, finished: bool) -> None:
        """The run into a file is over."""
        if finished and target == self.target:
            with QSignalBlocker(self._place):  # no choice of the user
                self._place.move_on()
        else:
            self._place.look()


def _files_of(layer: Layer) -> list[Path]:
    """Return the files that a layer is known to be read from."""
    path = path_of(layer)
    behind = files_behind(pixels(layer)) if isinstance(layer, ImageLayer | Labels) else []
    return [*([Path(path)] if path else []), *behind]


def go_on(share: float, act: Callable[[], object]) -> Action:
    """Return the button to go on with a result of which such a part is done."""
    return Action(f"Go on ({_percent(share)} done)", _GO_ON_TIP, act)


def _percent(share: float) -> str:
    return f"{min(int(share * 100), 99)}%"


__all__ = ["Destination", "go_on"]
