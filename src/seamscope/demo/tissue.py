"""Synthetic tissue as an electron microscope would show it, with its labels.

Knows how cells, membranes, organelles, extracellular space and an empty field of view look, in
two and in three dimensions. Does not know networks, tiles or files.

The picture is built from continuous fields, so one code serves 2D and 3D:

::

    packed spheres -> power diagram in warped coordinates -> depth below each cell's surface
                                                                  │
            background | extracellular | membrane | cytoplasm, nucleus, organelles
                                                                  │
                               blur, illumination, curtaining, noise -> uint8

Tiles of such an image differ strongly in content (nothing at all, only extracellular space, the
inside of one nucleus), and intensity alone does not tell the classes apart: lipid droplets are as
black as the background, nuclear envelopes as dark as thin membranes, and vesicles as bright as
extracellular space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from seamscope.errors import SettingsError

Field = NDArray[np.float32]

FOREGROUND, BOUNDARY, EXTRACELLULAR, BACKGROUND = range(4)

_COARSE = 4  # pixels; candidate neighbours are looked up on a grid this coarse
_CANDIDATES = 6  # cells that may matter at one pixel
_FAR = np.float32(1e3)  # pixels; stands for "no neighbour in sight"
_CREEP = np.float32(2.5)  # pixels that tissue moves from frame to frame
_AROUND = 40  # pixels drawn beyond each side, that creep in
_LIGHT_BLUR = 0.035  # resolution of light, relative to a cell
_PHOTONS = 60.0  # at the brightest


def tissue(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a field of tissue and its labels.

    Parameters
    ----------
    shape
        ``(y, x)`` or ``(z, y, x)`` in pixels. Cells are about 110 pixels wide in 2D and 56 in 3D,
        so an image should be a few times larger.
    seed
        Same shape and seed, same picture.

    Returns
    -------
    image
        ``uint8`` of the given shape.
    labels
        ``uint8`` of the given shape: 0 foreground (inside cells), 1 boundary (membranes between
        cells and towards everything else), 2 extracellular, 3 background (no signal).

    Raises
    ------
    SettingsError
        If the shape has not two or three axes.
    """
    if len(shape) not in (2, 3):
        raise SettingsError(
            f"Shape {shape} has {len(shape)} axes, but tissue is drawn in two or three. "
            "Ask for (y, x) or (z, y, x)."
        )
    rng = np.random.default_rng(seed)
    scale = _SCALE_2D if len(shape) == 2 else _SCALE_3D
    anatomy = _grow(shape, scale, rng)
    image = _expose(_stain(anatomy, scale, rng), scale, rng)
    return image, anatomy.labels


