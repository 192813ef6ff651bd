"""Corrections by hand: a log over immutable basins, kept in a file as it grows.

Knows which corrections there are and how they are written. Does not know windows or keys.

::

    corrections = Corrections(segmentation, "cells.corrections")   # continues an old file
    corrections.merge((10, 12), (10, 30))
    corrections.split([(40, 8)], [(40, 20)])
    corrections.undo()
    corrections.current              # the segmentation, corrected
    corrections.at(seed_threshold=0.2)   # the same corrections at another threshold

Entries name *places* (pixels), never label numbers, so that they are repeated at any threshold, on
any machine, after any restart. What an entry no longer finds (a place that became background) is
left out and listed in `Corrections.skipped`.

The file has one line of JSON for each step, undo and redo included, and only grows: each line is on
the disk before the step counts. A last line that a crash tore is left out. The first line holds the
identity of the basins; corrections of other labels are refused.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError, OutputError, SettingsError
from seamscope.images.dimensions import why
from seamscope.segmentation.edits import EditedCut, Place
from seamscope.segmentation.false_splits import Candidate
from seamscope.segmentation.recipe import Recipe
from seamscope.segmentation.segment import Segmentation
from seamscope.serialization import record, restore

Array: TypeAlias = npt.NDArray[Any]

_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One correction, as it is written.

    Attributes
    ----------
    do
        ``"merge"``, ``"split"``, ``"delete"``, ``"lock"``, ``"unlock"``, ``"paint"`` or
        ``"erase"``.
    sides
        Places: of a split one list for each side, of a merge one for each new object, else one
        list.
    nodes
        Of a lock: the basins of the object, from and to, since it must stay as it was.
    below
        Of a lock of *components*: the height below which pixels belonged to it.
    corner, shape, pixels
        Of painting: where the window lies, its size, and its mask (packed bits, zlib, base64).
    """

    do: str
    sides: tuple[tuple[Place, ...], ...] = ()
    nodes: tuple[tuple[int, int], ...] = ()
    below: int = 0
    corner: Place = ()
    shape: Place = ()
    pixels: str = ""

    def places(self) -> tuple[Place, ...]:
        """All places that it names; of painting, the corners of the window."""
        named = tuple(place for side in self.sides for place in side)
        if not self.corner:
            return named
        end = tuple(a + n - 1 for a, n in zip(self.corner, self.shape, strict=True))
        return (*named, self.corner, end)

    def mask(self) -> Array:
        """Return the painted pixels of the window, bool."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(self.pixels)), np.uint8)
        size = int(np.prod(self.shape))
        return np.unpackbits(bits, count=size).astype(np.bool_).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Return this without what is empty."""
        return {name: value for name, value in record(**vars(self)).items() if value}


