"""False splits: objects that were cut where tiles meet, in the labels of any program.

Knows label images and lines of a grid. Does not know tiles' predictions or networks.

Three questions, each answered by comparing the grid's lines with the same lines displaced:

*Is there an artifact?* Along a line, count the pixels where the label changes across it, as far as
they lie in straight runs of at least `RUN` pixels. Per line, this is ``S(o)`` for a grid displaced
by ``o``; ``T = S_y(0) + S_x(0)``. The null distribution are all ``S_y(i) + S_x(j)`` with
displacements of more than 2 pixels, and ``p = (1 + #{null >= T}) / (1 + #null)``: a randomization
test, small if the grid's own lines stand out. ``T - mean(null)`` is the effect, in pixels per line.

*Where is the grid?* Strides and offsets are scanned along each axis. The best one is compared with
the best ones of profiles whose lines were shuffled, so its p value accounts for having searched.

*Which objects?* Different labels that face each other across a line, at most `GAP` background
pixels apart, along at least `LENGTH` pixels. Displaced lines give as many such pairs as chance
does (decoys): the false-discovery rate of all pairs of at least this length is decoys / pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from seamscope.errors import ImageError, SettingsError
from seamscope.images.image import Image, open_image
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.label_files import label_output
from seamscope.segmentation.objects import Space
from seamscope.work import QUIET, Work, check

Array: TypeAlias = npt.NDArray[Any]
PerAxis: TypeAlias = "int | Sequence[int]"

RUN = 5
GAP = 3
LENGTH = 6
_NEAR = 2  # displacements up to this count as the grid itself
_MOST_SHIFTS = 400  # per axis; more add nothing to a p value
_SHUFFLES = 199
_BAND = 2**23  # pixels that are read at a time


@dataclass(frozen=True)
class Lines:
    """The seams along each axis of space: pixels ``c - 1`` and ``c`` lie on either side.

    Attributes
    ----------
    stride
        Distance between lines along each axis, pixels.
    offset
        Position of the lines modulo `stride`.
    """

    stride: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def of(
        cls, tile: PerAxis, overlap: PerAxis = 0, offset: PerAxis | None = None, axes: int = 2
    ) -> Lines:
        """Return the lines of tiles of a size.

        Parameters
        ----------
        tile, overlap
            Pixels along each axis; the distance between lines is their difference.
        offset
            Where lines lie modulo this distance. By default in the middle of the overlaps, of tiles
            that start at 0.
        axes
            Number of axes of space.

        Raises
        ------
        SettingsError
            When tiles are not larger than their overlap.
        """
        sizes, shared = _per_axis(tile, axes), _per_axis(overlap, axes)
        stride = tuple(t - o for t, o in zip(sizes, shared, strict=True))
        if min(stride) < 2 * _NEAR + 4:
            raise SettingsError(
                f"Tiles of {tile} with an overlap of {overlap} leave {min(stride)} pixels between "
                f"seams: at least {2 * _NEAR + 4} are needed for a comparison."
            )
        first = tuple(o // 2 for o in shared) if offset is None else _per_axis(offset, axes)
        return cls(stride, tuple(o % s for o, s in zip(first, stride, strict=True)))

    def along(self, axis: int, size: int, shift: int = 0) -> Array:
        """Return the lines inside an axis of this size, displaced by `shift`."""
        first = (self.offset[axis] + shift) % self.stride[axis]
        lines = np.arange(first, size, self.stride[axis])
        return lines[lines > 0]


def _per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != axes:
        raise SettingsError(f"{value} does not fit {axes} axes of space: give one number for each.")
    return values


@dataclass(frozen=True)
class GridTest:
    """Whether label changes gather on the lines of a grid.

    Attributes
    ----------
    p
        Probability of so many changes on lines that are not a grid; 0.05 or less is an artifact.
    changes
        Changes on the grid's lines, pixels per line, summed over axes (``T``).
    expected, spread
        Mean and standard deviation of the same on displaced lines.
    lines
        Number of lines along each axis.
    """

    p: float
    changes: float
    expected: float
    spread: float
    lines: tuple[int, ...]

    @property
    def effect(self) -> float:
        """Excess of changes, pixels per line."""
        return self.changes - self.expected


@dataclass(frozen=True)
class FoundGrid:
    """The grid that fits best along one axis.

    Attributes
    ----------
    axis
        Letter of the axis.
    stride, offset
        Of its lines, pixels.
    p
        Probability that shuffled lines have a grid that fits as well, for all axes together.
    """

    axis: str
    stride: int
    offset: int
    p: float


@dataclass(frozen=True)
class Candidate:
    """Two objects that may be one, cut by a seam.

    Attributes
    ----------
    labels
        Of the objects, before and after the seam.
    axis
        Across which axis of space they face each other; 0 is the first.
    line
        The seam: pixels ``line - 1`` and ``line`` lie on either side.
    pixels
        Length along which they face each other.
    places
        A pixel of each object beside the seam, with frames first for movies.
    rate
        False-discovery rate of the list down to this one; 0.1 means that 10 % are expected to be
        true borders.
    """

    labels: tuple[int, int]
    axis: int
    line: int
    pixels: int
    places: tuple[tuple[int, ...], tuple[int, ...]]
    rate: float


@dataclass(frozen=True)
class SplitReport:
    """False splits of a label image.

    Attributes
    ----------
    name
        Of the labels.
    axes
        Of space.
    lines
        The grid that was tested, given or found; None where none was found.
    test
        Of the whole grid; None without one.
    found
        Where the grid was not given: the best one along each axis.
    candidates
        Pairs on the seams, the longest first.
    expected
        Number of pairs that chance alone puts on as many lines.
    """

    name: str
    axes: str
    lines: Lines | None
    test: GridTest | None
    found: tuple[FoundGrid, ...]
    candidates: tuple[Candidate, ...]
    expected: float

    def below(self, rate: float) -> tuple[Candidate, ...]:
        """Return the longest list of candidates with at most this false-discovery rate."""
        return tuple(c for c in self.candidates if c.rate <= rate)

    def describe(self) -> str:
        """A few sentences for people."""
        if self.test is None or self.lines is None:
            best = min(self.found, key=lambda g: g.p)
            return (
                f"No grid was found: the best fit along {best.axis}, every {best.stride} pixels, "
                f"has p = {best.p:.2g} (0.05 or less would be a grid)."
            )
        test = self.test
        stride = " x ".join(map(str, self.lines.stride))
        verdict = (
            "The labels are cut where tiles meet"
            if test.p <= 0.05
            else "The labels show no sign of tiles"
        )
        text = (
            f"{verdict}: {test.changes:.3g} label changes in straight runs per seam, "
            f"{test.expected:.3g} on displaced lines (p = {test.p:.2g}, grid of {stride} pixels)."
        )
        pairs = len(self.candidates)
        if not pairs:
            return text + " No two objects face each other across a seam."
        return text + (
            f" {pairs} pair{'s' * (pairs != 1)} of objects face each other across seams; chance "
            f"alone gives {self.expected:.3g}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return this in JSON's own types."""
        test = self.test
        return {
            "labels": self.name,
            "axes": self.axes,
            "stride": self.lines and list(self.lines.stride),
            "offset": self.lines and list(self.lines.offset),
            "test": test
            and {
                "p": test.p,
                "changes_per_line": test.changes,
                "expected_per_line": test.expected,
                "excess_per_line": test.effect,
                "spread": test.spread,
                "lines": list(test.lines),
            },
            "grid_found": [
                {"axis": g.axis, "stride": g.stride, "offset": g.offset, "p": g.p}
                for g in self.found
            ],
            "expected_pairs": self.expected,
            "pairs": [
                {
                    "labels": list(c.labels),
                    "axis": self.axes[c.axis],
                    "line": c.line,
                    "pixels": c.pixels,
                    "places": [list(p) for p in c.places],
                    "false_discovery_rate": c.rate,
                }
                for c in self.candidates
            ],
        }


