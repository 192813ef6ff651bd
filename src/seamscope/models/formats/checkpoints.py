"""Files of tensors: plain state dicts, dictionaries of training programs, pickled modules.

Knows how tensors are read without running anything, what a pickle would run, and how the tensors
of one network are found among others. Does not know where networks come from.

Lightning, torch-em, pytorch-3dunet, nnU-Net and everybody's own scripts put a network's weights
under different keys and prefixes. None of these programs is known here by name. Of all mappings in
a file, with any common prefix taken off, the one is used that gives the network all its tensors.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from seamscope.errors import ModelError
from seamscope.models.formats.archive import Archive
from seamscope.models.formats.format import Code, damaged, first_sentence
from seamscope.models.formats.parametrized import make_plain, plain_tensors, unexplained
from seamscope.models.formats.pickles import MOST_INSTRUCTIONS, Found, Name, follow
from seamscope.models.formats.readable import one_line
from seamscope.models.formats.sources import Sources, networks_in, serve

Source: TypeAlias = Path | bytes
Tensors: TypeAlias = dict[str, torch.Tensor]

_OF_STATISTICS = re.compile(r"\d+\.(mean|var|count)")  # as seamscope freeze writes them
_DEEPEST = 4  # mappings within mappings


# -- without running anything


def is_safetensors(source: Source) -> bool:
    """Return whether a file starts as safetensors does: a header's length, then JSON."""
    head, size = _head(source, 9), _size(source)
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size


def pickled(source: Source, name: str, *, always: bool = False) -> tuple[Code, ...]:
    """List what unpickling a file would run beyond rebuilding tensors and numbers.

    Parameters
    ----------
    source
        The file, or its bytes.
    name
        What to call it.
    always
        Whether it is unpickled whatever it looks like.

    Raises
    ------
    ModelError
        When reading it would take far more memory than its size.
    """
    if not always and is_safetensors(source):
        return ()
    found = _imports(source, name, always)
    if found is None:
        return ()  # no pickle, and never read as one
    try:
        _load_tensors(source, "meta")
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) or always:
            return _listed(found, source, name)
        # damaged: loading says so
    return ()


def _listed(found: Found, source: Source, name: str) -> tuple[Code, ...]:
    names = sorted(
        {each.dotted for each in found.names if not _rebuilds(each)},
        key=lambda dotted: (dotted.startswith(_OF_NETWORKS), dotted),
    )
    unknown = [f"{name}: {why}" for why in found.unknown]
    if not names and not unknown:
        return ()
    shown = [one_line(each) for each in names[:_MOST_NAMES]]
    shown += [f"and {len(names) - _MOST_NAMES} more"] * (len(names) > _MOST_NAMES)
    content = source if isinstance(source, bytes) else source.read_bytes()
    # classes of the user's own folders run as they are on this machine
    local = _local_classes(found)
    unknown += local.unknown
    text = "\n".join([*(f"unknown: {why}" for why in unknown), *map(one_line, names)])
    return (
        Code.of(
            f"Python objects pickled in {name} ({', '.join(shown) or 'unknown ones'})",
            content,
            *local.content,
            text="\n\n".join(part for part in (text, local.text) if part),
            unknown=unknown,
        ),
    )


def _local_classes(found: Found) -> Sources:
    modules = dict.fromkeys(each.dotted.rpartition(".")[0] for each in found.names)
    return Sources.of_modules(*modules, installed=False)


_OF_NETWORKS = ("torch.nn.", "torchvision.", "monai.", "collections.", "numpy.")
_MOST_NAMES = 40


