"""A network's operations, recorded once: replayed, paused, read.

Knows ATen operations in their order, and which tensors live between two of them. Does not know what
a network is for, normalizations, or tiles.

`record` runs a network on one input and keeps what it does as an `fx.Graph`: the same for eager
modules, TorchScript and exported programs. A `Replay` runs the graph on any input of the same
shape, and may stop between two operations. What is alive there waits in memory or in a file::

    operations     0 1 2 3 4 5 6 7 8 9
    one replay     x x x x x|
    the next                |x x x x x        | Waiting

A graph holds no Python code. So it computes the same as the network only where the network's code
does not depend on the values of its input. `record` refuses code that takes numbers out of tensors
and code that writes into tensors it did not make. Reading that torch does not show, such as
``tolist`` in TorchScript, remains unseen: compare a replay with the network on another input.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import torch
from torch import fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from seamscope.errors import ModelError

aten = torch.ops.aten

Forward: TypeAlias = Callable[[torch.Tensor], Any]
Operation: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class Unrecordable(Exception):  # noqa: N818  (not an error: the network runs by its own code)
    """Why a graph would compute something else than the network, in a few words."""


class Dispatch(TorchDispatchMode):
    """A dispatch mode that torch's compiler has nothing to do with.

    Torch's own imports the compiler when it first sees an operation, which takes 1 to 3 s.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


# -- recording


@dataclass(frozen=True, eq=False)
class RecordedGraph:
    """What a network does with an input of one shape.

    Attributes
    ----------
    graph
        The operations. ``node.meta["val"]`` is a result without content, of its shape and type;
        ``node.meta["module"]`` the dotted name of the module that ran, where known.
    constants
        Weights, and views of them, by the name of their node.
    """

    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]

    @cached_property
    def steps(self) -> tuple[tuple[fx.Node, tuple[str, ...]], ...]:
        """All that is to be done, in order, and the names of what is used for the last time."""
        nodes = [
            node
            for node in self.graph.nodes
            if node.op in ("call_function", "output") and node.name not in self.constants
        ]
        last = {given.name: node for node in nodes for given in node.all_input_nodes}
        dead: dict[fx.Node, list[str]] = {}
        for name, node in last.items():
            dead.setdefault(node, []).append(name)
        return tuple((node, tuple(dead.get(node, ()))) for node in nodes)

    def _varying(self, held: tuple[str, ...] = ()) -> set[str]:
        """Names of what depends on the input."""
        found = {"x"}
        for node in self.graph.nodes:
            given = not found.isdisjoint(one.name for one in node.all_input_nodes)
            if given and not (held and _name(node).startswith(held)):
                found.add(node.name)
        return found

    @cached_property
    def warps(self) -> bool:
        """Whether numbers are read at coordinates, or at places that the input determines."""
        varying = self._varying()
        for node, _ in self.steps:
            name = _name(node)
            if name.startswith(("grid_sampler", "cudnn_grid")) and node.name in varying:
                return True
            if name.startswith(_AT_PLACES):
                target: Any = node.target
                given = zip(target._schema.arguments, node.args, strict=False)
                places = [one for argument, one in given if argument.name in ("index", "indices")]
                if not varying.isdisjoint(_names(places)):
                    return True
        return False

    @cached_property
    def takes_parts(self) -> bool:
        """Whether parts are taken of weights, or of what sizes alone determine.

        As of a table of positions, which has an end.
        """
        varying = self._varying()
        return any(
            node.name not in varying and _name(node).startswith(_TAKES_PARTS)
            for node in self.graph.nodes
        ) or any(
            _name(node).startswith(_TAKES_PARTS) and node.args[0].name not in varying
            for node, _ in self.steps
            if node.args and isinstance(node.args[0], fx.Node)
        )

    def numbers_read(self, held: tuple[str, ...] = ()) -> tuple[int, ...]:
        """Which of all numbers that code reads depend on the input, so that it may decide by them.

        Not whether there is anything in all of the input, such as NaN or a number above 0.

        Parameters
        ----------
        held
            How names of operations begin whose results are the same for all inputs.
        """
        nodes = [one for one in self.graph.nodes if one.target is aten._local_scalar_dense.default]
        varying = self._varying(held)
        return tuple(
            number
            for number, node in enumerate(nodes)
            if node.name in varying and not self._is_anything(node.args[0])
        )

    def _is_anything(self, node: Any) -> bool:
        """Whether a number says whether there is anything at all in the input."""
        name = _name(node)
        if name in ("logical_not", "bitwise_not", "_to_copy", "view", "squeeze", "select"):
            return self._is_anything(node.args[0])
        of_zero = name in ("gt", "lt", "ge", "le", "eq", "ne") and node.args[1:] == (0,)
        if of_zero:
            node = node.args[0]
        elif name not in ("any", "all"):
            return False
        given = next(iter(node.all_input_nodes), node).meta.get("val")
        pixels = next(iter(self.graph.nodes)).meta["val"][0, 0].numel()
        return given is not None and given.numel() >= pixels

    def resume(self, glimpse: Glimpse) -> tuple[int, dict[str, torch.Tensor]] | None:
        """Return the step and the values from which a replay goes on where a recording was.

        None where the rest of the recording changed one of them.
        """
        step = next(k for k, (node, _) in enumerate(self.steps) if node is glimpse.node)
        made = {node.name for node, _ in self.steps[step:]} | self.constants.keys()
        used = {one.name for node, _ in self.steps[step:] for one in node.all_input_nodes} - made
        found = {name: glimpse.tensors.get(name) for name in used}
        kept = {n: one[0] for n, one in found.items() if one is not None and _same_version(*one)}
        return (step, kept) if len(kept) == len(used) else None


