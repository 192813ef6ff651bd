"""Python functions and classes that build a network.

Knows how a module is imported, from a package, a file or the text of a package's member, and what
that would run. Does not know weights' files.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import linecache
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from seamscope.errors import ModelError
from seamscope.models.formats.checkpoints import fill, pickled, read_checkpoint
from seamscope.models.formats.format import EXTRAS, Code, Format, first_sentence, missing
from seamscope.models.formats.spec import Spec
from seamscope.models.model import Model


def _code(spec: Spec) -> tuple[Code, ...]:
    assert spec.module is not None
    source = source_of(spec.module)
    written = f"{spec.function}() of {spec.module}, and whatever importing it runs"
    weights = () if spec.file is None else pickled(spec.file, spec.file.name)
    # the call belongs to what is trusted: with other arguments it may do other things
    return (Code.of(written, spec.module, spec.call, source, text=source), *weights)


def source_of(module: str) -> str:
    """Text of a module that is not imported yet; empty where it cannot be found without that."""
    path = Path(module).expanduser() if module.endswith(".py") else _file_of(module)
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _file_of(module: str) -> Path | None:
    """Find a module's file; `importlib.util.find_spec` would import the packages around it."""
    top, *rest = module.split(".")
    found = importlib.machinery.PathFinder.find_spec(top)
    if found is None or found.origin is None:
        return None
    place = Path(found.origin)
    if rest:
        stem = place.parent.joinpath(*rest)
        choices = (stem.with_suffix(".py"), stem / "__init__.py")
        return next((path for path in choices if path.is_file()), None)
    return place if place.suffix == ".py" else None


def _load(spec: Spec) -> Model:
    assert spec.module is not None
    assert spec.function is not None
    network = build(import_module(spec.module), spec.function, dict(spec.arguments), spec.module)
    notes: tuple[str, ...] = ()
    if spec.file is not None:
        content = read_checkpoint(spec.file, str(spec.file))
        notes = fill(network, content, str(spec.file), spec.function)
    return Model(network, name=spec.function, spec=spec.text, notes=notes)


def build(module: Any, function: str, arguments: Mapping[str, Any], origin: str) -> nn.Module:
    """Call a factory.

    Parameters
    ----------
    module
        What holds it.
    function
        Its name.
    arguments
        Keyword arguments.
    origin
        What to call the module.
    """
    factory: Callable[..., Any] | None = getattr(module, function, None)
    if factory is None:
        raise ModelError(f"{origin} has no {function}: check the factory's name.")
    try:
        network = factory(**arguments)
    except Exception as error:
        told = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        raise ModelError(
            f"{function}({told}) failed: {first_sentence(error)}. Check its arguments."
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{function}() returned a {type(network).__name__}: it must return a torch.nn.Module."
        )
    return network


def import_module(name: str) -> Any:
    """Import a module by its dotted name, or a Python file by its path."""
    return _explained(name, lambda: _imported(name))


def module_from_text(text: str, name: str) -> Any:
    """Run the text of a Python file that is not on disk, as a module.

    Its lines are kept where `inspect` finds them, for tracebacks and for TorchScript.
    """

    def run() -> Any:
        file = f"<{name}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        module = types.ModuleType(f"seamscope_factory_{Path(name).stem}")
        module.__file__ = file
        sys.modules[module.__name__] = module
        exec(compile(text, file, "exec"), module.__dict__)  # trusted by then
        return module

    return _explained(name, run)


def _imported(name: str) -> Any:
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


def _is_absent(package: str) -> bool:
    hidden = package in sys.modules and sys.modules[package] is None
    return hidden or importlib.machinery.PathFinder.find_spec(package) is None


def _explained(name: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        top = str(error.name).partition(".")[0]
        if top in EXTRAS and _is_absent(top):
            raise missing(top, name) from error
        raise ModelError(
            f"{name} cannot be imported ({error}): install the package that holds it, or give "
            "the path of a Python file."
        ) from error
    except Exception as error:
        # torchvision for another build of torch is the commonest reason, and says something else
        remedy = " Install torch and torchvision that belong together." * (
            "torchvision" in str(error)
        )
        raise ModelError(
            f"{name} cannot be imported: {type(error).__name__}: {first_sentence(error)}.{remedy}"
        ) from error


FACTORY = Format("Python factory", lambda spec: spec.module is not None, _code, _load)
