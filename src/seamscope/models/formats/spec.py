"""How a network is named: one string, the same in Python, on the command line and in the dock.

Knows the grammar of model strings. Does not know files' formats; nothing is imported, evaluated
or run here.

::

    demo:batchnorm                                      a demo network
    cells.pt2                                           a file that holds the whole network
    unet.py:UNet(depth=3)@weights.safetensors           Python factory and its weights
    monai.networks.nets:BasicUNet(spatial_dims=2)       a factory that needs no file
    package.zip#boundary                                one of several outputs, by name or number
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seamscope.errors import SettingsError

_FACTORY = re.compile(r"^(?P<module>[\w.]+|.+\.py):(?P<function>[A-Za-z_]\w*)(?P<call>\(.*\))?$")
_NAME = r"[\w.-]+"
_OUTPUT = re.compile(rf"^(?P<rest>.+)#(?P<output>{_NAME})$")


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
    output
        Name or number of the one output that is wanted, of a network with several.
    ignore_extra
        Whether weights that the network does not have are left out.
    """

    text: str
    file: Path | None = None
    module: str | None = None
    function: str | None = None
    arguments: tuple[tuple[str, Any], ...] = ()
    output: str | None = None
    ignore_extra: bool = False

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Take a model string apart.

        Raises
        ------
        SettingsError
            When it is not written as the module's documentation shows.
        """
        rest, output = _without_output(text)
        factory, at, path = rest.rpartition("@")
        candidate = factory if at else rest
        match = _FACTORY.match(candidate)
        if at and not match and not Path(rest).exists():
            raise SettingsError(
                f"{factory!r} before @ is no factory: write package.module:function or "
                "file.py:function, keyword arguments in brackets if it needs any."
            )
        if match and not Path(rest).exists():
            return cls(
                text,
                Path(path).expanduser() if at else None,
                match["module"],
                match["function"],
                _arguments(match["call"] or "()"),
                output,
            )
        return cls(text, Path(rest).expanduser(), output=output)

    @property
    def call(self) -> str:
        """The factory's call as it would be written in Python."""
        return f"{self.function}({', '.join(f'{k}={v!r}' for k, v in self.arguments)})"

    @property
    def path(self) -> Path:
        """The file, where there must be one."""
        assert self.file is not None
        return self.file


def _without_output(text: str) -> tuple[str, str | None]:
    match = _OUTPUT.match(text)
    return (match["rest"], match["output"]) if match and not Path(text).exists() else (text, None)


def absolute(text: str) -> str:
    """Return a model string that names the same network from any folder.

    Examples
    --------
    >>> absolute("demo:batchnorm")
    'demo:batchnorm'
    >>> absolute("/nets/cells.pt2#1")
    '/nets/cells.pt2#1'
    """
    spec = Spec.parse(text)
    output = "" if spec.output is None else f"#{spec.output}"
    if spec.module is None:
        return f"{os.path.abspath(spec.path)}{output}"
    rest = _without_output(text)[0]
    factory = rest if spec.file is None else rest.rpartition("@")[0]
    call = factory.removeprefix(spec.module)
    script = spec.module.endswith(".py")
    module = os.path.abspath(Path(spec.module).expanduser()) if script else spec.module
    weights = "" if spec.file is None else f"@{os.path.abspath(spec.file)}"
    return f"{module}{call}{weights}{output}"


def with_output(text: str, names: Sequence[str], place: int) -> str:
    """Return the model string of another output of the same network."""
    rest, name = _without_output(text)[0], names[place]
    return f"{rest}#{name if re.fullmatch(_NAME, name) else place}"


def shown_output(text: str, names: Sequence[str]) -> int:
    """Return the number of the output that a model string names; 0 where it names none."""
    wanted = _without_output(text)[1]
    if wanted is None:
        return 0
    return list(names).index(wanted) if wanted in names else int(wanted) % len(names)


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