def read_checkpoint(source: Source, name: str) -> Any:
    """Read a file of tensors; if `pickled` lists anything, it is trusted by now.

    Raises
    ------
    ModelError
        When it is damaged, or made of classes that are not installed.
    """
    try:
        if is_safetensors(source):
            _refuse_large_header(source, name)
            from safetensors.torch import load, load_file

            return load(source) if isinstance(source, bytes) else load_file(source)
        _refuse_no_pickle(source, name)
        if not pickled(source, name):
            return _load_tensors(source, "cpu")
        # From memory: torch then never takes it for the tar archives of its first years, which
        # unpack files to disk.
        data = source if isinstance(source, bytes) else source.read_bytes()
        found = _imports(data, name)
        if found is not None:
            serve(_local_classes(found))
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except ModelError:
        raise
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelError(
            f"{name} holds Python objects whose code is not here ({first_sentence(error)}): "
            "install the package they come from, or load only the weights with a factory."
        ) from error
    except Exception as error:
        raise damaged(name, "a network's weights", error) from error


_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # as torch decides


def _refuse_no_pickle(source: Source, name: str) -> None:
    """Refuse what is neither a zip archive nor a pickle, as torch writes them."""
    data = _head(source, 512)
    if name.endswith(".py"):
        found = networks_in(source if isinstance(source, bytes) else source.read_bytes())
        examples = " or ".join(f"{name}:{each}" for each in found) or f"{name}:Net(depth=3)"
        raise ModelError(
            f"{name} is Python source: say what in it builds the network, as in {examples}, "
            "and its weights, if there are any, as in ...@weights.pt."
        )
    if data[257:262] == b"ustar":
        raise ModelError(
            f"{name} is a tar archive, as PyTorch wrote them until 2017: load and save it with "
            "torch.load and torch.save on a machine that you can spare, and give the new file."
        )
    if not data.startswith((_ZIP, _PICKLE)):
        raise ModelError(
            f"{name} begins with {data[:12]!r}, as no file of PyTorch does: give a file of weights "
            "or of a network (.pt, .pth, .safetensors, .pt2, .onnx)."
        )


def _refuse_large_header(source: Source, name: str) -> None:
    size = int.from_bytes(_head(source, 8), "little")
    if size > _LARGEST_HEADER:
        raise ModelError(
            f"{name} has a safetensors header of {size:,} bytes, and at most {_LARGEST_HEADER:,} "
            "are read: save the weights again, with fewer tensors and less metadata."
        )


_LARGEST_HEADER = 16 << 20  # some 100,000 tensors
_LARGEST_PICKLE = 64 << 20  # without the tensors, which lie beside it


def _head(source: Source, count: int) -> bytes:
    if isinstance(source, bytes):
        return source[:count]
    with source.open("rb") as file:
        return file.read(count)


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _imports(source: Source, name: str, always: bool = False) -> Found | None:
    """Follow all pickles that torch would read; None where the file is none of torch's."""
    head = _head(source, 4)
    if head == _ZIP:
        parts = _pickles_in_zip(source, name)
    elif head.startswith(_PICKLE) or always:
        parts = _pickles_in_stream(_head(source, _LARGEST_PICKLE + 1), name)
    else:
        return None
    found = Found()
    for part in parts:
        found.add(part)
    if found.too_long:
        raise ModelError(
            f"{name} has a pickle of more than {MOST_INSTRUCTIONS:,} instructions, and weights of "
            "large networks need some ten thousand: save only the weights (state_dict) with "
            "torch.save."
        )
    if found.allocates > _LARGEST_PICKLE:
        raise ModelError(
            f"{name} would reserve {found.allocates:,} bytes for Python objects while it is read, "
            f"and at most {_LARGEST_PICKLE:,} are reserved: it is damaged, or made to fill the "
            "memory; do not use it."
        )
    return found


def _pickles_in_zip(source: Source, name: str) -> Iterator[Found]:
    archive = Archive.of_bytes(source, name) if isinstance(source, bytes) else Archive(source)
    members = [each for each in archive.names if each.endswith(".pkl")]
    contents = {each: archive.read(each, limit=_LARGEST_PICKLE) for each in members}
    try:
        opened: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        own = torch._C.PyTorchFileReader(opened).get_record("data.pkl")
    except RuntimeError:
        own = None  # torch cannot read it either: loading says so
    if own is not None and own not in contents.values():
        raise ModelError(
            f"{name} holds two tables of its members, with another data.pkl in each: it is "
            "damaged, or made to deceive; do not use it."
        )
    for content in contents.values():
        yield follow(content)[0]


