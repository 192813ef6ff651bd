"""Write a loaded network for other programs, with what was measured of it.

Knows formats that are written, and that a file counts only once it was read back and predicts the
same at another size. Does not know where the network came from.

===============  ================================================================================
``.pt2``         program of ``torch.export``, for any size the network takes
``.torchscript`` TorchScript, traced (also ``.ts``, ``.pt``)
``.onnx``        ONNX (needs the extra ``onnx``)
``.zip``         package of bioimage.io, format 0.5: TorchScript, test vectors, and a card whose
                 axes, sizes, step and halo are the measured ones
===============  ================================================================================
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.util
import io
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import yaml
from torch import nn

from seamscope.errors import ModelError, SeamscopeError, SettingsError
from seamscope.files import Claim, Place, check_places, disk_errors
from seamscope.images.image import open_image
from seamscope.images.preparation import ByInput, Clipped, Measured, Preparation, Scaled
from seamscope.models.declared import Array
from seamscope.models.formats import load_model
from seamscope.models.formats.format import first_sentence, missing
from seamscope.models.formats.rounding import agree
from seamscope.models.model import Model
from seamscope.models.sentences import describe
from seamscope.models.single import single_tensor
from seamscope.models.speed.fusion import graph_of
from seamscope.serialization import record
from seamscope.tiling import axis_names
from seamscope.version import __version__

Kind: TypeAlias = Literal["pt2", "torchscript", "onnx", "bioimageio"]

_SUFFIXES: dict[str, Kind] = {
    ".pt2": "pt2",
    ".torchscript": "torchscript",
    ".ts": "torchscript",
    ".pt": "torchscript",
    ".onnx": "onnx",
    ".zip": "bioimageio",
}
_OPSET = 18


@dataclass(frozen=True)
class Credits:
    """What a package of bioimage.io must say of its makers; nothing of it can be measured.

    Attributes
    ----------
    authors
        Names.
    description
        A sentence or two.
    license
        Of the weights, by its SPDX name.
    cite
        What to cite.
    url
        Where that is found.
    """

    authors: tuple[str, ...] = ("unknown",)
    description: str = ""
    license: str = "CC-BY-4.0"
    cite: str = "No publication of this network was named at export."
    url: str = "https://bioimage.io"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path, kind
        Where, and in which format.
    sizes
        Spatial shape with which it was read back and compared.
    max_dist
        Largest absolute difference to the network's own prediction there.
    notes
        Sentences its user should read.
    """

    path: Path
    kind: Kind
    sizes: tuple[int, ...]
    max_dist: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return this; `kind` is ``format``, and `sizes` are ``compared_at``."""
        return record(
            path=self.path,
            format=self.kind,
            compared_at=self.sizes,
            max_dist=self.max_dist,
            notes=self.notes,
        )


def export(
    model: Model,
    out: str | os.PathLike[str],
    *,
    credits: Credits | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a network in the format that the file's ending names, and read it back.

    Parameters
    ----------
    model
        The network; measured here, if it was not yet.
    out
        The file; its ending says what to write (see the module's table).
    credits
        For a package of bioimage.io.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    SettingsError, OutputError
        When the ending is none of these, or the place is taken.
    ModelError
        When the network cannot be written in this format, or what was written predicts something
        else; no file is left then.
    """
    path = Path(out).expanduser()
    kind = kind_of(path)
    if model.statistics is not None and not model.statistics.uniform:
        raise ModelError(
            f"The statistics of {model.name} belong to places of one image, which no file of a "
            "network can say: freeze exact or sampled ones, and export with those."
        )
    check_places([Place(path)], overwrite=overwrite)
    # its ending says how it is read back
    draft = path.with_name(f"{path.stem}.partial{path.suffix}")
    with disk_errors(path, "Nothing was written."):
        claim = Claim(Place(path))
        try:
            with _quiet(), torch.no_grad():
                _write(model, draft, kind, credits or Credits())
            sizes, difference = _read_back(model, draft, path)
            os.replace(draft, path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            claim.release()
    return Exported(path, kind, sizes, difference, _notes(model, kind))


def kind_of(path: Path) -> Kind:
    """Return the format that a file's ending names, if it can be written here.

    Raises
    ------
    SettingsError, ModelError
        When the ending names none, or a package is not installed.
    """
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise SettingsError(
            f"{path.name} ends in {path.suffix or 'nothing'}, which names no format: end it in one "
            f"of {', '.join(_SUFFIXES)}."
        )
    if kind == "onnx":
        for package in ("onnx", "onnxscript"):
            if importlib.util.find_spec(package) is None:
                raise missing(package, "Writing ONNX")
    return kind


def _write(model: Model, path: Path, kind: Kind, credits: Credits) -> None:
    try:
        if kind == "pt2":
            # its writer in C++ ends the process where the disk is full
            buffer = io.BytesIO()
            torch.export.save(_program(model), buffer)
            path.write_bytes(buffer.getvalue())
        elif kind == "torchscript":
            path.write_bytes(_script(model))
        elif kind == "onnx":
            _onnx(model, path)
        else:
            _package(model, path, credits)
    except (SeamscopeError, OSError):
        raise
    except Exception as error:  # exporters fail in many ways
        raise ModelError(
            f"{model.name} cannot be written as {kind} ({type(error).__name__}: "
            f"{first_sentence(error)}): choose another format."
        ) from error


# -- the formats


class _OneOutput(nn.Module):
    """A network whose prediction is a tensor and not a list of one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return single_tensor(self.inner(x))


def _sizes(model: Model, growth: int = 0, least: Sequence[int] = ()) -> tuple[int, ...]:
    """Spatial shape for an example: no two sizes alike, none so small that a layer sees one pixel.

    Exporters take sizes that are alike for the same, and sizes of 1 for constants.
    """
    lattices = model.facts.lattice
    return tuple(
        lattice.size_at_least(
            min(
                max(low, max(48, 4 * lattice.increment) + sum(lattice.crop)),
                (lattice.limit or 1 << 30) - (len(lattices) + growth) * lattice.increment,
            )
            + (place + growth) * lattice.increment
        )
        for place, (lattice, low) in enumerate(
            zip(lattices, least or (0,) * len(lattices), strict=True)
        )
    )


def _example(
    model: Model, batch: int = 2, growth: int = 0, least: Sequence[int] = ()
) -> torch.Tensor:
    random = torch.Generator().manual_seed(growth)
    shape = (batch, model.facts.in_channels, *_sizes(model, growth, least))
    return torch.randn(shape, generator=random)


def _several(model: Model) -> bool:
    """Whether the network takes more than one image at a time."""
    try:
        with torch.no_grad():
            model.module(_example(model).to(_device(model)))
    except (SeamscopeError, InterruptedError):
        raise
    except Exception:  # whatever it raises then
        return False
    return True


def _eager(model: Model) -> nn.Module:
    """The network as exporters want it: no TorchScript."""
    module = model.module
    if isinstance(module, torch.jit.ScriptModule):
        module = graph_of(module)
    return _with_one_output(module, model)


def _with_one_output(module: nn.Module, model: Model) -> nn.Module:
    """The module itself where it gives a tensor: so its weights keep their names."""
    plain = isinstance(module(_example(model, 1)), torch.Tensor)
    return module if plain else _OneOutput(module)


def _dynamic(model: Model, several: bool) -> Any:
    free = torch.export.Dim.DYNAMIC
    axes = {0: free} if several else {}
    axes |= {i + 2: free for i, axis in enumerate(model.facts.lattice) if axis.fixed is None}
    return (axes,)


def _program(model: Model) -> torch.export.ExportedProgram:
    several = _several(model)
    example = (_example(model, 1 + several),)
    return torch.export.export(_eager(model), example, dynamic_shapes=_dynamic(model, several))


def _script(model: Model) -> bytes:
    module = model.module
    if not isinstance(module, torch.jit.ScriptModule):
        alone = _with_one_output(module, model)
        module = torch.jit.trace(alone, _example(model, 1), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def _onnx(model: Model, path: Path) -> None:
    several = _several(model)
    program: Any = torch.onnx.export(
        _eager(model),
        (_example(model, 1 + several),),
        dynamo=True,
        dynamic_shapes=_dynamic(model, several),
        opset_version=_OPSET,
        verbose=False,
    )
    program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of what they do themselves."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


# -- reading back


def _read_back(model: Model, draft: Path, path: Path) -> tuple[tuple[int, ...], float]:
    """Compare with the network itself, at another size and number of images."""
    x = _example(model, 3 if _several(model) else 1, growth=1)
    with torch.no_grad():
        own = single_tensor(model.module(x.to(_device(model)))).float().cpu()
        try:
            again = single_tensor(load_model(draft).module(x)).float()
        except SeamscopeError:
            raise
        except Exception as error:
            raise ModelError(
                f"What was written for {path} does not run at {tuple(x.shape[2:])} pixels "
                f"({first_sentence(error)}): its sizes became constants; choose another format."
            ) from error
    if own.shape != again.shape:
        raise ModelError(
            f"What was written for {path} gives {tuple(again.shape)} instead of "
            f"{tuple(own.shape)}: choose another format."
        )
    difference = float((own - again).abs().max())
    if not agree(model.module, x.to(_device(model)), again):
        raise ModelError(
            f"What was written for {path} differs from the network by {difference:.2g} at "
            f"{tuple(x.shape[2:])} pixels: something in it was made a constant; choose another "
            "format."
        )
    return tuple(x.shape[2:]), difference


def _device(model: Model) -> torch.device:
    tensor = next(model.module.parameters(), None)
    return tensor.device if tensor is not None else torch.device("cpu")


def _notes(model: Model, kind: Kind) -> tuple[str, ...]:
    notes = []
    if kind != "bioimageio" and (model.normalize or model.preparation):
        what = model.normalize or str(model.preparation)
        notes.append(f"This format cannot say how images are normalized ({what}): tell its users.")
    if model.postprocessing is not None:
        notes.append(
            f"The postprocessing of the whole prediction ({model.postprocessing}) is "
            "not written: tell its users."
        )
    if kind == "bioimageio" and model.reach.halo is None:
        notes.append(
            "No halo makes this network's tiles agree; the package declares the reach of its "
            "convolutions."
        )
    return tuple(notes)


# -- packages of bioimage.io


def _package(model: Model, path: Path, credits: Credits) -> None:
    image, prediction = _test_tensors(model)
    files = {
        "weights.pt": _script(model),
        "test_input.npy": _npy(image),
        "test_output.npy": _npy(prediction),
        "README.md": _readme(model, credits).encode(),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    card = yaml.safe_dump(_card(model, credits, hashes), sort_keys=False, allow_unicode=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {"rdf.yaml": card.encode(), **files}.items():
            archive.writestr(name, data)


def _test_tensors(model: Model) -> tuple[Array, Array]:
    """A test image ``(1, C, *spatial)`` and its prediction, intensities prepared as declared.

    Its sizes are ones that the card allows, so that they leave something beside the halo.
    """
    image = _example(model, 1, least=_smallest(model)).numpy()
    prepared = np.empty_like(image[0])
    preparation = _preparation(model)
    opened = open_image(image[0], axes="c" + axis_names(model.facts.spatial_axes))
    preparation.measure(opened, channel_axis=0).apply(image[0], prepared)
    return image, model.runner()(prepared[None])


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _preparation(model: Model) -> Preparation:
    if model.preparation is not None:
        return model.preparation
    if model.normalize in ("zscore", "minmax"):
        return Preparation((Measured(model.normalize),))  # type: ignore[arg-type]
    if model.normalize == "percentile":
        return Preparation((Measured("percentile", (1.0, 99.8)),))
    return Preparation(())


def _card(model: Model, credits: Credits, hashes: dict[str, str]) -> dict[str, Any]:
    """The card, as the format's specification requires."""

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashes[name]}

    version = torch.__version__.partition("+")[0]
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": _title(model.name),
        "description": credits.description or f"{_plain(model.name)}, exported by Seamscope.",
        "authors": [{"name": name} for name in credits.authors],
        "cite": [{"text": credits.cite, "url": credits.url}],
        "license": credits.license,
        "documentation": "README.md",
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
        "inputs": [_input(model) | {"test_tensor": file("test_input.npy")}],
        "outputs": [_output(model) | {"test_tensor": file("test_output.npy")}],
        "weights": {"torchscript": file("weights.pt") | {"pytorch_version": version}},
        "config": {"seamscope": _measured(model)},
    }