def find_splits(
    labels: Any,
    tile: PerAxis | None = None,
    *,
    overlap: PerAxis = 0,
    offset: PerAxis | None = None,
    axes: str | None = None,
    work: Work = QUIET,
) -> SplitReport:
    """Test labels of any program for cuts where tiles meet, and list the objects that were cut.

    Parameters
    ----------
    labels
        Array, path or `Image` of whole numbers, 0 for background; axes of space, and ``t``.
    tile, overlap, offset
        The grid of tiles, see `Lines.of`. Without a tile, the grid is searched.
    axes
        One letter for each axis, where the file does not say.
    work
        Shows progress and stops.

    Raises
    ------
    ImageError
        When the labels are not whole numbers.
    SettingsError
        When the grid has no line inside the image.

    Examples
    --------
    >>> import numpy as np, seamscope
    >>> cells = np.arange(1, 325).reshape(18, 18).repeat(11, 0).repeat(11, 1)[:192, :192]
    >>> cut = cells + 1000 * (np.arange(192) // 48)  # cells are cut at columns 48, 96 and 144
    >>> report = seamscope.find_splits(cut, tile=48)
    >>> report.test.p < 0.01, len(report.candidates) > 40
    (True, True)
    """
    image = labels_of(labels, axes)
    space = [i for i, letter in enumerate(image.axes or "") if letter in "zyx"]
    names = "".join((image.axes or "")[i] for i in space)
    scanned = [_scan_axis(image, axis, space, work) for axis in space]
    sizes = [image.shape[axis] for axis in space]
    found: tuple[FoundGrid, ...] = ()
    if tile is None:
        found = _search([s.changes for s in scanned], names)
        lines = _lines_found(found, sizes)
        if lines is None:
            return SplitReport(image.name, names, None, None, found, (), 0.0)
    else:
        lines = Lines.of(tile, overlap, offset, len(space))
    test = _test([s.changes for s in scanned], lines, sizes)
    candidates, expected = _candidates(scanned, lines, sizes)
    return SplitReport(image.name, names, lines, test, found, candidates, expected)


