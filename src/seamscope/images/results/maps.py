"""Maps: results in GeoTIFF that lie where their image lies.

Knows coordinates, masks and blocks of GeoTIFF, as rasterio reads and writes them. Does not know
networks or tiles. Pixels of a map are read as of any TIFF (`seamscope.images.tiff`).

A result in ``.tif`` of an image that is a map is a GeoTIFF: reference system, transform (moved to
the result's area, and scaled with its pixels), ground control points, tags, names of bands, and a
mask of the pixels that have data. A result in ``.cog.tif`` becomes cloud-optimized by a copy at the
end, since GDAL's driver for these keeps all pixels until then.

Pixels are written in whole blocks: a part of one waits for the rest, because GDAL leaves a hole in
the file for each compressed block that is written again.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import OutputError
from seamscope.files import record_beside
from seamscope.images.dimensions import full_index
from seamscope.images.image import Image
from seamscope.images.records import UNFINISHED, write_record
from seamscope.images.results.format import Format, Store, Wanted
from seamscope.images.results.formats import format_of

Block: TypeAlias = tuple[int, int, int]  # band, row and column of a block

COG = ".cog.tif"
_GEO_TAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transformation, GeoKeys
_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
_USUAL = 256  # pixels along a block where the tiles suggest none
_INSTALL = 'pip install "seamscope[geo]"'


def is_installed() -> bool:
    """Whether rasterio is there."""
    return importlib.util.find_spec("rasterio") is not None


def is_map(path: str | os.PathLike[str] | None) -> bool:
    """Return whether a file is a TIFF with coordinates; needs no rasterio."""
    import tifffile

    if path is None or not Path(path).is_file():
        return False
    try:
        with tifffile.TiffFile(path) as tif:
            return any(tag in tif.pages.first.tags for tag in _GEO_TAGS)
    except (OSError, ValueError):  # another kind of file
        return False


def _opened(path: Path, mode: str = "r", **how: Any) -> Any:
    """Open a raster, also one without coordinates."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **how)


