"""Packages of bioimage.io: folder, zip, or the ``rdf.yaml`` in a folder.

Knows what a package holds, which of its weights to use, and how its pre- and postprocessing are
honoured. Does not know the card's fields (see `seamscope.models.formats.model_card`).

Weights that need nothing to run are preferred: TorchScript, then a state dict with its Python
source, then ONNX. Preprocessing with statistics "per sample" takes them from the whole image
(`seamscope.images.preparation`), for each of several inputs by itself; they are fed as channels of
one image, in order, and refused where they cannot be. Postprocessing that looks at single pixels
becomes part of the network, and what needs a whole prediction is done after the last tile
(`seamscope.images.postprocessing`). The packages' own libraries (bioimageio.core) are not needed.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from seamscope.errors import ModelError
from seamscope.images.postprocessing import Matched, Postprocessing
from seamscope.images.preparation import (
    Binarized,
    ByInput,
    Clipped,
    Measured,
    Preparation,
    Scaled,
    Step,
    Unknown,
)
from seamscope.models.declared import Array, Declared, Vectors
from seamscope.models.formats.archive import Archive
from seamscope.models.formats.checkpoints import fill, pickled, read_checkpoint
from seamscope.models.formats.documents import LARGEST_YAML, read_yaml
from seamscope.models.formats.factories import (
    build,
    import_module,
    imported_code,
    module_from_source,
    sources_of,
)
from seamscope.models.formats.format import Code, Format, first_sentence
from seamscope.models.formats.model_card import Card, Processing, Tensor, file_of, read_card
from seamscope.models.formats.readable import python_text
from seamscope.models.formats.sources import Sources
from seamscope.models.formats.spec import Spec
from seamscope.models.formats.torchscript import load_script, refuse_gpu, script_code
from seamscope.models.formats.wrappers import (
    Above,
    Chosen,
    Clip,
    Finished,
    Linear,
    Rearranged,
    SplitInput,
    outputs_note,
    place_of,
)
from seamscope.models.input_search import Hints
from seamscope.models.model import Model

_CARDS = ("rdf.yaml", "bioimageio.yaml", "model.yaml", "rdf.yml", "model.yml")
_KINDS = ("torchscript", "pytorch_state_dict", "onnx")
BY = "Its bioimage.io package"


@dataclass(frozen=True)
class Package:
    """A package, of which only the card has been read."""

    archive: Archive
    card_name: str

    @classmethod
    def find(cls, path: Path) -> Package | None:
        """Return the package at a path; None where there is none."""
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return cls(Archive(path.parent), path.name)
        archive = Archive(path)
        found = next((name for name in _CARDS if name in archive), None)
        return None if found is None else cls(archive, found)

    @property
    def name(self) -> str:
        """What to call it."""
        return str(self.archive.path)

    @cached_property
    def card(self) -> Card:
        """What its card says."""
        name = f"{self.card_name} of {self.name}"
        data = self.archive.read(self.card_name, limit=LARGEST_YAML)
        return read_card(read_yaml(data, name), name)

    @cached_property
    def kind(self) -> str:
        """Kind of the weights that are used."""
        found = [kind for kind in _KINDS if self.card.weights.get(kind)]
        if not found:
            raise ModelError(
                f"{self.name} has weights for {', '.join(self.card.weights) or 'nothing'} only: "
                "get a package with TorchScript, a PyTorch state dict or ONNX."
            )
        # those in the package before those on the net, which are never fetched
        return min(found, key=lambda kind: _is_remote(file_of(self.card.weights[kind]) or ""))

    @property
    def weights(self) -> Mapping[str, Any]:
        """What the card says of these weights."""
        return self.card.weights[self.kind]

    def read(self, entry: Any) -> bytes:
        """Read a file the card refers to, and compare it with its checksum if there is one."""
        source = file_of(entry) or ""
        if _is_remote(source):
            raise ModelError(
                f"{self.name} refers to {source} on the net: download the whole package as a zip "
                "from bioimage.io and give that."
            )
        data = self.archive.read(source if source in self.archive else Path(source).name)
        wanted = entry.get("sha256") if isinstance(entry, Mapping) else None
        if wanted and hashlib.sha256(data).hexdigest() != wanted:
            raise ModelError(
                f"{source} in {self.name} is not the file its card was written for (another "
                "checksum): it is damaged or was replaced; get the package again."
            )
        return data


def _is_remote(source: str) -> bool:
    return re.match(r"https?://|10\.\d+/", source) is not None


def _package(spec: Spec) -> Package:
    package = Package.find(spec.path)
    assert package is not None
    return package


# -- what loading would run


def _code(spec: Spec) -> tuple[Code, ...]:
    package = _package(spec)
    source = file_of(package.weights) or "weights"
    data = package.read(package.weights)
    if package.kind == "torchscript":
        members = Archive.of_bytes(data, source)
        return script_code(members.read, members.names)
    if package.kind == "onnx":
        return ()
    return (_architecture_code(package), *pickled(data, source))


def _architecture_code(package: Package) -> Code:
    architecture = _Architecture.of(package)
    call = f"{architecture.callable}({dict(architecture.kwargs)!r})"
    what = f"{architecture.callable}() of {architecture.origin} in {package.archive.path.name}"
    if architecture.source is None:
        return imported_code(what, sources_of(str(architecture.module)), call)
    data = architecture.data(package)
    sources = Sources.of_text(data, architecture.origin)
    return imported_code(what, sources, data, call, text=python_text(data))


@dataclass(frozen=True)
class _Architecture:
    """What builds the network of a state dict."""

    callable: str
    kwargs: Mapping[str, Any]
    source: Any = None
    module: str | None = None

    @classmethod
    def of(cls, package: Package) -> _Architecture:
        entry = package.weights.get("architecture")
        if isinstance(entry, Mapping):  # 0.5
            kwargs = dict(entry.get("kwargs") or {})
            source = entry if "source" in entry else None
            return cls(str(entry["callable"]), kwargs, source, entry.get("import_from"))
        kwargs = dict(package.weights.get("kwargs") or {})
        file, colon, name = str(entry or "").rpartition(":")
        if colon:  # 0.4: network.py:Net
            source = {"source": file, "sha256": package.weights.get("architecture_sha256")}
            return cls(name, kwargs, source)
        module, dot, name = str(entry or "").rpartition(".")
        if dot:  # 0.4: package.module.Net
            return cls(name, kwargs, None, module)
        raise ModelError(f"{package.name} does not say what builds its network: get it again.")

    @property
    def origin(self) -> str:
        return str(self.module or file_of(self.source))

    def data(self, package: Package) -> bytes:
        return package.read(self.source)

    def build(self, package: Package) -> nn.Module:
        if self.source is None:
            module = import_module(str(self.module))
        else:
            module = module_from_source(self.data(package), self.origin)
        return build(module, self.callable, self.kwargs, self.origin)


# -- loading


def _load(spec: Spec) -> Model:
    package = _package(spec)
    card = package.card
    inputs = [each for each in card.inputs if not each.optional] or list(card.inputs[:1])
    names = tuple(each.name for each in card.outputs)
    place = place_of(names, spec.output, package.name)
    output = card.outputs[place]
    _check_inputs(inputs, output, package.name)
    network, notes = _network(package, _given(card))
    network = _arranged(network, inputs, output, place, len(card.outputs))
    steps, finishing, left_out = _postprocessing(output, inputs)
    preparation, warnings = _preparation(inputs)
    if len(inputs) > 1:
        notes += (_inputs_note(inputs),)
    notes += tuple(
        f"Its input {each.name} is optional and not given here."
        for each in card.inputs
        if each not in inputs
    )
    notes += outputs_note(names, spec.output)
    channels = _channels(inputs)
    first = inputs[0]
    method = preparation.name if preparation else "none"
    return Model(
        Finished(network, steps) if steps else network,
        name=card.name,
        spec=spec.text,
        hints=Hints(len(first.spatial), channels, _fixed(inputs)),
        channel_names=output.channel_names,
        normalize=method,
        preparation=preparation if method is None else None,
        postprocessing=finishing,
        declared=_declared(first, output, channels),
        outputs=names,
        vectors=lambda: _vectors(package, inputs, output, left_out),
        notes=(*notes, *warnings, *left_out),
        **_read_instead(package, network),
    )


def _given(card: Card) -> list[int | None]:
    """Channels of each input in the network's order; None for what is not given."""
    first = card.inputs[0]
    only_optional = all(each.optional for each in card.inputs)
    return [
        None if each.optional and not (only_optional and each is first) else each.channels or 1
        for each in card.inputs
    ]