def labels_of(labels: Any, axes: str | None = None) -> Image:
    """Open labels, and check that they are whole numbers of an image.

    Parameters
    ----------
    labels
        As for `seamscope.open_image`.
    axes
        One letter for each axis; three axes that nothing names are ``zyx``.

    Raises
    ------
    ImageError
        When they are not whole numbers, or have channels.
    """
    image = open_image(labels)
    if axes is None and image.axes is None and image.ndim == 3:
        axes = "zyx"
    image = image.with_axes(axes) if axes else image
    if image.axes is None or "c" in image.axes:
        raise ImageError(
            f"{image.name} has {image.ndim} axes and nothing says that they are space and time, or "
            "one of them is channels: name them (axes='tyx', --axes tyx), or give one channel."
        )
    if image.dtype.kind not in "uib":
        raise ImageError(
            f"{image.name} holds {image.dtype}, but labels are whole numbers: give the label image "
            "and not a probability."
        )
    return image


# -- reading


@dataclass(frozen=True)
class _Scanned:
    """What was seen at all lines across one axis."""

    changes: Array  # of each line, pixels in straight runs; index is the line
    facing: Array  # (N, 4): line, label before, label after, pixels
    places: Array  # (N, 2, ndim): a pixel of each, beside the line


def _scan_axis(image: Image, axis: int, space: Sequence[int], work: Work) -> _Scanned:
    """Look at all lines across one axis, band by band; runs lie along the longest other axis."""
    others = [a for a in space if a != axis] or [axis]
    along = max(others, key=lambda a: image.shape[a])
    size = image.shape[axis]
    changes = np.zeros(size)
    facing: list[Array] = []
    places: list[Array] = []
    work.phase(f"Looking along {(image.axes or '')[axis]}")
    bands = list(_bands(image, axis, along))
    order = [axis, *[a for a in range(image.ndim) if a not in (axis, along)], along]
    for done, (region, own) in enumerate(bands):
        check(work)
        block = image.read(region).transpose(order)
        low = region[axis].start
        lines = np.arange(max(1, own.start), own.stop) - low
        changed = block[lines] != block[lines - 1]
        in_runs = changed & _in_runs(changed)
        changes[lines + low] += in_runs.reshape(len(lines), -1).sum(1)
        rows, at = _facing(block, lines)
        rows[:, 0] += low
        where = np.empty_like(at)
        for column, a in enumerate(order):
            where[..., a] = at[..., column] + region[a].start
        facing.append(rows)
        places.append(where)
        work.step(done + 1, len(bands))
    return _Scanned(changes, *_joined(facing, places))


