"""What both tiles at a seam predict for the same place.

Knows how the two tiles of a border are predicted again. Does not know how borders were found, or
drawn. Two forward passes for each border: nothing has to be kept of the run that measured them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.images.image import Image
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.reading import TileJob
from seamscope.planning.thumbnails import image_under
from seamscope.seams.meter import Border, overlap_of
from seamscope.tiling import Slices
from seamscope.work import QUIET, Work, check

Array: TypeAlias = npt.NDArray[Any]

_NARROWEST = 32  # pixels along a seam that are shown at least


@dataclass(frozen=True)
class SeamView:
    """Two tiles' opinions around the worst pixel of a border, on a plane across it.

    Attributes
    ----------
    border
        Which.
    channel
        In which the tiles differ most at that pixel.
    axes
        Letters of the plane's two axes.
    corner
        First pixel shown along these axes, in the result.
    seam
        Letter of the axis that the seam crosses, and where along it the picture is cut.
    image, lower, upper
        ``(H, W)``: the image, and what the lower and the upper tile predict.
    """

    border: Border
    channel: int
    axes: str
    corner: tuple[int, ...]
    seam: tuple[str, int]
    image: Array = field(repr=False)
    lower: Array = field(repr=False)
    upper: Array = field(repr=False)


def look_at(
    case: Case,
    borders: Sequence[Border],
    *,
    side: int = 160,
    work: Work = QUIET,
) -> list[SeamView]:
    """Predict the two tiles of each border again.

    Parameters
    ----------
    case
        Of the run that found them.
    borders
        As `seamscope.seams.report.SeamReport` has them.
    side
        Largest side of a picture, pixels.
    work
        Shows progress, and stops when asked to (see `seamscope.work`).

    Raises
    ------
    SeamscopeError
        As the run itself.
    InterruptedError
        When stopped.
    """
    if not borders:
        return []
    plan, image, reader = case.plan, case.image, case.reader(work)
    work.phase("Predicting the worst seams", "seams")
    runner = case.model.runner(plan.settings.device, plan.settings.precision)
    views = []
    for done, border in enumerate(borders, start=1):
        check(work)
        plane = _Plane(border, plan, side)
        both: list[Array] = []
        for index in (border.lower, border.upper):
            tile = plan.grid[index]
            runner.at(plan.grid, [tile])
            prediction = runner(reader.read([TileJob(border.frame, tile)]))[0]
            both.append(prediction[:, *tile.within(plane.region)])
        views.append(plane.view(both[0], both[1], image))
        work.step(done, len(borders))
    return views


class _Plane:
    """Where a view is cut: through the worst pixel, along the seam's axis and one other."""

    def __init__(self, border: Border, plan: Plan, side: int) -> None:
        self._border, self._plan = border, plan
        count = len(plan.layout.spatial)
        others = [a for a in reversed(range(count)) if a != border.axis]
        self._shown = tuple(sorted((border.axis, *others[:1])))
        overlap = overlap_of(plan.grid, border.lower, border.axis)
        across = overlap[border.axis].stop - overlap[border.axis].start
        width = min(side, max(across, _NARROWEST))  # as long as the overlap is wide: square
        self.region: Slices = tuple(
            _around(worst, part, width if a in self._shown else 1)
            for a, (worst, part) in enumerate(zip(border.worst, overlap, strict=True))
        )

    def view(self, lower: Array, upper: Array, image: Image) -> SeamView:
        border, plan, letters = self._border, self._plan, self._plan.layout.spatial
        at = tuple(w - r.start for w, r in zip(border.worst, self.region, strict=True))
        apart = np.abs(lower[(slice(None), *at)] - upper[(slice(None), *at)])
        channel = int(np.nan_to_num(apart).argmax())
        seam = plan.grid[border.lower].core[border.axis].stop - self.region[border.axis].start
        return SeamView(
            border=border,
            channel=channel,
            axes="".join(letters[a] for a in self._shown),
            corner=tuple(self.region[a].start for a in self._shown),
            seam=(letters[border.axis], seam),
            image=self._flat(image_under(plan, image, self.region, border.frame)),
            lower=self._flat(lower[channel]),
            upper=self._flat(upper[channel]),
        )

    def _flat(self, block: Array) -> Array:
        plane = tuple(slice(None) if a in self._shown else 0 for a in range(block.ndim))
        return np.atleast_2d(block[plane])


def _around(center: int, part: slice, side: int) -> slice:
    width = min(side, part.stop - part.start)
    start = min(max(center - width // 2, part.start), part.stop - width)
    return slice(start, start + width)


__all__ = ["SeamView", "look_at"]