@dataclass(frozen=True)
class Ground:
    """Where an image lies, and where a result of it does.

    Attributes
    ----------
    path
        Of the image's file.
    image
        The image, of whose file this resolution and area is used.
    """

    path: Path
    image: Image

    def profile(self, wanted: Wanted) -> dict[str, Any]:
        """Return reference system and transform of a result, for rasterio."""
        with _opened(self.path) as source:
            points, system = source.gcps
            if points:
                return {"gcps": self._points(points, wanted), "crs": system}
            return {"crs": source.crs, "transform": source.transform @ self._placed(source, wanted)}

    def tags(self) -> dict[str, str]:
        """Return the image's own tags."""
        with _opened(self.path) as source:
            return dict(source.tags())

    def _placed(self, source: Any, wanted: Wanted) -> Any:
        """Return the transform from pixels of the result to those of the file."""
        from rasterio import Affine

        (x, y), (width, height) = self._corner(source, wanted)
        return Affine.translation(x, y) @ Affine.scale(width, height)

    def _corner(
        self, source: Any, wanted: Wanted
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Corner and size of the result's first pixel ``(x, y)``, in pixels of the file."""
        axes = self.image.axes or ""
        corner, size = [], []
        for letter, full in (("x", source.width), ("y", source.height)):
            ours, theirs = axes.index(letter), wanted.axes.index(letter)
            step = self.image.scale[ours]
            pixel = wanted.scale[theirs] / step  # in pixels of the image
            start = (wanted.origin[theirs] - self.image.origin[ours]) / step - (pixel - 1) / 2
            level = full / self.image.shape[ours]  # of a pyramid
            corner.append(round(start, 6) * level)
            size.append(pixel * level)
        return (corner[0], corner[1]), (size[0], size[1])

    def _points(self, points: Any, wanted: Wanted) -> list[Any]:
        """Return ground control points in pixels of the result."""
        from rasterio.control import GroundControlPoint

        with _opened(self.path) as source:
            (x, y), (width, height) = self._corner(source, wanted)
        return [
            GroundControlPoint(
                (p.row - y) / height, (p.col - x) / width, p.x, p.y, p.z, p.id, p.info
            )
            for p in points
        ]

    @property
    def nodata(self) -> float | None:
        """The intensity without data that was chosen in place of the file's."""
        value: float | None = self.image.opened.get("nodata")
        return value

    def has_mask(self) -> bool:
        """Whether pixels may be without data."""
        from rasterio.enums import MaskFlags

        with _opened(self.path) as source:
            flags = {flag for band in source.mask_flag_enums for flag in band}
            return self.nodata is not None or flags != {MaskFlags.all_valid}

    def masks(self, wanted: Wanted, rows: int) -> Iterator[tuple[Any, npt.NDArray[np.uint8]]]:
        """Yield windows of the result, so many rows each, and which of their pixels have data."""
        from rasterio.windows import Window

        height, width = (wanted.shape[wanted.axes.index(letter)] for letter in "yx")
        with _opened(self.path) as source:
            (x, y), (w, h) = self._corner(source, wanted)
            for top in range(0, height, rows):
                count = min(rows, height - top)
                there = Window(x, y + top * h, width * w, count * h)
                yield Window(0, top, width, count), self._mask(source, there, (count, width))

    def _mask(self, source: Any, window: Any, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return 255 where any band has data."""
        if self.nodata is None:
            mask: npt.NDArray[np.uint8] = source.dataset_mask(window=window, out_shape=shape)
            return mask
        bands = source.read(window=window, out_shape=(source.count, *shape))
        with_data = (bands != self.nodata) & ~((bands != bands) & (self.nodata != self.nodata))
        return np.where(with_data.any(0), np.uint8(255), np.uint8(0))


class _Blocks:
    """The bands of a raster, seen as an array ``(bands, y, x)`` or ``(y, x)``.

    Parameters
    ----------
    path
        Of the raster, which exists.
    wanted
        Shape, type and axes.
    side
        Height and width of a block.
    """

    def __init__(self, path: Path, wanted: Wanted, side: tuple[int, int]) -> None:
        self._path, self._side = path, side
        self.shape, self.dtype, self.ndim = wanted.shape, wanted.dtype, len(wanted.shape)
        self._sizes: tuple[int, int] = (wanted.shape[-2], wanted.shape[-1])
        self._bands = wanted.shape[0] if self.ndim == 3 else 1
        self._open: Any = None
        self._mode = "r+"
        self._waiting: dict[Block, tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = {}

    @property
    def raster(self) -> Any:
        """The raster, opened for reading and, until it is whole, writing."""
        if self._open is None:
            self._open = _opened(self._path, self._mode)
        return self._open

    def __setitem__(self, index: Any, values: npt.NDArray[Any]) -> None:
        bands, rows, columns = self._whole(index)
        filled = np.broadcast_to(
            np.asarray(values, self.dtype).reshape((-1, *np.shape(values)[-2:])),
            (len(bands), rows.stop - rows.start, columns.stop - columns.start),
        )
        for band, plane in zip(bands, filled, strict=True):
            for block in self._touched(band, rows, columns):
                self._put(block, plane, rows, columns)

    def _touched(self, band: int, rows: slice, columns: slice) -> Iterator[Block]:
        ranges = (
            range(part.start // side, -(-part.stop // side))
            for part, side in zip((rows, columns), self._side, strict=True)
        )
        down, across = ranges
        for row in down:
            for column in across:
                yield band, row, column

    def _box(self, block: Block) -> tuple[slice, slice]:
        made = [
            slice(number * side, min((number + 1) * side, size))
            for number, side, size in zip(block[1:], self._side, self._sizes, strict=True)
        ]
        return made[0], made[1]

    def _put(self, block: Block, plane: npt.NDArray[Any], rows: slice, columns: slice) -> None:
        """Put what a plane has of a block; write the block when all of it is there."""
        box = self._box(block)
        common = [
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(box, (rows, columns), strict=True)
        ]
        ours, theirs = (
            tuple(
                slice(c.start - o.start, c.stop - o.start)
                for c, o in zip(common, origin, strict=True)
            )
            for origin in (box, (rows, columns))
        )
        shape = tuple(part.stop - part.start for part in box)
        values, there = self._waiting.pop(
            block, (np.zeros(shape, self.dtype), np.zeros(shape, np.bool_))
        )
        values[ours], there[ours] = plane[theirs], True
        if there.all():
            self._store(block, values)
        else:
            self._waiting[block] = values, there

    def _store(self, block: Block, values: npt.NDArray[Any]) -> None:
        self.raster.write(values, block[0] + 1, window=_window(*self._box(block)))

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        bands, rows, columns = self._whole(index)
        self.settle()
        found = self.raster.read([band + 1 for band in bands], window=_window(rows, columns))
        given = index if isinstance(index, tuple) else (index,)
        numbers = [i for i in given if i is not Ellipsis]
        dropped = tuple(k for k, each in enumerate(numbers) if isinstance(each, int | np.integer))
        picture = found if self.ndim == 3 else found[0]
        return np.asarray(
            picture[tuple(0 if k in dropped else slice(None) for k in range(self.ndim))]
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def _whole(self, index: Any) -> tuple[range, slice, slice]:
        given = full_index(index, self.ndim)
        parts = [
            slice(i, i + 1) if not isinstance(i, slice) else slice(*i.indices(n)[:2])
            for i, n in zip(given, self.shape, strict=True)
        ]
        bands = parts[0] if self.ndim == 3 else slice(0, 1)
        return range(bands.start, bands.stop), parts[-2], parts[-1]

    def settle(self) -> None:
        """Write the blocks of which only a part is there; what is missing stays."""
        for block, (values, there) in self._waiting.items():
            before = self.raster.read(block[0] + 1, window=_window(*self._box(block)))
            self._store(block, np.where(there, values, before))
        self._waiting.clear()

    def close(self) -> None:
        """Write everything, and let the file go."""
        self.settle()
        if self._open is not None:
            self._open.close()
            self._open = None

    def at(self, path: Path) -> None:
        """Follow the whole file to its final name."""
        self._path, self._mode = path, "r"


def _window(rows: slice, columns: slice) -> Any:
    from rasterio.windows import Window

    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


class _MapStore(Store):
    """A GeoTIFF, its record beside it."""

    def __init__(self, path: Path, wanted: Wanted, ground: Ground | None, cog: bool) -> None:
        self._path, self._wanted, self._ground, self._cog = path, wanted, ground, cog
        self._blocks = _create(path, wanted, ground)
        super().__init__(self._blocks)

    def flush(self) -> None:
        with _rasterio_errors():
            self._blocks.close()

    def save(self, record: Mapping[str, Any]) -> None:
        write_record(record_beside(self._path), record)

    def complete(self, record: Mapping[str, Any], waiting: Path) -> None:
        write_record(waiting, record)
        with _rasterio_errors():
            self._write_mask()
            self._blocks.raster.update_tags(TIFFTAG_SOFTWARE="Seamscope")
            self._blocks.close()
            if self._cog:
                _as_cog(self._path, self._wanted)

    def _write_mask(self) -> None:
        import rasterio

        if self._ground is None or not self._ground.has_mask():
            return
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            for window, mask in self._ground.masks(self._wanted, 4 * _USUAL):
                self._blocks.raster.write_mask(mask, window=window)
            self._blocks.close()

    def moved(self, path: Path) -> None:
        self._blocks.at(path)


def _create(path: Path, wanted: Wanted, ground: Ground | None) -> _Blocks:
    import rasterio

    side = _block_side(wanted)
    height, width = wanted.shape[-2:]
    bands = wanted.shape[0] if len(wanted.shape) == 3 else 1
    predictor = 3 if wanted.dtype.kind == "f" else 2
    profile: dict[str, Any] = {} if ground is None else ground.profile(wanted)
    with _rasterio_errors(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        raster = _opened(
            path, "w", driver="GTiff", dtype=str(wanted.dtype), count=bands, height=height,
            width=width, tiled=True, blockysize=side[0], blockxsize=side[1], interleave="band",
            photometric="MINISBLACK", compress="deflate", predictor=predictor, sparse_ok=True,
            bigtiff="IF_SAFER", **profile,
        )  # fmt: skip
        with raster:
            for number, name in enumerate(_names(wanted, bands)):
                raster.set_band_description(number + 1, name)
            tags = {} if ground is None else ground.tags()
            raster.update_tags(**{**tags, "TIFFTAG_SOFTWARE": UNFINISHED})
    return _Blocks(path, wanted, side)


def _block_side(wanted: Wanted) -> tuple[int, int]:
    """Return height and width of blocks: those of chunks, so that a tile's core is whole blocks."""
    sides = [chunk if chunk % 16 == 0 else _USUAL for chunk in wanted.chunks[-2:]]
    return sides[0], sides[1]


def _names(wanted: Wanted, bands: int) -> list[str]:
    listed = wanted.metadata.get("channels") or []
    names = [str(each.get("name") if isinstance(each, Mapping) else each) for each in listed]
    return names if len(names) == bands else [wanted.name] * (bands == 1)


def _as_cog(path: Path, wanted: Wanted) -> None:
    import rasterio.shutil

    copy = path.with_name(f"{path.name}.copy")
    try:
        rasterio.shutil.copy(
            path, copy, driver="COG", compress="deflate", predictor="YES", bigtiff="IF_SAFER",
            overview_resampling="nearest" if wanted.dtype.kind != "f" else "average",
        )  # fmt: skip
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)


class _rasterio_errors:  # noqa: N801  (used as a function)
    """Turn errors of rasterio into those of the system."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from rasterio.errors import RasterioError

        if isinstance(error, RasterioError):
            raise OSError(None, str(error)) from error


# -- which results are maps


def is_wanted(path: Path, source: Image | None) -> bool:
    """Return whether a path asks for a GeoTIFF; `source` is the image that the result is of."""
    name = path.name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")) or not name.endswith((".tif", ".tiff")):
        return False
    return name.endswith(COG) or (source is not None and is_map(source.source))


def format_for(path: Path, wanted: Wanted, source: Image | None) -> tuple[Format, tuple[str, ...]]:
    """Return the kind of file of a result, and sentences on what is left out.

    Parameters
    ----------
    path
        Of the result.
    wanted
        What it is like.
    source
        Image that it belongs to.

    Raises
    ------
    OutputError
        Where a cloud-optimized file is wanted, and cannot be written.
    """
    kind, cog = format_of(path), path.name.lower().endswith(COG)
    if not is_wanted(path, source):
        return kind, ()
    whole = None if source is None else source.source
    lies = is_map(whole)
    if not is_installed():
        if cog:
            raise OutputError(f"{path.name} is written by rasterio, which is missing: {_INSTALL}.")
        return kind, (
            f"{Path(str(whole)).name} is a map, and its coordinates are left out: they need "
            f"rasterio ({_INSTALL}).",
        )
    refusal = _refusal(wanted)
    if refusal and cog:
        raise OutputError(f"{path.name} cannot hold this result: {refusal}")
    if refusal:
        return kind, (f"The result is no map, since {refusal[0].lower()}{refusal[1:]}",)
    ground = Ground(Path(str(whole)), source) if lies and source is not None else None

    def create(place: Path, made: Wanted) -> Store:
        stored, _ = made.in_order("cyx")
        return _MapStore(place, stored, ground, cog)

    room = 3 if cog else 1  # the copy, and its lower resolutions
    made = replace(kind, create=create, resume=None, room=lambda w: room * w.nbytes + 2**20)
    return made, ()


def _refusal(wanted: Wanted) -> str | None:
    if wanted.axes not in ("yx", "cyx"):
        return f"A map has axes y, x and bands, not {wanted.axes!r}."
    if str(wanted.dtype) not in _TYPES:
        return f"GeoTIFF has no {wanted.dtype}."
    return None


__all__ = ["COG", "Ground", "format_for", "is_installed", "is_map", "is_wanted"]