def correlated(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw tissue under an electron and a light microscope, with its labels.

    Parameters
    ----------
    shape
        ``(y, x)`` or ``(z, y, x)`` in pixels, as for `tissue`.
    seed
        Same shape and seed, same picture.

    Returns
    -------
    image
        ``uint8``, ``(3, *shape)``: electron microscopy, stained nuclei, stained membranes.
    labels
        As those of `tissue`.
    """
    rng = np.random.default_rng(seed)
    scale = _SCALE_2D if len(shape) == 2 else _SCALE_3D
    anatomy = _grow(shape, scale, rng)
    electrons = _expose(_stain(anatomy, scale, rng), scale, rng)
    membrane = np.exp(-(((anatomy.depth - anatomy.width / 2) / anatomy.width) ** 2))
    uneven = 1 + 0.25 * _smooth(shape, 0.3 * scale.cell, rng)
    nuclei = _fluoresce(_step(anatomy.nucleus, 2.0) * uneven, scale, rng)
    membranes = _fluoresce(membrane * uneven, scale, rng)
    return np.stack([electrons, nuclei, membranes]), anatomy.labels


def lapse(shape: tuple[int, ...], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw tissue that creeps, frame by frame, with its labels.

    Parameters
    ----------
    shape
        ``(t, y, x)``: frames, and pixels.
    seed
        Same shape and seed, same pictures.

    Returns
    -------
    image, labels
        ``uint8`` of the given shape, as those of `tissue`.
    """
    rng = np.random.default_rng(seed)
    size = tuple(n + 2 * _AROUND for n in shape[1:])
    inside = tuple(slice(_AROUND, -_AROUND) for _ in size)
    anatomy = _grow(size, _SCALE_2D, rng)
    stained = _stain(anatomy, _SCALE_2D, rng)
    pace = [_CREEP * _smooth(size, 1.2 * _SCALE_2D.cell, rng) for _ in size]
    image, labels = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for t in range(shape[0]):
        at = [(here + t * p)[inside] for here, p in zip(np.indices(size), pace, strict=True)]
        moved = ndimage.map_coordinates(stained, at, order=1, mode="mirror")
        image[t] = _expose(moved, _SCALE_2D, rng)
        labels[t] = ndimage.map_coordinates(anatomy.labels, at, order=0, mode="mirror")
    return image, labels


@dataclass(frozen=True)
class _Scale:
    """Sizes in pixels; 3D cells are smaller, so that a small volume still holds many."""

    cell: float
    membrane: float  # thickness of one cell's membrane
    organelle: float
    crowd: float  # organelles for each cell
    tone: float  # spread of the cells' own greys
    weave: float  # contrast of the extracellular fibres
    shading: float  # uneven illumination, relative


_SCALE_2D = _Scale(
    cell=88.0, membrane=2.7, organelle=0.9, crowd=24.0, tone=13.0, weave=1.0, shading=0.09
)
_SCALE_3D = _Scale(
    cell=44.0, membrane=1.6, organelle=0.62, crowd=44.0, tone=9.0, weave=1.8, shading=0.05
)


@dataclass(frozen=True)
class _Anatomy:
    """Where everything is.

    ``depth`` is the distance below the surface of the cell that owns a pixel (negative outside of
    cells), ``nucleus`` the same for nuclei; ``cell`` indexes the per-cell random values.
    """

    labels: NDArray[np.uint8]
    cell: NDArray[np.int32]
    cells: int
    depth: Field
    nucleus: Field
    width: Field


# ---------------------------------------------------------------------------------------- fields


def _smooth(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Field:
    """Gaussian-like random field of unit variance that varies over about `scale` pixels.

    A cubic B-spline with random coefficients: a product of one small matrix per axis, and so
    far faster than filtering noise with a wide kernel.
    """
    knots = tuple(int(np.ceil(n / scale)) + 4 for n in shape)
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, (n, count) in enumerate(zip(shape, knots, strict=True)):
        position = np.arange(n, dtype=np.float32)[:, None] / np.float32(scale) + 1.5
        weights = _cubic(position - np.arange(count, dtype=np.float32)[None, :])
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(field, dtype=np.float32)


def _cubic(t: Field) -> Field:
    """Cubic B-spline of support 4."""
    t = np.abs(t)
    near = 2 / 3 - t**2 + t**3 / 2
    return np.where(t < 1, near, np.clip(2 - t, 0, None) ** 3 / 6).astype(np.float32)


def _grain(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Field:
    """Fine noise of unit variance, blurred by `sigma` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _step(field: NDArray[Any], softness: float) -> Field:
    """0 below zero, 1 above, over about `softness` units."""
    ramp: Field = np.clip(field / np.float32(softness) + np.float32(0.5), 0, 1)
    return ramp


def _blend(image: Field, value: Field | float, weight: Field) -> None:
    """Mix `value` into the image, in place."""
    image += weight * (value - image)


# --------------------------------------------------------------------------------------- anatomy


def _grow(shape: tuple[int, ...], scale: _Scale, rng: np.random.Generator) -> _Anatomy:
    """Lay out cells, the space between them, and the emptiness around the tissue."""
    centres, radii = _pack(shape, scale.cell, rng)
    kind = _kinds(shape, centres, scale, rng)
    points = _warped(shape, scale, rng)
    cell, depth, facing = _depth(points, centres, radii, kind, scale)

    width = scale.membrane * np.exp(np.float32(0.38) * _smooth(shape, scale.cell * 0.7, rng))
    width = np.maximum(width, np.float32(1.7))  # thinner, and a pixel could step across
    gap = scale.membrane * np.float32(1.5) * (_smooth(shape, scale.cell * 0.6, rng) - 0.75)
    depth = depth - np.clip(gap, 0, None) - np.float32(0.25)  # cells part here and there
    own = kind[cell]
    own[(own == EXTRACELLULAR) & (facing == BACKGROUND) & (depth < 3)] = BACKGROUND  # no corners
    labels = np.select(
        [own != FOREGROUND, depth < 0, depth < width],
        [own, np.where(facing == BACKGROUND, BACKGROUND, EXTRACELLULAR), BOUNDARY],
        FOREGROUND,
    ).astype(np.uint8)
    nucleus = _nuclei(points, cell, centres, radii, depth, rng)
    nucleus[own != FOREGROUND] = -_FAR
    return _Anatomy(labels, cell, len(centres), depth, nucleus, width)


def _pack(
    shape: tuple[int, ...], size: float, rng: np.random.Generator
) -> tuple[Field, NDArray[np.float32]]:
    """Throw spheres of different radii until no more fit, also around the field of view."""
    margin = 0.9 * size
    extent = np.asarray(shape) + 2 * margin
    darts = int(14 * np.prod(extent / size)) + 200
    radius = (0.5 * size * np.exp(rng.normal(0, 0.3, darts))).clip(0.24 * size, size)
    radius = np.sort(radius)[::-1]  # the large first, or they never find room
    throw = rng.random((darts, len(shape))) * extent - margin
    kept: list[int] = []
    for i in range(darts):
        distance = np.linalg.norm(throw[kept] - throw[i], axis=1)
        if (distance > 0.86 * (radius[kept] + radius[i])).all():
            kept.append(i)
    return throw[kept].astype(np.float32), radius[kept].astype(np.float32)


def _kinds(
    shape: tuple[int, ...], centres: Field, scale: _Scale, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Say of each cell of the diagram whether it is a cell, extracellular space, or emptiness."""
    at = tuple(np.clip(centres[:, axis], 0, n - 1).astype(int) for axis, n in enumerate(shape))
    empty = _smooth(shape, 3.4 * scale.cell, rng)[at]
    open_space = _smooth(shape, 1.3 * scale.cell, rng)[at]
    kind = np.full(len(centres), FOREGROUND, dtype=np.uint8)
    kind[open_space > np.quantile(open_space, rng.uniform(0.84, 0.91))] = EXTRACELLULAR
    kind[empty > np.quantile(empty, rng.uniform(0.67, 0.78))] = BACKGROUND
    return kind


def _warped(shape: tuple[int, ...], scale: _Scale, rng: np.random.Generator) -> list[Field]:
    """Coordinates in pixels, bent so that straight facets become organic."""
    points = []
    for axis, n in enumerate(shape):
        straight = np.arange(n, dtype=np.float32).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
        bend = 0.10 * scale.cell * _smooth(shape, 0.62 * scale.cell, rng)
        bend += 0.018 * scale.cell * _smooth(shape, 0.16 * scale.cell, rng)
        points.append((straight + bend).astype(np.float32))
    return points


def _depth(
    points: list[Field],
    centres: Field,
    radii: Field,
    kind: NDArray[np.uint8],
    scale: _Scale,
) -> tuple[NDArray[np.int32], Field, NDArray[np.uint8]]:
    """Owner of each pixel, distance to the surface of that owner, and what lies beyond it.

    The owner is the cell of least power ``|x - c|^2 - r^2``; its surface towards cell ``j`` is the
    plane at distance ``(power_j - power_i) / (2 |c_j - c_i|)``. A soft minimum over the neighbours
    rounds the corners, where extracellular space then shows.
    """
    near = _candidates(points, centres, radii)
    shape = points[0].shape
    power = np.stack([_power(points, centres, radii, near[k]) for k in range(len(near))])
    first = power.argmin(axis=0)[None]
    cell = np.take_along_axis(near, first, axis=0)[0]
    least = np.take_along_axis(power, first, axis=0)[0]

    group = np.where(kind == FOREGROUND, np.arange(len(kind)), -kind.astype(np.int32))
    between = np.linalg.norm(centres[:, None] - centres[None], axis=-1).astype(np.float32)
    soft = np.float32(0.032 * scale.cell)
    total = np.zeros(shape, dtype=np.float32)
    closest = np.full(shape, _FAR, dtype=np.float32)
    facing = np.full(shape, FOREGROUND, dtype=np.uint8)
    for k, other in enumerate(near):
        span = 2 * between[cell, other]
        plane = (power[k] - least) / np.where(span > 0, span, 1)
        plane[group[other] == group[cell]] = _FAR
        total += np.exp(-plane / soft)
        nearer = plane < closest
        closest[nearer] = plane[nearer]
        facing[nearer] = kind[other[nearer]]
    depth = -soft * np.log(np.maximum(total, np.float32(1e-12)))
    return cell, depth, facing


def _candidates(points: list[Field], centres: Field, radii: Field) -> NDArray[np.int32]:
    """The cells of least power around each pixel, `(candidates, *shape)`.

    Power becomes plain distance with one more coordinate (``sqrt(R^2 - r^2)``), which a k-d tree
    can search; looked up on a coarse grid and repeated, since powers are compared exactly later.
    """
    shape = points[0].shape
    coarse = tuple(
        slice(_COARSE // 2, None, _COARSE) if n > _COARSE else slice(0, 1) for n in shape
    )
    where = np.stack([p[coarse] for p in points], axis=-1)
    lift = np.sqrt(radii.max() ** 2 - radii**2)
    tree = cKDTree(np.column_stack([centres, lift]))
    query = np.concatenate([where, np.zeros((*where.shape[:-1], 1), np.float32)], axis=-1)
    count = min(_CANDIDATES, len(centres))
    _, index = tree.query(query, k=np.arange(1, count + 1))
    index = np.moveaxis(index, -1, 0).astype(np.int32)
    fine = np.ix_(
        *(
            np.minimum(np.arange(n) // _COARSE, m - 1)
            for n, m in zip(shape, index.shape[1:], strict=True)
        )
    )
    return np.stack([level[fine] for level in index])


def _power(points: list[Field], centres: Field, radii: Field, cell: NDArray[np.int32]) -> Field:
    power: Field = -(radii**2)[cell]
    for axis, point in enumerate(points):
        power += (point - centres[:, axis][cell]) ** 2
    return power


def _nuclei(
    points: list[Field],
    cell: NDArray[np.int32],
    centres: Field,
    radii: Field,
    depth: Field,
    rng: np.random.Generator,
) -> Field:
    """Depth below the surface of the nucleus; large, and absent from about one cell in five."""
    count = len(centres)
    stretch = rng.lognormal(0, 0.14, centres.shape).astype(np.float32)
    shift = (rng.normal(0, 0.1, centres.shape) * radii[:, None]).astype(np.float32)
    size = radii * rng.uniform(0.5, 0.72, count).astype(np.float32)
    size[rng.random(count) < 0.18] = 0  # the section missed it
    squared: Field = np.zeros(points[0].shape, dtype=np.float32)
    for axis, point in enumerate(points):
        centre = centres[:, axis] + shift[:, axis]
        squared += ((point - centre[cell]) * stretch[:, axis][cell]) ** 2
    inside: Field = size[cell] - np.sqrt(squared)
    return np.minimum(inside, depth - np.float32(0.07) * radii[cell])


# ---------------------------------------------------------------------------------------- stains


def _stain(anatomy: _Anatomy, scale: _Scale, rng: np.random.Generator) -> Field:
    """Intensity of every structure, before the microscope adds its own."""
    shape = anatomy.labels.shape
    fine, coarse = _grain(shape, 0.9, rng), _grain(shape, 2.6 * scale.organelle + 0.4, rng)
    image = _cytoplasm(anatomy, scale, fine, coarse, rng)
    _draw_nuclei(image, anatomy, scale, fine, coarse, rng)
    _draw_organelles(image, anatomy, scale, rng)
    _draw_membranes(image, anatomy)
    _draw_outside(image, anatomy, scale, fine, coarse, rng)
    return image


def _cytoplasm(
    anatomy: _Anatomy, scale: _Scale, fine: Field, coarse: Field, rng: np.random.Generator
) -> Field:
    """Granular plasma, different from cell to cell, with winding reticulum."""
    shape = anatomy.labels.shape
    tone = rng.normal(126, scale.tone, anatomy.cells).astype(np.float32)
    rough = rng.uniform(0.5, 1.4, anatomy.cells).astype(np.float32)
    image: Field = tone[anatomy.cell] + rough[anatomy.cell] * (7 * fine + 6 * coarse)
    sheet = np.abs(_smooth(shape, 11 * scale.organelle + 2, rng))
    where = _step(_smooth(shape, 0.4 * scale.cell, rng) - 0.15, 0.8)
    _blend(image, 84, 0.75 * where * _step(0.10 - sheet, 0.12))
    return image


def _draw_nuclei(
    image: Field,
    anatomy: _Anatomy,
    scale: _Scale,
    fine: Field,
    coarse: Field,
    rng: np.random.Generator,
) -> None:
    """Large and even, with an envelope, clumps of chromatin at the rim, and a nucleolus."""
    depth = anatomy.nucleus
    tone = rng.normal(148, 9, anatomy.cells).astype(np.float32)[anatomy.cell]
    clumps = _smooth(depth.shape, 9 * scale.organelle + 2, rng)
    rim = np.exp(-np.clip(depth, 0, None) / np.float32(5 * scale.organelle + 1))
    plasm = tone + 2.5 * fine + 2 * coarse - 26 * _step(clumps + 1.6 * rim - 1.35, 0.8)
    _blend(
        plasm,
        88,
        _step(_smooth(depth.shape, 0.2 * scale.cell, rng) - 1.75, 0.35)
        * _step(depth - 8 * scale.organelle, 3.0),
    )
    _blend(image, plasm, _step(depth, 1.0))
    envelope = np.exp(-0.5 * (depth / np.float32(0.55 * scale.membrane)) ** 2)
    _blend(image, 74, 0.75 * envelope)


@dataclass(frozen=True)
class _Organelle:
    share: float
    radius: tuple[float, float]
    longest: float  # largest ratio of the axes


_MITOCHONDRION = _Organelle(0.36, (4.5, 8.0), 2.6)
_VESICLE = _Organelle(0.38, (2.6, 5.0), 1.2)
_LYSOSOME = _Organelle(0.16, (3.0, 7.0), 1.4)
_DROPLET = _Organelle(0.10, (4.0, 14.0), 1.15)


def _draw_organelles(
    image: Field, anatomy: _Anatomy, scale: _Scale, rng: np.random.Generator
) -> None:
    """Scatter organelles over the cytoplasm, each in its own small box."""
    shape = np.asarray(image.shape)
    volume = float(np.prod(shape / scale.cell))
    room = np.minimum(anatomy.depth - anatomy.width, -anatomy.nucleus)
    room[anatomy.labels != FOREGROUND] = -1
    free = np.ones(image.shape, dtype=bool)
    painters = (
        (_DROPLET, _paint_droplet),
        (_MITOCHONDRION, _paint_mitochondrion),
        (_LYSOSOME, _paint_lysosome),
        (_VESICLE, _paint_vesicle),
    )
    for organelle, paint in painters:
        count = rng.poisson(scale.crowd * organelle.share * volume * 2.2)
        low, high = organelle.radius
        for _ in range(count):
            centre = rng.random(len(shape)) * shape
            radius = scale.organelle * (low + (high - low) * rng.random() ** 2) + 0.4
            axis = rng.standard_normal(len(shape))
            stretch = 1 + (organelle.longest - 1) * rng.random()
            if room[tuple(centre.astype(int))] < radius * 1.1 + 1:
                continue
            box, distance, along = _local(shape, centre, axis, radius, stretch)
            if not (free[box] | (distance < -1)).all():
                continue
            paint(image[box], distance, along, scale)
            free[box] &= distance < -1


def _local(
    shape: NDArray[np.int_],
    centre: NDArray[np.float64],
    axis: NDArray[np.float64],
    radius: float,
    stretch: float,
) -> tuple[tuple[slice, ...], Field, Field]:
    """A box around an ellipsoid, depth below its surface in pixels, and position along it."""
    reach = radius * stretch + 2
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axis = axis / np.linalg.norm(axis)
    offset: list[Field] = [
        o.astype(np.float32) - np.float32(c) for o, c in zip(np.ogrid[box], centre, strict=True)
    ]
    zero = np.zeros(1, np.float32)
    along = sum((np.float32(a) * o for a, o in zip(axis, offset, strict=True)), start=zero)
    squared = sum((o**2 for o in offset), start=zero)
    across = squared - along**2
    distance = radius - np.sqrt(np.maximum(across + (along / np.float32(stretch)) ** 2, 0))
    return box, np.asarray(distance, np.float32), np.asarray(along, np.float32)


def _paint_mitochondrion(image: Field, depth: Field, along: Field, scale: _Scale) -> None:
    inside = _step(depth, 1.0)
    cristae = 96 + 13 * np.sin(along * np.float32(2.1 / (scale.organelle + 0.2)))
    _blend(image, cristae.astype(np.float32), 0.9 * inside)
    _blend(image, 66, 0.8 * np.exp(-((depth - 0.3) ** 2)))


def _paint_vesicle(image: Field, depth: Field, along: Field, scale: _Scale) -> None:
    _blend(image, 178, 0.9 * _step(depth, 1.0))
    _blend(image, 78, 0.85 * np.exp(-1.2 * (depth - 0.2) ** 2))


def _paint_lysosome(image: Field, depth: Field, along: Field, scale: _Scale) -> None:
    _blend(image, 58, 0.85 * _step(depth, 2.0))


def _paint_droplet(image: Field, depth: Field, along: Field, scale: _Scale) -> None:
    _blend(image, 70, 0.8 * np.exp(-((depth + 0.6) ** 2)))
    _blend(image, 7, _step(depth, 1.2))


def _draw_membranes(image: Field, anatomy: _Anatomy) -> None:
    """Dark, and darkest in the middle of the membrane."""
    middle = (anatomy.depth - anatomy.width / 2) / (anatomy.width / 2 + 0.4)
    dark = np.clip(1.15 - middle**4 * 0.5, 0, 1) * (np.abs(middle) < 1.5)
    _blend(image, 42, np.where(anatomy.depth > -0.5, dark, 0).astype(np.float32))


def _draw_outside(
    image: Field,
    anatomy: _Anatomy,
    scale: _Scale,
    fine: Field,
    coarse: Field,
    rng: np.random.Generator,
) -> None:
    """Bright matrix with faint fibres between the cells; nothing around the tissue."""
    shape = image.shape
    threads = np.abs(_smooth(shape, 6 * scale.organelle + 1.5, rng))
    dense = _step(_smooth(shape, 0.6 * scale.cell, rng) + 0.3 * scale.weave, 1.5)
    matrix = 170 + 5 * fine + 6 * coarse + 12 * _smooth(shape, 0.9 * scale.cell, rng)
    _blend(matrix, 205, 0.5 * scale.weave * dense * _step(0.16 - threads, 0.3))
    _blend(matrix, 118, 0.35 * scale.weave * dense * _step(threads - 1.4, 0.8))
    outside = anatomy.labels == EXTRACELLULAR
    image[outside] = matrix[outside]
    nothing = anatomy.labels == BACKGROUND
    image[nothing] = (7 + 1.5 * coarse)[nothing]


# ------------------------------------------------------------------------------------ microscope


def _expose(stained: Field, scale: _Scale, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, uneven illumination and contrast, the mill's curtains, noise, eight bits."""
    shape = stained.shape
    image = ndimage.gaussian_filter(stained, 0.6)
    image *= 1 + scale.shading * _smooth(shape, 3.0 * scale.cell, rng)
    image += 4 * _smooth(shape, 1.5 * scale.cell, rng) * (image / 128)
    curtain = ndimage.gaussian_filter1d(rng.standard_normal(shape[-1]), 2.0).astype(np.float32)
    image *= 1 + 0.035 * curtain
    noise = rng.standard_normal(shape, dtype=np.float32)
    image += noise * (2.2 + 0.42 * np.sqrt(np.clip(image, 0, None)))
    eight_bits: NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return eight_bits


def _fluoresce(dye: Field, scale: _Scale, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur of light, some background, and the noise of few photons, eight bits."""
    light = ndimage.gaussian_filter(np.clip(dye, 0, None), _LIGHT_BLUR * scale.cell)
    photons = rng.poisson(_PHOTONS * (0.04 + light / max(float(light.max()), 1e-6)))
    eight_bits: NDArray[np.uint8] = np.clip(3.2 * photons, 0, 255).astype(np.uint8)
    return eight_bits
