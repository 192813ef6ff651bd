"""Python functions and classes that build a network.

Knows how a module is imported, from a package, a file or the text of a package's member, and what
that would run. Does not know weights' files.
"""

from __future__ import annotations

import importlib.machinery
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
from seamscope.models.formats.readable import one_line, python_text
from seamscope.models.formats.sources import Sources, is_installed, run_file, run_module
from seamscope.models.formats.spec import Spec
from seamscope.models.model import Model


def _code(spec: Spec) -> tuple[Code, ...]:
    assert spec.module is not None
    sources = sources_of(spec.module)
    weights = () if spec.file is None else pickled(spec.file, spec.file.name)
    # the call belongs to what is trusted: with other arguments it may do other things
    code = imported_code(f"{spec.function}() of {spec.module}", sources, spec.module, spec.call)
    return (code, *weights)


def sources_of(module: str) -> Sources:
    """Find what importing a module, by its dotted name or its file's path, would run."""
    if module.endswith(".py"):
        return Sources.of_file(Path(module).expanduser())
    return Sources.of_modules(module)


def imported_code(what: str, sources: Sources, *content: str | bytes, text: str = "") -> Code:
    """Return the code of a factory.

    Parameters
    ----------
    what
        Names it.
    sources
        The files that it would run.
    content
        What belongs to its digest beside their content.
    text
        Source that lies in no file, to be shown before those.
    """
    others = [
        one_line(path.name)
        for path in list(sources.files)[0 if text else 1 :]
        if not is_installed(path)
    ]
    beside = f" with {', '.join(others[:10])}" if others else ""
    beside += f" and {len(others) - 10} more files" if len(others) > 10 else ""
    return Code.of(
        f"{what}{beside}, and whatever importing it runs",
        *content,
        *sources.content,
        text="\n\n".join(part for part in (text, sources.text) if part),
        unknown=sources.unknown,
    )


def _load(spec: Spec) -> Model:
    assert spec.module is not None
    assert spec.function is not None
    module = import_module(spec.module)
    network = build(module, spec.function, dict(spec.arguments), spec.module)
    notes: tuple[str, ...] = ()
    if spec.file is not None:
        content = read_checkpoint(spec.file, str(spec.file))
        notes = fill(
            network, content, str(spec.file), spec.function, ignore_extra=spec.ignore_extra
        )
    elif any(True for _ in network.parameters()):
        notes = ("No weights were given: unless its factory loads some, the network is untrained.",)
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
        shown = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        raise ModelError(
            f"{function}({shown}) failed: {first_sentence(error)}. Check its arguments."
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{function}() returned a {type(network).__name__}: it must return a torch.nn.Module."
        )
    return network


def import_module(name: str) -> Any:
    """Import a module by its dotted name, or a Python file by its path."""
    return _explained(name, lambda: _imported(name))


def module_from_source(data: bytes, name: str) -> Any:
    """Run the source of a Python file that is not on disk, as a module.

    Its lines are kept where `inspect` finds them, for tracebacks and for TorchScript.
    """

    def run() -> Any:
        file = f"<{name}>"
        text = python_text(data)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        module = types.ModuleType(f"seamscope_factory_{Path(name).stem}")
        module.__file__ = file
        sys.modules[module.__name__] = module
        exec(compile(data, file, "exec", dont_inherit=True), module.__dict__)  # trusted by now
        return module

    return _explained(name, run)


def _imported(name: str) -> Any:
    sources = sources_of(name)
    if not name.endswith(".py"):
        return run_module(name, sources)
    path = Path(name).expanduser()
    if path not in sources.files:
        raise ModelError(f"There is no Python file {path}: check the path.")
    return run_file(path, sources)


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
