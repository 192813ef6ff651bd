"""TorchScript, scripted or traced.

Knows its archive, and which of its operations touch files. Does not know networks.

TorchScript's own interpreter runs no Python, but it can write and map files. Code that does so is
listed like any other.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from seamscope.errors import ModelError
from seamscope.models.formats.archive import Archive
from seamscope.models.formats.format import Code, Format, damaged
from seamscope.models.formats.readable import one_line
from seamscope.models.formats.spec import Spec
from seamscope.models.formats.wrappers import SplitInput, one_output
from seamscope.models.model import Model

# Blanks, comments and continued lines may stand between the parts of a name.
_TOUCHES_FILES = re.compile(
    r".*\.(?:\s|\\|#[^\n]*\n)*(?:save|from_file|load_tensor|load_library|classes)\b.*"
)
_MOST_LINES = 40
_GPU = re.compile(r"""torch\.device\("(cuda[:\d]*|mps[:\d]*|xpu[:\d]*)"\)""")


def is_script(names: tuple[str, ...]) -> bool:
    """Whether an archive of these members is TorchScript."""
    low = [name.lower() for name in names]
    return any(name.rpartition("/")[2] == "constants.pkl" for name in low) and any(
        "/code/" in f"/{name}" for name in low
    )


def script_code(read: Callable[[str], bytes], names: tuple[str, ...]) -> tuple[Code, ...]:
    """List operations of a script that touch files, one line each."""
    found: list[Code] = []
    for name in names:
        # torch finds members whether their letters are small or not
        if "/code/" in f"/{name.lower()}" and name.lower().endswith(".py"):
            text = read(name).decode(errors="replace")
            lines = [" ".join(line.split()) for line in _TOUCHES_FILES.findall(text)]
            if lines:
                whole = Code.of("", text, text=text)
                shown = [f"{line} in {name}" for line in lines[:_MOST_LINES]]
                if len(lines) > _MOST_LINES:
                    shown.append(f"{len(lines) - _MOST_LINES} more such lines in {name}")
                found += [dataclasses.replace(whole, what=one_line(line)) for line in shown]
    return tuple(found)


def load_script(source: Path | bytes, name: str) -> torch.nn.Module:
    """Load TorchScript from a file or its bytes, onto the CPU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
            opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
            network: torch.nn.Module = torch.jit.load(opened, map_location="cpu")
    except Exception as error:
        raise damaged(name, "TorchScript", error) from error
    return network


def _code(spec: Spec) -> tuple[Code, ...]:
    archive = Archive(spec.path)
    return script_code(archive.read, archive.names)


def _load(spec: Spec) -> Model:
    archive = Archive(spec.path)
    for name in archive.names:
        if name.endswith(".py"):
            refuse_gpu(archive.read(name).decode(errors="replace"), str(spec.path))
    network = load_script(spec.path, str(spec.path))
    module = _one_tensor(network, str(spec.path))
    names = _outputs(network)
    notes: tuple[str, ...] = ()
    if names:
        module, notes = one_output(module, names, spec.output, str(spec.path))
    return Model(module, name=spec.path.stem, spec=spec.text, outputs=names, notes=notes)


def _outputs(network: torch.nn.Module) -> tuple[str, ...] | None:
    """Return the numbers of its outputs, where it has several; None where only running shows them.

    Of named tuples the type has no names.
    """
    forward: Any = network.forward
    given = forward.schema.returns[0].type
    if not given.annotation_str.startswith("Tuple[") or len(given.elements()) < 2:
        return None
    return tuple(map(str, range(len(given.elements()))))


def _one_tensor(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """The network as it is, or with its several inputs fed as channels of one image.

    A script does not say how many channels an input has, so numbers of channels are tried.
    """
    count = _tensors(network)
    if count < 2:
        return network
    accepted = [counts for counts in _channel_counts(count) if _accepts(network, counts)]
    if len(accepted) != 1:
        raise ModelError(
            f"{name} takes {count} tensors and "
            + ("runs with none" if not accepted else f"runs with {len(accepted)}")
            + f" of the numbers of channels that were tried (up to {_MOST_CHANNELS} each), so "
            "how to split an image is unknown: wrap the network in a module whose forward takes "
            "one image and splits it, and script that."
        )
    return SplitInput(network, accepted[0])


_MOST_CHANNELS = 4


def _tensors(network: torch.nn.Module) -> int:
    """Number of tensors that its forward must be given."""
    forward: Any = network.forward
    given = list(forward.schema.arguments)[1:]  # the first is the module itself
    return sum(not each.has_default_value() for each in given)


def _channel_counts(inputs: int) -> Iterator[tuple[int, ...]]:
    if inputs <= 3:
        yield from itertools.product(range(1, _MOST_CHANNELS + 1), repeat=inputs)


def _accepts(network: torch.nn.Module, channels: tuple[int, ...]) -> bool:
    kernel = next((p for p in network.parameters() if p.ndim in (4, 5)), None)
    space = (32, 32, 32) if kernel is not None and kernel.ndim == 5 else (64, 64)
    try:
        with torch.no_grad():
            network.eval()(*(torch.zeros(1, count, *space) for count in channels))
    except Exception:  # whatever a network raises means "not these"
        return False
    return True


def refuse_gpu(text: str, name: str) -> None:
    """Refuse a script whose code names a device: moving the network does not change that."""
    match = _GPU.search(text)
    if match:
        raise ModelError(
            f"{name} was made on a GPU and its code names {match[1]}, so that it runs "
            "nowhere else: export it again with the network on the CPU, and with tensors made on "
            "the device of the input (device=x.device)."
        )


TORCHSCRIPT = Format("TorchScript", lambda s: is_script(Archive(s.path).names), _code, _load)