def _plain(name: str) -> str:
    """A name of the letters that the format allows."""
    return re.sub(r"[^\w\- ()+]", " ", name).strip() or "model"


def _title(name: str) -> str:
    """A name of the lengths that the format allows: 5 to 128 letters."""
    plain = _plain(name)[:128]
    return plain if len(plain) >= 5 else f"{plain} network"


def _input(model: Model) -> dict[str, Any]:
    facts = model.facts
    space = [
        {"type": "space", "id": name, "size": lattice.fixed or {"min": low, "step": step}}
        for name, lattice, low, step in zip(
            axis_names(facts.spatial_axes),
            facts.lattice,
            _smallest(model),
            [lattice.increment for lattice in facts.lattice],
            strict=True,
        )
    ]
    names = [f"channel{i}" for i in range(facts.in_channels)]
    channel = {"type": "channel", "channel_names": names}
    steps = [each for step in _preparation(model).steps for each in _processing(model, step)]
    return {
        "id": "input",
        "axes": [{"type": "batch"}, channel, *space],
        "data": {"type": "float32"},
        "preprocessing": steps,
    }


def _output(model: Model) -> dict[str, Any]:
    space = []
    for name, lattice, halo in zip(
        axis_names(model.facts.spatial_axes), model.facts.lattice, _halo(model), strict=True
    ):
        size: Any = {
            "tensor_id": "input",
            "axis_id": name,
            "offset": -int(sum(lattice.crop) * lattice.scale),
        }
        axis = {"type": "space", "id": name, "size": size, "scale": float(1 / lattice.scale)}
        space.append(axis | ({"halo": halo} if halo and lattice.fixed is None else {}))
    names = [_plain(name).replace(" ", "_") for name in model.channels]
    channel = {"type": "channel", "channel_names": names}
    return {
        "id": "output",
        "axes": [{"type": "batch"}, channel, *space],
        "data": {"type": "float32"},
    }


