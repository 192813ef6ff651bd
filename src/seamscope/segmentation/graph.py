"""The passes between basins as a tree, and every segmentation that is a cut of it.

Knows basins and their passes. Does not know pixels.

The minimum spanning tree of the passes, edges in the order (pass, smaller basin, larger basin),
holds every seeded watershed at once. When an edge of height ``p`` joins two parts of the tree, let
``k`` be the height of the *higher* of their two minima. Then, for seeds that are the connected
pixels below ``t``:

* the edge lies between two objects if ``k < t <= p``: both parts have a seed, and the pass is not
  below `t`;
* so the number of objects is, for all `t` at once, the number of minima below `t` less the number
  of edges below `t`;
* ``p - k`` is the *dynamics* of the higher minimum: keeping only minima of dynamics ``d`` or more
  cuts the edges with ``p - k >= d``.

The tree is Kruskal's; ties are broken as above, so it is unique (Cousty et al. 2009, "Watershed
cuts"; dynamics: Grimaud 1992; Najman and Schmitt 1996, "Geodesic saliency of watershed contours").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from seamscope.segmentation.basins import Basins, Passes
from seamscope.segmentation.fragments import OUTSIDE

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Tree:
    """The minimum spanning tree of basins (a forest where they are not all connected).

    Attributes
    ----------
    lowest
        Height of each basin's minimum, entry 0 unused; ``(N + 1,)`` uint16.
    first, second
        Basins of each edge, in ascending order of the passes; ``(E,)`` int64.
    height
        Pass of each edge, ``(E,)`` int64.
    younger
        Height of the higher of the two minima that each edge brings together, ``(E,)`` int64.

    Examples
    --------
    Three minima at heights 0, 2 and 1, passes 5 and 3 between them:

    >>> from seamscope.segmentation.basins import Passes
    >>> tree = Tree.of(np.array([0, 0, 2, 1]), Passes(
    ...     np.array([1, 2]), np.array([2, 3]), np.array([5, 3])))
    >>> tree.cut_below(3).tolist(), tree.cut_by_dynamics(2).tolist()
    ([0, 1, 2, 3], [0, 1, 2, 2])
    >>> tree.counts()[:7].tolist()
    [0, 1, 2, 3, 2, 2, 1]
    """

    lowest: Array
    first: Array
    second: Array
    height: Array
    younger: Array

    @classmethod
    def of(cls, lowest: Array, passes: Passes) -> Tree:
        """Build the tree of basins with these minima and passes."""
        count = len(lowest)
        order = np.lexsort((passes.second, passes.first, passes.height))
        chosen = order[_spanning(count, passes.first[order], passes.second[order])]
        first, second = passes.first[chosen], passes.second[chosen]
        height = passes.height[chosen].astype(np.int64)
        younger = _younger(lowest, first, second)
        return cls(lowest, first, second, height, younger)

    @property
    def count(self) -> int:
        """Number of basins."""
        return len(self.lowest) - 1

    @cached_property
    def dynamics(self) -> Array:
        """Height of each edge above the higher of the two minima it brings together."""
        return self.height - self.younger

    def kept_below(self, threshold: int) -> Array:
        """Return which edges lie within objects whose seeds are the pixels below a height."""
        return (self.younger >= threshold) | (self.height < threshold)

    def kept_by_dynamics(self, smallest: int) -> Array:
        """Return which edges lie within objects whose seeds have at least these dynamics."""
        return self.dynamics < smallest

    def cut_below(self, threshold: int) -> Array:
        """Cut the tree: seeds are connected pixels below `threshold`.

        Returns
        -------
        numpy.ndarray
            For each basin its object, named by its smallest basin; 0 for basins that no seed
            reaches; ``(N + 1,)`` int64.
        """
        objects = self.objects(self.kept_below(threshold))
        return without_seed(objects, self.lowest, threshold)

    def cut_by_dynamics(self, smallest: int) -> Array:
        """Cut the tree: seeds are minima of at least these dynamics; see `cut_below`."""
        return self.objects(self.kept_by_dynamics(smallest))

    def objects(
        self, kept: Array, more: tuple[Array, Array] | None = None, painted: int = 0
    ) -> Array:
        """Join basins by the edges that are kept, and by more pairs; name by the smallest basin.

        Parameters
        ----------
        kept
            Which edges join, ``(E,)`` bool.
        more
            Further pairs of numbers.
        painted
            Numbers after the last basin that may occur in them.
        """
        a, b = self.first[kept], self.second[kept]
        if more is not None:
            a, b = np.concatenate([a, more[0]]), np.concatenate([b, more[1]])
        count = len(self.lowest) + painted
        matrix = sparse.coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(count, count))
        part = sparse.csgraph.connected_components(matrix, directed=False)[1]
        smallest = np.zeros(count, np.int64)
        smallest[part[::-1]] = np.arange(count - 1, -1, -1)
        return np.asarray(smallest[part])

    def counts(self) -> Array:
        """Return the number of objects for each threshold of `cut_below`, ``(65536,)`` int64."""
        minima = np.bincount(self.lowest[1:], minlength=OUTSIDE + 1)
        edges = np.bincount(self.height, minlength=OUTSIDE + 1)
        below = np.cumsum(minima) - np.cumsum(edges)
        return np.concatenate([[0], below[:-1]])

    def counts_by_dynamics(self) -> Array:
        """Return the number of objects for each size of `cut_by_dynamics`, ``(65537,)`` int64."""
        edges = np.bincount(self.dynamics, minlength=OUTSIDE + 2)
        return self.count - np.concatenate([[0], np.cumsum(edges)])[: OUTSIDE + 2]


def without_seed(objects: Array, lowest: Array, threshold: int) -> Array:
    """Make objects nothing (0) that have no minimum below a height."""
    seeded = np.zeros(len(objects), np.bool_)
    seeded[objects[1:][lowest[1:] < threshold]] = True
    return np.where(seeded[objects], objects, 0)


def _spanning(count: int, first: Array, second: Array) -> Array:
    """Return which of the edges, given in the order they are tried, form the spanning forest.

    scipy's tree has no rule for equal weights; here all weights differ.
    """
    if not len(first):
        return np.zeros(0, np.int64)
    weights = np.arange(1, len(first) + 1, dtype=np.float64)
    matrix = sparse.csr_array((weights, (first, second)), shape=(count, count))
    tree = sparse.csgraph.minimum_spanning_tree(matrix)
    return np.sort(tree.data).astype(np.int64) - 1


def _younger(lowest: Array, first: Array, second: Array) -> Array:
    """Join parts of the tree edge by edge; return the higher of their two minima each time."""
    parent = list(range(len(lowest)))
    minimum = lowest.tolist()
    found = [0] * len(first)
    for edge, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if minimum[a] > minimum[b]:
            a, b = b, a
        parent[b] = a
        found[edge] = minimum[b]
    return np.array(found, np.int64)


def tree_of(basins: Basins) -> Tree:
    """Build the tree of an image's basins."""
    return Tree.of(basins.lowest, basins.passes)


__all__ = ["Tree", "tree_of", "without_seed"]
