"""Tiled against untiled: the proof that a setting leaves no seams, or by how much it does.

Knows crops, and what a comparison says. Does not know how tiles are predicted or stitched.

A crop of the image is predicted twice by the same engine: with the tiles, halo and blend asked
for, and as one tile. Both see the intensities as the whole image's statistics make them, and both
see the crop's border as the image's border, so that every pixel of the crop is compared, and the
only difference there may be is tiling. Only a crop within the image that has to be padded ends with
the core of its last tiles. Where the whole image fits into memory, it is the crop. Of an area, what
is predicted reaches as far beyond it as the network sees, and the area is compared: its tiles are
those of the whole image, and the untiled prediction is that of the whole image.

A size that is no multiple of the network's period is padded to one in both predictions. Where the
network runs on the size as it is, that prediction is another one, and is shown beside.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seamscope.compare.crops import (
    Tiles,
    are_local,
    crops_within,
    grid_of,
    needed_tiles,
    region_of,
)
from seamscope.errors import OutputError, SeamscopeError, SettingsError
from seamscope.explain.causes import worst_places
from seamscope.explain.pipelines import Box, Subject, subject_of_case
from seamscope.images.addresses import Address, is_address
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.models.model import Model
from seamscope.models.reach import MemoryMeter
from seamscope.models.sentences import caution, why_unbounded
from seamscope.planning.case import Case
from seamscope.planning.notes import short_halo
from seamscope.planning.plan import Plan
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished, Reduced, TileDone, run
from seamscope.progress import QUIET, Steps, Work
from seamscope.seams.tolerance import TOLERANCE, Spread, check_tolerance
from seamscope.serialization import Recorded
from seamscope.settings import Settings
from seamscope.text import axes_text, far_text, percent_text, shape_text
from seamscope.tiling import Lattice, Sides, Slices

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Crop:
    """One part of the image, predicted both ways.

    Attributes
    ----------
    start, stop
        What is compared, in input pixels along the spatial axes.
    tiles
        Tiles into which the part is divided that is predicted.
    max_difference, mean_difference
        Of ``abs(tiled - untiled)`` over all pixels and channels.
    worst
        Input pixel of the largest difference, in the image.
    plain_difference
        Max difference of the untiled prediction from one of the crop without padding; None where
        nothing is padded, or where the network does not take such a size.
    predicted
        Size of the part that is predicted both ways; larger than what is compared of an area.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    tiles: int
    max_difference: float
    mean_difference: float
    worst: tuple[int, ...]
    plain_difference: float | None = None
    predicted: tuple[int, ...] = ()


