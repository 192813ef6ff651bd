"""What label images show across each line: changes in straight runs, and objects that face.

Knows label images, read band by band. Does not know which lines are seams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.image import Image
from seamscope.progress import Work, check

Array: TypeAlias = npt.NDArray[Any]

RUN = 5
GAP = 3
_BAND = 2**23  # pixels that are read at a time


@dataclass(frozen=True)
class Crossings:
    """What was seen at all lines across one axis."""

    changes: Array  # of each line, pixels in straight runs; index is the line
    facing: Array  # (N, 4): line, label before, label after, pixels
    places: Array  # (N, 2, ndim): a pixel of each, beside the line


def look_across(image: Image, axis: int, space: Sequence[int], work: Work) -> Crossings:
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
    return Crossings(changes, *_joined(facing, places))


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


__all__ = ["GAP", "RUN", "Crossings", "look_across"]
