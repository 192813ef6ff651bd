"""ONNX graphs: converted to PyTorch where that is possible, else run by onnxruntime.

Knows both ways and what the second one lacks. Does not know networks.

The converter (onnx2torch) knows operations up to a certain version; newer graphs are brought to
that first. What it made is compared with onnxruntime where that is installed, since a converter
may be wrong without an error. ONNX files hold data and names of operations: loading runs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seamscope.errors import ModelError
from seamscope.models.formats.checkpoints import is_safetensors
from seamscope.models.formats.format import Format, damaged, first_sentence, missing, no_code
from seamscope.models.formats.onnx_operations import convertible
from seamscope.models.formats.readable import one_line
from seamscope.models.formats.rounding import agree, several
from seamscope.models.formats.spec import Spec
from seamscope.models.formats.wrappers import (
    Chosen,
    FixedBatch,
    SplitInput,
    evaluate,
    one_image,
    one_output,
)
from seamscope.models.input_search import Hints
from seamscope.models.model import Model
from seamscope.normalization.audit import Audit

_KNOWN_VERSION = 17  # of operations, to onnx2torch 1.5
_TRIED = (64, 96, 128, 256, 32, 48, 16)  # sizes with which both ways are compared


def is_onnx(path: Path) -> bool:
    """Judge by the first fields of a protocol buffer: version of the format, then a text.

    ONNX has no magic number.
    """
    if not path.is_file() or is_safetensors(path):  # whose header may be as long as that
        return False
    with open(path, "rb") as file:
        head = file.read(3)
    # field 1 is a small number; then a field of bytes: producer, its version, domain, graph ...
    return len(head) == 3 and head[0] == 0x08 and 1 <= head[1] <= 32 and head[2] & 7 in (0, 2)


def load_graph(
    source: Path | bytes, name: str, channels: Sequence[int] = ()
) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a graph as a module that takes one tensor.

    Parameters
    ----------
    source, name
        The file or its bytes, and what to call it.
    channels
        Of each input, where the graph does not say.

    Returns
    -------
    module
        Gives a tensor, or a tuple of tensors in the order of the graph's outputs.
    notes
        What its user should know.
    """
    data = _bytes(source, name)
    parts = _read_channels(data, name, channels)
    try:
        module, reason = _one_tensor(_converted(data), parts), ""
    except ImportError as error:
        lacking = f'{error.name} is not installed (pip install "seamscope[onnx]")'
        module, reason = None, lacking if error.name else str(error)
    except Exception as error:  # converters fail in many ways, torchvision of another build too
        module, reason = None, f"onnx2torch cannot convert it ({first_sentence(error)})"
    if module is not None:
        reason = _difference(module, data, parts) or ""
    if module is not None and not reason:
        return FixedBatch(module, _sizes(data, parts)[0]), ()
    if importlib.util.find_spec("onnxruntime") is None:
        raise missing("onnxruntime", f"{name} is an ONNX file, and running it")
    try:
        forward_only = OnnxSession(data)
        forward_only.session  # noqa: B018  (made now, so that errors are raised here)
    except Exception as error:
        raise damaged(name, "ONNX", error) from error
    runs = FixedBatch(_one_tensor(forward_only, parts), _sizes(data, parts)[0])
    return runs, (_forward_only(reason), *_rounded_places(data))


def _one_tensor(module: nn.Module, channels: Sequence[int]) -> nn.Module:
    return SplitInput(module, channels) if len(channels) > 1 else module


def _read_channels(data: bytes, name: str, known: Sequence[int]) -> list[int]:
    if not any(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        raise missing("onnxruntime", f"{name} is an ONNX file, and running it")
    try:
        return _channels(data, known)
    except ModelError:
        raise
    except Exception as error:
        raise damaged(name, "ONNX", error) from error


def _channels(data: bytes, known: Sequence[int]) -> list[int]:
    """Channels of each of several inputs; empty for a graph with one."""
    shapes = _shapes(data)
    if len(shapes) < 2:
        return []
    if len(known) == len(shapes):
        shapes = [[shape[0], count, *shape[2:]] for shape, count in zip(shapes, known, strict=True)]
    one_image(shapes, "The ONNX graph")
    return [shape[1] or 0 for shape in shapes]


def _bytes(source: Path | bytes, name: str) -> bytes:
    """Read the graph with its weights, which may lie in a file beside it."""
    if isinstance(source, bytes):
        return source
    if importlib.util.find_spec("onnx") is None:
        return source.read_bytes()
    import onnx

    try:
        graph = onnx.load(str(source), load_external_data=False)
        tensors = _external(graph)
    except Exception as error:
        raise damaged(name, "ONNX", error) from error
    if not tensors:
        return source.read_bytes()
    for tensor in tensors:
        _check_external(tensor, source.parent, name)
    try:
        onnx.load_external_data_for_model(graph, str(source.parent))
        return bytes(graph.SerializeToString())
    except Exception as error:
        raise damaged(name, "ONNX", error) from error


def embedded(data: bytes, name: str, beside: Callable[[], bytes] | None) -> bytes:
    """Return a graph that holds all its numbers.

    Parameters
    ----------
    data, name
        The graph, and what to call it.
    beside
        Reads the one file in which others of its numbers are; None where there is none.

    Raises
    ------
    ModelError
        When numbers are missing.
    """
    if importlib.util.find_spec("onnx") is None:
        return data
    import onnx

    try:
        graph = onnx.load_from_string(data)
        tensors = _external(graph)
    except Exception as error:
        raise damaged(name, "ONNX", error) from error
    if not tensors:
        return data
    numbers = b"" if beside is None else beside()
    for tensor in tensors:
        entries = {each.key: each.value for each in tensor.external_data}
        start, length = int(entries.get("offset") or 0), _bytes_needed(tensor)
        if start + length > len(numbers):
            raise ModelError(
                f"{name} keeps {one_line(tensor.name)!r} in another file, which its package does "
                "not declare (external_data) or which is too short: get the whole package again."
            )
        tensor.raw_data = numbers[start : start + length]
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return bytes(graph.SerializeToString())


def _bytes_needed(tensor: Any) -> int:
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims) * kind.itemsize)


