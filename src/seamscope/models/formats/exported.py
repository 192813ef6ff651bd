"""Programs written by ``torch.export`` (``.pt2``).

Knows their archive, what of it torch would execute on loading, and how they are run at other
sizes. Does not know networks.

Loading such a file is less harmless than it looks (torch 2.13): tensors that are not plain, and
whole archives of torch 2.7 and older, are pickles; sizes are written as expressions that sympy
*evaluates*; checks of sizes are Python source that is executed; and the graph calls anything below
``torch`` by name. So everything is compared with what export itself writes, pickles of tensors,
sums and products of sizes, operations of ATen. Anything else is listed as code.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from seamscope.models.formats.archive import Archive
from seamscope.models.formats.checkpoints import pickled
from seamscope.models.formats.documents import LARGEST_JSON, read_json
from seamscope.models.formats.format import Code, Format, damaged
from seamscope.models.formats.readable import one_line
from seamscope.models.formats.spec import Spec
from seamscope.models.formats.wrappers import FixedBatch, SplitInput, Wrapper, one_image, one_output
from seamscope.models.input_search import Hints
from seamscope.models.model import Model
from seamscope.models.speed.fusion import without_checks

_OLD = "serialized_exported_program.json"

_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file|_?load|save|set_source)(?:[a-z_]\w*)(?:\.\w+)?"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|torch\.(?:_?sym_(?:max|min|int|float|not|ite|sum|sqrt)|_C\._set_grad_enabled)"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_"
    r"|not_|pos|abs|lshift|rshift)"
    r"|math\.(?:ceil|floor|trunc|sqrt)"
)
_GPU = re.compile(rb"""{\s*"type":\s*"(?:cuda|mps|xpu)",\s*"index":\s*(?:\d+|null)\s*}""")
_CPU = b'{"type": "cpu", "index": null}'
_DUNDER = re.compile(r"__(?!and__|or__|xor__|lshift__|rshift__)")
_PLAIN = re.compile(r"[\w .:,/+\-\[\]<>()]*")
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Name, ast.Constant,
    ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Subscript, ast.Tuple,
)  # fmt: skip
_CALLED = re.compile(
    r"Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|TruncToInt|"
    r"FloorToInt|CeilToInt|RoundToInt|IntTrueDiv|FloatTrueDiv|ToFloat|PowByNatural|Where|"
    r"ModularIndexing|Symbol|Integer|Float|Rational|Mul|Add|Pow|Equality|Unequality|LessThan|"
    r"GreaterThan|StrictLessThan|StrictGreaterThan|LShift|RShift|floor|ceiling|Abs|max|min|"
    r"sqrt|"
    r"math\.(?:trunc|floor|ceil|sqrt|pow)|torch\.sym_(?:float|int|max|min|not|ite|sum)"
)
_METHODS = ("size", "stride", "dim", "storage_offset")
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "builtins.slice"}


# -- what loading would run


def is_exported(archive: Archive) -> bool:
    """Whether an archive was written by ``torch.export.save``."""
    return any(name.rpartition("/")[2] in ("archive_format", _OLD) for name in archive.names)


def _code(spec: Spec) -> tuple[Code, ...]:
    archive = Archive(spec.path)
    # torch finds members whether their letters are small or not
    pickles, plain = _payloads(archive)
    return tuple(code for name in archive.names for code in _code_in(archive, name, pickles, plain))


def _payloads(archive: Archive) -> tuple[set[str], set[str]]:
    """Names of tensors' files that torch unpickles, and that it reads as raw numbers."""
    pickles: set[str] = set()
    plain: set[str] = set()
    for name in archive.names:
        if _is_config(name):
            content = read_json(archive.read(name, limit=LARGEST_JSON), name)
            entries = content.get("config") if isinstance(content, dict) else None
            for entry in entries.values() if isinstance(entries, dict) else ():
                if isinstance(entry, dict):
                    path = str(entry.get("path_name")).lower().rpartition("/")[2]
                    (plain if entry.get("use_pickle") is False else pickles).add(path)
    return pickles, plain - pickles