def _inputs_note(inputs: Sequence[Tensor]) -> str:
    listed = ", ".join(f"{each.name} ({each.channels or 1})" for each in inputs)
    return f"It has {len(inputs)} inputs, which are channels of one image in this order: {listed}."


def _network(package: Package, given: Sequence[int | None]) -> tuple[nn.Module, tuple[str, ...]]:
    """Load the network as one that takes one tensor."""
    source = f"{file_of(package.weights)} in {package.name}"
    if package.kind == "onnx":
        from seamscope.models.formats.onnx import load_graph

        channels = [each for each in given if each is not None]
        return load_graph(_graph(package), source, channels)
    data = package.read(package.weights)
    network = _of_torch(package, data, source)
    return (SplitInput(network, given) if len(given) > 1 else network), ()


def _read_instead(package: Package, network: nn.Module) -> dict[str, Any]:
    if package.kind != "onnx":
        return {}
    from seamscope.models.formats.onnx import read_instead

    return read_instead(network, lambda: _graph(package))


def _graph(package: Package) -> bytes:
    """Read an ONNX graph, with the numbers that format 0.5 may keep in a second file."""
    from seamscope.models.formats.onnx import embedded

    more = package.weights.get("external_data")
    name = f"{file_of(package.weights)} in {package.name}"
    beside = None if more is None else lambda: package.read(more)
    return embedded(package.read(package.weights), name, beside)


