"""Why neighbouring tiles disagree: causes found by experiment, their shares, and what to do.

Knows what is put to the test: Seamscope's own prediction, or other code. Does not know
how causes are removed (`seamscope.explain.experiments`) and weighed
(`seamscope.explain.inquiry`), windows or command lines.

The verdict is about the chosen setting: its tile, halo and overlap. *Disagreement* is the mean
of ``abs(O1 - O2)`` over all pixels that neither of two neighbours discards, on a sample of
seams; it is measured as the pipeline is, and again with causes removed at the very same pixels.
Channels are compared one by one, of embeddings too: there a report of seams measures Euclidean
distances, which are larger by up to the square root of the number of channels.

The *share* of a cause is the part of that disagreement that goes away with it. What goes away
depends on what else is still there, so it is averaged over every order in which the causes that
act can be removed, as in Shapley's value (1953): equal causes get equal shares, and the shares of
causes that simply add up are their amounts. Causes can also hide one another, and then removing
one uncovers more than it takes; such a step counts as nothing, not as less than nothing. Shares
are parts of the sum of all amounts.

Not everything can be removed. *Global coupling* is what is left when everything else is gone; in
every order it comes last. Where the network sees the whole tile even with its statistics held
fixed, no context makes edge effects end; there they are the part by which the curve falls from
the chosen halo to the middle of the widest overlap, if that is a third or more. And in a bare
callable, a normalization of intensities that is hidden in it shows as global coupling that does
not care about the brightness of its input; it is reported as preprocessing, together with all
else that couples the whole tile.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from seamscope.errors import ImageError, SettingsError
from seamscope.explain.findings import Diagnosis, Finding, Verdict
from seamscope.explain.inquiry import Inquiry
from seamscope.explain.pipelines import Pipeline, Step, subject_of_case, subject_of_pipeline
from seamscope.explain.tile_sample import PlacedAxis, comparable, shared
from seamscope.images.image import Image, open_image
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.progress import QUIET, Work
from seamscope.seams.tolerance import TOLERANCE, check_tolerance
from seamscope.settings import Settings
from seamscope.text import axes_text, halo_text, shape_text
from seamscope.tiling import (
    PerAxis,
    Sides,
    TileGrid,
    axis_names,
    halo_sides,
    per_axis,
)

# -- the public face


def diagnose(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    *,
    worst: Sequence[Any] | None = None,
    tolerance: float = TOLERANCE,
    trust: bool = False,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> Diagnosis:
    """Explain the seams of Seamscope's own prediction of an image.

    Always in float32. Of images with time points, the one of the first seam in `worst`, else the
    first of the area.

    Parameters
    ----------
    image, model, trust, axes
        As for `seamscope.predict`.
    settings
        Settings; single ones may be given by name instead, ``tile=256, halo=16``. A
        halo ``"auto"`` is the network's reach, or what tile and overlap have room
        for (see `seamscope.planning.tiles`).
    worst
        Where seams are worst, worst first: `seamscope.seams.measures.Seam`, or points in pixels
        along the spatial axes. Half of the sample is taken there.
    tolerance
        Disagreement that is noise, in standard deviations of the output.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    SeamscopeError
        As `seamscope.predict`.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import numpy as np, torch
    >>> image = np.random.default_rng(0).random((64, 64), np.float32)
    >>> blur = torch.nn.Conv2d(1, 1, 5, padding=2)
    >>> diagnose(image, blur, tile=32, halo=0).verdict
    'edge effects'
    >>> diagnose(image, blur, tile=32).verdict
    'seamless'
    """
    check_tolerance(tolerance)
    case = Case.open(image, model, settings, trust=trust, axes=axes, **asked)
    plan = case.plan
    if all(axis.single for axis in plan.grid.axes):
        return _one_tile(plan.grid, plan.facts.period)
    case.intensity(work)
    frame, points = worst_places(worst or (), plan)
    subject = subject_of_case(case, frame)
    grid = TileGrid(tuple(map(comparable, plan.grid.axes)))
    if not any(map(shared, grid.axes)):
        return _only_touching(grid, plan.facts.period)
    inquiry = Inquiry(subject, grid, points, work, plan=plan, tolerance=tolerance)
    return _with_what_was_examined(inquiry.diagnosis(), plan.grid, grid)


def examine(
    pipeline: Pipeline | Step | nn.Module,
    image: Any,
    *,
    tile: PerAxis,
    overlap: PerAxis,
    halo: int | Sequence[int | Sides] | None = None,
    starts: Sequence[Sequence[int]] | None = None,
    worst: Sequence[Sequence[float]] | None = None,
    tolerance: float = TOLERANCE,
    work: Work = QUIET,
) -> Diagnosis:
    """Explain the seams of other sliding-window code.

    Parameters
    ----------
    pipeline
        A `Pipeline`, whose parts are switched to the whole image one after another; or one
        callable that makes a tile ``(C, *spatial)`` into its prediction, in which fewer
        causes can be distinguished. It is called thousands of pixels at a time, some hundred
        times. Torch must run in the calling thread for its normalizations to be seen.
    image
        ``(*spatial)`` or ``(C, *spatial)`` as the code gets it, with as many channels as it takes:
        an array, a path or an `Image`; it is loaded whole.
    tile, overlap
        Input pixels, one number or one per axis.
    halo
        Pixels at a tile's inner borders that are thrown away; by default half the overlap.
    starts
        Where tiles start, for each axis; by default from 0 on, one tile less its overlap apart. A
        last tile that the code moves back to end with the image is worth giving: it is often off
        the network's grid.
    worst, tolerance, work
        As for `diagnose`; points in pixels.

    Raises
    ------
    SeamscopeError
        Where the pipeline fails, with what it said, or tiles do not fit the image.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import numpy as np
    >>> def predict_tile(tile):
    ...     return tile - tile.mean()
    >>> ramp = np.linspace(0, 9, 96 * 96, dtype=np.float32).reshape(96, 96) ** 2
    >>> examine(Pipeline(lambda x: x, preprocess=predict_tile), ramp, tile=32, overlap=8).verdict
    'preprocessing'
    """
    check_tolerance(tolerance)
    tile, overlap = _whole(tile, "tile"), _whole(overlap, "overlap")
    parts = pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline)
    ndim, pixels = _as_channels(image, tile, overlap)
    tiles = per_axis(tile, ndim, "tile")
    overlaps = per_axis(overlap, ndim, "overlap")
    placed = _placed(pixels.shape[1:], tiles, overlaps, starts)
    sides = halo_sides([o // 2 for o in overlaps] if halo is None else halo, ndim)
    _check_places(sides, worst or ())
    subject = subject_of_pipeline(parts, pixels, tiles)
    axes = tuple(
        PlacedAxis(min(n, s[-1] + t), t, h, 0, lattice, starts=s)
        for n, t, h, lattice, s in zip(
            pixels.shape[1:], tiles, sides, subject.lattice, placed, strict=True
        )
    )
    asked, grid = TileGrid(axes), TileGrid(tuple(map(comparable, axes)))
    period = tuple(axis.period for axis in subject.lattice)
    if len(grid) == 1:
        return _one_tile(grid, period)
    if not any(map(shared, grid.axes)):
        return _only_touching(grid, period)
    inquiry = Inquiry(subject, grid, worst or (), work, tolerance=tolerance)
    return _with_what_was_examined(inquiry.diagnosis(), asked, grid)


# -- what is compared


def _check_places(halo: Sequence[Sides], worst: Sequence[Sequence[float]]) -> None:
    """Refuse halos and points that mean nothing in this space."""
    if any(side < 0 for sides in halo for side in sides):
        raise SettingsError(f"halo {halo_text(halo)} must not be negative: use 0 or more.")
    for point in worst:
        if len(point) != len(halo):
            raise SettingsError(
                f"A worst place {tuple(point)} for {len(halo)} spatial axes: give one pixel "
                "position for each axis."
            )


def _placed(
    shape: Sequence[int],
    tiles: Sequence[int],
    overlaps: Sequence[int],
    starts: Sequence[Sequence[int]] | None,
) -> list[tuple[int, ...]]:
    """Tile starts along each axis, checked."""
    names = axis_names(len(shape))
    if starts is not None and len(starts) != len(shape):
        raise SettingsError(
            f"Starts for {len(starts)} axes of {len(shape)} ({', '.join(names)}): give one "
            "sequence of tile starts for each."
        )
    found = []
    for axis, (name, size, tile, overlap) in enumerate(
        zip(names, shape, tiles, overlaps, strict=True)
    ):
        if not 0 <= overlap < tile <= size:
            raise SettingsError(
                f"Tile {tile} with overlap {overlap} along {name}, in an image of {size}: use "
                "0 <= overlap < tile <= image."
            )
        own = (
            tuple(starts[axis]) if starts is not None else range(0, size - tile + 1, tile - overlap)
        )
        if (
            not own
            or any(start != int(start) for start in own)
            or own[0] < 0
            or own[-1] + tile > size
            or any(b <= a for a, b in itertools.pairwise(own))
        ):
            raise SettingsError(
                f"Starts {list(own)[:5]} along {name}: give rising whole positions from 0 to "
                f"{size - tile}, at which a tile of {tile} lies in the image of {size}."
            )
        found.append(tuple(map(int, own)))
    return found


def _whole(value: Any, what: str) -> int | tuple[int, ...]:
    """Plain whole numbers, also of numpy's."""
    try:
        return tuple(map(operator.index, value)) if np.ndim(value) else operator.index(value)
    except TypeError:
        raise SettingsError(
            f"{what} {value}: give a whole number of pixels, or one for each axis."
        ) from None


