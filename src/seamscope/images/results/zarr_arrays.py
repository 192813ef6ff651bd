"""Results in zarr and OME-Zarr, and labels inside an OME-Zarr image.

Knows groups, levels, chunks and compression. Does not know where a result goes or what may be
replaced. An unfinished result says so in its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seamscope.errors import OutputError
from seamscope.files import Place
from seamscope.images.addresses import Address
from seamscope.images.ngff import (
    OmeZarr,
    attributes,
    image_attributes,
    named_channels,
    version_in,
    with_windows,
)
from seamscope.images.results.chunks import storing_all
from seamscope.images.results.format import (
    Format,
    Store,
    Wanted,
    all_bytes,
    check_same,
    in_requested_order,
    never_refused,
    not_the_same,
)
from seamscope.images.results.pyramid import Index, Level, Pyramid, levels_of

if TYPE_CHECKING:
    from seamscope.images.results.object_store import RemotePlace


def _create_zarr(path: Path | Address, wanted: Wanted) -> Store:
    with _stored_whole(path):
        return _ZarrStore(_zarr_array_in(_zarr_store(path), None, replace(wanted, ome=OmeZarr())))


def _stored_whole(path: Path | Address) -> AbstractContextManager[None]:
    """Store all chunks in a folder; an object store loses none, and empty ones take as long."""
    return storing_all() if isinstance(path, Path) else nullcontext()


def _resume_zarr(path: Path | Address, wanted: Wanted) -> Store:
    import zarr

    with _stored_whole(path):
        node = zarr.open_array(_zarr_store(path), mode="r+")
    check_same(node, wanted, path)
    return _ZarrStore(node)


def _part_of_zarr(path: Path, wanted: Wanted) -> Store:
    import zarr

    with _stored_whole(path):
        node = zarr.open_array(str(path), mode="r+")
    check_same(node, wanted, path)
    return Store(node)


class _ZarrStore(Store):
    """The record is among the attributes of the array."""

    def __init__(self, node: Any) -> None:
        self._node = node
        super().__init__(node)

    def save(self, record: Mapping[str, Any]) -> None:
        self._node.attrs["seamscope"] = dict(record)

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        self.save(record)

    def moved(self, path: Path) -> None:
        import zarr

        self.array = self._node = zarr.open_array(str(path), mode="r+")


def _create_ome_zarr(path: Path | Address, wanted: Wanted) -> Store:
    import zarr

    stored, order = wanted.in_order("tczyx")
    levels = _levels(stored)
    group = zarr.create_group(
        _zarr_store(path),
        zarr_format=stored.ome.zarr_format,
        attributes=image_attributes(stored, levels),
    )
    for number, level in enumerate(levels):
        chunks = tuple(map(min, stored.chunks, level.shape))
        _zarr_array_in(group.store, str(number), replace(stored, shape=level.shape, chunks=chunks))
    with _stored_whole(path):
        return _OmeZarrStore(group, stored, order)


def _resume_ome_zarr(path: Path | Address, wanted: Wanted) -> Store:
    import zarr

    stored, order = wanted.in_order("tczyx")
    group = zarr.open_group(_zarr_store(path), mode="r+")
    levels = _levels(stored)
    for number, level in enumerate(levels):
        check_same(group[str(number)], replace(stored, shape=level.shape), path)
    if group.metadata.zarr_format != stored.ome.zarr_format or str(len(levels)) in group:
        raise not_the_same(path)
    with _stored_whole(path):
        return _OmeZarrStore(group, stored, order)


def _part_of_ome_zarr(path: Path, wanted: Wanted) -> Store:
    import zarr

    stored, order = wanted.in_order("tczyx")
    with _stored_whole(path):
        node = zarr.open_array(str(path / "0"), mode="r+")
    check_same(node, stored, path)
    return Store(in_requested_order(node, order))


class _OmeZarrStore(_ZarrStore):
    """A group of levels; its record is among its attributes.

    Parameters
    ----------
    group
        Holds the levels by their number.
    stored
        What is written, its axes in the order of the file.
    order
        For each stored axis, which of the requested ones it is.
    """

    def __init__(self, group: Any, stored: Wanted, order: Sequence[int]) -> None:
        super().__init__(group)
        self._stored, self._order = stored, tuple(order)
        self._levels = _levels(stored)
        self._connect()

    def _connect(self) -> None:
        arrays = [self._node[str(number)] for number in range(len(self._levels))]
        self.pyramid = Pyramid(arrays, self._levels, self._stored.labels)
        self.array = in_requested_order(arrays[0], self._order)

    @property
    def levels(self) -> list[Any]:
        return [in_requested_order(array, self._order) for array in self.pyramid.arrays]

    def wrote(self, region: Index, block: np.ndarray | None = None) -> None:
        stored = None if block is None else block.transpose(self._order)
        self.pyramid.wrote(tuple(region[axis] for axis in self._order), stored)

    def already(self, region: Index, since: float) -> None:
        self.pyramid.already(tuple(region[axis] for axis in self._order), since)

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        self.pyramid.finish()
        self._measure_windows()
        super().complete(record, waiting)

    def _measure_windows(self) -> None:
        """Show floats from their smallest to their largest value, where 0 to 1 does not hold them.

        Measured in the lowest resolution, which is small.
        """
        if self._stored.dtype.kind != "f" or not named_channels(self._stored):
            return
        lowest = self.pyramid.arrays[-1]
        axis = self._stored.axes.index("c")
        limits = [
            _limits(np.asarray(lowest[(slice(None),) * axis + (number,)]))
            for number in range(lowest.shape[axis])
        ]
        if any(low < 0 or high > 1 for low, high in limits):
            self._node.attrs.update(with_windows(dict(self._node.attrs), limits))

    def moved(self, path: Path) -> None:
        import zarr

        self._node = zarr.open_group(str(path), mode="r+")
        self._connect()

    def placed(self, path: Path | Address) -> None:
        if self._stored.image is not None:
            list_labels(path.parent)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value, never the same."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low, low + 1)


def check_image_of(place: Place | RemotePlace) -> None:
    """Refuse a member of a group that is no OME-Zarr image with labels."""
    image = place.path.parent.parent
    if "multiscales" not in _ome_of(image):
        raise OutputError(
            f"{image} is no OME-Zarr image, so it cannot hold labels: write them to a file of "
            "their own (.ome.zarr)."
        )


def begin_labels(image: Path | Address) -> str:
    """Make the group of labels of an image, where it has none; return its version of OME-Zarr."""
    import zarr

    version = version_in(dict(zarr.open_group(_zarr_store(image), mode="r").attrs))
    if "labels" not in _members(image):
        with suppress(zarr.errors.ContainsGroupError):  # another process has made it since
            zarr.create_group(
                _zarr_store(image / "labels"),
                zarr_format=OmeZarr(version).zarr_format,
                attributes=attributes({"labels": []}, version),
            )
    return version


def levels_in(image: Path | Address) -> int:
    """Return how many resolutions an OME-Zarr image has."""
    return len(_ome_of(image)["multiscales"][0]["datasets"])


def list_labels(folder: Path | Address) -> None:
    """Name all images of labels that lie in a group in its metadata.

    Two processes may finish labels of one image at the same time, and each writes the whole list:
    so it is compared with the folder again after it was written. A label whose process was killed
    before it was listed is listed with the next one.
    """
    import zarr

    while True:
        group = zarr.open_group(_zarr_store(folder), mode="r+")
        listed = list(dict(group.attrs.get("ome") or group.attrs).get("labels") or [])
        missing = sorted(set(_members(folder)) - set(listed))
        if not missing:
            return
        part = {"labels": [*listed, *missing]}
        group.attrs.update(attributes(part, version_in(dict(group.attrs))))


def _members(group: Path | Address) -> list[str]:
    """Return the names of the zarr arrays and groups in a group that are whole."""
    if not isinstance(group, Path):
        from seamscope.images.results.object_store import members

        return members(group)
    return [
        each.name
        for each in group.iterdir()
        if _is_zarr(each) and not each.name.startswith(".") and each.suffix != ".partial"
    ]


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))


def _ome_of(path: Path | Address) -> Mapping[str, Any]:
    if isinstance(path, Path):
        import zarr

        found = dict(zarr.open(str(path), mode="r").attrs)
    else:
        from seamscope.images.remote import open_node

        found = dict(open_node(path).attrs)
    inner: Mapping[str, Any] = found["ome"] if isinstance(found.get("ome"), Mapping) else found
    return inner


def _zarr_store(path: Path | Address) -> Any:
    """Return what zarr calls the store of a path."""
    if isinstance(path, Path):
        return str(path)
    from seamscope.images.remote import store_of

    return store_of(path, writing=True)


def _zarr_array_in(store: Any, name: str | None, wanted: Wanted) -> Any:
    """Create the array, in a group by its name.

    Floats are compressed by blosc, lz4 on shuffled bits: a chunk of probabilities takes 0.4 of the
    time of zarr's default, which remains for integers since it shrinks labels much further.
    """
    import zarr

    how: dict[str, Any] = {"dimension_names": list(wanted.axes)}
    if wanted.ome.zarr_format == 2:
        how = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return zarr.create_array(
        store,
        name=name,
        zarr_format=wanted.ome.zarr_format,
        shape=wanted.shape,
        chunks=wanted.chunks,
        dtype=wanted.dtype,
        fill_value=0,
        compressors=_fast(wanted.ome.zarr_format) if wanted.dtype.kind == "f" else "auto",
        **how,
    )


def _fast(zarr_format: int) -> Any:
    if zarr_format == 2:
        from numcodecs import Blosc

        return Blosc("lz4", 1, Blosc.BITSHUFFLE)
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")


def _levels(stored: Wanted) -> list[Level]:
    place = stored.axes, stored.shape, stored.scale, stored.units, stored.origin
    if stored.levels is not None:
        return levels_of(*place, stored.levels)
    return levels_of(*place) if stored.ome.pyramid else levels_of(*place, 1)


def _zarr_bytes(wanted: Wanted) -> int:
    """Estimate: probabilities hardly shrink, labels to a quarter at the very least."""
    return all_bytes(wanted) // (1 if wanted.dtype.kind == "f" else 4)


def _ome_zarr_bytes(wanted: Wanted) -> int:
    """Of all levels, each in proportion to its pixels."""
    levels = _levels(wanted.in_order("tczyx")[0])
    pixels = [math.prod(level.shape) for level in levels]
    return _zarr_bytes(wanted) * sum(pixels) // pixels[0]


def _ome_zarr_refusal(wanted: Wanted) -> str | None:
    space = [axis for axis in wanted.axes if axis in "zyx"]
    if len(space) >= 2:
        return None
    return f"OME-Zarr wants two or three axes of space, not {wanted.axes!r}. Use .zarr or .npy."


ZARR = Format(never_refused, _zarr_bytes, _create_zarr, resume=_resume_zarr, part=_part_of_zarr)
OME_ZARR = Format(
    _ome_zarr_refusal,
    _ome_zarr_bytes,
    _create_ome_zarr,
    resume=_resume_ome_zarr,
    part=_part_of_ome_zarr,
)