@dataclass(frozen=True)
class Certificate(Recorded):
    """How far a tiled prediction is from the untiled one.

    Attributes
    ----------
    passed
        Whether the largest difference is within the tolerance, on all crops.
    max_difference, mean_difference
        Over all crops; raw, in units of the prediction.
    spread
        Standard deviation of the untiled prediction.
    tolerance
        Largest difference that passes, in units of the prediction.
    crops
        The parts compared.
    covered
        Part of the image that they cover, 0 to 1; 1 means that all of it was compared.
    tile, halo, overlap, blend
        What is certified.
    model, fingerprint
        Name and weights of the network.
    image, image_shape
        Name and size of the whole image.
    frame
        Time point and the like that was examined.
    note
        What explains the outcome where halo and reach do not; empty where there is nothing.
    padded
        Size to which each crop is padded in both predictions, for whole periods of the network;
        empty where it is not.
    """

    passed: bool
    max_difference: float
    mean_difference: float
    spread: float
    tolerance: float
    crops: tuple[Crop, ...]
    covered: float
    tile: tuple[int, ...]
    halo: tuple[Sides, ...]
    overlap: tuple[int, ...]
    blend: str
    model: str
    fingerprint: str
    image: str
    image_shape: tuple[int, ...]
    frame: tuple[int, ...] = ()
    note: str = ""
    padded: tuple[int, ...] = ()

    ALSO = ("max_in_std", "sentence")

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        return str(self)

    @property
    def max_in_std(self) -> float:
        """Largest difference in standard deviations of the prediction."""
        return self.max_difference / self.spread if self.spread else 0.0

    def __str__(self) -> str:
        tiles = sum(crop.tiles for crop in self.crops)
        sizes = {tuple(b - a for a, b in zip(c.start, c.stop, strict=True)) for c in self.crops}
        where = "the whole image" if self.covered == 1 else f"{len(self.crops)} crop"
        if self.covered < 1:
            where += "s" * (len(self.crops) > 1)
            where += f" of {shape_text(max(sizes))} ({percent_text(self.covered)} of the image)"
        verdict = "agree" if self.passed else "differ"
        if all(crop.tiles == 1 for crop in self.crops):
            return f"One tile covers {where}: there is no seam to certify."
        parts = [
            f"Tiled and untiled predictions {verdict}: on {where}, {tiles} tiles, the largest "
            f"difference is {self.max_difference:.2g} ({self.max_in_std:.2g} standard deviations), "
            f"where {self.tolerance:.2g} is noise.",
            self.note,
            *self._padding(),
            "" if self.passed else "Find the causes with Seams (seamscope seams).",
        ]
        return " ".join(filter(None, parts))

    def _padding(self) -> Iterator[str]:
        """Say what untiled means where the image is no whole number of periods."""
        if not self.padded:
            return
        first = self.crops[0]
        own = shape_text(first.predicted)
        yield (
            f"Both predictions are of {own} px padded at the end to {shape_text(self.padded)}, "
            "whole periods of the network."
        )
        plain = [c.plain_difference for c in self.crops if c.plain_difference is not None]
        if plain and max(plain) > self.tolerance:
            apart = max(plain)
            yield (
                f"An untiled prediction of {own} px without padding differs from both by up to "
                f"{apart:.2g} ({apart / (self.spread or 1):.2g} standard deviations)."
            )