def _as_channels(image: Any, tile: PerAxis, overlap: PerAxis) -> tuple[int, np.ndarray[Any, Any]]:
    """Number of spatial axes, and the image as ``(C, *spatial)``."""
    source = open_image(image) if isinstance(image, str | os.PathLike) else image
    pixels = np.asarray(source.data if isinstance(source, Image) else source)
    if pixels.dtype.kind not in "fiub":
        raise ImageError(
            f"An image of {pixels.dtype} numbers: give real ones, for instance its absolute value."
        )
    given = [len(v) for v in (tile, overlap) if not isinstance(v, int)]
    # sizes per axis decide; else a first axis that no tile would fit into is no space
    ndim = given[0] if given else pixels.ndim
    if not given and pixels.ndim > 2 and pixels.shape[0] < tile:
        ndim = pixels.ndim - 1
    if pixels.ndim not in (ndim, ndim + 1) or pixels.size == 0:
        raise SettingsError(
            f"An image of shape {pixels.shape}, for tiles of {tile}: give (*spatial) or "
            "(C, *spatial), with one tile size for each spatial axis."
        )
    return ndim, pixels[None] if pixels.ndim == ndim else pixels


def worst_places(
    worst: Sequence[Any], plan: Plan
) -> tuple[tuple[int, ...], list[tuple[float, ...]]]:
    """Frame to look at and places in it, in input pixels.

    Parameters
    ----------
    worst
        `seamscope.seams.measures.Seam`, or points along the spatial axes; worst first.
    plan
        What they belong to.

    Returns
    -------
    frame, points
        The frame of the worst seam; points are taken to lie in the first that is wanted.
    """
    frame = tuple(start for start, _ in plan.frame_ranges)
    frame = next((place.frame for place in worst if getattr(place, "frame", ())), frame)
    points = []
    for place in worst:
        if getattr(place, "frame", ()) not in ((), frame):
            continue
        pixel = getattr(place, "worst", None)
        if pixel is None:
            points.append(tuple(float(x) for x in place))
        else:
            scale = map(float, plan.facts.scale)
            points.append(tuple(float(x) / s for x, s in zip(pixel, scale, strict=True)))
    return frame, points