def _is_config(name: str) -> bool:
    return name.lower().endswith("_config.json")


_READ_AS_TEXT = re.compile(
    r"(?:^|/)(?:\.data/.*|archive_format|archive_version|byteorder|version|\.format_version|"
    r"extra/.*|extra_files/.*)"
)
_RAW = re.compile(r"(?:weight|tensor)_\d+")


def _code_in(archive: Archive, name: str, pickles: set[str], plain: set[str]) -> Iterator[Code]:
    """List what torch would run of a member; whatever it does not read as text may be a pickle."""
    low = name.lower()
    payload = low.rpartition("/")[2]
    if "/aotinductor/" in f"/{low}":
        yield Code.of(f"compiled code {name}", archive.read(name))
    elif "/models/" in f"/{low}" or low.endswith(_OLD) or _is_config(name):
        yield from _unusual_code(archive.read(name, limit=LARGEST_JSON), name)
    elif _READ_AS_TEXT.search(low) and payload not in pickles:
        return
    elif not (_RAW.fullmatch(payload) and payload in plain):
        yield from pickled(archive.read(name), name, always=True)


def _unusual_code(content: bytes, name: str) -> Iterator[Code]:
    program = read_json(content, name)
    found = list(dict.fromkeys(_unusual(program)))
    if not found:
        return
    whole = Code.of("", content, text=json.dumps(program, indent=1)[:_MOST_TEXT])
    for what in found[:_MOST_LINES]:
        yield dataclasses.replace(whole, what=one_line(f"{what} in {name}"))
    if len(found) > _MOST_LINES:
        more = f"{len(found) - _MOST_LINES} more such names and expressions in {name}"
        yield dataclasses.replace(whole, what=one_line(more))


_MOST_LINES = 40
_MOST_TEXT = 1 << 20


