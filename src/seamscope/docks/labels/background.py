"""What the dock *Labels* does in the worker's thread.

Knows the engine. Does not know Qt: nothing here may touch a widget or a layer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seamscope.docks.labels.shown import Picture
from seamscope.docks.typed_place import typed_place
from seamscope.errors import OutputError, SeamscopeError
from seamscope.execution.pool import On
from seamscope.files import disk_errors, write_file
from seamscope.images.image import Image
from seamscope.images.results.create import count_unfinished
from seamscope.models.model import Model
from seamscope.progress import QUIET, Work
from seamscope.segmentation.asking import Opinion, ask_again
from seamscope.segmentation.corrections import Corrections, identity
from seamscope.segmentation.false_splits import Candidate, SplitReport, find_splits
from seamscope.segmentation.labelling import begin_labels, can_resume
from seamscope.segmentation.objects import ObjectTable
from seamscope.segmentation.recipe import Recipe
from seamscope.segmentation.review import Suspect, export_crops, suspects
from seamscope.segmentation.segment import Curve, Segmentation, segment
from seamscope.settings import Settings


@dataclass(frozen=True)
class Curves:
    """What is drawn of all thresholds at once.

    Attributes
    ----------
    curve
        Number of objects.
    stable
        Range in which it hardly changes.
    edges, pixels
        Histogram of the heights.
    """

    curve: Curve
    stable: tuple[float, float]
    edges: Any
    pixels: Any

    @classmethod
    def of(cls, found: Segmentation) -> Curves | None:
        """Return the curves of a segmentation; None for *classes*, which have no threshold."""
        if found.recipe.kind == "classes":
            return None
        curve = found.curve()
        edges, pixels = found.histogram()
        return cls(curve, curve.seen(edges, pixels).stable(), edges, pixels)


@dataclass(frozen=True)
class Built:
    """Basins of an image or of a part of it, ready to be cut anywhere.

    Attributes
    ----------
    picture
        Its objects.
    curves
        For the plots.
    corrections
        Of the whole image; None for parts, and for the recipe *classes*.
    refused
        Why the corrections on disk are not used; empty where they are.
    identity
        Name of the basins; empty for parts.
    """

    picture: Picture
    curves: Curves | None
    corrections: Corrections | None = None
    refused: str = ""
    identity: str = ""


def _nowhere(_: str) -> None:
    """Keep corrections in memory."""


@dataclass(frozen=True)
class Build:
    """Find the basins of an image or of a part of it.

    Parameters
    ----------
    image, recipe, names
        What is segmented, and how.
    area
        The part; None for the whole image.
    kept
        Returns the file of corrections of basins with this name; None to keep them in memory.
        Called in the worker's thread.
    unsaved
        Steps of corrections that no file holds, by the name of their basins: they are repeated.
    on, shared, scratch
        Workers (see `seamscope.segment`), what opens the image for them, and a folder that they
        see; None for this process.
    """

    image: Image
    recipe: Recipe
    names: Sequence[str] | None = None
    area: Mapping[str, tuple[int, int]] | None = None
    kept: Callable[[str], Path | None] = _nowhere
    unsaved: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    on: On = None
    shared: Callable[[], Image] | None = None
    scratch: Path | None = None

    def __call__(self, *, work: Work) -> Built:
        """Return the objects."""
        found = segment(
            self.image if self.on is None or self.shared is None else self.shared(),
            self.recipe,
            area=self.area,
            channel_names=self.names,
            on=self.on,
            scratch=self.scratch,
            work=work,
        )
        corrections, refused, name = None, "", ""
        if self.area is None and self.recipe.kind != "classes":
            name = identity(found)
            try:
                corrections = _known(found, name, self.kept, self.unsaved)
            except SeamscopeError as error:
                corrections, refused = _known(found, name, _nowhere, self.unsaved), str(error)
            if len(corrections):
                found = corrections.current
        picture = Picture(found)
        picture.prepare()
        return Built(picture, Curves.of(found), corrections, refused, name)


@dataclass(frozen=True)
class Cut:
    """Cut the tree at another setting, corrections repeated."""

    found: Segmentation
    recipe: Recipe
    corrections: Corrections | None = None

    def __call__(self, *, work: Work = QUIET) -> Picture:
        """Return the objects, ready to be painted."""
        edits = self.corrections
        if edits is not None and len(edits):
            found = edits.current if edits.recipe == self.recipe else edits.at(self.recipe)
        else:
            found = self.found.at(self.recipe)
        picture = Picture(found)
        picture.prepare()
        return picture


@dataclass(frozen=True)
class Counted:
    """How many objects a setting gives, filters included.

    Attributes
    ----------
    found
        The objects and what they are made of.
    count
        Number of objects.
    note
        Why there are none.
    """

    found: Segmentation
    count: int
    note: str

    @classmethod
    def of(cls, found: Segmentation, *, work: Work = QUIET) -> Counted:
        """Count the objects of a segmentation."""
        return cls(found, found.count, found.empty_note)


@dataclass(frozen=True)
class Write:
    """Write labels, and their table beside them.

    Parameters
    ----------
    found
        The objects.
    target
        Place of the label image; the table has the same name and ends with ``.csv``.
    intensity
        Image whose mean is taken over each object; None for none.
    overwrite
        Whether files may be replaced.
    """

    found: Segmentation
    target: str
    intensity: Image | None = None
    overwrite: bool = False

    def __call__(self, *, work: Work) -> ObjectTable:
        """Return the table."""
        _check_table(self.target, self.overwrite)
        self.found.write(self.target, overwrite=self.overwrite, work=work)
        return _write_table(self.found, self.target, self.intensity, work)


@dataclass(frozen=True)
class WriteInBlocks:
    """Find objects block by block and write them; what was stopped can go on.

    Parameters
    ----------
    prediction
        Opens what is segmented.
    recipe, names
        How.
    target, intensity, overwrite
        As for `Write`.
    kept, unsaved
        Where corrections by hand are found, as for `Build`.
    on
        Who computes (see `seamscope.segment`).
    resume
        Whether unfinished labels are continued.
    """

    prediction: Callable[[], Image]
    recipe: Recipe
    names: Sequence[str] | None
    target: str
    intensity: Image | None = None
    kept: Callable[[str], Path | None] = _nowhere
    unsaved: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    on: On = None
    resume: bool = False
    overwrite: bool = False

    def __call__(self, *, work: Work) -> tuple[ObjectTable, Sequence[str]]:
        """Return the table, and the corrections that do not fit these objects."""
        _check_table(self.target, self.overwrite or self.resume)
        skipped: Sequence[str] = ()
        image = self.prediction()
        with begin_labels(
            image,
            self.recipe,
            self.target,
            overwrite=self.overwrite,
            resume=self.resume,
            on=self.on,
            names=self.names,
            work=work,
        ) as labelling:
            found = labelling.find()
            if self.recipe.kind != "classes":
                corrections = _known(found, identity(found), self.kept, self.unsaved)
                skipped = corrections.skipped
                labelling.correct_by(_digest(corrections))
                if len(corrections):  # else what the stages measured would be lost
                    found = corrections.current
            labelling.write(found, keep=True)
        return _write_table(found, self.target, self.intensity, work), skipped


def _known(
    found: Segmentation,
    name: str,
    kept: Callable[[str], Path | None],
    unsaved: Mapping[str, Sequence[dict[str, Any]]],
) -> Corrections:
    """Return the corrections of basins with this name: of their file, else those of no file."""
    corrections = Corrections(found, kept(name))
    if name in unsaved and not corrections.steps:
        corrections.repeat(unsaved[name])
    return corrections


def _digest(corrections: Corrections) -> str | None:
    """Hash of the corrections that are not undone; None where there are none."""
    made = [entry.to_json() for entry in corrections.entries]
    if not made:
        return None
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _check_table(target: str, overwrite: bool) -> None:
    place = table_of(target)
    if place.exists() and not overwrite:
        raise OutputError(
            f"{place} exists, and the table of these labels would replace it: choose another "
            "name, or allow it to be replaced."
        )


def _write_table(
    found: Segmentation, target: str, intensity: Image | None, work: Work
) -> ObjectTable:
    place, table = table_of(target), found.table(intensity, work=work)
    with disk_errors(place, "The labels are complete."):
        write_file(place, table.to_csv().encode())
    return table


def blocks_of_labels(target: str) -> int | None:
    """Return how many blocks of unfinished labels are done; None where there are none."""
    place, _ = typed_place(target)
    if place is None or not can_resume(place):
        return None
    task, done = count_unfinished(place) or ({}, 0)
    return done if "recipe" in task else None


def stem_of(target: str | Path) -> Path:
    """A path without what says the kind of file: ``cells`` of ``cells.ome.zarr``."""
    path = Path(target).expanduser()
    name = path.name
    for ending in (".ome.zarr", ".zarr", ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".npy", ".png"):
        if name.lower().endswith(ending):
            return path.with_name(name[: -len(ending)])
    return path


def table_of(target: str | Path) -> Path:
    """Where the table of labels lies."""
    stem = stem_of(target)
    return stem.with_name(f"{stem.name}.csv")


def corrections_file(target: str, identity: str) -> Path | None:
    """Where corrections of basins with this name are kept: beside the labels."""
    place, _ = typed_place(target)
    if place is None:
        return None
    stem = stem_of(place)
    return stem.with_name(f"{stem.name}.{identity[:8]}.corrections")


@dataclass(frozen=True)
class Suspects:
    """List objects that are worth a look."""

    found: Segmentation
    candidates: Sequence[Candidate] = ()

    def __call__(self, *, work: Work) -> list[Suspect]:
        """Return them, the worst of each reason by turns."""
        return suspects(self.found, self.candidates)


@dataclass(frozen=True)
class Crops:
    """Write image and labels around corrected places."""

    corrections: Corrections
    image: Image
    folder: str

    def __call__(self, *, work: Work) -> list[Any]:
        """Return the files."""
        return list(export_crops(self.corrections, self.image, self.folder))


@dataclass(frozen=True)
class Splits:
    """Look for objects that seams cut."""

    labels: Any
    axes: str
    grid: Mapping[str, Any]

    def __call__(self, *, work: Work) -> SplitReport:
        """Return the report."""
        return find_splits(self.labels, axes=self.axes, work=work, **self.grid)


@dataclass(frozen=True)
class Ask:
    """Ask the network again about candidates of labels that begin at `start` of its result."""

    candidates: Sequence[Candidate]
    image: Image
    model: Model
    recipe: Recipe
    settings: Settings
    axes: str
    start: tuple[int, ...]

    def __call__(self, *, work: Work) -> list[Opinion]:
        """Return opinions, as many as were heard before it was stopped."""
        heard: list[Opinion] = []
        with contextlib.suppress(InterruptedError):
            for candidate, opinion in zip(self.candidates, self._opinions(work), strict=False):
                heard.append(replace(opinion, candidate=candidate))
        return heard

    def _moved(self, candidate: Candidate) -> Candidate:
        space = self.start[len(self.start) - sum(letter in "zyx" for letter in self.axes) :]
        one, two = (
            tuple(p + start for p, start in zip(place, self.start, strict=True))
            for place in candidate.places
        )
        line = candidate.line + space[candidate.axis]
        return replace(candidate, places=(one, two), line=line)

    def _opinions(self, work: Work) -> Iterator[Opinion]:
        return ask_again(
            [self._moved(candidate) for candidate in self.candidates],
            self.image,
            self.model,
            self.recipe,
            self.settings,
            axes=self.axes,
            work=work,
        )


__all__ = [
    "Ask",
    "Build",
    "Built",
    "Counted",
    "Crops",
    "Curves",
    "Cut",
    "Splits",
    "Suspects",
    "Write",
    "WriteInBlocks",
    "blocks_of_labels",
    "corrections_file",
    "stem_of",
    "table_of",
]
