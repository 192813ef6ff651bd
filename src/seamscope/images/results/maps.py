"""Maps: results in GeoTIFF that lie where their image lies.

Knows coordinates, masks and blocks of GeoTIFF, as rasterio reads and writes them. Does not know
networks or tiles. Pixels of a map are read as of any TIFF (`seamscope.images.tiff`).

A result in ``.tif`` of an image that is a map is a GeoTIFF: reference system, transform (moved to
the result's area, and scaled with its pixels), ground control points, tags, names of bands, and a
mask of the pixels that have data. A result in ``.cog.tif`` becomes cloud-optimized by a copy at the
end, since GDAL's driver for these keeps all pixels until then.

Until its end such a result is a zarr array, which several processes can write, and which a killed
run can go on with: a GeoTIFF that is cut short is damaged, and GDAL leaves a hole in it for each
compressed block that is written again. Then each block of the GeoTIFF is written once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.errors import OutputError
from seamscope.images.dimensions import full_index
from seamscope.images.image import Image
from seamscope.images.records import write_record
from seamscope.images.results.format import Format, Store, Wanted
from seamscope.images.results.formats import format_of
from seamscope.images.results.zarr_arrays import ZARR
from seamscope.images.views import LazyArray
from seamscope.progress import Steps, Work, check
from seamscope.text import bytes_text

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


class _Bands(LazyArray):
    """The bands of a whole raster, seen as an array ``(bands, y, x)`` or ``(y, x)``.

    Parameters
    ----------
    path
        Of the raster.
    wanted
        Shape, type and axes.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path = path
        self.shape, self.dtype = wanted.shape, wanted.dtype

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        bands, rows, columns = self._whole(index)
        with _opened(self._path) as raster:
            found = raster.read([band + 1 for band in bands], window=_window(rows, columns))
        given = index if isinstance(index, tuple) else (index,)
        numbers = [i for i in given if i is not Ellipsis]
        dropped = tuple(k for k, each in enumerate(numbers) if isinstance(each, int | np.integer))
        picture = found if self.ndim == 3 else found[0]
        return np.asarray(
            picture[tuple(0 if k in dropped else slice(None) for k in range(self.ndim))]
        )

    def _whole(self, index: Any) -> tuple[range, slice, slice]:
        given = full_index(index, self.ndim)
        parts = [
            slice(i, i + 1) if not isinstance(i, slice) else slice(*i.indices(n)[:2])
            for i, n in zip(given, self.shape, strict=True)
        ]
        bands = parts[0] if self.ndim == 3 else slice(0, 1)
        return range(bands.start, bands.stop), parts[-2], parts[-1]


def _window(rows: slice, columns: slice) -> Any:
    from rasterio.windows import Window

    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


class _MapStore(Store):
    """A zarr array until its end, when a GeoTIFF is written of it; then a record is beside that.

    Parameters
    ----------
    path
        Of the zarr array.
    begun
        The same, opened.
    wanted
        What the result shall be like.
    ground
        Where it lies; None where its image is no map.
    cog
        Whether it becomes cloud-optimized.
    """

    def __init__(
        self, path: Path, begun: Store, wanted: Wanted, ground: Ground | None, cog: bool
    ) -> None:
        super().__init__(begun.array)
        self._path, self._begun, self._wanted = path, begun, wanted
        self._ground, self._cog = ground, cog

    def save(self, record: Mapping[str, Any]) -> None:
        self._begun.save(record)

    def complete(self, record: Mapping[str, Any], waiting: Path) -> Path:
        write_record(waiting, record)
        return self._made

    def prepare(self, work: Work) -> None:
        for old in self._path.glob(f"{self._made.name}*"):  # of a run that was killed
            old.unlink()
        try:
            with _rasterio_errors():
                self._write(self._made, work)
                if self._cog:
                    _as_cog(self._made, self._wanted, work)
        except BaseException:
            self._made.unlink(missing_ok=True)
            raise

    @property
    def _made(self) -> Path:
        return self._path / "map.tif"  # inside, so that it vanishes with the array

    def _write(self, path: Path, work: Work) -> None:
        import rasterio

        side = _block_side(self._wanted)
        boxes = list(_boxes(self._wanted.shape[-2:], side))
        work.phase("Writing the map", "blocks")
        steps = Steps(work, len(boxes))
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            _created(path, self._wanted, self._ground, side) as raster,
        ):
            for rows, columns in boxes:
                check(work)
                values = np.asarray(self.array[..., rows, columns])
                bands = values.reshape((-1, *values.shape[-2:]))
                raster.write(bands, window=_window(rows, columns))
                steps.one()
            if self._ground is not None and self._ground.has_mask():
                for window, mask in self._ground.masks(self._wanted, 4 * _USUAL):
                    raster.write_mask(mask, window=window)

    def moved(self, path: Path) -> None:
        self.array = _Bands(path, self._wanted)


