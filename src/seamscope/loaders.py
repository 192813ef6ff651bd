"""Files become networks, and nothing runs before its owner is trusted.

Knows file formats of networks and what each would execute. Does not know what networks do.

A network is named by one string, the same in Python, on the command line and in the dock::

    demo:batchnorm                                      a demo network
    cells.pt                                            TorchScript
    unet.py:UNet(depth=3)@weights.safetensors           Python factory and its weights
    monai.networks.nets:BasicUNet(spatial_dims=2)       a factory that needs no file
    whole.pth                                           a pickled module (trusted only)

What a file is, is told by its content. The loaders are a table: for each, how to recognise it,
what it would run, and how to load it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seamscope.errors import ModelError, SettingsError, TrustError
from seamscope.model import Model, as_model
from seamscope.probe import Hints

_FACTORY = re.compile(r"^(?P<module>[\w.]+|.+\.py):(?P<function>[A-Za-z_]\w*)(?P<call>\(.*\))?$")


@dataclass(frozen=True)
class Spec:
    """A model string, taken apart.

    Attributes
    ----------
    text
        The string itself.
    file
        Weights or network on disk.
    module, function, arguments
        The factory: importable module or path of a Python file, function or class in it, and
        keyword arguments.
    """

    text: str
    file: Path | None = None
    module: str | None = None
    function: str | None = None
    arguments: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Take a model string apart.

        Raises
        ------
        SettingsError
            When it is not written as the module's documentation shows.
        """
        factory, at, path = text.rpartition("@")
        candidate = factory if at else text
        match = _FACTORY.match(candidate)
        if at and not match and not Path(text).exists():
            raise SettingsError(
                f"{factory!r} before @ is no factory: write package.module:function or "
                "file.py:function, keyword arguments in brackets if it needs any."
            )
        if match and not Path(text).exists():
            return cls(
                text,
                Path(path).expanduser() if at else None,
                match["module"],
                match["function"],
                _arguments(match["call"] or "()"),
            )
        return cls(text, Path(text).expanduser())


def load_model(
    spec: str | os.PathLike[str] | nn.Module | Model,
    *,
    trust: bool = False,
    spatial_axes: int | None = None,
    channels: int | None = None,
) -> Model:
    """Load a network.

    Parameters
    ----------
    spec
        A module in hand, or a string as in the module's documentation.
    trust
        Whether code that comes with the file may run.
    spatial_axes, channels
        Number of spatial axes and of input channels, where probing should not look for them.

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
        model = _load(Spec.parse(os.fspath(spec)), trust)
    if spatial_axes or channels:
        model.hints = Hints(spatial_axes, channels, model.hints.shape)
    return model


def would_run(spec: str | os.PathLike[str]) -> tuple[str, ...]:
    """List what loading would execute, one line each; empty when nothing."""
    parsed = Spec.parse(os.fspath(spec))
    return _loader(parsed).would_run(parsed)


@dataclass(frozen=True)
class _Loader:
    recognises: Callable[[Spec], bool]
    would_run: Callable[[Spec], tuple[str, ...]]
    load: Callable[[Spec], Model]


def _load(spec: Spec, trust: bool) -> Model:
    loader = _loader(spec)
    danger = loader.would_run(spec)
    if danger and not trust:
        raise TrustError(spec.text, danger)
    model = loader.load(spec)
    model.module.eval()
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    return model


def _loader(spec: Spec) -> _Loader:
    if spec.file is not None and not spec.text.startswith("demo:"):
        _check_readable(spec.file)
    for loader in LOADERS:
        if loader.recognises(spec):
            return loader
    raise ModelError(
        f"{spec.text} is no network that can be loaded here: give demo:batchnorm, a TorchScript "
        "file, or module:function@weights."
    )


def _check_readable(path: Path) -> None:
    if not path.exists():
        names = ", ".join(f"demo:{n}" for n in _demo_names())
        raise ModelError(
            f"There is no file {path}: check the path, or try one of {names}, or name a factory "
            "as package.module:function."
        )
    if path.is_dir() or not os.access(path, os.R_OK):
        raise ModelError(f"{path} cannot be read as a file: give the file of a network.")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty: it was perhaps not copied completely; copy it again.")


# -- demo networks


def _demo_names() -> tuple[str, ...]:
    from seamscope import demo

    return tuple(demo.NAMES)


def _load_demo(spec: Spec) -> Model:
    from seamscope import demo

    name = spec.text.removeprefix("demo:")
    if name not in demo.NAMES:
        known = ", ".join(f"demo:{n}" for n in demo.NAMES)
        raise ModelError(f"There is no demo network {name!r}: choose one of {known}.")
    return Model(
        demo.build(name),
        name=name,
        spec=spec.text,
        channel_names=demo.CHANNEL_NAMES,
        channel_colors=demo.CHANNEL_COLORS,
        normalize="zscore",
    )


# -- Python factories


def _arguments(call: str) -> tuple[tuple[str, Any], ...]:
    """Keyword arguments written as in Python; literals only, nothing is evaluated."""
    try:
        node = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError("give every argument with its name")
        return tuple((k.arg or "**", ast.literal_eval(k.value)) for k in node.keywords)
    except (SyntaxError, ValueError) as error:
        raise SettingsError(
            f"The arguments {call} of the factory cannot be read ({error}): write them as "
            "(name=value, ...) with numbers, strings, lists or True/False/None."
        ) from error


def _factory_code(spec: Spec) -> tuple[str, ...]:
    written = f"{spec.function}() of {spec.module}, and whatever importing it runs"
    weights = () if spec.file is None or spec.module is None else _pickled(spec.file)
    return (written, *weights)


def _load_factory(spec: Spec) -> Model:
    network = _build(spec)
    if spec.file is not None:
        _fill(network, _tensors(spec.file), spec)
    return Model(network, name=spec.function or "network", spec=spec.text)


def _build(spec: Spec) -> nn.Module:
    assert spec.module is not None
    assert spec.function is not None
    factory = getattr(_module(spec.module), spec.function, None)
    if factory is None:
        raise ModelError(f"{spec.module} has no {spec.function}: check the factory's name.")
    try:
        network = factory(**dict(spec.arguments))
    except Exception as error:
        raise ModelError(
            f"{spec.function}({', '.join(f'{k}={v!r}' for k, v in spec.arguments)}) failed: "
            f"{error}. Check its arguments."
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{spec.function}() returned a {type(network).__name__}: it must return a "
            "torch.nn.Module."
        )
    return network


def _module(name: str) -> Any:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).expanduser()
        found = importlib.util.spec_from_file_location(f"seamscope_factory_{path.stem}", path)
        if found is None or found.loader is None or not path.exists():
            raise ModelError(f"There is no Python file {path}: check the path.")
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        found.loader.exec_module(module)
        return module
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name} cannot be imported ({error}): install the package that holds it, or give "
            "the path of a Python file."
        ) from error
    except Exception as error:
        raise ModelError(f"{name} cannot be imported: {type(error).__name__}: {error}.") from error


def _fill(network: nn.Module, tensors: Mapping[str, torch.Tensor], spec: Spec) -> None:
    """Load weights, or say in one sentence how they differ from the network's."""
    own = network.state_dict()
    # counters of training steps that some libraries drop on saving
    given = {**{k: v for k, v in own.items() if k.endswith("num_batches_tracked")}, **tensors}
    missing = [k for k in own if k not in given]
    extra = [k for k in given if k not in own]
    shapes = [
        f"{k} is {tuple(given[k].shape)}, the network's {tuple(own[k].shape)}"
        for k in own
        if k in given and given[k].shape != own[k].shape
    ]
    wrong = [f"missing {_some(missing)}"] * bool(missing) + [f"unknown {_some(extra)}"] * bool(
        extra
    )
    wrong += [_some(shapes)] * bool(shapes)
    if wrong:
        raise ModelError(
            f"The weights in {spec.file} do not fit {spec.function}: {'; '.join(wrong)}. "
            "Check that factory, arguments and weights belong together."
        )
    network.load_state_dict(given)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