def _of_torch(package: Package, data: bytes, source: str) -> nn.Module:
    if package.kind == "torchscript":
        members = Archive.of_bytes(data, source)
        for name in members.names:
            if name.endswith(".py"):
                refuse_gpu(members.read(name).decode(errors="replace"), source)
        return load_script(data, source)
    network = _Architecture.of(package).build(package)
    fill(network, read_checkpoint(data, source), source, _Architecture.of(package).callable)
    return network


def _check_inputs(inputs: Sequence[Tensor], output: Tensor, name: str) -> None:
    """Refuse tensors that are no images, and inputs that cannot be channels of one."""
    for tensor in (*inputs, output):
        if set(tensor.axes) - set("bczyx") or len(tensor.spatial) < 2:
            raise ModelError(
                f"{name}: {tensor.name} has the axes {tensor.axes}, and images have b, c and two "
                "or three of zyx: this network does not map images to images."
            )
    first = inputs[0]
    for each in inputs[1:]:
        why = _apart(first, each)
        if why:
            raise ModelError(
                f"{name} takes {len(inputs)} inputs, and {why}: they cannot be channels of one "
                "image; wrap the network in one that takes a single image."
            )


def _apart(first: Tensor, other: Tensor) -> str:
    """Why two inputs cannot be channels of one image; empty where they can."""
    wanted = "bc" + first.spatial
    for tensor in (first, other):
        if tensor.axes != wanted:
            return f"{tensor.name} has the axes {tensor.axes} and not {wanted}"
        if tensor.channels is None:
            return f"{tensor.name} does not say how many channels it has"
    for place in range(2, len(wanted)):
        sizes = [(each.smallest[place], each.step[place]) for each in (first, other)]
        fixed = {size for size, step in sizes if step == 0}
        if len(fixed) > 1 or _on_another_grid(first, other, place):
            return f"{first.name} and {other.name} have different sizes along {wanted[place]}"
    return ""


def _on_another_grid(first: Tensor, other: Tensor, place: int) -> bool:
    if not first.grid:  # format 0.4 has none
        return False
    (scale, _), (own, offset) = first.grid[place], other.grid[place]
    return scale != own or offset != 0


def _arranged(
    network: nn.Module, inputs: list[Tensor], output: Tensor, place: int, outputs: int
) -> nn.Module:
    """Bring a network to one image in, one image out."""
    if outputs > 1:
        network = Chosen(network, str(place))
    if (inputs[0].axes, output.axes) != ("bc" + inputs[0].spatial, "bc" + inputs[0].spatial):
        network = Rearranged(network, inputs[0].axes, output.axes, _flat(inputs[0], output))
    return network


def _flat(given: Tensor, output: Tensor) -> str:
    """Spatial axes of size 1 that an output has and its input has not."""
    return "".join(
        letter
        for letter in output.spatial
        if letter not in given.spatial
        and output.along(output.smallest, letter) == (1,)
        and output.along(output.step, letter) == (0,)
    )


def _channels(inputs: Sequence[Tensor]) -> int | None:
    counts = [each.channels for each in inputs]
    return None if None in counts else sum(count or 0 for count in counts)


def _fixed(inputs: Sequence[Tensor]) -> tuple[int, ...] | None:
    """The one shape a network takes, where its card allows no other."""
    for each in inputs:
        steps, sizes = (each.along(v, each.spatial) for v in (each.step, each.smallest))
        if all(step == 0 for step in steps) and None not in sizes:
            return tuple(int(size) for size in sizes)
    return None