def record(
    forward: Forward,
    x: torch.Tensor,
    *,
    held: Sequence[torch.Tensor] = (),
    module: nn.Module | None = None,
    decided: bool = False,
    computed: bool = True,
    most: int | None = None,
) -> RecordedGraph:
    """Run a network once and write down its operations; parameters as for `Recorder`.

    Raises
    ------
    Unrecordable
        Where a graph would compute something else than the network.
    ModelError
        Where the network writes into its own weights or buffers.
    """
    return Recorder(held, module, decided, computed, most).run(forward, x)


_MOST_NUMBERS = 1 << 24  # that are computed where what the input determines is not
# by which a part of a tensor is taken, or what stands at some places of it
_TAKES_PARTS = ("slice", "select", "index", "embedding", "gather", "take", "narrow", "unfold")
_AT_PLACES = ("gather", "index", "take", "scatter")  # operations that read or write at places


def _name(node: fx.Node) -> str:
    """Name of an operation of ATen; empty for what is none."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name.removeprefix("aten::"))


def _names(values: Any) -> set[str]:
    """Names of nodes in arguments, also in lists."""
    found: set[str] = set()
    fx.map_arg(values, lambda node: found.add(node.name))
    return found


def _is_view(func: Any) -> bool:
    returns = list(func._schema.returns)
    views = [one for one in returns if one.alias_info is not None]
    return len(returns) == len(views) == 1 and not func._schema.is_mutable


# Tensors' ways out of torch, by which code reads or shares numbers unseen by a dispatch mode.
_READS = frozenset(
    {"numpy", "__array__", "tolist", "__repr__", "__format__", "__dlpack__", "data_ptr"}
    | {"storage", "untyped_storage", "_typed_storage", "share_memory_"}
    | {"__deepcopy__", "__reduce_ex__"}
)


@dataclass(frozen=True)
class Glimpse:
    """What is alive while an operation runs: tensors, and how often they were changed until then.

    A graph that is being recorded does not know yet what is used later; see `RecordedGraph.resume`.
    """

    node: fx.Node
    tensors: Mapping[str, tuple[torch.Tensor, int]]


# Those that only read. A weight, or what is made of sizes, is the same for all inputs of a shape.
_ONLY_READS = frozenset({"numpy", "__array__", "tolist", "__repr__", "__format__"})


class _Reads(TorchFunctionMode):
    """Refuses that the network's code, in this thread, reads tensors past torch's operations.

    Parameters
    ----------
    refuse
        Stops the recording.
    varies
        Whether a tensor depends on the input.
    """

    def __init__(
        self, refuse: Callable[[Exception], NoReturn], varies: Callable[[Any], bool]
    ) -> None:
        super().__init__()
        self._refuse, self._varies = refuse, varies

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS and (name not in _ONLY_READS or self._varies(args[0])):
            self._refuse(Unrecordable(f"it reads a tensor by {name}"))
        made = func(*args, **(kwargs or {}))
        if name in ("numpy", "__array__"):
            made.flags.writeable = False  # which would be unseen
        return made


class Recorder(Dispatch):
    """Writes down the operations of one run of a network.

    Parameters
    ----------
    held
        The network's weights and buffers. A network that writes into them is refused, before it
        does.
    module
        Where the names of modules are taken from.
    decided
        Whether to go on where the code takes a number out of a tensor, to decide by it. The graph
        then holds for inputs that decide alike: enough to read, not to replay.
    computed
        Whether to compute what depends on the input. If not, its results hold no numbers, which is
        enough to read what an input does of which a forward pass would take too long.
    most
        Operations after which such a recording is given up, as it is where tensors that do not
        depend on the input become very large. Those that do then take no memory. None: no limit.

    Notes
    -----
    `torch.fx.experimental.proxy_tensor.make_fx` records the same operations. It takes 0.75 ms for
    each and not 0.1, refuses numbers that code reads from its own weights, and names no modules.

    Storages are known by their address, which no other storage gets while a weak reference to it
    is kept.
    """

    def __init__(
        self,
        held: Sequence[torch.Tensor] = (),
        module: nn.Module | None = None,
        decided: bool = False,
        computed: bool = True,
        most: int | None = None,
    ) -> None:
        super().__init__()
        self._decided, self._computed = decided and computed, computed
        self._most, self._count = most, 0
        self._refused: Exception | None = None
        self._names: list[str] = []  # of modules that run, from the outside in
        self._held, self._module = {_address(one) for one in held}, module
        self._graph = fx.Graph()
        self._nodes: MutableMapping[torch.Tensor, fx.Node] = WeakTensorKeyDictionary()
        self._made: dict[int, fx.Node] = {}  # storages that operations made, by address
        self._references: list[StorageWeakRef] = []
        self._of_input: set[int] = set()  # storages whose content depends on the input
        self._constants: dict[str, torch.Tensor] = {}

    def run(self, forward: Forward, x: torch.Tensor) -> RecordedGraph:
        """Run a network on ``(N, C, *spatial)``, which operations in place may change.

        Raises as `record` does.
        """
        with torch.inference_mode(False), torch.no_grad():
            x = x.clone() if x.is_inference() else x
            self._keep(x, self._graph.placeholder("x"), True)
            try:
                reads = _Reads(self._refuse, self._varies)
                with RunningModules(self._module, self._names), reads, self:
                    result = forward(x)
            except Exception as error:  # TorchScript wraps what passes through it
                raise self._refused or error from None
        if self._refused is not None:  # the code caught it
            raise self._refused
        try:
            self._graph.output(_changed(result, torch.Tensor, self._node_of))
        except NotImplementedError:  # an object of the network's own
            raise Unrecordable(f"it returns {type(result).__name__}") from None
        return RecordedGraph(self._graph, self._constants)

    def glimpse(self) -> Glimpse:
        """Return what is alive now, while an operation runs."""
        node = next(iter(reversed(self._graph.nodes)))
        return Glimpse(node, {n.name: (t, t._version) for t, n in self._nodes.items()})

    def _varies(self, tensor: torch.Tensor) -> bool:
        return _address(tensor) in self._of_input

    def _refuse(self, why: Exception) -> NoReturn:
        """Stop recording; the first reason counts, whatever the code makes of it."""
        self._refused = self._refused or why
        raise self._refused

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # what we read is not what the network reads
            return self._do(func, args, kwargs or {})

    def _do(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is aten.lift_fresh.default:  # of torch.tensor; in a replay it is no longer fresh
            func = aten.lift_fresh_copy.default
        given = [_address(one) for one in _tensors((args, kwargs))]
        varies = not self._of_input.isdisjoint(given)
        reads = torch.Tag.data_dependent_output in func.tags and not self._decided
        if varies and reads:
            self._refuse(Unrecordable(f"it takes a number out of a tensor ({func})"))
        for one in _written(func, args, kwargs):
            self._check_writing(func, _address(one))
            if varies:
                self._of_input.add(_address(one))
        nodes = _changed((args, kwargs), torch.Tensor, self._node_of)
        node = self._graph.call_function(func, *nodes)
        self._count += 1
        if self._most is not None and self._count > self._most:
            self._refuse(Unrecordable("it does too many operations"))
        blank = varies and not self._computed
        if self._most is not None and not blank:
            self._check_room(func, args, kwargs)
        light = self._most is not None
        result = _blank(func, args, kwargs, light) if blank else func(*args, **kwargs)
        sources = [one.name in self._constants for one in node.all_input_nodes]
        if sources and all(sources) and _is_view(func):
            self._constants[node.name] = result
        self._name(node)
        self._keep(result, node, varies, given)
        return result

    def _check_room(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to compute what is too large."""
        if _is_view(func) or func._schema.is_mutable:
            return
        try:
            made = list(_tensors(_shaped(func, args, kwargs)))
        except Exception:  # its shape is not known without computing it
            return
        if sum(one.numel() for one in made) > _MOST_NUMBERS:
            self._refuse(Unrecordable(f"what {func} returns is too large"))

    def _check_writing(self, func: Any, address: int) -> None:
        if address in self._held:
            self._refuse(
                ModelError(
                    f"The network writes into its own buffers or weights ({func}), so that what it "
                    "predicts may depend on the tiles before: keep that number in a local variable "
                    "of its forward to have its statistics fixed."
                )
            )
        if address not in self._made:
            self._refuse(Unrecordable(f"it writes into a tensor that it did not make ({func})"))

    def _name(self, node: fx.Node) -> None:
        if self._names:
            node.meta["module"] = self._names[-1]

    def _keep(self, made: Any, node: fx.Node, varies: bool, given: Sequence[int] = ()) -> None:
        """Remember which node a result is, and each tensor in a list of results."""
        if isinstance(made, (list, tuple)):
            for number, one in enumerate(made):
                if isinstance(one, (list, tuple, torch.Tensor)):
                    part = self._graph.call_function(operator.getitem, (node, number))
                    self._name(part)
                    self._keep(one, part, varies, given)
        elif isinstance(made, torch.Tensor):
            where = tuple(made.shape), made.stride()
            node.meta["val"] = torch.empty_strided(*where, dtype=made.dtype, device="meta")
            self._nodes[made] = node
            address = _address(made)
            if address not in given:
                self._made[address] = node
                self._references.append(StorageWeakRef(made.untyped_storage()))
                if varies:
                    self._of_input.add(address)

    def _node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Which node a tensor is; one that no operation made is a weight."""
        found = self._nodes.get(tensor)
        if found is not None:
            return found
        where = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        base = self._made.get(_address(tensor))
        if base is not None:  # torch made another tensor of the same numbers, without an operation
            node = self._graph.call_function(aten.as_strided.default, (base, *where))
        else:
            node = self._graph.create_node("get_attr", "constant")
            self._constants[node.name] = tensor
        self._nodes[tensor] = node
        node.meta["val"] = torch.empty_strided(*where[:2], dtype=tensor.dtype, device="meta")
        return node


def _blank(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], light: bool) -> Any:
    """Return what an operation returns, without numbers: memory that nothing is written into.

    Of one number each where it is to be `light`, with strides of 0.
    """
    if _is_view(func):
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        if len(func._schema.returns) == 1 and func._schema.arguments[0].is_write:
            _shaped(func, args, kwargs)  # which refuses shapes that do not fit
            return args[0]
        raise Unrecordable(f"what {func} returns is not known without computing it")
    if torch.Tag.dynamic_output_shape in func.tags and not _reads_at_numbers(func, args):
        raise Unrecordable(f"the shape of what {func} returns is not known without computing it")

    def made(one: torch.Tensor) -> torch.Tensor:
        if light:
            return torch.empty((), dtype=one.dtype).expand(one.shape)
        return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype)

    return _changed(_shaped(func, args, kwargs), torch.Tensor, made)


def _shaped(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an operation returns, on the device that holds nothing."""

    def like(one: torch.Tensor) -> torch.Tensor:
        if 0 in one.stride():  # into which nothing can be written
            return torch.empty(one.shape, dtype=one.dtype, device="meta")
        return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta")

    shapes = _changed((args, kwargs), torch.Tensor, like)
    kwargs = shapes[1] | ({"device": "meta"} if "device" in kwargs else {})
    return func(*shapes[0], **kwargs)