def _halo(model: Model) -> tuple[int, ...]:
    """The measured reach in output pixels; the format knows one number for both sides."""
    sides = model.reach.useful
    if sides is None:
        return (0,) * model.facts.spatial_axes
    return tuple(
        int(np.ceil(max(side) * float(lattice.scale)))
        for side, lattice in zip(sides, model.facts.lattice, strict=True)
    )


def _smallest(model: Model) -> tuple[int, ...]:
    """Smallest tile that keeps something beside the declared halo."""
    return tuple(
        lattice.fixed
        or lattice.size_at_least(
            int(np.ceil(2 * halo / float(lattice.scale))) + sum(lattice.crop) + lattice.pitch
        )
        for halo, lattice in zip(_halo(model), model.facts.lattice, strict=True)
    )


def _processing(model: Model, step: Any) -> list[dict[str, Any]]:
    axes = list(axis_names(model.facts.spatial_axes))
    if isinstance(step, Measured):
        over = {"axes": (["channel"] if step.together else []) + axes, "eps": step.eps}
        if step.method == "zscore":
            return [{"id": "zero_mean_unit_variance", "kwargs": over}]
        low, high = step.percentiles if step.method == "percentile" else (0.0, 100.0)
        bounds = {"min_percentile": low, "max_percentile": high}
        return [{"id": "scale_range", "kwargs": over | bounds}]
    if isinstance(step, Scaled):
        numbers = {"gain": _one_or_list(step.gain), "offset": _one_or_list(step.offset)}
        along = {"axis": "channel"} if len(step.gain) > 1 else {}
        return [{"id": "scale_linear", "kwargs": numbers | along}]
    if isinstance(step, ByInput):
        raise ModelError(
            f"The inputs of {model.name} are prepared in different ways, and a package written "
            "here has one input: choose another format."
        )
    if isinstance(step, Clipped):
        return [{"id": "clip", "kwargs": {"min": step.low, "max": step.high}}]
    threshold = _one_or_list(step.threshold)
    along = {"axis": "channel"} if len(step.threshold) > 1 else {}
    return [{"id": "binarize", "kwargs": {"threshold": threshold} | along}]


def _one_or_list(values: Sequence[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def _measured(model: Model) -> dict[str, Any]:
    """What Seamscope measured, beyond what the card has fields for."""
    reach = model.reach
    return {
        "version": __version__,
        "fingerprint": model.fingerprint,
        "facts": str(model.facts),
        "sentence": model.describe(),
        "period": list(model.facts.period),
        "reach": None if reach.halo is None else [list(side) for side in reach.halo],
        "convolutional_reach": None
        if reach.convolutional is None
        else [list(side) for side in reach.convolutional],
    }


def _readme(model: Model, credits: Credits) -> str:
    about = credits.description or "No description was given when this network was exported."
    return "\n".join([
        f"# {_plain(model.name)}",
        "",
        about,
        "",
        "## Measured",
        "",
        f"- {model.facts}",
        f"- {describe(model.facts, model.reach)}",
        "",
        "Axes, sizes, step and halo in the model card were measured by Seamscope, not declared "
        "by hand.",
        "",
        "## Validation",
        "",
        "The test input and output were predicted by the network itself.",
        "",
    ])  # fmt: skip


__all__ = ["Credits", "Exported", "Kind", "export", "kind_of"]
