"""Which reader opens what: files by their first bytes, folders by their metadata, arrays as is.

Knows which kinds there are, and reads the simple ones (PNG, JPEG, npy) itself. Does not know what
is done with the pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError, SettingsError
from seamscope.images.addresses import Address
from seamscope.images.dimensions import are_axes, why
from seamscope.images.npy import UNFINISHED_NPY, map_unfinished
from seamscope.images.records import UNFINISHED, read_record, unfinished
from seamscope.images.stored import Choice, Stored, file_of, pick
from seamscope.images.tiff import alpha_note, colours_note, open_tiff, palette_note
from seamscope.images.views import FirstChannels
from seamscope.images.zarr import is_zarr, open_folder, open_zarr


def open_array(data: Any, choice: Choice) -> Stored:
    """Take an array (numpy, dask, zarr, torch, xarray ...) for an image."""
    array = _as_array(data)
    names = [str(d).lower() for d in getattr(array, "dims", ())]
    axes = "".join(names) if names and all(len(d) == 1 for d in names) else ""
    if is_zarr(array):
        return open_zarr(array, file_of(array), choice)
    fitting = len(axes) == len(array.shape) and are_axes(axes)
    return Stored(
        array, name=str(getattr(array, "name", None) or "array"), axes=axes if fitting else None
    )


def _as_array(data: Any) -> Any:
    """Return `data` if it can be read by slices, else a numpy array of it."""
    if hasattr(data, "detach"):  # torch; bfloat16 has no numpy type
        tensor = data.detach().cpu()
        is_brain_float = str(tensor.dtype) == "torch.bfloat16"
        return (tensor.float() if is_brain_float else tensor).numpy()
    if is_zarr(data) or all(hasattr(data, a) for a in ("shape", "dtype", "__getitem__")):
        return data
    try:
        return np.asarray(data)
    except ValueError as error:
        raise ImageError(
            f"{type(data).__name__} is not an image ({why(error)}). Give a path or one array "
            "(of a pyramid, its first level)."
        ) from error


def open_path(path: Path, choice: Choice) -> Stored:
    """Open a file or folder by what it holds."""
    if not path.exists():
        begun = path.with_name(f"{path.name}.partial")
        if begun.exists():
            raise ImageError(f"{path} is unfinished: what is done of it is {begun}.")
        raise ImageError(
            f"There is no file or folder {path} (looked for in {Path.cwd()}). Check the spelling."
        )
    try:
        if path.is_dir():
            return open_folder(path, choice)
        return _opener(path, choice)(path, choice)
    except (ImageError, SettingsError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            f"{path} cannot be opened ({why(error)}). It may be damaged, cut short or not "
            "readable for you: check it, or copy it again."
        ) from error


def open_address(address: Address, choice: Choice) -> Stored:
    """Open zarr in an object store or on a web server."""
    from seamscope.images.remote import open_node

    try:
        return open_zarr(open_node(address), address, choice)
    except (ImageError, SettingsError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            f"{address} cannot be opened ({why(error)}). It may be damaged or unfinished: write it "
            "again."
        ) from None


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x93NUMPY", "npy"),
    (UNFINISHED_NPY, "unfinished npy"),
    (b"\x89HDF", "hdf5"),
    (b"PK\x03\x04", "zip"),
)
_IMAGES = ("tiff", "png", "jpeg", "npy", "unfinished npy")
_ADVICE = {
    "hdf5": "is HDF5, which holds several arrays: open it with h5py and give the dataset, "
    "or save that one as TIFF or zarr.",
    "zip": "is a zip archive (npz, zipped zarr): unpack it and give what is inside.",
    "": "is of no kind that is known: TIFF, PNG, JPEG, npy, zarr and OME-Zarr are read. "
    "Save it as one of them.",
}


def is_image_file(path: Path) -> bool:
    """Return whether a file begins as one of the kinds that are read."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        return False
    return any(head.startswith(magic) for magic, kind in _MAGIC if kind in _IMAGES)


