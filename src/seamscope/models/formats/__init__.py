"""Load networks from files; code of a file runs only after it is trusted.

Knows the table of formats and takes the first that recognises a file. Does not know any format, nor
what networks do.

A network is named by one string (see `seamscope.models.formats.spec`). The content of a file
decides its format, never its suffix:

================  ==================================================================================
`exported`        programs of ``torch.export`` (``.pt2``)
`torchscript`     TorchScript, scripted or traced
`bioimageio`      packages of bioimage.io: folder, zip or yaml, formats 0.4 and 0.5
`monai_bundle`    bundles of MONAI: folder or zip
`onnx`            ONNX
`factories`       Python functions and classes, from packages and files, and their weights
`checkpoints`     files of tensors and pickled modules
================  ==================================================================================

Whatever would run code is listed by `code_of` and `would_run`, and refused until it is trusted: for
one call by ``trust=True``, for exactly the code that was shown or from then on by a `Consent`.
"""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from torch import nn
from torch.nn.parameter import UninitializedParameter

from seamscope.errors import ModelError, TrustError
from seamscope.models.formats import trust as trusting
from seamscope.models.formats.archive import Archive
from seamscope.models.formats.bioimageio import BIOIMAGEIO
from seamscope.models.formats.checkpoints import only_weights, pickled, read_checkpoint
from seamscope.models.formats.demo import DEMO, demo_names
from seamscope.models.formats.exported import EXPORTED
from seamscope.models.formats.factories import FACTORY
from seamscope.models.formats.format import Code, Format
from seamscope.models.formats.monai_bundle import MONAI_BUNDLE
from seamscope.models.formats.onnx import ONNX
from seamscope.models.formats.readable import one_line
from seamscope.models.formats.spec import Spec
from seamscope.models.formats.torchscript import TORCHSCRIPT
from seamscope.models.formats.trust import Consent
from seamscope.models.formats.verification import verify
from seamscope.models.formats.wrappers import Chosen, evaluate
from seamscope.models.model import Model, as_model
from seamscope.models.stated import Stated

