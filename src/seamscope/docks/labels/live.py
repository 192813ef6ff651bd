"""Labels that follow: what is in view first, then the whole image; the newest request wins.

Knows parts, jobs and when to draw again. Does not know controls.

::

    begin(source)  -- view larger than the image? -->  whole image      corrections, writing
         |  no                                             ^
         v                                                 |  small enough, or wanted
    part in view  -- objects at its sides are hatched -----+
         ^
         +---- the view left it, and the whole image is not known

A recipe with the same basins only cuts the tree again: at once where that is quick, else beside the
window, the newest setting last.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from seamscope.docks.job import Job, Outcome
from seamscope.docks.job_row import JobRow
from seamscope.docks.labels.background import Build, Built, Counted, Curves, Cut
from seamscope.docks.labels.shown import Picture, Screen
from seamscope.docks.labels.source import Source
from seamscope.docks.layers import area_in_view
from seamscope.errors import SettingsError
from seamscope.execution.pool import On
from seamscope.images.image import Image
from seamscope.progress import Work
from seamscope.segmentation.corrections import Corrections
from seamscope.segmentation.recipe import Recipe
from seamscope.segmentation.segment import Segmentation

_MOST_IN_VIEW = 1 << 22  # pixels of the part that is found first
_SMALL = 1 << 20  # pixels up to which there is no part: all of it is as quick
_BY_ITSELF = 1 << 26  # pixels up to which the whole image follows by itself
_SLAB = 8  # planes on each side of the one that is seen
_MARGIN = 0.1  # of the view, on each side
_QUICK = 250_000  # basins whose tree is cut in the window's thread
_QUICK_PIXELS = 1 << 22  # that may be counted there
_QUICK_CORRECTIONS = 50
_REST_MS, _VIEW_MS, _SEEN_MS = 200, 250, 30
WAIT = "The objects are being found: wait until they are shown."

Area = Mapping[str, tuple[int, int]]
Kept = Callable[[], Callable[[str], Path | None]]


class Live(QObject):
    """Objects of one source, in one layer.

    Parameters
    ----------
    viewer
        That shows them.
    row
        Shows how far the whole image is.
    parent
        The dock.

    Signals
    -------
    layered : (object)
        There is another layer.
    built : (object)
        Basins are known; `Built`.
    drawn : (object)
        The layer shows another `Picture`.
    curves : (object)
        Other `Curves` belong to the setting.
    counted : (object)
        How many objects there are; `Counted`.
    failed : (object, str)
        An error, and what failed.

    Attributes
    ----------
    source, image, layer
        What is segmented, and the layer of labels; None before `begin` and after `end`.
    recipe
        The latest setting.
    whole
        Whether all of the image is known.
    corrections
        Of the whole image; None where there are none to make.
    identity
        Name of the whole image's basins (see `seamscope.segmentation.corrections.identity`).
    on, scratch
        Who finds the objects of the whole image (see `seamscope.segment`), and what returns a
        folder that all of them see; set by the dock.
    """

    layered = Signal(object)
    built = Signal(object)
    drawn = Signal(object)
    curves = Signal(object)
    counted = Signal(object)
    failed = Signal(object, str)

    def __init__(self, viewer: Any, row: JobRow, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._row = viewer, row
        self.source: Source | None = None
        self.image: Image | None = None
        self.layer: Any = None
        self.recipe = Recipe()
        self.whole = False
        self.corrections: Corrections | None = None
        self.identity = ""
        self.on: On = None
        self.scratch: Callable[[], Path | None] = lambda: None
        self._kept: Kept = lambda: lambda _: None
        self._unsaved: dict[str, list[dict[str, Any]]] = {}  # steps of corrections, by identity
        self._place: dict[str, Any] = {}
        self._screen = Screen((1, 1))
        self._base: Segmentation | None = None
        self._area: Area | None = None
        self._viewing: Job | None = None
        self._cutting: Job | None = None
        self._counting: Job | None = None
        self._soon = _timer(self, 0, self._cut)
        self._rest = _timer(self, _REST_MS, self._count)
        self._look = _timer(self, _VIEW_MS, self._view_changed)
        self._first = _timer(self, _SEEN_MS, self._begin_view)

    # -- beginning and ending

    @property
    def busy(self) -> bool:
        """Whether anything is being computed, or about to be."""
        jobs = (self._viewing, self._cutting, self._counting)
        timers = (self._soon, self._rest, self._first)
        return self._row.busy or any(jobs) or any(timer.isActive() for timer in timers)

    @property
    def picture(self) -> Picture | None:
        """What is shown."""
        return self._screen.picture

    @property
    def found(self) -> Segmentation | None:
        """The objects that are shown, of the whole image; None where it is not known."""
        picture = self.picture
        return picture.found if self.whole and picture is not None else None

    @property
    def settled(self) -> Segmentation | None:
        """As `found`; None too while what is shown is of an earlier setting or correction."""
        found = self.found
        late = self._soon.isActive() or self._cutting is not None
        return None if late or found is None or found.recipe != self.recipe else found

    @property
    def unsaved(self) -> dict[str, list[dict[str, Any]]]:
        """Steps of corrections that no file holds, by the name of their basins."""
        return dict(self._unsaved)

    @property
    def axes(self) -> str:
        """Letters of the layer's axes."""
        return "" if self.image is None else (self.image.axes or "").replace("c", "")

    def begin(
        self,
        source: Source,
        image: Image,
        recipe: Recipe,
        kept: Kept = lambda: lambda _: None,
    ) -> None:
        """Segment a source; its layer is made, or taken over from an earlier one of its shape.

        Parameters
        ----------
        source, image
            What is segmented; the image with named axes.
        recipe
            How.
        kept
            Called in the window's thread; returns what names the file of corrections for the
            identity of basins, which is called in the worker's.
        """
        self.forget()
        self.source, self.image, self.recipe, self._kept = source, image, recipe, kept
        shape = tuple(
            n for n, letter in zip(image.shape, image.axes or "", strict=True) if letter != "c"
        )
        place = source.place(image)
        if (
            self.layer is None
            or self._screen.shape != shape
            or source.title not in self.layer.name
            or _written(place) != _written(self._place)
        ):
            self._remove_layer()
            self._screen, self._place = Screen(shape), place
            self._add_layer(source)
        self._screen.picture = None
        self.layer.visible = True
        self._refresh()
        self._first.start()  # once it was drawn, the layer knows which part is in view

    def _add_layer(self, source: Source) -> None:
        levels = self._screen.levels()
        self.layer = self._viewer.add_labels(
            levels if len(levels) > 1 else levels[0],
            multiscale=len(levels) > 1,
            name=f"labels · {source.title}",
            opacity=0.6,
            metadata={"seamscope": {"axes": self.axes}},
            **self._place,
        )
        self.layer.editable = False
        self.layered.emit(self.layer)

    def _remove_layer(self) -> None:
        layer, self.layer = self.layer, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def forget(self) -> None:
        """Stop everything; the layer stays as it is."""
        for timer in (self._soon, self._rest, self._look, self._first):
            timer.stop()
        self._row.abandon()
        for name in ("_viewing", "_cutting", "_counting"):
            job = getattr(self, name)
            if job is not None:
                job.abandon()
            setattr(self, name, None)
        self._lay_aside()
        self._base, self._area, self.whole, self.corrections = None, None, False, None

    def _lay_aside(self) -> None:
        """Corrections that no file holds wait for their basins to be found again."""
        edits = self.corrections
        if edits is None:
            return
        self._unsaved.pop(self.identity, None)
        if edits.path is None and edits.steps:
            self._unsaved[self.identity] = edits.steps

    def end(self) -> None:
        """Stop everything: the layer is gone."""
        self.forget()
        self.source, self.image, self.layer = None, None, None
        self._screen = Screen((1, 1))

    # -- building

    def set_recipe(self, recipe: Recipe) -> None:
        """Change the setting: cut again, or build again where the basins are others."""
        before, self.recipe = self.recipe, recipe
        if self.image is None or self.source is None:
            return
        if before.same_basins(recipe):
            self._soon.start()
            return
        image, source, kept = self.image, self.source, self._kept
        self.forget()
        self.image, self.source, self._kept = image, source, kept
        self._first.start()

    def _begin_view(self) -> None:
        """Find the part in view, or all of it where that is as quick."""
        area = None if math.prod(self._screen.shape) <= _SMALL else self._part_in_view()
        if area is None:
            self.build_whole()
        else:
            self._build_part(area)

    def _build_part(self, area: Area) -> None:
        if self._viewing is not None:
            self._viewing.abandon()
        assert self.image is not None
        assert self.source is not None
        work = Build(self.image, self.recipe, self.source.names, area)

        def ended(outcome: Outcome) -> None:
            self._viewing = None
            if outcome.error is not None:
                self.failed.emit(outcome.error, "Segmenting what is in view")
            elif outcome.value is not None and not self.whole:
                self._area = area
                self._take(outcome.value)
                if math.prod(self._screen.shape) <= _BY_ITSELF and not self._row.busy:
                    self.build_whole()

        self._viewing = self._start("segmenting what is in view", work, ended)

    def build_whole(self, wanted: bool = False) -> None:
        """Find the basins of the whole image.

        Parameters
        ----------
        wanted
            Whether the user requested it; what follows by itself, and is small, is done here.
        """
        if self.image is None or self.source is None or self.whole or self._row.busy:
            return
        work = Build(
            self.image,
            self.recipe,
            self.source.names,
            None,
            self._kept(),
            self.unsaved,
            self.on if wanted or math.prod(self._screen.shape) > _BY_ITSELF else None,
            partial(self.source.shared, self.image.axes),
            self.scratch(),
        )

        def done(built: Built | None) -> None:
            if built is not None:
                self.whole, self._area = True, None
                self.corrections, self.identity = built.corrections, built.identity
                self._take(built)

        def failed(error: Exception) -> None:
            self.failed.emit(error, "Segmenting")

        name = f"segmenting {self.source.title}"
        self._row.start(name, work, done, failed=failed)

    def _take(self, built: Built) -> None:
        """Show what was built, at the latest setting."""
        self._base = built.picture.found
        self._show(built.picture)
        self.built.emit(built)
        if self._base.recipe != self.recipe:
            self._soon.start()

    # -- the view

    def view_moved(self) -> None:
        """The view or the slice is another one: perhaps another part is needed."""
        if self.image is not None and not self.whole and self._area is not None:
            self._look.start()

    def _view_changed(self) -> None:
        if self.whole or self.layer is None or self._area is None:
            return
        seen = self._seen()
        if seen is not None and not _within(seen, self._area):
            part = self._part_in_view()
            if part is not None and part != self._area:
                self._build_part(part)

    def _seen(self) -> dict[str, tuple[int, int]] | None:
        """Pixels in view; None where nothing is."""
        with contextlib.suppress(SettingsError):
            return area_in_view(self.layer, self.axes, self._viewer)
        return None

    def _part_in_view(self) -> Area | None:
        """What is seen, with a margin, no larger than can be found quickly; None for all of it."""
        sizes = dict(zip(self.axes, self._screen.shape, strict=True))
        seen = self._seen() or {letter: (0, n) for letter, n in sizes.items()}
        missing = self._viewer.dims.ndim - len(self.axes)
        displayed = {self.axes[d - missing] for d in self._viewer.dims.displayed if d >= missing}
        part = dict(seen)
        thick = 1
        for letter, (low, high) in seen.items():
            if letter == "t":
                continue
            if letter in displayed:
                margin = round(_MARGIN * (high - low))
            else:
                margin = _SLAB
                thick *= high - low + 2 * _SLAB
            part[letter] = max(0, low - margin), min(sizes[letter], high + margin)
        plane = [letter for letter in part if letter in displayed and letter != "t"]
        side = int((_MOST_IN_VIEW / thick) ** (1 / max(len(plane), 1)))
        if math.prod(part[letter][1] - part[letter][0] for letter in plane) > _MOST_IN_VIEW / thick:
            part |= {letter: _middle(part[letter], side) for letter in plane}
        return None if all(part[letter] == (0, n) for letter, n in sizes.items()) else part

    # -- cutting

    def refresh_corrections(self) -> None:
        """A correction was made, or taken back: show it."""
        self._soon.start()

    def ready(self) -> Corrections | None:
        """Return the corrections, at the setting that is shown; None where there are none."""
        edits = self.corrections
        if edits is None or self._cutting is not None:
            return None
        if edits.recipe != self.recipe:
            edits.at(self.recipe)
        return edits

    def _quick(self) -> bool:
        assert self._base is not None
        recipe, base = self.recipe, self._base
        filtered = recipe.min_size or recipe.max_size is not None or recipe.clear_border
        counted = filtered and recipe.kind == "components"
        pixels = math.prod(base.shape)
        many = 0 if self.corrections is None else len(self.corrections)
        return (
            base.basins.count <= _QUICK
            and not recipe.fill_holes
            and not (counted and pixels > _QUICK_PIXELS)
            and many <= _QUICK_CORRECTIONS
        )

    def _cut(self) -> None:
        """Cut the tree at the latest setting."""
        base = self._base
        if base is None or self._cutting is not None or not base.recipe.same_basins(self.recipe):
            return
        other = base.recipe.seeds_by_dynamics != self.recipe.seeds_by_dynamics
        cut = Cut(base, self.recipe, self.corrections)
        if self._quick() and not other:
            try:
                self._show(cut())
            except Exception as error:
                self.failed.emit(error, "Cutting")
            return

        def both(*, work: Work) -> tuple[Picture, Curves | None]:
            picture = cut(work=work)
            return picture, Curves.of(picture.found) if other else None

        def ended(outcome: Outcome) -> None:
            self._cutting = None
            if outcome.error is not None:
                self.failed.emit(outcome.error, "Cutting")
                return
            if outcome.value is None:
                return
            picture, curves = outcome.value
            self._base = picture.found
            self._show(picture)
            if curves is not None:
                self.curves.emit(curves)
            if cut.recipe != self.recipe or cut.corrections is not self.corrections:
                self._soon.start()

        self._cutting = self._start("cutting", both, ended)

    def _show(self, picture: Picture) -> None:
        self._screen.picture = picture
        self._refresh()
        self.drawn.emit(picture)
        self._rest.start()

    def _refresh(self) -> None:
        if self.layer is not None and self.layer in self._viewer.layers:
            self.layer.refresh(extent=False)

    def _count(self) -> None:
        """Count the objects, when the slider rests."""
        picture = self.picture
        if picture is None or self._counting is not None or self._cutting is not None:
            return

        def ended(outcome: Outcome) -> None:
            self._counting = None
            if outcome.error is not None:
                self.failed.emit(outcome.error, "Counting")
            elif self.picture is picture and outcome.value is not None:
                self.counted.emit(outcome.value)
            else:
                self._rest.start()

        self._counting = self._start("counting", partial(Counted.of, picture.found), ended)

    def _start(self, name: str, work: Any, ended: Callable[[Outcome], None]) -> Job:
        job = Job(name, work, self)
        job.ended.connect(ended)
        job.start()
        return job


def _timer(parent: QObject, milliseconds: int, act: Callable[[], None]) -> QTimer:
    made = QTimer(parent)
    made.setSingleShot(True)
    made.setInterval(milliseconds)
    made.timeout.connect(act)
    return made


def _written(place: Mapping[str, Any]) -> dict[str, list[str]]:
    """A layer's place, so that two can be compared."""
    lists = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in place.items()}
    return {name: [str(part) for part in values] for name, values in lists.items()}


def _within(inner: Area, outer: Area) -> bool:
    return all(
        outer[letter][0] <= low and high <= outer[letter][1]
        for letter, (low, high) in inner.items()
    )


def _middle(span: tuple[int, int], size: int) -> tuple[int, int]:
    low, high = span
    if high - low <= size:
        return span
    first = (low + high - size) // 2
    return first, first + size


__all__ = ["WAIT", "Live"]