def _bands(image: Image, axis: int, along: int) -> Iterator[tuple[tuple[slice, ...], slice]]:
    """Regions that are whole along the runs, and the lines each is for; regions overlap."""
    thick = max(4 * GAP, min(256, _BAND // image.shape[along]))
    free = [a for a in range(image.ndim) if a not in (axis, along)]
    depth = max(1, _BAND // (thick * image.shape[along]))
    steps = [range(0, image.shape[a], depth if a == free[-1] else 1) for a in free]
    for low in range(0, image.shape[axis], thick):
        for corner in np.ndindex(*map(len, steps)):
            region = [slice(None)] * image.ndim
            high = min(image.shape[axis], low + thick)
            region[axis] = slice(max(0, low - GAP - 1), min(image.shape[axis], high + GAP))
            region[along] = slice(0, image.shape[along])
            for a, step, i in zip(free, steps, corner, strict=True):
                end = min(image.shape[a], step[i] + (depth if a == free[-1] else 1))
                region[a] = slice(step[i], end)
            yield tuple(region), slice(low, high)


def _in_runs(changed: Array) -> Array:
    """Tell which pixels lie in runs of at least `RUN` along the last axis."""
    length = min(RUN, changed.shape[-1])
    total = np.cumsum(changed, axis=-1, dtype=np.int32)
    total = np.concatenate([np.zeros((*total.shape[:-1], 1), np.int32), total], -1)
    full = total[..., length:] - total[..., :-length] == length  # a run starts here
    found = np.zeros(changed.shape, np.bool_)
    for step in range(length):
        found[..., step : step + full.shape[-1]] |= full
    return found


def _facing(block: Array, lines: Array) -> tuple[Array, Array]:
    """Return line, labels and pixels of all pairs that face each other, and a place of each."""
    before, before_gap = _first_label([_layer(block, lines - 1 - k) for k in range(GAP + 1)])
    after, after_gap = _first_label([_layer(block, lines + k) for k in range(GAP + 1)])
    meet = (before > 0) & (after > 0) & (before != after) & (before_gap + after_gap <= GAP)
    index = np.argwhere(meet)
    if not len(index):
        return np.zeros((0, 4), np.int64), np.zeros((0, 2, block.ndim), np.int64)
    keys = np.stack(
        [lines[index[:, 0]], before[meet].astype(np.int64), after[meet].astype(np.int64)], 1
    )
    order = np.lexsort(keys.T[::-1])
    keys = keys[order]
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]).any(1)
    start = np.flatnonzero(new)
    count = np.diff(np.append(start, len(keys)))
    middle = order[start + count // 2]
    places = np.stack([index[middle]] * 2, 1)
    places[:, 0, 0] = keys[start, 0] - 1 - before_gap[meet][middle]
    places[:, 1, 0] = keys[start, 0] + after_gap[meet][middle]
    return np.concatenate([keys[start], count[:, None]], 1), places


def _layer(block: Array, rows: Array) -> Array:
    """Return rows of a block; 0 for rows outside."""
    inside = (rows >= 0) & (rows < len(block))
    found = block[np.clip(rows, 0, len(block) - 1)]
    found[~inside] = 0
    return np.asarray(found)


def _first_label(layers: Sequence[Array]) -> tuple[Array, Array]:
    """Return the first label above 0 in a pile of layers, and in which layer it is."""
    label = layers[0].copy()
    gap = np.where(label > 0, 0, len(layers))
    for k, layer in enumerate(layers[1:], 1):
        new = (label == 0) & (layer > 0)
        label[new] = layer[new]
        gap[new] = k
    return label, gap


def _joined(facing: list[Array], places: list[Array]) -> tuple[Array, Array]:
    """Add up pairs that were seen in several bands."""
    rows, where = np.concatenate(facing), np.concatenate(places)
    if not len(rows):
        return rows, where
    keys, start, group = np.unique(rows[:, :3], axis=0, return_index=True, return_inverse=True)
    count = np.bincount(group.ravel(), weights=rows[:, 3]).astype(np.int64)
    return np.concatenate([keys, count[:, None]], 1), where[start]


# -- the test


def _test(changes: Sequence[Array], lines: Lines, sizes: Sequence[int]) -> GridTest:
    observed, null = 0.0, np.zeros(1)
    counts = []
    for axis, profile in enumerate(changes):
        own = lines.along(axis, sizes[axis])
        if not len(own):
            counts.append(0)
            continue
        counts.append(len(own))
        observed += profile[own].mean()
        shifted = _displaced(profile, lines, axis, sizes[axis])
        if len(null) * len(shifted) > 10**7:  # three axes: every so many displacements will do
            null = null[:: math.ceil(len(null) * len(shifted) / 10**7)]
        null = np.add.outer(null, shifted).ravel()
    if not any(counts):
        raise SettingsError(
            f"No seam of a grid of {' x '.join(map(str, lines.stride))} pixels lies inside labels "
            f"of {' x '.join(map(str, sizes))}: check the tile size."
        )
    # a sum that is equal but for rounding is as extreme
    p = (1 + int((null >= observed - 1e-9).sum())) / (1 + len(null))
    return GridTest(p, observed, float(null.mean()), float(null.std()), tuple(counts))


def _displaced(profile: Array, lines: Lines, axis: int, size: int) -> Array:
    """Mean changes per line of all displaced grids along one axis."""
    stride = lines.stride[axis]
    shifts = np.arange(_NEAR + 1, stride - _NEAR)
    shifts = shifts[:: max(1, len(shifts) // _MOST_SHIFTS)]
    each = [profile[lines.along(axis, size, int(shift))] for shift in shifts]
    return np.array([values.mean() for values in each if len(values)])


def _search(changes: Sequence[Array], names: str) -> tuple[FoundGrid, ...]:
    """Find the stride and offset that fit best along each axis, against shuffled lines."""
    rng = np.random.default_rng(0)
    found = []
    for name, profile in zip(names, changes, strict=True):
        values = profile[1:]
        most = min(len(values) // 3, 1024)
        if most < 16 or not values.std():
            found.append(FoundGrid(name, max(1, len(profile)), 0, 1.0))
            continue
        pieces = np.array_split(
            values, max(1, len(values) // 4)
        )  # neighbouring lines stay together
        shuffled = [
            np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
            for _ in range(_SHUFFLES)
        ]
        best = np.full(_SHUFFLES + 1, -np.inf)
        where = (16, 0)
        rows = np.stack([values, *shuffled])
        rows = (rows - values.mean()) / values.std()
        for stride in range(16, most + 1):
            whole = rows.shape[1] // stride * stride
            folded = rows[:, :whole].reshape(len(rows), -1, stride)
            score = folded.sum(1) / math.sqrt(folded.shape[1])
            top = score.max(1)
            if top[0] > best[0]:
                where = (stride, int(score[0].argmax() + 1) % stride)
            best = np.maximum(best, top)
        p = (1 + int((best[1:] >= best[0]).sum())) / (1 + _SHUFFLES)
        found.append(FoundGrid(name, *where, min(1.0, p * len(names))))
    return tuple(found)


def _lines_found(found: Sequence[FoundGrid], sizes: Sequence[int]) -> Lines | None:
    """Return the grid of the axes along which one was found."""
    if min(grid.p for grid in found) > 0.05:
        return None
    stride = tuple(g.stride if g.p <= 0.05 else n + 1 for g, n in zip(found, sizes, strict=True))
    return Lines(stride, tuple(g.offset if g.p <= 0.05 else 0 for g in found))


# -- pairs


def _candidates(
    scanned: Sequence[_Scanned], lines: Lines, sizes: Sequence[int]
) -> tuple[tuple[Candidate, ...], float]:
    """Return the pairs on the grid's lines with their rates, and how many chance would give."""
    found: list[Candidate] = []
    decoys: list[Array] = []
    weights: list[Array] = []
    for axis, seen in enumerate(scanned):
        own = lines.along(axis, sizes[axis])
        if not len(own):
            continue
        long_enough = seen.facing[:, 3] >= LENGTH
        rows, places = seen.facing[long_enough], seen.places[long_enough]
        on_grid = np.isin(rows[:, 0], own)
        for row, place in zip(rows[on_grid].tolist(), places[on_grid].tolist(), strict=True):
            line, one, two, pixels = row
            both = (tuple(place[0]), tuple(place[1]))
            found.append(Candidate((one, two), axis, line, pixels, both, 1.0))
        stride, offset = lines.stride[axis], lines.offset[axis]
        apart = np.abs((np.arange(1, sizes[axis]) - offset + stride // 2) % stride - stride // 2)
        displaced = apart > max(_NEAR, GAP)
        far = displaced[rows[:, 0] - 1]
        decoys.append(rows[far, 3])
        weights.append(np.full(int(far.sum()), len(own) / max(1, int(displaced.sum()))))
    lengths = np.concatenate(decoys) if decoys else np.zeros(0)
    weight = np.concatenate(weights) if weights else np.zeros(0)
    found.sort(key=lambda c: (-c.pixels, c.axis, c.line, c.labels))
    rates = [
        min(1.0, float(weight[lengths >= c.pixels].sum()) / max(1, _at_least(found, c.pixels)))
        for c in found
    ]
    for i in reversed(range(len(rates) - 1)):  # the rate of the best list that holds this pair
        rates[i] = min(rates[i], rates[i + 1])
    listed = tuple(replace(c, rate=r) for c, r in zip(found, rates, strict=True))
    return listed, float(weight.sum())


def _at_least(found: Sequence[Candidate], pixels: int) -> int:
    return sum(c.pixels >= pixels for c in found)


# -- joining


def merge_pairs(
    labels: Any,
    pairs: Sequence[tuple[int, int]],
    out: Any = None,
    *,
    axes: str | None = None,
    overwrite: bool = False,
    work: Work = QUIET,
) -> Any:
    """Write labels with pairs of them made one, each named by its smallest, block by block.

    Parameters
    ----------
    labels, axes
        As for `find_splits`.
    pairs
        Labels that are one object.
    out
        As for `seamscope.segmentation.segment.Segmentation.write`.
    overwrite
        Whether an existing file may be replaced.
    work
        Shows progress and stops.

    Returns
    -------
    array
        The labels as they were written.
    """
    image = labels_of(labels, axes)
    highest = max((max(pair) for pair in pairs), default=0)
    table = merge_table(highest, pairs).astype(image.dtype)
    space = Space(image.axes or "", image.scale, image.units, image.origin)
    kind = np.dtype(np.uint8) if image.dtype.kind == "b" else image.dtype
    with label_output(
        out, image.shape, kind, space, overwrite=overwrite, source=image,
        metadata={"merged": [list(pair) for pair in pairs]},
    ) as output:  # fmt: skip
        work.phase("Writing labels")
        blocks = Blocks.of(
            image.shape, tuple(getattr(output.array, "chunks", None) or (512,) * image.ndim)
        )
        for done, region in enumerate(blocks):
            check(work)
            values = image.read(region)
            small = values <= highest
            output.write(
                region, np.where(small, table[np.where(small, values, 0)], values).astype(kind)
            )
            work.step(done + 1, len(blocks))
        output.finish()
    return output.array


def merge_table(highest: int, pairs: Sequence[tuple[int, int]]) -> Array:
    """Return for each label the one that it becomes when pairs are made one."""
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    links = (np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1]))
    matrix = sparse.coo_array(links, shape=(highest + 1, highest + 1))
    part = sparse.csgraph.connected_components(matrix, directed=False)[1]
    smallest = np.zeros(highest + 1, np.int64)
    smallest[part[::-1]] = np.arange(highest, -1, -1)
    return np.asarray(smallest[part])


__all__ = [
    "Candidate",
    "FoundGrid",
    "GridTest",
    "Lines",
    "SplitReport",
    "find_splits",
    "labels_of",
    "merge_pairs",
    "merge_table",
]
