"""Values as JSON and back, by the fields of dataclasses.

Knows how dataclasses, tuples, slices, fractions, enums and numpy arrays are written in JSON's own
types. Does not know any one class.

`plain` writes what a value holds and `restore` reads it by the type hints of its class::

    restore(Settings, plain(settings)) == settings

`record` writes for people and their scripts: the same, except that a value with a method
``to_json`` is written by it. A class whose keys are its fields takes the method from `Recorded`. A
class whose keys differ has its own, and its docstring says in what.

========================== =================================
value                      JSON
========================== =================================
dataclass, mapping         object
tuple, list, set, array    array
slice                      ``[start, stop]``
Fraction                   ``"3/2"``
NaN, infinity              null, restored as NaN
========================== =================================

A field that may hold one of several dataclasses is restored as the one whose fields it has.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from seamscope.errors import SettingsError

T = TypeVar("T")


class Recorded:
    """A dataclass whose JSON holds its fields by their names, and some properties.

    Attributes
    ----------
    ALSO
        Names of these properties.
    """

    ALSO: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_json(self) -> dict[str, Any]:
        """Return fields and properties by their names, in JSON's own types."""
        names = [each.name for each in dataclasses.fields(self)]
        return record(**{name: getattr(self, name) for name in (*names, *self.ALSO)})


def record(**values: Any) -> dict[str, Any]:
    """Return values by their names, in JSON's own types; each ``to_json`` among them is called."""
    return {name: _written(value, own=True) for name, value in values.items()}


def plain(value: Any) -> Any:
    """Return `value` in JSON's own types, such that `restore` can read it.

    Parameters
    ----------
    value
        A dataclass, or anything made of the types in the table above. An object of another type
        is written as its text.

    Examples
    --------
    >>> from fractions import Fraction
    >>> plain({"part": slice(0, 4), "scale": Fraction(1, 2), "largest": float("nan")})
    {'part': [0, 4], 'scale': '1/2', 'largest': None}
    """
    return _written(value, own=False)


def _written(value: Any, *, own: bool) -> Any:
    """Return a value in JSON's own types; `own` says whether methods ``to_json`` are called."""
    if own and hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _written(parts, own=own)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _written(item, own=own) for key, item in value.items()}
    if isinstance(value, slice):
        return [value.start, value.stop]
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return _written(value.tolist(), own=own)
    if isinstance(value, list | tuple | set | frozenset):
        return [_written(item, own=own) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def restore(cls: type[T], value: Any) -> T:
    """Return what `plain` wrote as an instance of a class.

    Parameters
    ----------
    cls
        The class, a dataclass for one.
    value
        By `plain`, or read from its JSON.

    Raises
    ------
    SettingsError
        Where the value does not fit the class: the place, the value and what is expected.

    Examples
    --------
    >>> from fractions import Fraction
    >>> from seamscope.tiling import Lattice
    >>> lattice = Lattice(period=8, step=8, scale=Fraction(1, 2))
    >>> restore(Lattice, plain(lattice)) == lattice
    True
    """
    try:
        found: T = _restored(cls, value, cls.__name__)
    except _MisfitError as error:
        raise SettingsError(f"Cannot read a saved {cls.__name__}: {error}.") from error
    return found


class _MisfitError(Exception):
    """A value is not of the type that its place has."""


def _misfit(place: str, value: Any, wanted: str) -> _MisfitError:
    text = repr(value)
    return _MisfitError(
        f"{place} is {text if len(text) < 80 else text[:77] + '...'}, and must be {wanted}"
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _restored(hint: Any, value: Any, place: str) -> Any:
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in choices:
            raise _misfit(place, value, f"one of {', '.join(map(repr, choices))}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(choices, value, place)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _misfit(place, value, "an object")
        key: Any = int if choices[0] is int else str  # JSON has names only
        return {key(k): _restored(choices[1], each, f"{place}.{k}") for k, each in value.items()}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _several(origin, choices, value, place)
    return _single(hint, value, place)


def _single(hint: Any, value: Any, place: str) -> Any:
    """Return a value that has no parts."""
    if hint in (int, str, bool):
        if type(value) is not hint:
            raise _misfit(place, value, f"of type {hint.__name__}")
        return value
    if hint is float:
        if value is None:
            return math.nan
        if type(value) not in (int, float):
            raise _misfit(place, value, "a number")
        return float(value)
    if hint in (None, type(None)):
        if value is not None:
            raise _misfit(place, value, "null")
        return None
    if hint is slice:
        return slice(*_several(tuple, (int | None, int | None), value, place))
    try:
        return hint(value)  # a fraction, a path, an enum
    except (TypeError, ValueError, ZeroDivisionError):
        raise _misfit(place, value, f"a {getattr(hint, '__name__', hint)}") from None


def _one_of(choices: Sequence[Any], value: Any, place: str) -> Any:
    """Return the value as the first of several types that takes it."""
    if value is None and type(None) in choices:
        return None
    reasons = []
    for hint in (each for each in choices if each is not type(None)):
        try:
            return _restored(hint, value, place)
        except _MisfitError as error:
            reasons.append(str(error))
    raise _MisfitError(reasons[-1])


def _several(origin: type, choices: Sequence[Any], value: Any, place: str) -> Any:
    """Return an array: of one type throughout, or a tuple with a type for each place."""
    if origin.__module__ == "numpy":
        import numpy as np

        return np.array(value)
    if not isinstance(value, list | tuple):
        raise _misfit(place, value, "an array")
    made = tuple if origin is Sequence else origin
    if origin is not tuple or choices[-1] is Ellipsis:
        each = [_restored(choices[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
        return made(each)
    if len(value) != len(choices):
        raise _misfit(place, value, f"an array of {len(choices)}")
    pairs = enumerate(zip(choices, value, strict=True))
    return tuple(_restored(hint, item, f"{place}[{i}]") for i, (hint, item) in pairs)


def _dataclass(cls: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise _misfit(place, value, f"an object with the fields of {cls.__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    extra = [name for name in value if name not in fields]
    if extra:
        raise _MisfitError(f"{place} has no field {extra[0]!r}; its fields are {', '.join(fields)}")
    hints = _hints(cls)
    given = {name: _restored(hints[name], v, f"{place}.{name}") for name, v in value.items()}
    for name, field in fields.items():
        constant = given.pop(name, field.default) if not field.init else field.default
        if not field.init and constant != field.default:
            raise _misfit(f"{place}.{name}", constant, repr(field.default))
        needed = field.default is field.default_factory is dataclasses.MISSING
        if field.init and needed and name not in given:
            raise _MisfitError(f"{place} lacks the field {name!r}")
    return cls(**given)


__all__ = ["Recorded", "plain", "record", "restore"]