def _boxes(size: Sequence[int], side: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of each block of a raster."""
    height, width = size
    for top in range(0, height, side[0]):
        for left in range(0, width, side[1]):
            yield (
                slice(top, min(top + side[0], height)),
                slice(left, min(left + side[1], width)),
            )


def _created(path: Path, wanted: Wanted, ground: Ground | None, side: tuple[int, int]) -> Any:
    """Create a GeoTIFF of empty blocks; returns it, open for writing."""
    height, width = wanted.shape[-2:]
    bands = wanted.shape[0] if len(wanted.shape) == 3 else 1
    profile: dict[str, Any] = {} if ground is None else ground.profile(wanted)
    raster = _opened(
        path, "w", driver="GTiff", dtype=str(wanted.dtype), count=bands, height=height,
        width=width, tiled=True, blockysize=side[0], blockxsize=side[1], interleave="band",
        photometric="MINISBLACK", compress="deflate",
        predictor=3 if wanted.dtype.kind == "f" else 2, sparse_ok=True, bigtiff="IF_SAFER",
        num_threads="ALL_CPUS", **profile,
    )  # fmt: skip
    for number, name in enumerate(_names(wanted, bands)):
        raster.set_band_description(number + 1, name)
    tags = {} if ground is None else ground.tags()
    raster.update_tags(**{**tags, "TIFFTAG_SOFTWARE": "Seamscope"})
    return raster


def _block_side(wanted: Wanted) -> tuple[int, int]:
    """Return height and width of blocks: those of chunks, so that a tile's core is whole blocks."""
    sides = [chunk if chunk % 16 == 0 else _USUAL for chunk in wanted.chunks[-2:]]
    return sides[0], sides[1]


def _names(wanted: Wanted, bands: int) -> list[str]:
    listed = wanted.metadata.get("channels") or []
    names = [str(each.get("name") if isinstance(each, Mapping) else each) for each in listed]
    return names if len(names) == bands else [wanted.name] * (bands == 1)


# GDAL copies in one call, which cannot be stopped; a process can, and ends with its parent.
_COPY = """
import json, os, sys, threading

def end_with_parent():
    sys.stdin.read()
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
import rasterio.shutil
source, copy, how = json.loads(sys.argv[1])
try:
    rasterio.shutil.copy(source, copy, **how)
except Exception as error:  # GDAL's own errors have no common class
    sys.exit(str(error))
"""


def _as_cog(path: Path, wanted: Wanted, work: Work) -> None:
    """Copy a map in another process, which ends when the work is stopped."""
    work.phase("Making the map cloud-optimized", "copies")
    copy = path.with_name(f"{path.name}.{uuid.uuid4().hex}.copy")
    how = {
        "driver": "COG", "compress": "deflate", "predictor": "YES", "bigtiff": "IF_SAFER",
        "overview_resampling": "nearest" if wanted.dtype.kind != "f" else "average",
        "num_threads": "ALL_CPUS",
    }  # fmt: skip
    words = [sys.executable, "-P", "-c", _COPY, json.dumps([str(path), str(copy), how])]
    with (
        tempfile.TemporaryFile("w+") as said,
        Popen(words, stdin=PIPE, stdout=DEVNULL, stderr=said, text=True) as copying,
    ):
        try:
            while copying.poll() is None:
                check(work)
                with contextlib.suppress(TimeoutExpired):
                    copying.wait(0.1)
            check(work)  # Ctrl-C in a terminal ends the other process, too
            if copying.returncode:
                said.seek(0)
                raise OSError(None, _why(copying.returncode, said.read(), path))
            os.replace(copy, path)
            work.step(1, 1)
        finally:
            copying.kill()
            copying.wait()
            for left in copy.parent.glob(f"{copy.name}*"):  # overviews are built beside it
                left.unlink()


def _why(code: int, said: str, path: Path) -> str:
    """Return why a copy failed: what GDAL said, and what it does not say."""
    reasons = [said.strip().rpartition("\n")[2]]
    if code < 0:
        reasons = [f"the copy was ended by the system (signal {-code}): memory may have run out"]
    needed, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < needed:
        reasons.append(f"{bytes_text(free)} are free, and a copy takes up to {bytes_text(needed)}")
    return "; ".join(filter(None, reasons))


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

    def made_of(begin: Callable[[Path, Wanted], Store]) -> Callable[[Path, Wanted], Store]:
        return lambda place, made: _MapStore(place, begin(place, made), made, ground, cog)

    assert ZARR.resume is not None
    copies = 4 if cog else 2  # the array, the GeoTIFF, and its copy with lower resolutions
    made = Format(
        kind.refusal,
        lambda w: copies * w.nbytes + 2**20,
        made_of(ZARR.create),
        resume=made_of(ZARR.resume),
        part=ZARR.part,
    )
    return made, (
        f"{path.name} is written from a zarr array once all tiles are predicted. Together they "
        f"need up to {bytes_text(made.room(wanted))} on the disk.",
    )


def _refusal(wanted: Wanted) -> str | None:
    if wanted.axes not in ("yx", "cyx"):
        return f"A map has axes y, x and bands, not {wanted.axes!r}."
    if str(wanted.dtype) not in _TYPES:
        return f"GeoTIFF has no {wanted.dtype}."
    return None


__all__ = ["COG", "Ground", "format_for", "is_installed", "is_map", "is_wanted"]
