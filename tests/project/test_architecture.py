"""Imports point only downward, and the engine knows no window."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from test_documentation import MODULES

import seamscope

PACKAGE = Path(seamscope.__file__).parent
# From the bottom up: each room may import those before it, and itself.
ROOMS = (
    "version",
    "errors",
    "progress",
    "text",
    "files",
    "dice",
    "bootstrap",
    "cache",
    "serialization",
    "ledger",
    "recorded_graph",
    "tiling",
    "settings",
    "stitching",
    "process_memory",
    "demo",
    "images",
    "normalization",
    "models",
    "planning",
    "seams",
    "prediction",
    "execution",
    "segmentation",
    "receptive_field",
    "explain",
    "compare",
    "fixed_statistics",
    "reports",
    "cli",
    "docks",
)


def _imports_of(file: Path) -> Iterator[str]:
    """Rooms that a module imports, at once or when a function of it is called."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seamscope."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "seamscope":
            yield from (name.name for name in node.names if name.name in ROOMS)


def test_every_module_has_a_room() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__main__", "__pycache__", "resources"} == set(ROOMS)


def test_imports_point_downward() -> None:
    upward = [
        f"{file.relative_to(PACKAGE)} imports {target}"
        for room in ROOMS
        for file in (*(PACKAGE / room).rglob("*.py"), *PACKAGE.glob(f"{room}.py"))
        for target in _imports_of(file)
        if ROOMS.index(target) > ROOMS.index(room)
    ]
    assert sorted(set(upward)) == [
        "cli/demo.py imports docks",  # the command opens the window
        "prediction/measure_seams.py imports execution",  # it may be given workers
        "prediction/run.py imports execution",  # `predict` may be given workers
    ]


def test_start_is_light() -> None:
    """Counted: what a fresh process imports; that of commands is counted in ``test_cli.py``."""
    code = "import seamscope, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "seamscope" in done.stdout.split()
    assert not {"numpy", "torch", "napari", "typer", "rich"} & set(done.stdout.split())


def test_engine_imports_neither_napari_nor_qt() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.import_module(name)\n"
        "windows = {'napari', 'qtpy', 'PyQt6', 'superqt'}\n"
        "bad = windows & {name.split('.')[0] for name in sys.modules}\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
