"""What unpickling would run, found without running it.

Knows the instructions of all pickle protocols (0 to 5) and follows them as Python's unpickler does,
with stack, marks and memo. Does not know files (see `seamscope.models.formats.checkpoints`).

A pickle is a program. Its names can come from anywhere: written out (``GLOBAL``, ``INST``), taken
from the stack or the memo (``STACK_GLOBAL``), or computed by a function that the pickle calls. To
read them off the instructions in order is not enough, since the memo can replace them. So every
value is followed; a constant stays a constant, and everything that is computed is unknown. An
unknown name is reported as unknown. The same holds for instructions that cannot be followed.

Source: ``Lib/pickletools.py`` and ``Modules/_pickle.c`` of CPython 3.11; where both differ, the
latter.
"""

from __future__ import annotations

import _compat_pickle
import codecs
import copyreg
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

MOST_INSTRUCTIONS: Final = 5_000_000
"""Instructions that are followed; weights of large networks need some ten thousand."""


@dataclass(frozen=True, order=True)
class Name:
    """Something that a pickle imports.

    Attributes
    ----------
    module, name
        As the pickle writes them; `name` may have dots.
    old
        Whether they are names of Python 2, which the unpickler replaces by those of today.
    """

    module: str
    name: str
    old: bool = field(default=False, compare=False)

    @property
    def dotted(self) -> str:
        """The name that is imported."""
        module, name = self.module, self.name
        if not self.old:
            return f"{module}.{name}"
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        else:
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        return f"{module}.{name}"


@dataclass
class Found:
    """What a pickle would import, and what of it cannot be known.

    Attributes
    ----------
    names
        Everything it imports, in order, without repetition.
    unknown
        One sentence for each thing that only running the pickle would show.
    allocates
        Bytes that it would reserve by a call, beyond its own size.
    too_long
        Whether it has more than `MOST_INSTRUCTIONS`.
    """

    names: dict[Name, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)
    allocates: int = 0
    too_long: bool = False

    def add(self, other: Found) -> None:
        """Add what another pickle of the same file would import."""
        self.names.update(other.names)
        self.unknown.update(other.unknown)
        self.allocates += other.allocates
        self.too_long |= other.too_long


def follow(data: bytes | memoryview, start: int = 0) -> tuple[Found, int, Any]:
    """Follow one pickle to its end.

    Parameters
    ----------
    data
        Bytes that hold it.
    start
        Where it starts.

    Returns
    -------
    found
        What it would import.
    end
        Where it ends.
    value
        Its result where this is a constant (text, number); else `COMPUTED`.
    """
    machine = _Machine(memoryview(data), start)
    try:
        value = machine.run()
    except _EndError as stopped:
        machine.found.unknown[str(stopped)] = None
        value = COMPUTED
    except (IndexError, struct.error, ValueError):
        machine.found.unknown[f"it cannot be followed beyond byte {machine.place}"] = None
        value = COMPUTED
    return machine.found, machine.place, value


class _Computed:
    """Any value that is not a constant."""


COMPUTED: Final = _Computed()


class _EndError(Exception):
    """The pickle cannot be followed to its end; the message says why."""


class _Machine:
    """The unpickler, with values in place of objects."""

    def __init__(self, data: memoryview, start: int) -> None:
        self.data = data
        self.place = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.found = Found()
        self.protocol = 0

    def run(self) -> Any:
        steps = _STEPS
        for _ in range(MOST_INSTRUCTIONS):
            code = self.data[self.place]
            self.place += 1
            if code == 0x2E:  # STOP
                return self.pop()
            step = steps.get(code)
            if step is None:
                raise _EndError(f"byte {self.place - 1} is no instruction of a pickle")
            step(self)
        self.found.too_long = True
        raise _EndError(f"it has more than {MOST_INSTRUCTIONS:,} instructions")

    # reading

    def take(self, count: int) -> bytes:
        end = self.place + count
        if count < 0 or end > len(self.data):
            raise ValueError
        part = bytes(self.data[self.place : end])
        self.place = end
        return part

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def line(self) -> bytes:
        # a search that stays within the line: views have no find
        end, chunk = self.place, 4096
        while end < len(self.data):
            at = bytes(self.data[end : end + chunk]).find(b"\n")
            if at >= 0:
                start, self.place = self.place, end + at + 1
                return bytes(self.data[start : end + at])
            end += chunk
        raise ValueError

    # stack

    @property
    def fence(self) -> int:
        return self.marks[-1] if self.marks else 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if len(self.stack) <= self.fence:
            raise IndexError
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def drop(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        if start > len(self.stack):
            raise IndexError
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # names and calls

    def name(self, module: Any, name: Any) -> Any:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.found.unknown["it imports a name that it computes while it is read"] = None
            return COMPUTED
        found = Name(module, name, self.protocol < 3)
        self.found.names[found] = None
        return found

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name):
            self.found.unknown["it calls an object that it computes while it is read"] = None
            return COMPUTED
        if function.dotted == "builtins.getattr" and isinstance(arguments, tuple):
            match arguments:
                case (Name(module, name), str(attribute)):
                    return self.name(module, f"{name}.{attribute}")
            self.found.unknown["it takes an attribute of an object that it computes"] = None
        if function.dotted in _RUN_MORE:
            self.found.unknown[f"it calls {function.dotted}, which runs what it is given"] = None
        self.found.allocates += _reserved(function.dotted, arguments)
        return COMPUTED


