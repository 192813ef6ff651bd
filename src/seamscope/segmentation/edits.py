"""What corrections do to the objects of one cut: edges joined and cut, pixels painted over.

Knows basins, their tree and single operations, each of which can be taken back. Does not know
files.

Objects are connected parts of a graph whose nodes are basins and painted objects. A correction
changes few of its edges:

=========  =======================================================================================
merge      one more edge between two nodes
split      the object's edges, in ascending order of their passes, join again as long as no two
           sides meet: of two points, the highest pass on the path between them is cut
delete     the nodes of the object become background
lock       the object's nodes are joined by edges of their own and cut off from all others
paint      pixels are given to another node; erased ones to none
=========  =======================================================================================

All work on the one object that they change, however large the image is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import SettingsError
from seamscope.segmentation.graph import Tree
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]
Place: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Patch:
    """Pixels that were painted: those of `mask`, which lies at `corner`, belong to `node`."""

    corner: Place
    mask: Array
    node: int

    def over(self, nodes: Array, region: Slices) -> None:
        """Paint into an array of nodes that shows a region of the image, or every n-th pixel."""
        here, there = [], []
        for low, size, part in zip(self.corner, self.mask.shape, region, strict=True):
            step = part.step or 1
            skipped = max(0, -((part.start - low) // step))  # pixels that lie before the window
            first, last = part.start + skipped * step, min(low + size, part.stop)
            if first >= last:
                return
            here.append(slice(skipped, skipped + -((first - last) // step)))
            there.append(slice(first - low, last - low, step))
        nodes[tuple(here)][self.mask[tuple(there)]] = self.node


@dataclass(frozen=True)
class Edits:
    """The objects of a corrected cut.

    Attributes
    ----------
    objects
        For each node (basins, then painted objects) its object, named by its smallest node; 0 for
        background; ``(M + 1,)`` int64.
    touched
        Whether a node's object was corrected by hand, which exempts it from filters.
    patches
        Painted pixels, later ones over earlier ones.
    visible_below
        Of *components*: height below which pixels of each node are shown, ``(M + 1,)`` int64.
    """

    objects: Array
    touched: Array
    patches: tuple[Patch, ...]
    visible_below: Array


class EditedCut:
    """The objects of one cut of a tree, which operations change and take back.

    Parameters
    ----------
    tree
        Of the basins.
    kept
        Which of its edges lie within objects.
    objects
        Of the cut, 0 for basins that no seed reaches.
    basin_at
        Returns the basin at a place, 0 outside, and the height of the pixel.
    visible_below
        Height below which pixels of *components* are shown.
    """

    def __init__(
        self,
        tree: Tree,
        kept: Array,
        objects: Array,
        basin_at: Callable[[Place], tuple[int, int]],
        visible_below: int,
    ) -> None:
        self._tree = tree
        self._links = _Links(tree)
        self._basin_at = basin_at
        self.kept = kept.copy()
        self.alive = objects > 0
        self.touched = np.zeros(len(objects), np.bool_)
        self.locked = np.zeros(len(objects), np.bool_)
        self.visible_below = np.full(len(objects), visible_below, np.int64)
        self._cut = visible_below
        self.painted = 0
        self.patches: list[Patch] = []
        self._extra: list[list[int]] = []  # [node, node, 1 for joined or 0]
        self._extra_of: dict[int, list[int]] = {}
        self._undo: list[list[Callable[[], None]]] = []

    # -- what is there

    def node(self, place: Place) -> int:
        """Return the node at a place, 0 for background."""
        found = self._covered(place)
        if found is None:
            basin, height = self._basin_at(place)
            found = basin if height < self.visible_below[basin] else 0
        return found if found and self.alive[found] else 0

    def _covered(self, place: Place) -> int | None:
        for patch in reversed(self.patches):
            at = tuple(p - low for p, low in zip(place, patch.corner, strict=True))
            inside = all(0 <= a < n for a, n in zip(at, patch.mask.shape, strict=True))
            if inside and patch.mask[at]:
                return patch.node
        return None

    def nodes_of(self, node: int) -> tuple[list[int], list[int], list[int]]:
        """Return the nodes of an object, and its edges: of the tree, and more."""
        seen, waiting = {node}, [node]
        edges, more = set(), set()
        while waiting:
            here = waiting.pop()
            for other, edge in self._links.of(here) if here <= self._tree.count else ():
                if self.kept[edge]:
                    edges.add(edge)
                    if other not in seen:
                        seen.add(other)
                        waiting.append(other)
            for number in self._extra_of.get(here, ()):
                a, b, joined = self._extra[number]
                if joined:
                    more.add(number)
                    for other in (a, b):
                        if other not in seen:
                            seen.add(other)
                            waiting.append(other)
        return sorted(seen), sorted(edges), sorted(more)

    def result(self) -> Edits:
        """Return the objects as they are now."""
        joined = [(a, b) for a, b, j in self._extra if j]
        pairs = np.array(joined, np.int64).reshape(-1, 2)
        objects = self._tree.objects(self.kept, (pairs[:, 0], pairs[:, 1]), self.painted)
        objects = np.where(self.alive, objects, 0)
        # an object is named by its smallest node that is left
        touched = np.zeros_like(self.touched)
        touched[objects[self.touched]] = True
        touched[0] = False
        return Edits(objects, touched[objects], tuple(self.patches), self.visible_below.copy())

    # -- operations

    def merge(self, groups: Sequence[Sequence[Place]]) -> None:
        """Make one object of those at the places of each group."""
        named = [self._named(places) for places in groups]
        for nodes in named:
            self._check_locks(nodes)
        self._begin()
        joined = 0
        for nodes in named:
            first = set(self.nodes_of(nodes[0])[0])
            for node in nodes[1:]:
                if node not in first:
                    self._join(nodes[0], node)
                    joined += 1
            self._touch(nodes)
        if not joined:
            self.undo()
            raise SettingsError("These places lie in one object already: choose two objects.")

    def split(self, sides: Sequence[Sequence[Place]]) -> None:
        """Cut an object so that the places of different sides lie apart."""
        marks: dict[int, int] = {}
        for side, places in enumerate(sides):
            for node in self._named(places):
                if marks.setdefault(node, side) != side:
                    raise SettingsError(
                        "Two sides lie in the same basin, which cannot be cut: choose places "
                        "further apart, or paint."
                    )
        nodes, edges, more = self.nodes_of(next(iter(marks)))
        within = set(nodes)
        inside = {side for node, side in marks.items() if node in within}
        if len(inside) < 2:
            raise SettingsError("These places lie in different objects already: nothing to split.")
        self._check_locks(marks)
        self._begin()
        self._cut_between(marks, edges, more)
        self._touch(marks)

    def _cut_between(self, marks: dict[int, int], edges: list[int], more: list[int]) -> None:
        parent: dict[int, int] = {}
        mark = dict(marks)

        def find(node: int) -> int:
            while parent.setdefault(node, node) != node:
                parent[node] = node = parent[parent[node]]
            return node

        tree = self._tree
        listed = [(int(tree.first[e]), int(tree.second[e]), e, -1) for e in edges]
        listed += [(self._extra[n][0], self._extra[n][1], -1, n) for n in more]
        for a, b, edge, number in listed:
            one, two = find(a), find(b)
            if one == two:
                continue
            if one in mark and two in mark and mark[one] != mark[two]:
                if edge >= 0:
                    self._set("kept", [edge], False)
                else:
                    self._part(number)
                continue
            parent[two] = one
            if two in mark:
                mark[one] = mark[two]

    def delete(self, places: Sequence[Place]) -> None:
        """Make the objects at these places background."""
        nodes = self._named(places)
        self._check_locks(nodes)
        self._begin()
        for node in nodes:
            self._set("alive", self.nodes_of(node)[0], False)

    def lock(self, nodes: Sequence[int], visible_below: int) -> None:
        """Keep an object of these nodes as it is, whatever the threshold."""
        nodes = [node for node in nodes if 0 < node < len(self.alive)]
        if not nodes:
            raise SettingsError("The locked object is not there any more.")
        members = set(nodes)
        self._begin()
        for node in nodes:
            for other, edge in self._links.of(node) if node <= self._tree.count else ():
                if other not in members and self.kept[edge]:
                    self._set("kept", [edge], False)
            for number in self._extra_of.get(node, ()):
                a, b, joined = self._extra[number]
                if joined and not (a in members and b in members):
                    self._part(number)
        for a, b in itertools.pairwise(nodes):
            self._join(a, b)
        self._set("alive", nodes, True)
        self._set("locked", nodes, True)
        self._set("visible_below", nodes, visible_below)
        self._touch(nodes)

    def unlock(self, place: Place) -> None:
        """Let an object be changed again."""
        nodes = self.nodes_of(self._named([place])[0])[0]
        if not self.locked[nodes].any():
            raise SettingsError("The object at this place is not locked.")
        self._begin()
        self._set("locked", nodes, False)
        self._set("visible_below", nodes, self._cut)

    def paint(self, corner: Place, mask: Array, place: Place | None, erase: bool = False) -> None:
        """Give pixels to the object at a place, to a new object, or to the background."""
        node = 0
        if not erase and place is not None:
            node = self._named([place])[0]
            self._check_locks([node])
        self._begin()
        if not erase and place is None:
            node = self._new_node()
        self.patches.append(Patch(corner, mask, node))
        self._undo[-1].append(self._unpaint)
        if node:
            self._touch([node])

    # -- taking back

    def undo(self) -> None:
        """Take the latest operation back."""
        for back in reversed(self._undo.pop()):
            back()

    def _begin(self) -> None:
        self._undo.append([])

    def _unpaint(self) -> None:
        self.patches.pop()

    def _set(self, name: str, places: Sequence[int], value: Any) -> None:
        index = np.asarray(places, np.int64)
        before = getattr(self, name)[index].copy()
        getattr(self, name)[index] = value

        def back() -> None:
            getattr(self, name)[index] = before

        self._undo[-1].append(back)

    def _join(self, a: int, b: int) -> None:
        number = len(self._extra)
        self._extra.append([a, b, 1])
        for node in (a, b):
            self._extra_of.setdefault(node, []).append(number)

        def back() -> None:
            self._extra.pop()
            for node in (a, b):
                self._extra_of[node].pop()

        self._undo[-1].append(back)

    def _part(self, number: int) -> None:
        self._extra[number][2] = 0

        def back() -> None:
            self._extra[number][2] = 1

        self._undo[-1].append(back)

    def _touch(self, nodes: Iterable[int]) -> None:
        self._set("touched", list(nodes), True)

    def _new_node(self) -> int:
        """Add a painted object."""
        self.painted += 1
        self._grow(1)

        def back() -> None:
            self.painted -= 1
            self._grow(-1)

        self._undo[-1].append(back)
        return len(self.alive) - 1

    def _grow(self, by: int) -> None:
        for name, value in (
            ("alive", True), ("touched", False), ("locked", False), ("visible_below", self._cut),
        ):  # fmt: skip
            array = getattr(self, name)
            longer = np.append(array, np.asarray([value], array.dtype)) if by > 0 else array[:-1]
            setattr(self, name, longer)

    # -- checks

    def _named(self, places: Iterable[Place]) -> list[int]:
        nodes = []
        for place in places:
            node = self.node(place)
            if not node:
                raise SettingsError(f"There is no object at {place}: choose a place inside one.")
            nodes.append(node)
        return nodes

    def _check_locks(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            if self.locked[node]:
                raise SettingsError("This object is locked: unlock it first.")


class _Links:
    """The edges of each basin in the tree."""

    def __init__(self, tree: Tree) -> None:
        count = len(tree.lowest)
        ends = np.concatenate([tree.first, tree.second])
        order = np.argsort(ends, kind="stable")
        self._other = np.concatenate([tree.second, tree.first])[order]
        self._edge = np.concatenate([np.arange(len(tree.first))] * 2)[order]
        self._start = np.searchsorted(ends[order], np.arange(count + 1))

    def of(self, node: int) -> list[tuple[int, int]]:
        """Return the neighbours of a basin and the edges to them."""
        part = slice(self._start[node], self._start[node + 1])
        return list(zip(self._other[part].tolist(), self._edge[part].tolist(), strict=True))


__all__ = ["EditedCut", "Edits", "Patch", "Place"]