def _pickles_in_stream(data: bytes, name: str) -> Iterator[Found]:
    """Follow the pickles of a file of torch before 1.6: number, version, system, object, keys."""
    start = 0
    for place in range(5):
        found, start, value = follow(data, start)
        if len(data) > _LARGEST_PICKLE and any("followed beyond" in why for why in found.unknown):
            raise ModelError(
                f"{name} is a pickle of more than {_LARGEST_PICKLE:,} bytes without its tensors, "
                "and no longer ones are read: save only the weights (state_dict) with torch.save."
            )
        yield found
        if (place == 0 and value != torch.serialization.MAGIC_NUMBER) or start >= len(data):
            return  # torch reads no further


def _opened(source: Source) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _load_tensors(source: Source, device: str) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(_numbers()):
        warnings.simplefilter("ignore", UserWarning)  # of pickle protocols torch itself dislikes
        return torch.load(_opened(source), map_location=device, weights_only=True)


@cache
def _numbers() -> list[Any]:
    """Return numpy's types; training programs log numbers beside the weights, as nnU-Net does.

    What rebuilds them runs nothing, and objects inside of them are restricted in the same way.
    """
    core = np.array(0).__reduce__()[0].__module__.rpartition(".")[0]  # numpy.core, numpy._core
    multiarray = __import__(f"{core}.multiarray", fromlist=["scalar"])
    kinds = {type(np.dtype(letter)) for letter in "?bBhHiIlLqQefdgFDSU"}
    old = [
        (getattr(multiarray, name), f"{package}.multiarray.{name}")
        for package in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ]
    return [*old, np.dtype, np.ndarray, *kinds]


_REBUILDS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch\.\w*Storage|torch\.\w+\d+|"
    r"torch\.(?:Size|device|nn\.parameter\.Parameter)|numpy(?:\.\w+)*\.(?:dtype|scalar|ndarray)"
)


def _rebuilds(name: Name) -> bool:
    """Whether a name only rebuilds tensors and numbers."""
    return "." not in name.name and _REBUILDS.fullmatch(f"{name.module}.{name.name}") is not None


# -- the network's own tensors


@dataclass(frozen=True)
class _Fit:
    """How one mapping's tensors, after a prefix, fit a network."""

    tensors: Tensors
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    shapes: tuple[str, ...]
    where: str

    @property
    def complaint(self) -> str:
        return "; ".join(
            [f"missing {_some(self.missing)}"] * bool(self.missing)
            + [f"unknown {_some(self.extra)}"] * bool(self.extra)
            + [_some(self.shapes)] * bool(self.shapes)
        )


def fill(
    network: nn.Module, content: Any, name: str, builder: str, *, ignore_extra: bool = False
) -> tuple[str, ...]:
    """Load a network's weights, or say in one sentence how they differ from its own.

    Parameters
    ----------
    network
        To be filled.
    content
        Whatever `read_checkpoint` gave: the weights may be anywhere in it, under any prefix.
    name, builder
        What to call the file and what built the network.
    ignore_extra
        Whether tensors that the network does not have are left out, where it lacks none.

    Returns
    -------
    notes
        What should be known of the choice.

    Raises
    ------
    ModelError
        When no mapping in the content gives the network all its tensors and nothing else.
    """
    fits = _all_fits(network, content)
    if not fits:
        raise ModelError(f"{name} holds no named tensors: give a checkpoint with a state dict.")
    notes: tuple[str, ...] = ()
    if _best(fits).missing or _best(fits).shapes:  # one of them may hold parts of weights
        make_plain(network)
        plain = _all_fits(network, content, computed=True)
        if not (_best(plain).missing or _best(plain).shapes):
            notes = (
                f"Weight normalization, spectral normalization or pruning in {name} differs from "
                f"that of {builder}: its weights are computed once and used as plain weights.",
            )
        fits = plain
    best = _best(fits)
    left_out = best.extra if ignore_extra and not (best.missing or best.shapes) else ()
    if best.complaint and not left_out:
        raise _no_fit(best, name, builder)
    own = network.state_dict()
    tensors = {key: best.tensors.get(short, own[key]) for short, key in _short(own).items()}
    network.load_state_dict(tensors)
    notes = (*notes, *_others_note(best, fits, name))
    if left_out:
        notes = (*notes, f"{name} also holds {_some(left_out)}, which {builder} does not have.")
    return notes


