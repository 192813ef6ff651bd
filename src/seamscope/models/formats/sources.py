"""Python files that importing a module would run, found without running any.

Knows Python's imports: modules and packages beside a file, compiled ones, those that are imported
in turn. Does not know networks.

Only imports that are written out are found; code that imports by a computed name is named as
unknown. Installed packages (``site-packages`` and the standard library) are not followed:
a person who can change them can change Seamscope itself.

What was found is also what runs: modules are compiled from the bytes that were read, and never
from ``__pycache__``, where other code may lie than in the source.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import itertools
import site
import sys
import sysconfig
import types
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from seamscope.errors import ModelError
from seamscope.models.formats.readable import one_line, python_text

_MOST_FILES = 5000
_MOST_NETWORKS = 3  # of a file, that are named
_SUFFIXES = (
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,
)
# Functions that run or import what only running shows.
_OPAQUE = {
    "exec", "eval", "compile", "run_path", "run_module", "CDLL", "PyDLL", "LoadLibrary",
    "load_library", "spec_from_file_location", "load_inline", "load_dynamic", "exec_module",
}  # fmt: skip
_IMPORTERS = {"__import__", "import_module"}


def networks_in(data: bytes) -> list[str]:
    """Return what of a Python file looks like a network, without running any of it.

    These are classes, and functions that build a network and need no argument.

    Parameters
    ----------
    data
        Content of the file.

    Returns
    -------
    list of str
        Names, the last defined first: networks are built of what stands above them. Arguments
        that have no default stand in brackets. Empty where the file is not Python.
    """
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found: dict[str, str] = {}
    for each in tree.body:
        if isinstance(each, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in each.bases]
            if any(base.endswith("Module") or base in found for base in bases):
                found[each.name] = f"{each.name}{_needed_by(each)}"
        elif isinstance(each, ast.FunctionDef) and _builds(each, found):
            found[each.name] = each.name
    return list(reversed(found.values()))[:_MOST_NETWORKS]


def _needed_by(network: ast.ClassDef) -> str:
    """Write the arguments that a class needs, as in ``(depth=..., width=...)``."""
    for each in network.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            needed = _without_default(each.args)[1:]  # but self
            return f"({', '.join(f'{name}=...' for name in needed)})" if needed else ""
    return ""


def _without_default(own: ast.arguments) -> list[str]:
    placed = [*own.posonlyargs, *own.args]
    needed = placed[: len(placed) - len(own.defaults)]
    needed += [a for a, d in zip(own.kwonlyargs, own.kw_defaults, strict=True) if d is None]
    return [each.arg for each in needed]


def _builds(function: ast.FunctionDef, known: Container[str]) -> bool:
    """Whether a function that needs no argument says that it returns a network, or does."""
    if _without_default(function.args):
        return False
    if function.returns is not None:
        kind = ast.unparse(function.returns).strip("'\"").rpartition(".")[2]
        return kind.endswith("Module") or kind in known
    parts = list(ast.walk(function))
    made = {  # names of what the function assigns
        target.id: part.value
        for part in parts
        if isinstance(part, ast.Assign)
        for target in part.targets
        if isinstance(target, ast.Name)
    }
    returned = [part.value for part in parts if isinstance(part, ast.Return)]
    values = [made.get(v.id) if isinstance(v, ast.Name) else v for v in returned]
    return any(isinstance(v, ast.Call) and _makes(ast.unparse(v.func), known) for v in values)


def _makes(called: str, known: Container[str]) -> bool:
    own = called.removeprefix("torch.")
    return called in known or (own.startswith("nn.") and not own.startswith("nn.functional."))


@dataclass(frozen=True)
class File:
    """A file that would run.

    Attributes
    ----------
    path
        Where it was found; a symbolic link is not resolved here, its content is the target's.
    digest
        SHA-256 of its content.
    data
        Its content, where it is Python source; else None.
    """

    path: Path
    digest: str
    data: bytes | None

    @property
    def text(self) -> str:
        """Its source, or what it is."""
        if self.data is not None:
            return python_text(self.data)
        return f"(compiled code, {self.path.stat().st_size:,} bytes, SHA-256 {self.digest})"


@dataclass
class Sources:
    """What importing a module would run.

    Attributes
    ----------
    files
        By their paths, the module itself first.
    names
        Modules that are imported from these files.
    unknown
        One sentence for each way in which they run code that is not found here.
    roots
        Folders in which modules are looked for.
    """

    files: dict[Path, File] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    unknown: dict[str, None] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()

    @classmethod
    def of_file(cls, path: Path) -> Sources:
        """Find what a Python file and the modules beside it would run."""
        beside = dict.fromkeys((path.absolute().parent, path.resolve().parent))
        roots = () if is_installed(path.resolve()) else (*beside, *_own_roots())
        found = cls(roots=tuple(dict.fromkeys(roots)))
        if path.is_file():
            found._visit(path, package="")
        return found

    @classmethod
    def of_modules(cls, *names: str, installed: bool = True) -> Sources:
        """Find what importing modules by their dotted names would run.

        Parameters
        ----------
        names
            Of the modules.
        installed
            Whether to return, of an installed module, its own file and those of the packages
            around it. They are not followed.
        """
        found = cls(roots=_own_roots())
        for name in names:
            found._import(name)
            own = [file for root in found.roots for file in _candidates(_place(root, name))]
            if installed and name not in found.names:
                own = list(_installed_files(name))[-1:]
                for file in _installed_files(name):
                    found._keep(file)
            found.files = {file: found.files[file] for file in own} | found.files
        return found

    @classmethod
    def of_text(cls, data: bytes, name: str) -> Sources:
        """Find what Python source that is not in a folder would run."""
        found = cls(roots=_own_roots())
        found._follow(data, name, package="")
        return found

    @property
    def content(self) -> tuple[str, ...]:
        """What identifies the files, for a hash: names and contents, in a fixed order."""
        pairs = sorted((file.path.name, file.digest) for file in self.files.values())
        return tuple(part for pair in pairs for part in pair)

    @property
    def text(self) -> str:
        """All sources, one after the other."""
        files = list(self.files.values())
        if len(files) == 1:
            return files[0].text
        return "\n\n".join(
            f"# ---- {one_line(_shown_path(file.path))}\n{file.text}" for file in files
        )

    def _import(self, name: str) -> None:
        """Follow a dotted name with the packages around it."""
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            part = ".".join(parts[:count])
            if part in self.names or not all(parts[:count]):
                continue
            places = [_place(root, part) for root in self.roots]
            files = [file for place in places for file in _candidates(place)]
            if files or any(place.is_dir() for place in places):
                self.names.add(part)
            for file in files:
                is_package = file.name.split(".")[0] == "__init__"
                self._visit(file, part if is_package else part.rpartition(".")[0])

    def _visit(self, path: Path, package: str) -> None:
        if path not in self.files:
            file = self._keep(path)
            if file.data is not None:
                self._follow(file.data, path.name, package)

    def _keep(self, path: Path) -> File:
        if len(self.files) >= _MOST_FILES:
            raise ModelError(
                f"{next(iter(self.files))} imports more than {_MOST_FILES:,} files, too many to be "
                "checked before they run: install its package, and name the factory as "
                "package.module:function."
            )
        self.files[path] = _read(path)
        return self.files[path]

    def _follow(self, data: bytes, name: str, package: str) -> None:
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return  # cannot be imported either
        for node in ast.walk(tree):
            for wanted in _imported_by(node, package):
                self._import(wanted)
            opaque = _opaque(node)
            if opaque:
                line = getattr(node, "lineno", 0)
                self.unknown[f"{name}, line {line}: what {opaque} runs is not known"] = None


def _shown_path(path: Path) -> str:
    target = path.resolve()
    return str(path) if target == path.absolute() else f"{path} -> {target}"


def _read(path: Path) -> File:
    try:
        if path.suffix == ".py":
            data = path.read_bytes()
            return File(path, hashlib.sha256(data).hexdigest(), data)
        with path.open("rb") as file:
            return File(path, hashlib.file_digest(file, "sha256").hexdigest(), None)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}), and what it would run is unknown: "
            "check its permissions."
        ) from error


def _place(root: Path, name: str) -> Path:
    return root.joinpath(*name.split("."))


def _candidates(place: Path) -> Iterator[Path]:
    """All files that Python would try for a module."""
    for suffix in _SUFFIXES:
        for file in (place / f"__init__{suffix}", place.with_name(place.name + suffix)):
            if file.is_file():
                yield file


def _imported_by(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if package else []
        origin = ".".join([*(above if node.level else []), *([node.module] if node.module else [])])
        if origin:
            yield origin
        for alias in node.names:
            yield f"{origin}.{alias.name}".lstrip(".")
    elif isinstance(node, ast.Call) and _called(node) in _IMPORTERS:
        match node.args:
            case [ast.Constant(str(name)), *_]:
                yield name.lstrip(".")


def _opaque(node: ast.AST) -> str:
    """Name of a function that runs what only running shows; empty for any other node."""
    if isinstance(node, ast.Attribute) and node.attr == "path" and _is_name(node.value, "sys"):
        return "sys.path makes importable"
    if not isinstance(node, ast.Call):
        return ""
    name = _called(node)
    if name in _IMPORTERS:
        constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
        return "" if constant else f"{name}()"
    methods = isinstance(node.func, ast.Attribute) and name in ("eval", "compile")
    return f"{name}()" if name in _OPAQUE and not methods else ""


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


# -- where modules are


@cache
def _installed_folders() -> tuple[Path, ...]:
    folders = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    folders.append(str(Path(__file__).parents[3]))  # Seamscope itself, where it is not installed
    return tuple(Path(folder).resolve() for folder in folders if folder)


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python, to an installed package or to Seamscope."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _installed_folders())


def _own_roots() -> tuple[Path, ...]:
    """Folders of `sys.path` that are not installed packages: the current one, PYTHONPATH."""
    folders = (Path(entry or ".").absolute() for entry in sys.path)
    return tuple(
        dict.fromkeys(
            folder for folder in folders if folder.is_dir() and not is_installed(folder.resolve())
        )
    )


def _installed_files(name: str) -> Iterator[Path]:
    """A module's file and those of the packages around it; the module's comes last.

    `importlib.util.find_spec` would import the packages around it.
    """
    top, *rest = name.split(".")
    found = importlib.machinery.PathFinder.find_spec(top)
    if found is None or found.origin is None:
        return
    place = Path(found.origin)
    if place.is_file():
        yield place
    for count in range(1, len(rest) + 1):
        yield from itertools.islice(_candidates(_place(place.parent, ".".join(rest[:count]))), 1)


# -- running what was found


class _FromMemory(importlib.machinery.SourceFileLoader):
    """Runs the bytes that were read, and neither reads nor writes ``__pycache__``."""

    def __init__(self, name: str, path: str, data: bytes) -> None:
        super().__init__(name, path)
        self.data = data

    def get_code(self, fullname: str) -> types.CodeType:
        code: types.CodeType = compile(self.data, self.path, "exec", dont_inherit=True)
        return code


class _Finder:
    """Finds the modules beside a factory; those of the standard library are never replaced."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        """Find a module for `importlib`."""
        if name not in self.sources.names or name.partition(".")[0] in sys.stdlib_module_names:
            return None
        places = list(map(str, self.sources.roots)) if path is None else list(path)
        found = importlib.machinery.PathFinder.find_spec(name, places)
        if found is None or not isinstance(found.loader, importlib.machinery.SourceFileLoader):
            return found
        file = self.sources.files.get(Path(str(found.origin)))
        if file is None or file.data is None:
            return None
        found.loader = _FromMemory(name, str(found.origin), file.data)
        return found


def run_file(path: Path, sources: Sources) -> types.ModuleType:
    """Run a Python file that was found, with the modules beside it."""
    serve(sources)
    data = sources.files[path].data
    assert data is not None
    name = f"seamscope_factory_{path.stem}"
    loader = _FromMemory(name, str(path), data)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def run_module(name: str, sources: Sources) -> types.ModuleType:
    """Import a module that was found."""
    serve(sources)
    return importlib.import_module(name)


def serve(sources: Sources) -> None:
    """From now on, let imports find these modules, in place of another factory's of these names."""
    finders: list[Any] = sys.meta_path
    finders[:] = [
        each
        for each in finders
        if not (isinstance(each, _Finder) and each.sources.roots == sources.roots)
    ]
    for name in sources.names:
        loader = getattr(sys.modules.get(name), "__loader__", None)
        if isinstance(loader, _FromMemory):
            file = sources.files.get(Path(loader.path))
            if file is None or file.data != loader.data:
                del sys.modules[name]
    finders.insert(0, _Finder(sources))


__all__ = ["File", "Sources", "is_installed", "networks_in", "run_file", "run_module", "serve"]
