"""Write the reference pages from the program itself, so that they never drift from it.

``cli.md`` holds the help of every command, ``settings.md`` the one explanation of each setting,
``python.md`` the public names in the order of a workflow, ``docks.md`` every control of the docks
with its tip. Run by `conf`, and by the tests.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GROUPS = {
    "Open": ("open_image", "load_model", "Image", "Model"),
    "Plan": ("resolve", "Settings", "Plan", "Case", "TileGrid", "measure_intensity", "Intensity"),
    "Predict": ("predict", "prepare", "run"),
    "Measure and explain": (
        "measure_seams", "SeamReport", "diagnose", "examine", "Pipeline",
        "measure_receptive_field", "audit",
    ),
    "Compare and prove": ("sweep", "certify", "store_certificate"),
    "Fix": ("freeze_statistics", "Statistics", "replace_normalization"),
    "Objects": ("segment", "Segmentation", "Recipe", "find_splits"),
    "Errors": ("SeamscopeError",),
}  # fmt: skip


def write(folder: Path) -> None:
    """Write all reference pages into a folder."""
    folder.mkdir(exist_ok=True)
    for name, lines in (("cli", commands()), ("settings", settings()), ("python", python())):
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf8")
    docks(folder)


def docks(folder: Path) -> None:
    """Write the page of the docks, in a process that has a Qt application; pictures take a minute.

    ``SEAMSCOPE_PICTURES=no`` leaves the pictures out.
    """
    if importlib.util.find_spec("napari") is None:
        text = "# The docks\n\nThis page is written where napari is installed.\n"
        (folder / "docks.md").write_text(text, encoding="utf8")
        return
    options = [] if os.environ.get("SEAMSCOPE_PICTURES") == "no" else ["--pictures"]
    script = Path(__file__).with_name("docks.py")
    subprocess.run(
        [sys.executable, str(script), str(folder), *options],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        check=True,
    )


def commands() -> Iterator[str]:
    """Yield the page of the command line: what ``--help`` shows, command by command."""
    os.environ["TERMINAL_WIDTH"] = "100"  # typer's width, where no terminal says one
    from typer.main import get_command
    from typer.testing import CliRunner

    from seamscope.cli import app

    group = get_command(app)
    runner = CliRunner()
    yield "# Command line\n"
    for name in ("", *group.commands):  # type: ignore[attr-defined]
        shown = runner.invoke(app, [*name.split(), "--help"], color=False).output
        yield f"## seamscope {name}\n".replace(" \n", "\n")
        yield "```text\n" + "\n".join(line.rstrip() for line in shown.splitlines()) + "\n```\n"


def settings() -> Iterator[str]:
    """Yield the page of settings: the same sentences as tooltips and ``--help``."""
    from seamscope.settings import WORDS

    yield "# Settings\n"
    yield "Each setting has one name and one explanation, in Python, on the command line and in the"
    yield "docks.\n"
    for name, words in WORDS.items():
        yield f"`{name}`\n: {words.help}\n"


def python() -> Iterator[str]:
    """Yield the page of public names."""
    yield "# Python\n"
    yield "All names are in `seamscope`. Shapes: channels first, then space in the order `zyx`.\n"
    for title, names in GROUPS.items():
        yield f"## {title}\n"
        yield "```{eval-rst}"
        for name in names:
            yield (
                f".. autoclass:: seamscope.{name}\n   :members:"
                if name[0].isupper()
                else (f".. autofunction:: seamscope.{name}")
            )
            yield ""
        yield "```\n"