def _all_fits(network: nn.Module, content: Any, computed: bool = False) -> list[_Fit]:
    """How all mappings in a checkpoint fit; with weights computed from their parts."""
    state = network.state_dict()
    names = _short(state)
    own = {short: state[key] for short, key in names.items()}

    def plain(given: Tensors) -> Tensors:
        return plain_tensors(given, _transposed(network)) if computed else given

    return [fit for where, given in _placed(content) for fit in _fits(own, plain(given), where)]


def _transposed(network: nn.Module) -> Callable[[str], bool]:
    """Return whether a name, after any prefix, is of the weight of a transposed convolution."""
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    own = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    ends = tuple(f".{_unwrapped(f'{name}.weight')}" for name in own)
    return lambda name: f".{_unwrapped(name)}".endswith(ends)


def _best(fits: Sequence[_Fit]) -> _Fit:
    # max keeps the first of equals: the order of the file
    return max(fits, key=lambda fit: (not fit.complaint, len(fit.tensors) - len(fit.extra)))


def _no_fit(best: _Fit, name: str, builder: str) -> ModelError:
    said = f"The weights in {name} do not fit {builder}: {best.complaint}."
    if parts := unexplained(set(best.extra)):
        return ModelError(
            f"{said} The file holds parametrizations of {_some(parts)} from which the weight "
            "cannot be computed: let the factory build the network with the same parametrizations, "
            "or save the weights after torch.nn.utils.parametrize.remove_parametrizations."
        )
    remedy = "Check that factory, arguments and weights belong together"
    if not (best.missing or best.shapes):
        remedy += ", or leave out the unknown ones with `ignore_extra=True`"
    return ModelError(f"{said} {remedy}.")


def _others_note(best: _Fit, fits: Sequence[_Fit], name: str) -> tuple[str, ...]:
    """Say that a checkpoint holds other weights that fit as well, such as an average."""
    others = [
        fit.where
        for fit in fits
        if not fit.complaint and any(not torch.equal(best.tensors[k], fit.tensors[k])
                                     for k in best.tensors.keys() & fit.tensors.keys())
    ]  # fmt: skip
    if not others:
        return ()
    return (
        f"{name} holds {1 + len(others)} sets of weights that fit, and {best.where} is used. To "
        f"use {', '.join(others)} instead, save it to a file of its own.",
    )


def mappings(content: Any) -> Iterator[Tensors]:
    """All mappings of names to tensors in a checkpoint, outer ones first."""
    for _, found in _placed(content):
        yield {short: found[key] for short, key in _short(found).items()}