def _external(graph: Any) -> list[Any]:
    """Tensors whose numbers lie in another file, in the graph and in the graphs within it."""
    import onnx

    def within(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for inner in (attribute.g, *attribute.graphs):
                    if inner.node or inner.initializer:
                        yield from within(inner)

    return [each for each in within(graph.graph) if each.data_location == onnx.TensorProto.EXTERNAL]


def _check_external(tensor: Any, folder: Path, name: str) -> None:
    """Refuse data outside of the graph's folder, or of another size than the tensor's shape."""
    entries = {each.key: each.value for each in tensor.external_data}
    location = entries.get("location", "")
    file = (folder / location).resolve()
    shown = f"{one_line(name)} keeps {one_line(tensor.name)!r} in {one_line(location)!r}"
    if not file.is_relative_to(folder.resolve()):
        raise ModelError(
            f"{shown}, outside of its folder, where nothing is read: put the file beside it and "
            "save it again (onnx.save_model with save_as_external_data)."
        )
    if not file.is_file():
        raise ModelError(f"{shown}, which is not there: copy that file too, into the same folder.")
    needed = _bytes_needed(tensor)
    length = int(entries.get("length") or needed)
    if length > max(needed, 8) or length > file.stat().st_size:
        raise ModelError(
            f"{shown}: {length:,} bytes of it, where its shape needs {needed:,} and the file has "
            f"{file.stat().st_size:,}: it is damaged; copy both files again."
        )


def _converted(data: bytes) -> nn.Module:
    try:
        onnx2torch = importlib.import_module("onnx2torch")
    except RuntimeError as error:
        raise ImportError(
            f"onnx2torch cannot be imported ({first_sentence(error)}; torchvision must be of the "
            "same build as torch)"
        ) from error
    import onnx
    from onnx import version_converter

    # of its own way to slice, at every run
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
    graph = onnx.load_from_string(data)
    convertible(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = onnx2torch.convert(graph)
        except NotImplementedError:
            module = onnx2torch.convert(version_converter.convert_version(graph, _KNOWN_VERSION))
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):  # it is read from sizes that the graph leaves open
            layer.normalized_shape = tuple(layer.weight.shape)
    return evaluate(module)


def _difference(module: nn.Module, data: bytes, parts: Sequence[int]) -> str | None:
    """Return why a converted graph cannot be used; None where it agrees with onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    session = _one_tensor(OnnxSession(data), parts)
    sizes = _sizes(data, parts)
    for size in _TRIED:
        shape = [
            n if n is not None else (size if place > 1 else 1) for place, n in enumerate(sizes)
        ]
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            expected = session(x)
        except Exception:  # a size that is not taken
            continue
        try:
            same = all(
                agree(Chosen(module, str(place)), x, each)
                for place, each in enumerate(several(expected))
            )
        except Exception as error:  # whatever a converted graph raises
            return f"what onnx2torch makes of it does not run ({first_sentence(error)})"
        return None if same else "what onnx2torch makes of it gives other predictions"
    return None


def _forward_only(reason: str) -> str:
    return (
        f"It runs through onnxruntime, on the CPU and forward only, since {reason}: gradient maps, "
        "fixed statistics and features of its normalization and faster equivalents are not "
        "available."
    )


_AT_PLACES = {"GridSample", "GatherElements", "GatherND"}


def _rounded_places(data: bytes) -> Iterator[str]:
    """Say that a network is judged in float32 that would have to be judged in float64."""
    if importlib.util.find_spec("onnx") is None:
        return
    import onnx

    found = _AT_PLACES.intersection(n.op_type for n in onnx.load_from_string(data).graph.node)
    if found:
        yield (
            f"It reads at places that it computes ({', '.join(sorted(found))}), and onnxruntime "
            "rounds these to float32: its period and halo may be measured too large or too small. "
            "Load it in another format, or so that onnx2torch converts it."
        )


def read_instead(module: nn.Module, read: Callable[[], bytes]) -> dict[str, Any]:
    """What of a `Model` is read from a graph that onnxruntime runs; nothing where it is watched.

    Parameters
    ----------
    module
        As `load_graph` gave it.
    read
        Reads the file.
    """
    if not any(isinstance(part, OnnxSession) for part in module.modules()):
        return {}

    def layers() -> Audit:
        _require_onnx("Reading the layers of an ONNX graph")
        from seamscope.models.formats.onnx_audit import read_audit

        return read_audit(read())

    def memory(shape: Sequence[int]) -> int:
        _require_onnx("Computing the memory of an ONNX graph")
        from seamscope.models.formats.onnx_audit import memory_of

        return memory_of(read(), shape)

    return {"read_audit": layers, "read_memory": memory}


def _require_onnx(what: str) -> None:
    if importlib.util.find_spec("onnx") is None:
        raise missing("onnx", what)


def _sizes(data: bytes, channels: Sequence[int] = ()) -> list[int | None]:
    """Sizes of the one image that goes in, None where any will do."""
    shapes = _shapes(data)
    if len(channels) == len(shapes) > 1:
        shapes = [[s[0], count, *s[2:]] for s, count in zip(shapes, channels, strict=True)]
    return one_image(shapes, "The ONNX graph")


def _shapes(data: bytes) -> list[list[int | None]]:
    """Sizes of each input, None where any will do."""
    if importlib.util.find_spec("onnx") is None:
        shapes = [each.shape for each in OnnxSession(data).session.get_inputs()]
    else:
        import onnx

        graph = onnx.load_from_string(data).graph
        weights = {each.name for each in graph.initializer}
        shapes = [
            [d.dim_value or d.dim_param for d in each.type.tensor_type.shape.dim]
            for each in graph.input
            if each.name not in weights
        ]
    return [[n if isinstance(n, int) and n > 0 else None for n in shape] for shape in shapes]


_TYPES = {"tensor(float16)": torch.float16, "tensor(double)": torch.float64}
"""Types of inputs that a float32 image is cast to."""


class OnnxSession(nn.Module):
    """A graph run by onnxruntime, on the CPU.

    Its bytes are a buffer, so that it has a fingerprint and can be copied to another process.

    Parameters
    ----------
    data
        The file.

    Notes
    -----
    onnxruntime loses NaN in ReLU and pooling, with which reach is measured: inputs that have some
    are run through a graph that keeps them (see `seamscope.models.formats.onnx_nan`).
    """

    graph: torch.Tensor

    def __init__(self, data: bytes) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that bytes cannot be written to
            self.register_buffer("graph", torch.frombuffer(data, dtype=torch.uint8))
        self._session: Any = None
        self._spreading: Any = None

    @property
    def session(self) -> Any:
        """The session, made when first used."""
        if self._session is None:
            self._session = _session(self._bytes())
        return self._session

    def _for(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Session for these inputs."""
        finite = not any(bool(torch.isnan(x).any()) for x in inputs)
        if finite or importlib.util.find_spec("onnx") is None:
            return self.session
        if self._spreading is None:
            from seamscope.models.formats.onnx_nan import with_spreading_nan

            self._spreading = _session(with_spreading_nan(self._bytes()))
        return self._spreading

    def _bytes(self) -> bytes:
        return self.graph.cpu().numpy().tobytes()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the sessions behind."""
        return {**self.__dict__, "_session": None, "_spreading": None}

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the graph."""
        session = self._for(inputs)
        given = {
            each.name: x.detach()
            .to(_TYPES.get(each.type, torch.float32))
            .cpu()
            .contiguous()
            .numpy()
            for each, x in zip(session.get_inputs(), inputs, strict=True)
        }
        found = session.run(None, given)
        made = (torch.from_numpy(each).to(inputs[0].device) for each in found)
        tensors = tuple(y.float() if y.is_floating_point() else y for y in made)
        return tensors[0] if len(tensors) == 1 else tensors


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _load(spec: Spec) -> Model:
    module, notes = load_graph(spec.path, str(spec.path))
    runs = module
    sizes = _sizes(_bytes(spec.path, str(spec.path)))
    spatial = sizes[2:]
    fixed = tuple(n for n in spatial if n is not None)
    names = _outputs(spec.path)
    if len(names) > 1:
        module, chosen = one_output(module, names, spec.output, str(spec.path))
        notes = (*chosen, *notes)
    return Model(
        module,
        name=spec.path.stem,
        spec=spec.text,
        hints=Hints(
            len(spatial) if len(spatial) in (2, 3) else None,
            sizes[1] if len(sizes) > 1 else None,
            fixed if fixed and len(fixed) == len(spatial) else None,
        ),
        outputs=names if len(names) > 1 else None,
        notes=notes,
        **read_instead(runs, lambda: _bytes(spec.path, str(spec.path))),
    )


def _outputs(path: Path) -> tuple[str, ...]:
    if importlib.util.find_spec("onnx") is not None:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        return tuple(each.name for each in graph.output)
    session = OnnxSession(io.FileIO(path).readall()).session
    return tuple(each.name for each in session.get_outputs())


ONNX = Format("ONNX", lambda spec: is_onnx(spec.path), no_code, _load)