def _reads_at_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation reads at places given by numbers, as many as it then returns."""
    places = list(_tensors(args[1:2]))
    masks = (torch.bool, torch.uint8)
    return func is aten.index.Tensor and not any(one.dtype in masks for one in places)


def _address(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for one in values:
            yield from _tensors(one)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _changed(values: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return the same values with those of a kind changed, also in lists."""
    return fx.node.map_aggregate(values, lambda one: change(one) if isinstance(one, kind) else one)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Tensors that an operation changes; except running statistics, which it does not use then."""
    if not func._schema.is_mutable or "batch_norm" in func.__name__:
        return
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from _tensors(given)


class RunningModules(ExitStack):
    """Within this context, keeps the names of the modules that run."""

    def __init__(self, module: nn.Module | None, names: list[str]) -> None:
        super().__init__()
        for name, part in () if module is None else module.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue

            def enter(part: Any, given: Any, name: str = name) -> None:
                # a graph, as of an exported program, runs the operations of all layers itself
                names.append("" if isinstance(part, fx.GraphModule) else name)

            def leave(part: Any, given: Any, result: Any) -> None:
                names.pop()

            self.callback(part.register_forward_pre_hook(enter).remove)
            self.callback(part.register_forward_hook(leave, always_call=True).remove)


# -- what is alive between two operations


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in its storage."""

    storage: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Waiting:
    """Values that wait, in host memory or in a file; tensors that share memory still do afterwards.

    Parameters
    ----------
    values
        By name: tensors, lists of them, or anything else.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.storages: list[torch.UntypedStorage] = []
        self._sizes: list[int] = []
        numbers: dict[int, int] = {}

        def placed(tensor: torch.Tensor) -> _Place:
            number = numbers.setdefault(_address(tensor), len(numbers))
            if number == len(self.storages):
                self.storages.append(tensor.untyped_storage().cpu())
            where = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
            return _Place(number, tensor.dtype, *where)

        self._values = _changed(dict(values), torch.Tensor, placed)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(storage.nbytes() for storage in self.storages)

    def spill(self, path: Path) -> None:
        """Move what is held into a file."""
        self._sizes = [storage.nbytes() for storage in self.storages]
        with open(path, "wb") as file:
            for storage in self.storages:
                file.write(memoryview(_bytes_of(storage)))
        self.storages = []

    def fetch(self, path: Path) -> None:
        """Bring back what was spilled."""
        with open(path, "rb") as file:
            for size in self._sizes:
                storage = torch.UntypedStorage(size)
                file.readinto(memoryview(_bytes_of(storage)))
                self.storages.append(storage)

    def take(self, device: torch.device) -> dict[str, Any]:
        """Return the values on a device; they are no longer held here."""
        storages = [one if device.type == "cpu" else one.to(device=device) for one in self.storages]
        self.storages = []

        def found(place: _Place) -> torch.Tensor:
            empty = torch.empty(0, dtype=place.dtype, device=device)
            return empty.set_(storages[place.storage], place.offset, place.size, place.stride)

        return dict(_changed(self._values, _Place, found))


def _bytes_of(storage: torch.UntypedStorage) -> Any:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


# -- replaying


class Differs(Exception):  # noqa: N818  (the reader of a graph says what it means for its user)
    """An operation gives another shape than when it was recorded."""


class Replay:
    """Runs a graph from one of its nodes to its end, or to where `operation` raises.

    Parameters
    ----------
    graph
        What to run.
    values
        What is alive, by the name of its node; at the beginning ``{"x": input}``. Used up.
    step
        Number of the node to begin with; by default the first.
    operation
        Called instead of each operation, with it and its arguments.

    Attributes
    ----------
    step
        Number of the node that runs.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()).eval()
    >>> graph = record(net, torch.zeros(1, 1, 8, 8))
    >>> x = torch.randn(1, 1, 8, 8)
    >>> bool(torch.equal(Replay(graph, {"x": x}).to_end(), net(x)))
    True
    """

    def __init__(
        self,
        graph: RecordedGraph,
        values: dict[str, Any],
        step: int = 0,
        operation: Operation = lambda func, args, kwargs: func(*args, **kwargs),
    ) -> None:
        self.step = step
        self._graph, self._alive, self._operation = graph, dict(values), operation
        values.clear()

    def to_end(self) -> Any:
        """Run to the end; returns what the network does.

        Raises
        ------
        Differs
            Where an operation gives another shape than when it was recorded.
        """
        for node, dead in self._graph.steps[self.step :]:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
            target: Any = node.target
            if node.op == "output":
                return args[0]
            if isinstance(target, torch._ops.OpOverload):
                result = self._operation(target, args, kwargs)
            else:
                result = target(*args, **kwargs)
            del args, kwargs
            if node.users:
                _check_shape(node, result)
                self._alive[node.name] = result
            del result
            for name in dead:
                self._alive.pop(name, None)
            self.step += 1
        raise AssertionError("a graph ends with its output")

    def alive(self) -> dict[str, Any]:
        """Return what the operation that runs, and those after it, use; it ends this replay."""
        alive, self._alive = self._alive, {}
        return alive

    def _value(self, node: fx.Node) -> Any:
        constants = self._graph.constants
        return constants[node.name] if node.name in constants else self._alive[node.name]


def _same_version(tensor: torch.Tensor, version: int) -> bool:
    return bool(tensor._version == version)


def _check_shape(node: fx.Node, result: Any) -> None:
    known = node.meta.get("val")
    if known is not None and isinstance(result, torch.Tensor) and result.shape != known.shape:
        raise Differs(f"{node.target}: {tuple(known.shape)} before, {tuple(result.shape)} now")


__all__ = [
    "Differs",
    "Forward",
    "Glimpse",
    "Operation",
    "RecordedGraph",
    "Recorder",
    "Replay",
    "Unrecordable",
    "Waiting",
    "record",
]