def _placed(content: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Tensors]]:
    """The same with the keys under which they lie."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    found = {k: v for k, v in content.items() if isinstance(k, str) and torch.is_tensor(v)}
    found = {k: v for k, v in found.items() if k.rpartition(".")[2] not in _COUNTED}
    if found:
        yield where, found
    for key, value in content.items():
        yield from _placed(value, f"{where}.{key}".lstrip("."), depth + 1)


# what compiled, parallel, checkpointed and sharded modules put into names, at any depth
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\."
)
# what profilers of operations leave behind in each module
_COUNTED = {"total_ops", "total_params"}


def _unwrapped(name: str) -> str:
    """Name of a tensor without the names of wrappers around its modules."""
    return _WRAPPERS.sub("", name)


def _short(names: Iterable[str]) -> dict[str, str]:
    """Names without those of wrappers, and the full ones; full ones where two would be alike."""
    full = list(names)
    times = Counter(map(_unwrapped, full))
    return {name if times[short := _unwrapped(name)] > 1 else short: name for name in full}


def _fits(own: Mapping[str, torch.Tensor], given: Tensors, where: str) -> Iterator[_Fit]:
    rarest = _rarest(own)
    prefixes = {""} | {prefix for key in given for prefix in _prefixes(key, rarest)}
    seen: list[dict[str, int]] = []
    for prefix in sorted(prefixes, key=len):
        named = {k[len(prefix) :]: v for k, v in given.items() if k.startswith(prefix)}
        tensors = {short: named[key] for short, key in _short(named).items()}
        same = {key: id(tensor) for key, tensor in tensors.items()}
        if same in seen:  # by a prefix that ends with the name of a wrapper
            continue
        seen.append(same)
        yield _Fit(
            tensors,
            # counters of training steps that some libraries drop on saving
            tuple(k for k in own if k not in tensors and not k.endswith("num_batches_tracked")),
            tuple(k for k in tensors if k not in own),
            tuple(_differing(own, tensors)),
            f"{where}.{prefix}".strip(".") or "the outermost level",
        )


def _prefixes(key: str, name: str) -> Iterator[str]:
    """What stands before a tensor's own name, with the names of wrappers anywhere."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        if _unwrapped(".".join(parts[count:])) == name:
            yield ".".join(parts[:count]) + "."


def _rarest(own: Mapping[str, torch.Tensor]) -> str:
    """Name that shows a prefix: the longest is least likely to end another by chance."""
    return max(own, key=len, default="")


def _differing(own: Mapping[str, torch.Tensor], given: Tensors) -> Iterator[str]:
    for name, tensor in own.items():
        if name in given and given[name].shape != tensor.shape:
            yield (f"{name} is {tuple(given[name].shape)}, the network's {tuple(tensor.shape)}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


# -- weights without their network


_LOOKS_LIKE = (
    ("conv_0.conv_0.conv.weight", "monai.networks.nets:BasicUNet(spatial_dims={d}{io})"),
    ("swinViT.", "monai.networks.nets:SwinUNETR(spatial_dims={d}{io})"),
    ("model.0.conv.unit0.conv.weight", "monai.networks.nets:UNet(spatial_dims={d}{io}, ...)"),
    ("segmentation_head.0.weight",
     "segmentation_models_pytorch:Unet(encoder_name='resnet34', encoder_weights=None, ...)"),
    ("encoders.0.basic_module.", "pytorch3dunet.unet3d.model:UNet{d}D(...)"),
    ("encoder.stages.0.0.convs.0.",
     "dynamic_network_architectures.architectures.unet:PlainConvUNet(...)"),
    ("decoder.samplers.0.conv.weight", "torch_em.model:UNet{d}d(...)"),
)  # fmt: skip


def only_weights(content: Any, name: str) -> ModelError:
    """Return the error for weights without a network, with the factory that they look like."""
    tensors = max(mappings(content), key=len, default={})
    if not tensors:
        return ModelError(f"{name} holds no named tensors: give a checkpoint with a state dict.")
    short = Path(name).name
    if all(_OF_STATISTICS.fullmatch(key) for key in tensors):
        return ModelError(
            f"{name} holds fixed statistics and no network: use it beside the network that they "
            "were found for (`statistics`)."
        )
    guess = _looks_like(tensors)
    likely = f", and they look like {guess}@{short}" if guess else ""
    many = f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}"
    return ModelError(
        f"{name} holds {many} and no network: say what builds it, as in "
        f"package.module:function@{short} or network.py:Net(depth=3)@{short}{likely}."
    )


def _looks_like(tensors: Tensors) -> str:
    kernels = [t for t in tensors.values() if t.ndim in (4, 5)]
    for part, factory in _LOOKS_LIKE:
        if kernels and any(f".{key}".find(f".{part}") >= 0 for key in tensors):
            channels = f", in_channels={kernels[0].shape[1]}, out_channels={kernels[-1].shape[0]}"
            return factory.format(d=kernels[0].ndim - 2, io=channels)
    return ""