def _with_what_was_examined(found: Diagnosis, asked: TileGrid, grid: TileGrid) -> Diagnosis:
    """Add a sentence to the diagnosis if other tiles were examined than the chosen ones.

    An overlap that is one period larger, so that something is left to compare, is not mentioned.
    """
    said = []
    short = any(
        sum(axis.lattice.whole(axis.halo)) > overlap and len(axis) > 1
        for axis, overlap in zip(asked.axes, asked.overlap, strict=True)
    )
    if short or (asked.tile_shape, asked.halo) != (grid.tile_shape, grid.halo):
        said.append(
            f"With {_setting(asked)} neighbours share no pixel that both keep; what was "
            f"examined is {_setting(grid)}."
        )
    names = axis_names(len(grid.axes))
    touching = [
        name
        for name, axis in zip(names, grid.axes, strict=True)
        if len(axis) > 1 and not shared(axis)
    ]
    if touching:
        said.append(
            f"Along {' and '.join(touching)} tiles only touch, and nothing is compared there."
        )
    return dataclasses.replace(
        found,
        summary=" ".join([found.summary, *said]),
        explanation=" ".join([found.explanation, *said]),
    )


def _setting(grid: TileGrid) -> str:
    return (
        f"tile {axes_text(grid.tile_shape)}, overlap {axes_text(grid.overlap)} and halo "
        f"{halo_text(grid.halo)}"
    )


def _only_touching(grid: TileGrid, period: tuple[int, ...]) -> Diagnosis:
    least = axes_text([axis.tile + axis.lattice.pitch for axis in grid.axes])
    return Diagnosis(
        verdict="not compared",
        explanation=(
            f"Tiles of {axes_text(grid.tile_shape)} only touch: the network's period is "
            f"{axes_text(period)}, so that no two different tiles share a pixel, and there is "
            f"nothing to compare. Use larger tiles, of {least} or more, in an image larger "
            "than they are."
        ),
        findings=(),
        tile=grid.tile_shape,
        halo=grid.halo,
        overlap=(0,) * len(grid.axes),
        period=period,
    )


def _one_tile(grid: TileGrid, period: tuple[int, ...]) -> Diagnosis:
    size = shape_text(grid.image_shape)
    return Diagnosis(
        verdict="seamless",
        explanation=(
            f"One tile covers the whole image ({size}): there are no seams, and there is nothing "
            "to explain. Ask for a smaller tile to see what tiling would do."
        ),
        findings=(),
        tile=grid.tile_shape,
        halo=grid.halo,
        overlap=(0,) * len(grid.axes),
        period=period,
    )


__all__ = [
    "Diagnosis",
    "Finding",
    "Pipeline",
    "Verdict",
    "diagnose",
    "examine",
]