# Of foreign files their first bytes, and what to do about them.
_FOREIGN = (
    (0, b"\x89HDF", "a Keras or HDF5 file", "export it to ONNX (tf2onnx)"),
    (4, b"TFL3", "a TensorFlow Lite file", "export the network to ONNX"),
    (0, b"\x1f\x8b\x08", "a gzip archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
)

_IMAGES = (
    (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"II+\0", "TIFF"), (0, b"MM\0+", "TIFF"),
    (0, b"\x89PNG", "PNG"), (0, b"\xff\xd8\xff", "JPEG"), (0, b"GIF8", "GIF"), (0, b"BM", "BMP"),
    (0, b"\x93NUMPY", "npy"), (0, b"ZISRAWFI", "CZI"), (0, b"\xda\xce\xbe\n", "ND2"),
    (4, b"jP  ", "JPEG 2000"),
)  # fmt: skip
_ZARR = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def load_model(
    spec: str | os.PathLike[str] | nn.Module | Model,
    *,
    trust: bool | Consent = False,
    **stated: Unpack[Stated],
) -> Model:
    """Load a network.

    Parameters
    ----------
    spec
        A module, or a string as in the module's documentation.
    trust
        Whether code that comes with the file may run, this once. A `Consent` allows only the code
        that was shown, or is remembered. Code with remembered consent runs anyway. Consent is not
        remembered where only running shows what runs (`Code.unknown`).
    **stated
        What you state of the network, where it should not be measured: ``spatial_axes``,
        ``channels`` of the input, ``input_size`` and ``step`` in pixels (one number, or one for
        each axis), ``kind`` of its values (`seamscope.models.output_kind`), ``dropout=False`` to
        switch random layers off, ``ignore_extra=True`` to leave out weights it does not have.

    Returns
    -------
    Model
        In evaluation mode, on the CPU.

    Raises
    ------
    TrustError
        When loading would run code; lists what.
    ModelError
        When the file is missing, damaged, or holds no network.
    """
    if isinstance(spec, (Model, nn.Module)):
        model = as_model(spec)
    else:
        consent = Consent() if trust is True else trust or None
        extra = stated.pop("ignore_extra", False)
        model = _load(replace(Spec.parse(os.fspath(spec)), ignore_extra=extra), consent)
        if extra:
            model.statements["ignore_extra"] = True
    return model.stated(**stated)


def would_run(spec: str | os.PathLike[str]) -> tuple[str, ...]:
    """List what loading would run, one line each; empty when nothing."""
    return tuple(code.what for code in code_of(spec))


def code_of(spec: str | os.PathLike[str]) -> tuple[Code, ...]:
    """Return what loading would run, with its source, for a person to read before trusting it.

    Nothing is run to make the list.
    """
    parsed = Spec.parse(os.fspath(spec))
    return _format_of(parsed).code(parsed)


def format_of(spec: str | os.PathLike[str]) -> str:
    """Return the name of the format of what a model string names, by its content."""
    return _format_of(Spec.parse(os.fspath(spec))).name


def _load(spec: Spec, consent: Consent | None) -> Model:
    row = _format_of(spec)
    code = row.code(spec)
    digests = [each.digest for each in code]
    allowed = consent is not None and consent.covers(digests)
    unknown = [line for each in code for line in each.unknown]  # which no digest covers
    if code and not allowed and (unknown or not trusting.trusted(digests)):
        raise TrustError(one_line(spec.text), code, trusting.unsafe())
    model = row.load(spec)
    if spec.output is not None and model.outputs is None:
        model.module = Chosen(model.module, spec.output)
    evaluate(model.module)
    for parameter in model.module.parameters():
        if not isinstance(parameter, UninitializedParameter):  # of lazy layers, until they run
            parameter.requires_grad_(False)
    if code and consent is not None and consent.remember:
        what = {each.digest: f"{each.what} [{spec.text}]" for each in code}
        reason = f"{unknown[0]}." if unknown else trusting.remember(what)
        if reason:
            model.notes = (*model.notes, f"Your consent is not remembered: {reason}")
    return model


def _format_of(spec: Spec) -> Format:
    if spec.file is not None and not spec.text.startswith("demo:"):
        _check_readable(spec.file, spec.text)
    return next(row for row in FORMATS if row.recognises(spec))


def _check_readable(path: Path, text: str) -> None:
    if re.match(r"\w+://", text):
        raise ModelError(
            f"{text} is an address, and nothing is ever downloaded here: download the file or the "
            "whole package yourself, and give its path."
        )
    if not path.exists():
        raise ModelError(
            f"There is no file {path}: check the path, or try one of {', '.join(demo_names())}, "
            "or name a factory as package.module:function."
        )
    if not (path.is_file() or path.is_dir()):
        raise ModelError(
            f"{path} is neither a file nor a folder (a pipe or a device): copy what it gives to a "
            "file, and give that."
        )
    if not os.access(path, os.R_OK):
        raise ModelError(f"{path} cannot be read: you lack the permission to read it.")
    if path.is_file() and path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: it was perhaps not copied completely; copy it again.")
    if path.is_file():
        _refuse_foreign(path)
        _refuse_half_a_zip(path)


# -- the last row: files of tensors, and what is nothing of all this


def _weights_code(spec: Spec) -> tuple[Code, ...]:
    return pickled(spec.path, spec.path.name) if spec.path.is_file() else ()


def _load_weights(spec: Spec) -> Model:
    """A checkpoint without a factory: a pickled module, or only weights, which is not enough."""
    if spec.path.is_dir():
        if any((spec.path / name).is_file() for name in _ZARR):
            raise _image(spec.path, "zarr")
        files = sorted(each for each in Archive(spec.path).names if each.endswith(_OF_NETWORKS))
        offer = f"one of its files ({', '.join(files[:3])})" if files else "a file"
        raise ModelError(
            f"{spec.path} cannot be read as a file, and as a folder it holds no network: give the "
            "folder with rdf.yaml (bioimage.io) or configs/metadata.json (MONAI), or "
            f"{offer}."
        )
    if zipfile.is_zipfile(spec.path) and not _holds_pickle(spec.path):
        raise ModelError(
            f"{spec.path} is a zip archive without a network: a package of bioimage.io has an "
            "rdf.yaml, a bundle of MONAI a configs/metadata.json, a file of PyTorch a data.pkl."
        )
    content = read_checkpoint(spec.path, str(spec.path))
    if isinstance(content, nn.Module):
        return Model(content, name=spec.path.stem, spec=spec.text)
    raise only_weights(content, str(spec.path))


# Files that may hold a network, or its weights.
_OF_NETWORKS = (".pt", ".pth", ".ckpt", ".safetensors", ".pt2", ".onnx")


def _holds_pickle(path: Path) -> bool:
    return any(name.endswith("data.pkl") for name in Archive(path).names)


def _refuse_half_a_zip(path: Path) -> None:
    """Refuse a zip file without its end, where the table of its members is."""
    with open(path, "rb") as file:
        begins_as_zip = file.read(4) == b"PK\x03\x04"
    if begins_as_zip and not _is_whole_zip(path):
        raise ModelError(
            f"{path} ({path.stat().st_size:,} bytes) begins as a zip archive, and its end is "
            "missing: it was not copied or downloaded completely; get it again."
        )


def _is_whole_zip(path: Path) -> bool:
    """Return whether its own table is there, and not that of an archive within it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return min((each.header_offset for each in archive.infolist()), default=0) == 0
    except zipfile.BadZipFile:
        return False


def _refuse_foreign(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(8)
    for place, start, kind, remedy in _FOREIGN:
        if head[place:].startswith(start):
            raise ModelError(f"{path} is {kind}, which PyTorch cannot run: {remedy}.")
    for place, start, kind in _IMAGES:
        if head[place:].startswith(start):
            raise _image(path, kind)


def _image(path: Path, kind: str) -> ModelError:
    return ModelError(
        f"{path} is an image ({kind}), and a network is expected here: choose the file of a "
        "network, and give this one as the image."
    )


FORMATS: tuple[Format, ...] = (
    DEMO,
    FACTORY,
    EXPORTED,
    TORCHSCRIPT,
    BIOIMAGEIO,
    MONAI_BUNDLE,
    ONNX,
    Format("checkpoint", lambda spec: True, _weights_code, _load_weights),
)

__all__ = [
    "FORMATS",
    "Code",
    "Consent",
    "Spec",
    "code_of",
    "format_of",
    "load_model",
    "verify",
    "would_run",
]
