"""How much halo a tile has room for, where the network's reach is more.

Knows a network's reach and the sizes asked for. Does not know images.

Who predicts wants the halo that leaves no seams, and a tile too small for it is refused. Who
measures, compares or explains seams wants to know what such a tile does: it is given as much halo
as it has room for.
"""

from __future__ import annotations

from seamscope.models.model import Model
from seamscope.settings import Settings
from seamscope.tiling import Lattice, Sides, per_axis


def with_room(settings: Settings, model: Model) -> Settings:
    """Replace an ``"auto"`` halo that does not fit.

    Parameters
    ----------
    settings
        As asked.
    model
        Its reach is measured, if it was not yet.

    Returns
    -------
    Settings
        The same where a halo is given or the reach fits. Else the halo is a quarter of the tile
        (the largest that fits would leave a core of one period, up to a hundred times the tiles,
        and seams all the same), or half of the overlap asked for.

    Examples
    --------
    >>> import torch, seamscope
    >>> blur = seamscope.load_model(torch.nn.Conv2d(1, 1, 21, padding=10))
    >>> with_room(Settings(tile=64), blur).halo, with_room(Settings(tile=16), blur).halo
    ('auto', ((4, 4), (4, 4)))
    """
    if settings.halo != "auto" or (settings.tile == "auto" and settings.overlap is None):
        return settings
    reach = model.reach.halo or model.reach.convolutional
    lattices = model.facts.lattice
    wanted = reach or tuple(_quarter(settings, axis, lattices) for axis in range(len(lattices)))
    if all(_fits(settings, axis, sides, lattices) for axis, sides in enumerate(wanted)):
        return settings.but(halo=wanted) if reach is None else settings
    least = [
        _smaller(sides, _quarter(settings, axis, lattices)) for axis, sides in enumerate(wanted)
    ]
    return settings.but(halo=tuple(least))


def _fits(settings: Settings, axis: int, sides: Sides, lattices: tuple[Lattice, ...]) -> bool:
    lattice = lattices[axis]
    if settings.overlap is not None:
        overlap = per_axis(settings.overlap, len(lattices), "overlap")[axis]
        if sum(lattice.whole(sides)) > overlap:
            return False
    if settings.tile == "auto":
        return True
    tile = per_axis(settings.tile, len(lattices), "tile")[axis]
    return lattice.smallest_tile(sides) <= tile


def _quarter(settings: Settings, axis: int, lattices: tuple[Lattice, ...]) -> Sides:
    """Largest halo that leaves half of the tile; no more than half of the overlap."""
    limits = []
    if settings.tile != "auto":
        kept = per_axis(settings.tile, len(lattices), "tile")[axis] - sum(lattices[axis].crop)
        pitch = lattices[axis].pitch
        limits.append(max(0, kept // 4 // pitch * pitch))
    if settings.overlap is not None:
        limits.append(per_axis(settings.overlap, len(lattices), "overlap")[axis] // 2)
    return min(limits), min(limits)


def _smaller(one: Sides, two: Sides) -> Sides:
    return min(one[0], two[0]), min(one[1], two[1])


__all__ = ["with_room"]
