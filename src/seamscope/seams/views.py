"""What both tiles at a seam predict for the same place.

Knows how the two tiles of a seam are predicted again. Does not know how seams were found, or
drawn. Two forward passes for each seam: nothing has to be kept of the run that measured them.
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
from seamscope.progress import QUIET, Work, check
from seamscope.seams.measures import Seam
from seamscope.seams.meter import overlap_of
from seamscope.tiling import Slices

Array: TypeAlias = npt.NDArray[Any]

_NARROWEST = 32  # pixels along a seam that are shown at least


@dataclass(frozen=True)
class SeamView:
    """Two tiles' opinions around the worst pixel of a seam, on a plane across it.

    Attributes
    ----------
    seam
        Which.
    channel
        In which the tiles differ most at that pixel.
    axes
        Letters of the plane's two axes.
    corner
        First pixel shown along these axes, in the result.
    cut
        Letter of the axis that the seam crosses, and where along it the picture is cut.
    image, lower, upper
        ``(H, W)``: the image, and what the lower and the upper tile predict.
    """

    seam: Seam
    channel: int
    axes: str
    corner: tuple[int, ...]
    cut: tuple[str, int]
    image: Array = field(repr=False)
    lower: Array = field(repr=False)
    upper: Array = field(repr=False)


def look_at(
    case: Case,
    seams: Sequence[Seam],
    *,
    side: int = 160,
    work: Work = QUIET,
) -> list[SeamView]:
    """Predict the two tiles of each seam again.

    Parameters
    ----------
    case
        Of the run that found them.
    seams
        As `seamscope.seams.report.SeamReport` has them.
    side
        Largest side of a picture, pixels.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    SeamscopeError
        As the run itself.
    InterruptedError
        When stopped.
    """
    if not seams:
        return []
    plan, image, reader = case.plan, case.image, case.reader(work)
    work.phase("Predicting the worst seams", "seams")
    runner = case.model.runner(plan.settings.device, plan.settings.precision)
    views = []
    for done, seam in enumerate(seams, start=1):
        check(work)
        plane = _Plane(seam, plan, side)
        both: list[Array] = []
        for index in (seam.lower, seam.upper):
            tile = plan.grid[index]
            runner.at(plan.grid, [tile])
            prediction = runner(reader.read([TileJob(seam.frame, tile)]))[0]
            both.append(prediction[:, *tile.within(plane.region)])
        views.append(plane.view(both[0], both[1], image))
        work.step(done, len(seams))
    return views


class _Plane:
    """Where a view is cut: through the worst pixel, along the seam's axis and one other."""

    def __init__(self, seam: Seam, plan: Plan, side: int) -> None:
        self._seam, self._plan = seam, plan
        count = len(plan.layout.spatial)
        others = [a for a in reversed(range(count)) if a != seam.axis]
        self._shown = tuple(sorted((seam.axis, *others[:1])))
        overlap = overlap_of(plan.grid, seam.lower, seam.axis)
        across = overlap[seam.axis].stop - overlap[seam.axis].start
        width = min(side, max(across, _NARROWEST))  # as long as the overlap is wide: square
        self.region: Slices = tuple(
            _around(worst, part, width if a in self._shown else 1)
            for a, (worst, part) in enumerate(zip(seam.worst, overlap, strict=True))
        )

    def view(self, lower: Array, upper: Array, image: Image) -> SeamView:
        seam, plan, letters = self._seam, self._plan, self._plan.layout.spatial
        at = tuple(w - r.start for w, r in zip(seam.worst, self.region, strict=True))
        apart = np.abs(lower[(slice(None), *at)] - upper[(slice(None), *at)])
        channel = int(np.nan_to_num(apart).argmax())
        cut = plan.grid[seam.lower].core[seam.axis].stop - self.region[seam.axis].start
        return SeamView(
            seam=seam,
            channel=channel,
            axes="".join(letters[a] for a in self._shown),
            corner=tuple(self.region[a].start for a in self._shown),
            cut=(letters[seam.axis], cut),
            image=self._flat(image_under(plan, image, self.region, seam.frame)),
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