class Corrections:
    """Corrections of a segmentation.

    Parameters
    ----------
    segmentation
        What is corrected; not of the recipe *classes*.
    path
        File of corrections: continued where it exists, else begun with the first correction. None:
        they are kept in memory.

    Attributes
    ----------
    skipped
        Sentences on corrections that find nothing at the present setting.

    Raises
    ------
    ImageError
        When the file holds corrections of other labels, or is damaged.
    """

    def __init__(self, segmentation: Segmentation, path: str | Path | None = None) -> None:
        if segmentation.recipe.kind == "classes":
            raise SettingsError(
                "Corrections change objects, and the recipe classes has none: use components."
            )
        self._base = segmentation
        self._entries: list[Entry] = []
        self._done = 0
        self._file: _File | None = None
        self.skipped: list[str] = []
        if path is not None:
            self._file = _File(Path(path).expanduser(), identity(segmentation))
            self._take(self._file.steps())
        self._replay()

    def _take(self, steps: Sequence[dict[str, Any]]) -> None:
        """Take over what a file holds."""
        for step in steps:
            if step.get("undo"):
                self._done -= 1
            elif step.get("redo"):
                self._done += 1
            else:
                del self._entries[self._done :]
                self._entries.append(self._entry(step))
                self._done += 1
            if not 0 <= self._done <= len(self._entries):
                raise ImageError(
                    "The corrections undo more than they hold: the file is damaged, use a copy."
                )

    def _entry(self, step: dict[str, Any]) -> Entry:
        try:
            return restore(Entry, step)
        except SettingsError as error:
            raise ImageError(
                f"{self._file and self._file.path} holds a correction that cannot be read: the "
                "file is damaged, use a copy."
            ) from error

    def _replay(self) -> None:
        base = self._base
        self._cut = EditedCut(
            base.tree,
            base.kept_edges,
            base.objects,
            base.basin_at,
            base.recipe.cut if base.recipe.kind == "components" else 1,
        )
        self.skipped = []
        self._applied: list[bool] = []
        for entry in self._entries[: self._done]:
            self._applied.append(self._repeat(entry))
        self._current: Segmentation | None = None

    def _repeat(self, entry: Entry) -> bool:
        try:
            self._apply(entry)
        except SettingsError as error:
            place = (entry.sides or ((entry.corner,),))[0][:1]
            self.skipped.append(f"{entry.do} at {place[0] if place else '?'}: {error}")
            return False
        return True

    def _apply(self, entry: Entry) -> None:
        cut = self._cut
        places = entry.sides[0] if entry.sides else ()
        match entry.do:
            case "merge":
                cut.merge(entry.sides)
            case "split":
                cut.split(entry.sides)
            case "delete":
                cut.delete(places)
            case "lock":
                nodes = [n for first, last in entry.nodes for n in range(first, last + 1)]
                cut.lock(nodes, entry.below)
            case "unlock":
                cut.unlock(places[0])
            case "paint" | "erase":
                place = places[0] if places else None
                cut.paint(entry.corner, entry.mask(), place, erase=entry.do == "erase")
            case _:
                raise ImageError(
                    f"The corrections hold {entry.do!r}, which this version does not know: use a "
                    "newer one."
                )

    # -- what there is

    def __len__(self) -> int:
        """Return the number of corrections that are not undone."""
        return self._done

    @property
    def can_redo(self) -> bool:
        """Whether a correction was undone."""
        return self._done < len(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The corrections that are not undone."""
        return tuple(self._entries[: self._done])

    @property
    def steps(self) -> list[dict[str, Any]]:
        """All corrections and which of them are undone, as a file holds them."""
        steps = [entry.to_json() for entry in self._entries]
        return steps + [{"undo": True}] * (len(self._entries) - self._done)

    @property
    def current(self) -> Segmentation:
        """The segmentation with all corrections."""
        if self._current is None:
            # without corrections the segmentation is the very same
            edits = self._cut.result() if self._done else None
            self._current = self._base.with_edits(edits)
        return self._current

    def at(self, recipe: Recipe | None = None, **changes: Any) -> Segmentation:
        """Change the setting; corrections are repeated on it.

        Raises
        ------
        SettingsError
            When the setting needs other basins.
        """
        self._base = self._base.at(recipe, **changes)
        self._replay()
        return self.current

    @property
    def base(self) -> Segmentation:
        """The segmentation without corrections."""
        return self._base

    @property
    def recipe(self) -> Recipe:
        """The setting that is corrected."""
        return self._base.recipe

    @property
    def path(self) -> Path | None:
        """Their file; None where they are kept in memory."""
        return None if self._file is None else self._file.path

    def keep_in(self, path: str | Path) -> None:
        """Write all corrections to a new file, and those to come.

        Raises
        ------
        OutputError
            When the file exists already, or cannot be written.
        """
        target = Path(path).expanduser()
        if target.exists():
            raise OutputError(
                f"{target} exists already: open it, or name another file for the corrections."
            )
        file = _File(target, identity(self._base))
        for step in self.steps:
            file.append(step)
        self._file = file

    def repeat(self, steps: Sequence[dict[str, Any]]) -> None:
        """Make the corrections of others of the same basins, as their `steps` has them."""
        for step in steps:
            self._write(step)
        self._take(steps)
        self._replay()

    def is_locked(self, place: Sequence[int]) -> bool:
        """Whether the object at a place is locked."""
        node = self._cut.node(_place(place))
        return bool(node and self._cut.locked[node])

    # -- corrections

    def merge(self, *places: Sequence[int]) -> None:
        """Make one object of the objects at these places.

        Raises
        ------
        SettingsError
            When there is no object, they are one already, or one is locked.
        """
        self._do(Entry("merge", (self._inside(places),)))

    def merge_groups(self, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        """Make one object of each group of places, all in one step.

        Raises
        ------
        SettingsError
            When a place is background, all groups are one object each already, or one is locked.
        """
        self._do(Entry("merge", tuple(self._inside(group) for group in groups)))

    def split(self, *sides: Sequence[Sequence[int]]) -> None:
        """Cut an object so that places of different sides lie apart.

        Two sides of one place each cut the highest pass on the path between them; scribbles are
        sides of many places.

        Raises
        ------
        SettingsError
            When places are background, apart already, in one basin, or locked.
        """
        self._do(Entry("split", tuple(self._inside(side) for side in sides)))

    def delete(self, *places: Sequence[int]) -> None:
        """Make the objects at these places background."""
        self._do(Entry("delete", (self._inside(places),)))

    def lock(self, place: Sequence[int]) -> None:
        """Keep the object at a place as it is, at any threshold, until it is unlocked."""
        at = self._inside([place])
        node = self._cut.node(at[0])
        if not node:
            raise SettingsError(f"There is no object at {at[0]}: choose a place inside one.")
        nodes = self._cut.nodes_of(node)[0]
        below = int(self._cut.visible_below[node])
        self._do(Entry("lock", (at,), nodes=_runs(nodes), below=below))

    def unlock(self, place: Sequence[int]) -> None:
        """Let the object at a place be changed again."""
        self._do(Entry("unlock", (self._inside([place]),)))

    def paint(self, corner: Sequence[int], mask: Array, place: Sequence[int] | None = None) -> None:
        """Give pixels to the object at a place, or to a new object.

        Parameters
        ----------
        corner
            Where the window lies.
        mask
            Pixels of the window that are painted, bool. Pixels of locked objects are left out.
        place
            A pixel of the object they shall belong to; None for a new object.
        """
        sides = () if place is None else (self._inside([place]),)
        self._do(self._painting("paint", corner, mask, sides))

    def erase(self, corner: Sequence[int], mask: Array) -> None:
        """Make pixels background; pixels of locked objects are left out."""
        self._do(self._painting("erase", corner, mask, ()))

    def _painting(
        self, do: str, corner: Sequence[int], mask: Array, sides: tuple[tuple[Place, ...], ...]
    ) -> Entry:
        at = _place(corner)
        if mask.ndim != len(self._base.shape) or len(at) != mask.ndim:
            raise SettingsError(
                f"A window of {mask.ndim} axes does not fit labels of {len(self._base.shape)}."
            )
        low = tuple(max(0, -a) for a in at)
        high = (n - a for a, n in zip(at, self._base.shape, strict=True))
        inner = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        at = tuple(max(0, a) for a in at)
        wanted = np.asarray(mask, np.bool_)[inner].copy()
        if wanted.any():
            region = tuple(slice(a, a + n) for a, n in zip(at, wanted.shape, strict=True))
            nodes = self.current.nodes(region)
            wanted &= ~self._cut.locked[nodes]
        if not wanted.any():
            raise SettingsError("Nothing is painted: all pixels are outside or locked.")
        bits = zlib.compress(np.packbits(wanted).tobytes())
        text = base64.b64encode(bits).decode()
        return Entry(do, sides, corner=at, shape=wanted.shape, pixels=text)

    def undo(self) -> bool:
        """Take the latest correction back; return whether there was one."""
        if not self._done:
            return False
        self._write({"undo": True})
        self._done -= 1
        if self._applied.pop():
            self._cut.undo()
        self._current = None
        return True

    def redo(self) -> bool:
        """Repeat the latest correction that was undone; return whether there was one."""
        if not self.can_redo:
            return False
        self._write({"redo": True})
        self._applied.append(self._repeat(self._entries[self._done]))
        self._done += 1
        self._current = None
        return True

    def _do(self, entry: Entry) -> None:
        self._apply(entry)
        try:
            self._write(entry.to_json())
        except OutputError:
            self._cut.undo()
            raise
        del self._entries[self._done :]
        self._entries.append(entry)
        self._applied.append(True)
        self._done += 1
        self._current = None

    def _write(self, step: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.append(step)

    def _inside(self, places: Sequence[Sequence[int]]) -> tuple[Place, ...]:
        found = tuple(map(_place, places))
        for place in found:
            shape = self._base.shape
            if len(place) != len(shape) or not all(
                0 <= p < n for p, n in zip(place, shape, strict=True)
            ):
                raise SettingsError(
                    f"{place} is no place in labels of {' x '.join(map(str, shape))} pixels."
                )
        return found


def merge_candidates(corrections: Corrections, candidates: Sequence[Candidate]) -> int:
    """Merge pairs that seams have cut, as one step; return how many were not one object already.

    Parameters
    ----------
    corrections
        Of the labels in which the candidates were found.
    candidates
        As `seamscope.find_splits` lists them.
    """
    before = corrections.current.count
    if candidates:
        corrections.merge_groups([c.places for c in candidates])
    return before - corrections.current.count


def _place(place: Sequence[int]) -> Place:
    return tuple(int(p) for p in place)


def _runs(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Write ascending numbers as first and last of each run."""
    array = np.asarray(numbers)
    breaks = np.flatnonzero(np.diff(array) != 1) + 1
    return tuple((int(run[0]), int(run[-1])) for run in np.split(array, breaks))


def identity(segmentation: Segmentation) -> str:
    """Name the basins of a segmentation: equal names mean equal basins, whatever the blocks."""
    basins = segmentation.basins
    digest = hashlib.sha256(repr((basins.blocks.shape, basins.connectivity)).encode())
    for array in (basins.lowest, basins.area, basins.start, basins.passes.height):
        digest.update(np.ascontiguousarray(array).tobytes())
    for array in (basins.passes.first, basins.passes.second):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _File:
    """A file of corrections that only grows."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = identity
        self._good = 0  # bytes of whole lines

    def steps(self) -> list[dict[str, Any]]:
        """Read all steps; leave a torn last line out."""
        if not self.path.exists():
            return []
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ImageError(
                f"{self.path} cannot be read ({why(error)}): check it, or name another file."
            ) from error
        whole, _, _ = content.rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        self._good = len(whole) + 1 if lines else 0
        if not lines:
            return []
        try:
            read = [json.loads(line) for line in lines]
            head = read[0]["seamscope corrections"]
        except (ValueError, KeyError, TypeError) as error:
            raise ImageError(
                f"{self.path} is no file of corrections, or a line of it is damaged "
                f"({why(error)}): use a copy, or name another file."
            ) from error
        self._check(head)
        return read[1:]

    def _check(self, head: dict[str, Any]) -> None:
        if head.get("format") != _FORMAT:
            raise ImageError(
                f"{self.path} has format {head.get('format')} of corrections, this version reads "
                f"{_FORMAT}: use the version that wrote it."
            )
        if head.get("identity") != self._identity:
            raise ImageError(
                f"{self.path} holds corrections of other labels: its basins are "
                f"{str(head.get('identity'))[:8]}, these are {self._identity[:8]}. Use the same "
                "prediction and recipe (thresholds of seeds may differ), or name another file."
            )

    def append(self, step: dict[str, Any]) -> None:
        """Write a step; it is on the disk when this returns."""
        lines = [json.dumps(step, separators=(",", ":"))]
        if not self._good:
            head = {"format": _FORMAT, "identity": self._identity}
            lines.insert(0, json.dumps({"seamscope corrections": head}))
        text = ("\n".join(lines) + "\n").encode()
        try:
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.seek(self._good)
                file.truncate()
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # what was not made must not be repeated
                os.truncate(self.path, self._good)
            raise OutputError(
                f"{self.path} cannot be written ({why(error)}), so the correction was not made. "
                "Free some space, or name another file."
            ) from error
        self._good += len(text)


__all__ = ["Corrections", "Entry", "identity", "merge_candidates"]