_RUN_MORE = {
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "pickle.loads",
    "pickle.load", "_pickle.loads", "_pickle.load", "pickle._loads", "marshal.loads", "torch.load",
    "torch.serialization.load", "importlib.import_module", "runpy.run_path", "runpy.run_module",
    "operator.methodcaller", "operator.attrgetter", "types.FunctionType", "types.CodeType",
    "torch.jit.load", "torch.hub.load", "numpy.load", "joblib.load", "dill.loads",
    "cloudpickle.loads", "pydoc.locate",
}  # fmt: skip


def _reserved(name: str, arguments: Any) -> int:
    """Bytes that a call of a harmless type reserves by a number alone."""
    if not isinstance(arguments, tuple):
        return 0
    sizes = [each for each in arguments if type(each) is int]
    if name in ("builtins.bytearray", "builtins.bytes"):
        return max(sizes, default=0)
    if name.startswith("numpy") and name.endswith("._reconstruct"):
        shape = next((each for each in arguments if isinstance(each, tuple)), ())
        count = 1
        for size in shape:
            count *= size if type(size) is int else 1
        return 8 * count
    return 0


# -- instructions


def _constant(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.push(read(machine))

    return step


def _text(data: bytes) -> Any:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return COMPUTED


def _old_text(data: bytes) -> Any:
    """Text of Python 2, which torch decodes as UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return COMPUTED


def _quoted(machine: _Machine) -> Any:
    line = machine.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError
    return _old_text(codecs.escape_decode(line[1:-1])[0])


def _escaped(machine: _Machine) -> Any:
    try:
        return machine.line().decode("raw-unicode-escape")
    except UnicodeDecodeError:
        return COMPUTED


def _decimal(machine: _Machine) -> Any:
    line = machine.line()
    try:
        return int(line.rstrip(b"L")) if len(line) < 20 and line not in (b"00", b"01") else COMPUTED
    except ValueError:
        return COMPUTED


def _long(layout: str) -> Callable[[_Machine], Any]:
    def read(machine: _Machine) -> Any:
        data = machine.take(machine.number(layout))
        return int.from_bytes(data, "little", signed=True) if len(data) < 16 else COMPUTED

    return read


def _skipped(layout: str) -> Callable[[_Machine], Any]:
    def read(machine: _Machine) -> Any:
        machine.take(machine.number(layout))
        return COMPUTED

    return read


def _sized(layout: str, decode: Callable[[bytes], Any]) -> Callable[[_Machine], Any]:
    return lambda machine: decode(machine.take(machine.number(layout)))


def _line_only(machine: _Machine) -> Any:
    machine.line()
    return COMPUTED


def _float(machine: _Machine) -> Any:
    machine.take(8)
    return COMPUTED


def _mark(machine: _Machine) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _pop_mark(machine: _Machine) -> None:
    machine.since_mark()


def _dup(machine: _Machine) -> None:
    machine.push(machine.top())


def _of_mark(make: Callable[[list[Any]], Any]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.push(make(machine.since_mark()))

    return step


def _tuple(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.push(_as_tuple(machine.drop(count)))

    return step


def _as_tuple(items: list[Any]) -> Any:
    # nested tuples are not kept: ten that hold each other would be a thousand
    return tuple(_flat(item) for item in items) if len(items) <= 64 else COMPUTED


def _flat(item: Any) -> Any:
    if not isinstance(item, tuple):
        return item
    return COMPUTED if any(isinstance(each, tuple) for each in item) else item


def _into(below: int) -> Callable[[_Machine], None]:
    """Items go into the container below them."""

    def step(machine: _Machine) -> None:
        machine.drop(below)
        machine.top()

    return step


def _all_into(machine: _Machine) -> None:
    machine.since_mark()
    machine.top()


def _put(read: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        key = read(machine)
        if key < 0:
            raise ValueError
        machine.memo[key] = machine.top()

    return step


def _get(read: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        key = read(machine)
        if key not in machine.memo:
            raise _EndError(f"it takes value {key}, which it never put into its memo")
        machine.push(machine.memo[key])

    return step


def _key(machine: _Machine) -> int:
    return int(machine.line())


def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _global(machine: _Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.push(machine.name(module.decode("utf-8"), name.decode("utf-8")))


def _stack_global(machine: _Machine) -> None:
    module, name = machine.drop(2)
    machine.push(machine.name(module, name))


def _inst(machine: _Machine) -> None:
    arguments = machine.since_mark()
    module, name = machine.line(), machine.line()
    function = machine.name(module.decode("utf-8"), name.decode("utf-8"))
    machine.push(machine.call(function, _as_tuple(arguments)))


def _obj(machine: _Machine) -> None:
    function, *arguments = machine.since_mark() or [None]
    machine.push(machine.call(function, _as_tuple(arguments)))


def _reduce(machine: _Machine) -> None:
    function, arguments = machine.drop(2)
    machine.push(machine.call(function, arguments))


def _newobj_ex(machine: _Machine) -> None:
    function, arguments, _ = machine.drop(3)
    machine.push(machine.call(function, arguments))


def _build(machine: _Machine) -> None:
    machine.pop()
    machine.top()


def _persistent_line(machine: _Machine) -> None:
    machine.line()
    machine.push(COMPUTED)


def _persistent(machine: _Machine) -> None:
    match machine.pop():
        case ("module", (Name() | str()) as value, *_):  # torch before 1.6 gives it back as it is
            machine.push(value)
        case _:
            machine.push(COMPUTED)


def _extension(layout: str) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        code = machine.number(layout)
        registered = getattr(copyreg, "_inverted_registry", {}).get(code)
        if registered is None:
            machine.found.unknown[f"it imports extension {code}, which is not registered"] = None
            machine.push(COMPUTED)
        else:
            machine.push(machine.name(*registered))

    return step


def _protocol(machine: _Machine) -> None:
    machine.protocol = machine.number("<B")


def _frame(machine: _Machine) -> None:
    machine.take(8)  # read across: the C unpickler takes frames for buffering alone


def _buffer(machine: _Machine) -> None:
    raise _EndError("it needs a buffer from outside the file")


def _nothing(machine: _Machine) -> None:
    machine.top()


_STEPS: Final[dict[int, Callable[[_Machine], None]]] = {
    # constants
    ord("N"): _constant(lambda machine: None),
    0x88: _constant(lambda machine: True),
    0x89: _constant(lambda machine: False),
    ord("I"): _constant(_decimal),
    ord("L"): _constant(_decimal),
    ord("J"): _constant(lambda machine: machine.number("<i")),
    ord("K"): _constant(lambda machine: machine.number("<B")),
    ord("M"): _constant(lambda machine: machine.number("<H")),
    0x8A: _constant(_long("<B")),
    0x8B: _constant(_long("<i")),
    ord("F"): _constant(_line_only),
    ord("G"): _constant(_float),
    ord("S"): _constant(_quoted),
    ord("T"): _constant(_sized("<i", _old_text)),
    ord("U"): _constant(_sized("<B", _old_text)),
    ord("V"): _constant(_escaped),
    0x8C: _constant(_sized("<B", _text)),
    ord("X"): _constant(_sized("<I", _text)),
    0x8D: _constant(_sized("<Q", _text)),
    ord("C"): _constant(_skipped("<B")),
    ord("B"): _constant(_skipped("<I")),
    0x8E: _constant(_skipped("<Q")),
    0x96: _constant(_skipped("<Q")),
    # containers: their items come back only through a call
    ord("]"): _constant(lambda machine: COMPUTED),
    ord("}"): _constant(lambda machine: COMPUTED),
    0x8F: _constant(lambda machine: COMPUTED),
    ord(")"): _constant(lambda machine: ()),
    ord("l"): _of_mark(lambda items: COMPUTED),
    ord("d"): _of_mark(lambda items: COMPUTED),
    0x91: _of_mark(lambda items: COMPUTED),
    ord("t"): _of_mark(_as_tuple),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("a"): _into(1),
    ord("s"): _into(2),
    ord("e"): _all_into,
    ord("u"): _all_into,
    0x90: _all_into,
    # stack and memo
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _dup,
    ord("p"): _put(_key),
    ord("q"): _put(lambda machine: machine.number("<B")),
    ord("r"): _put(lambda machine: machine.number("<I")),
    0x94: _memoize,
    ord("g"): _get(_key),
    ord("h"): _get(lambda machine: machine.number("<B")),
    ord("j"): _get(lambda machine: machine.number("<I")),
    # names and calls
    ord("c"): _global,
    0x93: _stack_global,
    ord("i"): _inst,
    ord("o"): _obj,
    0x81: _reduce,
    0x92: _newobj_ex,
    ord("R"): _reduce,
    ord("b"): _build,
    ord("P"): _persistent_line,
    ord("Q"): _persistent,
    0x82: _extension("<B"),
    0x83: _extension("<H"),
    0x84: _extension("<i"),
    # the rest
    0x80: _protocol,
    0x95: _frame,
    0x97: _buffer,
    0x98: _nothing,
}

__all__ = ["COMPUTED", "MOST_INSTRUCTIONS", "Found", "Name", "follow"]