def certify(
    image: Any,
    model: str | nn.Module | Model | None = None,
    settings: Settings | None = None,
    *,
    worst: Sequence[Any] | None = None,
    crops: int = 3,
    memory: int | None = None,
    tolerance: float = TOLERANCE,
    trust: bool = False,
    axes: str | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> Certificate:
    """Compare the tiled prediction with the untiled one, on the largest crops that fit in memory.

    Parameters
    ----------
    image, model, settings, trust, axes
        As for `seamscope.predict`; single settings may be given by name.
    worst
        Where seams are worst, worst first: `seamscope.seams.measures.Seam`, or points in pixels
        along the spatial axes. Crops lie around them; without, spread over the image.
    crops
        How many, where the whole image does not fit.
    memory
        Bytes that an untiled prediction may use; by default a share of what is free.
    tolerance
        Largest difference that passes, in standard deviations of the untiled prediction.
    work
        Shows progress, and stops when asked to (see `seamscope.progress`).

    Raises
    ------
    SettingsError
        If no crop larger than a tile fits, or the network takes one tile size only.
    InterruptedError
        When stopped.

    Examples
    --------
    >>> import numpy as np, torch
    >>> image = np.random.default_rng(0).random((64, 64), np.float32)
    >>> blur = torch.nn.Conv2d(1, 1, 5, padding=2)
    >>> certify(image, blur, tile=32).passed, certify(image, blur, tile=32, halo=0).passed
    (True, False)
    """
    check_tolerance(tolerance)
    case = Case.open(image, model, settings, trust=trust, axes=axes, **asked)
    plan, network = case.plan, case.model
    case.intensity(work)
    frame, points = worst_places(worst or (), plan)
    subject = subject_of_case(case, frame)
    bench = _Comparison(case, subject, work)
    largest = _largest_pixels(plan, subject, memory or case.resources.memory)
    while True:
        blocks = crops_within(plan, bench.needed, largest, points, crops)
        first = region_of(plan, blocks[0])
        _check_statistics(network, first, plan)
        try:
            found = bench.compare(blocks)
        except _TooLarge:
            largest = math.prod(b - a for a, b in first) // 2
            continue
        made = {"image": case.image.name, "image_shape": case.image.shape, "frame": frame}
        return _certificate(plan, network, found, bench.spread.std, tolerance, **made)


def store_certificate(certificate: Certificate, path: str | Path) -> None:
    """Write a certificate into the metadata of a result that is there already.

    Parameters
    ----------
    certificate
        Of the setting and network that made the result.
    path
        A zarr or OME-Zarr result of Seamscope, also in an object store. Its attributes are changed
        in place, pixels are not touched.

    Raises
    ------
    OutputError
        Where the result is no zarr (TIFF, npy and PNG have their record in a file beside them:
        give the certificate as a file of its own, ``to_json``), was not made by Seamscope, or by
        another network or with another tile or halo than is certified.
    """
    record = record_to_certify(path)
    _check_same(certificate, record, Path(path).name)
    import zarr

    node = zarr.open(_place(path), mode="r+")
    node.attrs["seamscope"] = {**record, "certificate": certificate.to_json()}


def _place(path: str | Path) -> Any:
    """Return what zarr opens to change a result."""
    if not is_address(path):
        return str(Path(path).expanduser())
    from seamscope.images.remote import store_of

    return store_of(Address.parse(path), writing=True)


def record_to_certify(path: str | Path) -> dict[str, Any]:
    """Return the record of a result that a certificate can be stored with.

    Worth asking before a certificate is made. Raises as `store_certificate`.
    """
    record = _remote_record(Address.parse(path)) if is_address(path) else _local_record(Path(path))
    if not record or "plan" not in record:
        raise OutputError(
            f"{Path(path).name} has no record of how it was made, so that nothing can be certified "
            "of it: certify what seamscope predict has written."
        )
    return record


def _local_record(path: Path) -> dict[str, Any] | None:
    target = path.expanduser()
    if not target.exists():
        raise OutputError(f"There is no result {target}: give the path of a zarr that was written.")
    if not target.is_dir():
        raise OutputError(
            f"{target.name} is no zarr, and only zarr's attributes can be changed in place: save "
            "the certificate in a file of its own (`json`), or write results as .zarr."
        )
    return read_record(target)


def _remote_record(address: Address) -> dict[str, Any]:
    from seamscope.images.results.object_store import remote_record

    if not address.is_store:
        raise OutputError(
            f"{address} is on a web server, which is only read: save the certificate in a file of "
            "its own (`json`)."
        )
    record = remote_record(address)
    if record is None:
        raise OutputError(f"There is no result {address}: give the address of a zarr.")
    return record


def _check_same(certificate: Certificate, record: dict[str, Any], name: str) -> None:
    """Refuse a certificate of something else."""
    made = record["plan"]
    pairs = {
        "network": (record.get("model", {}).get("fingerprint"), certificate.fingerprint),
        "tile": (made.get("tile"), list(certificate.tile)),
        "halo": (made.get("halo"), [list(sides) for sides in certificate.halo]),
        "blend": (made.get("blend"), certificate.blend),
        "image size": (made.get("image_shape"), list(certificate.image_shape)),
    }
    for what, (of_result, of_certificate) in pairs.items():
        if of_result != of_certificate:
            raise OutputError(
                f"{name} was made with the {what} {of_result}, and the certificate is for "
                f"{of_certificate}: certify the result's own setting."
            )


# -- comparing


class _TooLarge(Exception):  # noqa: N818  (a turn of events, not an error)
    """Memory ran out with a crop as one tile."""


class _Comparison:
    """Predicts crops both ways."""

    def __init__(
        self,
        case: Case,
        subject: Subject,
        work: Work,
    ) -> None:
        self._case = case
        self._plan = case.plan
        self._subject = subject
        self._work = work
        self.needed = needed_tiles(case.plan, case.model)
        self.spread = Spread()

    def compare(self, blocks: Sequence[Tiles]) -> list[Crop]:
        """Predict all crops, blocks of tiles, both ways."""
        self.spread = Spread()
        places = [region_of(self._plan, block) for block in blocks]
        plans = [self._both(*each) for each in zip(places, blocks, strict=True)]
        self._work.phase("Comparing with the untiled prediction", "forward passes")
        self._steps = Steps(self._work, sum(tiled.plan.tiles + 1 for tiled, _ in plans))
        return [self._compared(place, *both) for place, both in zip(places, plans, strict=True)]

    def _both(self, place: Box, block: Tiles) -> tuple[Case, Case]:
        """The crop as an image by itself, predicted in tiles at their places and as one tile."""
        pixels = self._subject.inputs(place, None)
        crop = open_image(pixels, axes="c" + self._plan.layout.spatial)
        # intensities are the whole image's already
        settings = self._plan.settings.but(
            normalize="none",
            result="probabilities",
            area=None,
            channel=None,
            channel_axis="c",
            fill_nan=None,
            seams="none",
            postprocess=False,
        )
        sizes = _whole_periods(place, self._plan.facts.lattice)
        one = settings.but(
            tile=sizes, halo=0, overlap=None, blend="crop", batch=1, accelerate=False
        )
        tiled = Case(crop, self._case.model, settings, self._case.resources)
        untiled = tiled.but(one)
        tiled = tiled.at(dataclasses.replace(tiled.plan, grid=grid_of(self._plan, block)))
        area = self._compared_part(place, block, tiled.plan.area)
        parts = (dataclasses.replace(each.plan, area=area) for each in (tiled, untiled))
        one_way, other_way = map(Case.at, (tiled, untiled), parts)
        return one_way, other_way

    def _compared_part(self, place: Box, block: Tiles, whole: Slices) -> Slices:
        """The part of a crop that is compared: the wanted area where all of it is predicted."""
        plan = self._plan
        begins = [int(low * s) for (low, _), s in zip(place, plan.facts.scale, strict=True)]
        if block == self.needed:
            return tuple(
                slice(part.start - begin, part.stop - begin)
                for part, begin in zip(plan.area, begins, strict=True)
            )
        # Where sizes are multiples of more than tiles start on, the untiled prediction is padded
        # behind the last tile's end, within what the next tile gives in the image.
        ends = [part.stop for part in whole]
        sizes = _covered_sizes(place, plan.facts.lattice)
        for number, (axis, tiles) in enumerate(zip(plan.grid.axes, block, strict=True)):
            low, high = place[number]
            if sizes[number] != high - low and tiles[-1] < len(axis) - 1:
                ends[number] = axis[tiles[-1]].core[1] - begins[number]
        return tuple(slice(0, end) for end in ends)

    def _compared(self, place: Box, tiled: Case, one: Case) -> Crop:
        whole = self._predict(one)
        apart = np.abs(self._predict(tiled) - whole)
        self.spread.see(whole)
        worst = np.unravel_index(int(apart.argmax()), apart.shape)[-len(place) :]
        scale = self._plan.facts.scale
        compared = [
            (a + int(part.start / s), min(b, a + math.ceil(part.stop / s)))
            for (a, b), part, s in zip(place, tiled.plan.area, scale, strict=True)
        ]
        return Crop(
            start=tuple(a for a, _ in compared),
            stop=tuple(b for _, b in compared),
            tiles=len(tiled.plan.grid),
            max_difference=float(apart.max()),
            mean_difference=float(apart.mean(dtype=np.float64)),
            worst=tuple(
                a + int(x / float(s)) for (a, _), x, s in zip(compared, worst, scale, strict=True)
            ),
            plain_difference=self._without_padding(place, whole, one.plan.area),
            predicted=tuple(b - a for a, b in place),
        )

    def _without_padding(self, place: Box, whole: Array, area: Slices) -> float | None:
        """How far one forward pass on the crop as it is differs from its untiled prediction."""
        lattice = self._plan.facts.lattice
        sizes = [b - a for a, b in place]
        taken = all((n - a.offset) % a.step == 0 for n, a in zip(sizes, lattice, strict=True))
        other = self._plan.facts.valid or are_local(self._case.model)
        if not taken or other or not _padded(place, lattice):
            return None
        try:
            with torch.no_grad():
                x = torch.from_numpy(self._subject.inputs(place, None))[None]
                plain = self._subject.forward(x)[0].numpy()[:, *area]
        except (InterruptedError, SeamscopeError):
            raise
        except Exception:  # whatever a network raises for this size: it does not take it
            return None
        return float(np.abs(plain - whole).max()) if plain.shape == whole.shape else None

    def _predict(self, case: Case) -> Array:
        output = open_output(case)
        last = None
        for last in run(case, output, work=self._steps):
            if isinstance(last, Reduced) and len(case.plan.grid) == 1:
                raise _TooLarge
            if isinstance(last, TileDone):
                self._steps.one()
        if not isinstance(last, Finished):
            raise InterruptedError("stopped by the user")
        return np.asarray(output.array, np.float64)


def _certificate(
    plan: Plan,
    model: Model,
    crops: Sequence[Crop],
    spread: float,
    tolerance: float,
    **made: Any,
) -> Certificate:
    volumes = [math.prod(b - a for a, b in zip(c.start, c.stop, strict=True)) for c in crops]
    largest = max(crop.max_difference for crop in crops)
    means = [crop.mean_difference for crop in crops]
    # no number passes where the prediction is not finite
    passed = bool(largest <= tolerance * spread)
    return Certificate(
        passed=passed,
        max_difference=largest,
        mean_difference=float(np.average(means, weights=volumes)),
        spread=spread,
        tolerance=tolerance * spread,
        crops=tuple(crops),
        covered=_covered(crops, plan.grid.image_shape),
        tile=plan.grid.tile_shape,
        halo=plan.grid.halo,
        overlap=plan.grid.overlap,
        blend=plan.settings.blend,
        model=model.name,
        fingerprint=model.fingerprint,
        note=_note(plan, crops, passed),
        padded=_padded(tuple((0, n) for n in crops[0].predicted), plan.facts.lattice),
        **made,
    )


def _note(plan: Plan, crops: Sequence[Crop], passed: bool) -> str:
    """Say why tiles agree though the halo is short of the reach, or do not though it covers it."""
    if len(plan.grid) == 1:
        return ""
    known = caution(plan.facts, plan.reach)
    said = _outcome(plan, crops, passed), _of_reach(plan, known, passed)
    return " ".join(filter(None, said if passed else reversed(said)))


def _of_reach(plan: Plan, known: str, passed: bool) -> str:
    """What the network's reach says of an outcome."""
    why = why_unbounded(plan.facts, plan.reach)
    if passed and plan.reach.alike and why:
        return f"In other images or sizes tiles may differ: {why}."
    if passed or plan.reach.alike:
        return known
    if not why:  # what else explains it has been said
        return ""
    if not plan.reach.conditional:
        return f"Overlap cannot remove that: {why}."
    if not plan.covers(plan.reach.rest):  # which may be all that tiles lack here
        return known
    return f"In this image, overlap cannot remove that: {why}."


def _outcome(plan: Plan, crops: Sequence[Crop], passed: bool) -> str:
    """What else explains an outcome."""
    if passed and not plan.exact and plan.settings.blend == "crop":
        several = [axis for axis in plan.grid.axes if not axis.single]
        discarded, halo = (tuple(getattr(a, n) for a in several) for n in ("discarded", "halo"))
        if discarded != halo:
            return (
                f"Tiles overlap by {axes_text([a.overlap for a in several])} px and are cut in "
                f"between, so that each discards {far_text(discarded)}, more than the halo of "
                f"{far_text(halo)}."
            )
    if not passed and (short := short_halo(plan)):
        return short
    if not passed and plan.exact:
        if plan.facts.noise:
            return (
                "The network is random: two predictions of one tile differ by "
                f"{plan.facts.noise:.2g} standard deviations ({plan.facts.quieted})."
            )
        worst = max(crops, key=lambda crop: crop.max_difference)
        edge = plan.reach.joins_ends
        if edge and _at_edge(worst, edge):
            return (
                f"The largest difference lies within the outer {axes_text(edge)} px, which depend "
                "on the opposite border of the image (circular padding)."
            )
    return ""


def _at_edge(crop: Crop, edge: Sequence[int]) -> bool:
    """Whether the worst pixel lies so close to the crop's border."""
    places = zip(crop.worst, crop.start, crop.stop, edge, strict=True)
    return any(x - a < n or b - 1 - x < n for x, a, b, n in places)


# -- crops


def _largest_pixels(plan: Plan, subject: Subject, budget: int) -> int:
    """Pixels of the largest crop whose untiled prediction fits.

    Memory of two forward passes is measured, of a tile and of one of half the size, so that
    networks whose memory grows faster than the pixels (attention) are not mistaken.
    """
    lattice = plan.facts.lattice
    if subject.fixed:
        if len(plan.grid) == 1:
            return math.prod(plan.grid.image_shape)
        raise SettingsError(
            f"This network takes tiles of {shape_text(plan.grid.tile_shape)} only, so that there "
            "is no untiled prediction to compare with. Where only its file fixes that size, load "
            "it in a format that keeps sizes free."
        )
    tile = plan.grid.tile_shape
    half = tuple(axis.size_at_least(n // 2) for axis, n in zip(lattice, tile, strict=True))
    large, small = (_peak(subject, plan.facts.in_channels, shape) for shape in (tile, half))
    pixels, fewer = math.prod(tile), math.prod(half)
    growth = math.log(large / small) / math.log(pixels / fewer) if pixels > fewer else 1.0
    return int(pixels * (budget / large) ** (1 / max(1.0, growth)))


def _peak(subject: Subject, channels: int, shape: Sequence[int]) -> int:
    """Bytes of one forward pass."""
    meter = MemoryMeter()
    with torch.no_grad(), meter:
        subject.forward(torch.zeros(1, channels, *shape))
    return max(meter.peak, 4 * math.prod(shape))


def _whole_periods(place: Box, lattice: Sequence[Lattice]) -> tuple[int, ...]:
    """Size of the one tile that covers a crop."""
    each = zip(place, lattice, strict=True)
    return tuple(axis.size_at_least(b - a + sum(axis.crop)) for (a, b), axis in each)


def _padded(place: Box, lattice: Sequence[Lattice]) -> tuple[int, ...]:
    """The same without the crop of valid convolutions; empty where it is the size of the crop."""
    sizes = _covered_sizes(place, lattice)
    return () if sizes == tuple(b - a for a, b in place) else sizes


def _covered_sizes(place: Box, lattice: Sequence[Lattice]) -> tuple[int, ...]:
    """Size that the one tile predicts, the padding of the crop included."""
    tile = _whole_periods(place, lattice)
    return tuple(n - sum(axis.crop) for n, axis in zip(tile, lattice, strict=True))


def _check_statistics(model: Model, place: Box, plan: Plan) -> None:
    """Refuse crops where the network's statistics belong to places of the whole image."""
    sizes = plan.grid.image_shape
    part = tuple(b - a for a, b in place)
    if are_local(model) and part != sizes:
        raise SettingsError(
            f"Memory allows an untiled prediction of {shape_text(part)} of {shape_text(sizes)} "
            "pixels, and a crop would get other statistics than its place has, since the network's "
            "are local: allow more memory (the whole image is compared then), or freeze exact "
            "statistics."
        )


def _covered(crops: Sequence[Crop], sizes: Sequence[int]) -> float:
    """Part of the image that crops cover together, counted on a coarse grid of 64 to a side."""
    step = [max(1, n // 64) for n in sizes]
    mask = np.zeros([-(-n // s) for n, s in zip(sizes, step, strict=True)], bool)
    for crop in crops:
        part = (
            slice(-(-a // s), -(-b // s))
            for a, b, s in zip(crop.start, crop.stop, step, strict=True)
        )
        mask[tuple(part)] = True
    return float(mask.mean())


__all__ = ["Certificate", "Crop", "certify", "record_to_certify", "store_certificate"]