def _declared(given: Tensor, output: Tensor, channels: int | None) -> Declared:
    spatial = given.spatial
    step, smallest = (given.along(v, spatial) for v in (given.step, given.smallest))
    shown = output.spatial.translate({ord(letter): None for letter in _flat(given, output)})
    halo = output.along(output.halo, spatial) if shown == spatial else None
    return Declared(
        BY,
        spatial,
        halo=halo,
        step=None if None in step else step,
        smallest=None if None in smallest else smallest,
        channels=channels,
    )


# -- before and after the network


def _preparation(inputs: Sequence[Tensor]) -> tuple[Preparation | None, tuple[str, ...]]:
    """Return the normalization of each input, and notes on it."""
    notes: list[str] = []
    parts = []
    for tensor in inputs:
        steps = (_step(each, tensor, notes) for each in tensor.processing)
        parts.append(Preparation(tuple(step for step in steps if step is not None)))
    first = parts[0]
    alike = all(part == first for part in parts) and (first.name or not first.steps)
    if len(parts) > 1 and not alike:
        counts = [tensor.channels or 1 for tensor in inputs]
        first = Preparation((ByInput(tuple(zip(counts, parts, strict=True))),))
    return (first if first.steps else None), tuple(dict.fromkeys(notes))


def _step(each: Processing, tensor: Tensor, notes: list[str]) -> Step | None:
    kwargs = each.kwargs
    if tensor.letters([kwargs.get("axis", "channel")]) != "c":
        why = f"Its {each.name} has a value for each place along {kwargs['axis']}"
        return _unknown(f"{why}, which is not known here.", notes)
    match each.name:
        case "ensure_dtype":
            return None  # networks are run in float32
        case "binarize":
            return Binarized(_many(kwargs["threshold"]))
        case "clip" if "min_percentile" not in kwargs and "max_percentile" not in kwargs:
            return Clipped(kwargs.get("min"), kwargs.get("max"))
        case "scale_linear":
            return _scaled(kwargs.get("gain", 1.0), kwargs.get("offset", 0.0))
        case "fixed_zero_mean_unit_variance":
            return _standardized(kwargs)
        case "zero_mean_unit_variance" if kwargs.get("mode") == "fixed":
            return _standardized(kwargs)
        case "zero_mean_unit_variance" | "scale_range":
            return _measured(each, tensor, notes)
    return _unknown(f"Its preprocessing {each.name} is not known here.", notes)


def _unknown(why: str, notes: list[str]) -> Unknown:
    """Note an operation that is not known; a run then needs another normalization."""
    notes.append(why)
    return Unknown(why)