def _opener(path: Path, choice: Choice) -> Callable[[Path, Choice], Stored]:
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise ImageError(f"{path} is empty (0 bytes). Copy or save it again.")
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    openers = {
        "tiff": open_tiff,
        "png": _open_picture,
        "jpeg": _open_picture,
        "npy": _open_npy,
        "unfinished npy": _open_unfinished_npy,
    }
    if kind not in openers:
        raise ImageError(f"{path} {_ADVICE[kind]}")
    if kind != "tiff":
        pick(choice, (path.stem,), path.name)  # it holds one image
    return openers[kind]


def _lacks_end(jpeg: bytes) -> bool:
    """Whether no end follows the pixels of a JPEG, or it ends before these.

    Other ends do not count: of a thumbnail in its header, or of what cameras put behind it.
    """
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != b"\xda":
        filler = jpeg[at + 1 : at + 2] == b"\xff"
        at += 1 if filler else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    if jpeg[at : at + 1] not in (b"", b"\xff"):
        return False  # no JPEG, as the decoder says
    return jpeg.find(b"\xff\xd9", at) < 0


def _open_picture(path: Path, choice: Choice) -> Stored:
    """Decode a PNG or JPEG, at once: neither can be read in part."""
    import imagecodecs  # unlike Pillow it keeps 16 bits of colour, and has no limit of size

    encoded = path.read_bytes()
    if choice.indices and _has_palette(encoded):
        return Stored(_palette_indices(encoded), name=path.stem, source=path, axes="yx")
    decode = imagecodecs.jpeg_decode if encoded[:2] == b"\xff\xd8" else imagecodecs.png_decode
    if decode is imagecodecs.jpeg_decode and _lacks_end(encoded):  # it would paint the rest grey
        raise ImageError(f"{path} is cut short: its last pixels are missing. Copy it again.")
    data = decode(encoded)
    notes = (unfinished(path.name),) if UNFINISHED.encode() in encoded[:200] else ()
    if _has_palette(encoded):
        notes = (*notes, palette_note(path.name))
    if data.ndim == 3 and data.shape[2] == 4 and decode is imagecodecs.jpeg_decode:
        notes = (*notes, colours_note(path.name, "CMYK"))
    if data.ndim == 3 and data.shape[2] in (2, 4) and decode is imagecodecs.png_decode:
        notes = (*notes, alpha_note(path.name, choice.alpha))
        if not choice.alpha:
            data = np.ascontiguousarray(FirstChannels(data, 2, data.shape[2] - 1)[:])
    colours = data.ndim == 3 and data.shape[2] >= 3
    return Stored(
        data, path.stem, source=path, axes="yxc"[: data.ndim], notes=notes, colours=colours
    )


def _has_palette(encoded: bytes) -> bool:
    """Return whether this is a PNG of colour type 3, as the byte after its bit depth says."""
    return encoded[:4] == b"\x89PNG" and encoded[25:26] == b"\x03"


def _palette_indices(encoded: bytes) -> npt.NDArray[np.uint8]:
    import PIL.Image  # imagecodecs returns only the colours

    with warnings.catch_warnings():
        # the picture is decoded whole anyway, and its size stands in its header
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        return np.array(PIL.Image.open(io.BytesIO(encoded)), np.uint8)


def _open_npy(path: Path, choice: Choice) -> Stored:
    return _npy(np.load(path, mmap_mode="r", allow_pickle=False), path)


def _open_unfinished_npy(path: Path, choice: Choice) -> Stored:
    """Open what numpy refuses, since its first bytes say that it is unfinished."""
    return _npy(map_unfinished(path), path, unfinished(path.name))


def _npy(data: Any, path: Path, *notes: str) -> Stored:
    record = read_record(path) or {}
    axes = str(record.get("axes", ""))
    if len(axes) != data.ndim or not are_axes(axes):
        return Stored(data, name=path.stem, source=path, notes=notes)
    return Stored(
        data,
        name=path.stem,
        source=path,
        axes=axes,
        scale=record.get("scale"),
        units=record.get("units"),
        notes=notes,
        origin=record.get("origin"),
    )