def _unusual(content: Any, key: str = "") -> Iterator[str]:
    """List what torch would run of a program beyond what export writes."""
    if isinstance(content, dict):
        for name, value in content.items():
            if key == "custom_objects" or name == "as_custom_obj":
                yield f"custom object {value!r}"
            if name != "metadata" or "stack_trace" not in str(value)[:200]:
                yield from _unusual(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _unusual(value, key)
    elif isinstance(content, str):
        what = _unusual_text(content, key)
        if what:
            yield f"{what} {one_line(content)!r}"


def _unusual_text(text: str, key: str) -> str:
    if key in ("target", "as_operator"):
        known = _OPERATORS.fullmatch(text) and not _DUNDER.search(text)
        return "" if known else "the function"
    if key in ("expr_str", "guards_code"):
        return "" if _is_arithmetic(text) else "the expression"
    if key in ("in_spec", "out_spec", "treespec"):
        return "" if _is_plain_tree(text) else "the data structure"
    if key in _FREE_TEXT:
        return ""
    return "" if _PLAIN.fullmatch(text) else "the name"


_FREE_TEXT = {
    "stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "custom", "from_node",
}  # fmt: skip


def _is_arithmetic(text: str) -> bool:
    """Whether an expression only compares and computes sizes."""
    try:
        tree = _without_calls(ast.parse(text.strip(), mode="eval"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_harmless, ast.walk(tree)))


class _Calls(ast.NodeTransformer):
    """Replaces every call of a known function by its arguments; what is left must be plain."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        inside = [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            inside.append(node.func.value)
        elif not _CALLED.fullmatch(ast.unparse(node.func)):
            return node
        return ast.Tuple(inside, ast.Load())


def _without_calls(tree: ast.AST) -> ast.AST:
    return _Calls().visit(tree)  # type: ignore[no-any-return]


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return re.fullmatch(r"[a-zA-Z]\w*", node.id) is not None
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
        return re.fullmatch(r"[\w.+-]*", str(node.value)) is not None
    return isinstance(node, _ARITHMETIC)


def _is_plain_tree(text: str) -> bool:
    """Whether a structure of arguments is made of tuples, lists and dictionaries alone."""

    def plain(node: Any) -> bool:
        return (
            isinstance(node, dict)
            and node.get("type") in _TREES
            and all(map(plain, node.get("children_spec", ())))
        )

    try:
        spec = json.loads(text) if text else [1, {"type": None}]
        return isinstance(spec, list) and len(spec) == 2 and plain(spec[1])
    except (ValueError, RecursionError):
        return False


# -- loading and running


class Exported(Wrapper):
    """An exported program as a module.

    Parameters
    ----------
    program
        The loaded program.
    """

    graph_batch = None

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(program.module())

    def train(self, mode: bool = True) -> Exported:
        """Do nothing: a program is exported in one mode, and torch raises an error here."""
        return self

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the program."""
        return self.inner(*inputs)

    def as_graph(self) -> fx.GraphModule:
        """Return the program without its checks of sizes."""
        assert isinstance(self.inner, fx.GraphModule)
        return without_checks(self.inner)


def _shapes(program: torch.export.ExportedProgram) -> list[list[int | None]]:
    """Sizes of each tensor that goes in, None where any will do."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [
        nodes[name].meta["val"]
        for name in inputs
        if isinstance(name, str) and isinstance(nodes[name].meta.get("val"), torch.Tensor)
    ]
    return [[n if isinstance(n, int) else None for n in tensor.shape] for tensor in tensors]


def _sizes(program: torch.export.ExportedProgram) -> list[int | None]:
    """Sizes of the one image that goes in, None where any will do."""
    return one_image(_shapes(program), "The exported program")


def _hints(program: torch.export.ExportedProgram) -> Hints:
    sizes = _sizes(program)
    spatial = sizes[2:]
    fixed = tuple(size for size in spatial if size is not None)
    return Hints(
        spatial_axes=len(spatial) if len(spatial) in (2, 3) else None,
        in_channels=sizes[1] if len(sizes) > 1 else None,
        shape=fixed if len(fixed) == len(spatial) and fixed else None,
    )


def load_program(source: Path | bytes, name: str) -> torch.export.ExportedProgram:
    """Load a checked program onto the CPU."""
    with _quiet():
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
            program = torch.export.load(io.BytesIO(_for_cpu(data)))
        except Exception as error:
            raise damaged(name, "an exported program", error) from error
    return program


def _for_cpu(data: bytes) -> bytes:
    """Name the CPU wherever a program made on a GPU names that; torch would look for the GPU."""
    archive = Archive.of_bytes(data, "program")
    texts = {n: archive.read(n) for n in archive.names if n.endswith(".json")}
    if not any(_GPU.search(text) for text in texts.values()):
        return data
    moved = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(moved, "w") as out:
        for name in given.namelist():
            out.writestr(name, _GPU.sub(_CPU, texts[name]) if name in texts else given.read(name))
    return moved.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch logs of damaged and old files; our own sentences replace it."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _load(spec: Spec) -> Model:
    program = load_program(spec.path, str(spec.path))
    batch, shapes = _sizes(program)[0], _shapes(program)
    alone: nn.Module = Exported(program)
    if len(shapes) > 1:
        alone = SplitInput(alone, [shape[1] for shape in shapes])
    module = alone if batch is None else FixedBatch(alone, batch)
    names = _outputs(program)
    notes: tuple[str, ...] = ()
    if names:
        module, notes = one_output(module, names, spec.output, str(spec.path))
    return Model(
        module,
        name=spec.path.stem,
        spec=spec.text,
        hints=_hints(program),
        outputs=names,
        notes=notes,
    )


def _outputs(program: torch.export.ExportedProgram) -> tuple[str, ...] | None:
    """Numbers of its outputs, where it gives several."""
    count = len(program.graph_signature.user_outputs)
    spec = program.call_spec.out_spec
    several = count > 1 and spec is not None and spec.type in (tuple, list)
    return tuple(map(str, range(count))) if several else None


EXPORTED = Format("torch.export program", lambda s: is_exported(Archive(s.path)), _code, _load)