def _scaled(gain: Any, offset: Any) -> Scaled:
    gains, offsets = _many(gain), _many(offset)
    count = max(len(gains), len(offsets))
    return Scaled(gains * (count // len(gains)), offsets * (count // len(offsets)))


def _standardized(kwargs: Mapping[str, Any]) -> Scaled:
    """``(x - mean) / (std + eps)`` by numbers of the card."""
    eps = float(kwargs.get("eps", 1e-6))
    mean, std = _many(kwargs["mean"]), _many(kwargs["std"])
    gain = tuple(1 / (each + eps) for each in std)
    return _scaled(gain, tuple(-m * g for m, g in zip(mean, gain, strict=True)))


def _measured(each: Processing, tensor: Tensor, notes: list[str]) -> Measured | Unknown:
    kwargs = each.kwargs
    axes = tensor.letters(kwargs.get("axes"))
    lacking = [letter for letter in tensor.spatial if letter not in axes]
    other = kwargs.get("reference_tensor")
    if lacking:
        slices = " and ".join(lacking)
        why = f"Its {each.name} takes statistics of each {slices} by itself, not of the whole image"
        return _unknown(f"{why}, which is not known here.", notes)
    if other not in (None, tensor.name):
        why = f"Its {each.name} scales {tensor.name} by statistics of {other}"
        return _unknown(f"{why}, which is not known here.", notes)
    eps, together = float(kwargs.get("eps", 1e-6)), "c" in axes and (tensor.channels or 2) > 1
    if each.name == "zero_mean_unit_variance":
        return Measured("zscore", eps=eps, together=together)
    low, high = float(kwargs.get("min_percentile", 0.0)), float(kwargs.get("max_percentile", 100.0))
    kind = "minmax" if (low, high) == (0.0, 100.0) else "percentile"
    return Measured(kind, (low, high), eps, together)  # type: ignore[arg-type]


def _many(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),)


def _postprocessing(
    output: Tensor, inputs: Sequence[Tensor]
) -> tuple[list[nn.Module], Postprocessing | None, tuple[str, ...]]:
    """Return modules for each tile, operations on the whole prediction, and notes.

    From the first operation on that needs the whole prediction.
    """
    steps: list[nn.Module] = []
    wanted = [each for each in output.processing if each.name != "ensure_dtype"]
    for place, each in enumerate(wanted):
        step = _finish(each, output)
        if step is None:
            rest = [_of_all(one, output, inputs) for one in wanted[place:]]
            known = tuple(one for one in rest if one is not None)
            if len(known) == len(rest):
                return steps, Postprocessing(known), ()
            names = ", ".join(one.name for one in wanted[place:])
            return steps, None, (f"Its postprocessing {names} is not known here and left out.",)
        steps.append(step)
    return steps, None, ()


def _of_all(each: Processing, output: Tensor, inputs: Sequence[Tensor]) -> Step | Matched | None:
    """Return an operation on the whole prediction; None where it is not known here."""
    if each.name == "scale_mean_variance":
        return _matched(each, output, inputs)
    step = _step(each, output, [])
    return None if isinstance(step, Unknown) else step


def _matched(each: Processing, output: Tensor, inputs: Sequence[Tensor]) -> Matched | None:
    kwargs = each.kwargs
    axes = output.letters(kwargs.get("axes"))
    given, made = inputs[0].channels, output.channels
    apart = "c" not in axes and (given is None or given != made)
    mixed = "c" in axes and given != 1
    lacking = any(letter not in axes for letter in output.spatial)
    if len(inputs) > 1 or kwargs.get("reference_tensor") != inputs[0].name or apart or mixed:
        return None
    return None if lacking else Matched(float(kwargs.get("eps", 1e-6)), "c" in axes)


def _finish(each: Processing, output: Tensor) -> nn.Module | None:
    kwargs = each.kwargs
    if output.letters([kwargs.get("axis", "channel")]) != "c":
        return None
    match each.name:
        case "sigmoid":
            return nn.Sigmoid()
        case "softmax":
            return nn.Softmax(1)
        case "binarize" if not isinstance(kwargs["threshold"], (list, tuple)):
            return Above(float(kwargs["threshold"]))
        case "clip" if "min_percentile" not in kwargs and "max_percentile" not in kwargs:
            return Clip(kwargs.get("min"), kwargs.get("max"))
        case "scale_linear":
            scaled = _scaled(kwargs.get("gain", 1.0), kwargs.get("offset", 0.0))
            return Linear(scaled.gain, scaled.offset)
        case "fixed_zero_mean_unit_variance":
            scaled = _standardized(kwargs)
            return Linear(scaled.gain, scaled.offset)
    return None


# -- test vectors


def _vectors(
    package: Package, inputs: Sequence[Tensor], output: Tensor, left_out: tuple[str, ...]
) -> Vectors:
    if left_out:
        raise ModelError(f"{package.name} cannot be verified. {left_out[0]}")
    absent = next((each for each in package.card.inputs if each.optional and each.test), None)
    if absent is not None and absent not in inputs:
        raise ModelError(
            f"{package.name} cannot be verified: its test output was made with the optional input "
            f"{absent.name}, which is not given here."
        )
    images = [_test_tensor(package, each) for each in inputs]
    shapes = [image.shape[1:] for image in images]
    if len(set(shapes)) > 1:
        raise ModelError(
            f"{package.name} cannot be verified: its test inputs have the sizes "
            f"{', '.join(map(str, shapes))} and are no channels of one image."
        )
    return Vectors(np.concatenate(images), _test_tensor(package, output, _flat(inputs[0], output)))


def _test_tensor(package: Package, tensor: Tensor, without: str = "") -> Array:
    """Read a test tensor as ``(C, *spatial)``, the first of its batch."""
    if tensor.test is None:
        raise ModelError(f"{package.name} cannot be verified: it has no test data.")
    try:
        array: Array = np.load(io.BytesIO(package.read(tensor.test)), allow_pickle=False)
    except (ValueError, MemoryError, EOFError) as error:
        raise ModelError(
            f"{tensor.test} in {package.name} is no plain array ({first_sentence(error)}): the "
            "package cannot be verified."
        ) from error
    axes = tensor.axes
    for letter in "b" + without:
        if letter in axes:
            array, axes = array.take(0, axes.index(letter)), axes.replace(letter, "")
    array = array.transpose([axes.index(letter) for letter in "czyx" if letter in axes])
    return array if "c" in axes else array[None]


BIOIMAGEIO = Format("bioimage.io package", lambda s: Package.find(s.path) is not None, _code, _load)

__all__ = ["BIOIMAGEIO", "BY", "Package"]