# -- files of tensors


def _is_zip(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def _members(path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.split("/", 1)[-1] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return ()


def _is_script(spec: Spec) -> bool:
    return spec.module is None and spec.file is not None and "constants.pkl" in _members(spec.file)


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then JSON."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= path.stat().st_size


def _pickled(path: Path) -> tuple[str, ...]:
    """What unpickling a checkpoint would run beyond rebuilding tensors."""
    if _is_safetensors(path):
        return ()
    try:
        _load_tensors(path, "meta")
    except pickle.UnpicklingError:
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:
            names = []
        listed = f" ({', '.join(sorted(names))})" if names else ""
        return (f"Python objects pickled in {path.name}{listed}",)
    except Exception:
        return ()  # damaged: loading says so
    return ()


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """Read the named tensors of a checkpoint; the network's own where it holds several."""
    content = _read_checkpoint(path)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    for key in ("state_dict", "model_state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    found = isinstance(content, Mapping) and {
        k: v for k, v in content.items() if isinstance(v, torch.Tensor)
    }
    if not found:
        raise ModelError(f"{path} holds no named tensors: give a checkpoint with a state dict.")
    return found


def _load_tensors(path: Path, device: str) -> Any:
    """Read a checkpoint without running anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pickle protocols torch itself dislikes
        return torch.load(path, map_location=device, weights_only=True)


def _read_checkpoint(path: Path) -> Any:
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        # Whoever gets here has been asked for trust if the file needs it.
        if _pickled(path):
            return torch.load(path, map_location="cpu", weights_only=False)
        return _load_tensors(path, "cpu")
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelError(
            f"{path} holds Python objects whose code is not here ({_first_sentence(error)}): "
            "install the package they come from, or load only the weights with a factory."
        ) from error
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as a network's weights "
            f"({type(error).__name__}: {_first_sentence(error)}): it may be damaged or of another "
            "format; copy it again or export it anew."
        ) from error


def _first_sentence(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:160].rstrip(".") if text else type(error).__name__


def _load_script(spec: Spec) -> Model:
    assert spec.file is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
            network = torch.jit.load(spec.file, map_location="cpu")
    except Exception as error:
        raise ModelError(
            f"{spec.file} cannot be read as TorchScript ({_first_sentence(error)}): it may be "
            "damaged; copy it again or export it anew."
        ) from error
    return Model(network, name=spec.file.stem, spec=spec.text)


def _load_whole(spec: Spec) -> Model:
    """A checkpoint without a factory: a pickled module, or only weights, which is not enough."""
    assert spec.file is not None
    content = _read_checkpoint(spec.file)
    if isinstance(content, nn.Module):
        return Model(content, name=spec.file.stem, spec=spec.text)
    count = len(_tensors(spec.file))
    raise ModelError(
        f"{spec.file} holds {count} tensors and no network: say what builds it, as in "
        f"package.module:function@{spec.file.name} or network.py:Net(depth=3)@{spec.file.name}."
    )


def _nothing(spec: Spec) -> tuple[str, ...]:
    return ()


LOADERS: tuple[_Loader, ...] = (
    _Loader(lambda s: s.text.startswith("demo:"), _nothing, _load_demo),
    _Loader(lambda s: s.module is not None, _factory_code, _load_factory),
    _Loader(_is_script, _nothing, _load_script),
    _Loader(lambda s: True, lambda s: _pickled(s.file) if s.file else (), _load_whole),
)
