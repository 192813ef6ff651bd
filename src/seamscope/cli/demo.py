"""``seamscope demo``: napari, ready to run.

Knows how a display is found, or made where there is none. Does not know what the demo shows (see
`seamscope.docks.demo`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from seamscope.cli import places
from seamscope.cli.answer import Debug, columns
from seamscope.cli.command import Overwrite, command
from seamscope.errors import OutputError, SettingsError


@command
def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="Run by itself without being seen, and end.")
    ] = False,
    screenshot: Annotated[
        Path | None,
        typer.Option("--screenshot", metavar="FILE", show_default=False, help="Save a PNG here."),
    ] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Open napari with a sample image, a demo model and the tile grid; press Run there."""
    _check_napari()
    if screenshot is None and (headless or _lacks_display()):
        screenshot = Path("seamscope-demo.screenshot.png")
        places.check({"screenshot": screenshot, "overwrite": overwrite})
    if screenshot is not None:
        _check_screenshot(screenshot)
        if _lacks_display():
            _under_xvfb(screenshot, overwrite, debug)
    from seamscope.docks.demo import show_demo

    figures = show_demo(headless=headless, screenshot=screenshot)
    if not headless or screenshot is None:
        return
    if not screenshot.is_file():
        raise OutputError(f"The demo ran and left no screenshot at {screenshot}: try again.")
    typer.echo(columns(_demo_rows(screenshot, figures)))


def _demo_rows(screenshot: Path, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "screenshot", str(screenshot.resolve())
    for name, value in figures.items():
        if name != "screenshot":
            yield name.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value)


def _check_napari() -> None:
    missing = [name for name in ("napari", "qtpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f'The demo needs {" and ".join(missing)}: install with pip install "seamscope[all]".'
        )


def _check_screenshot(file: Path) -> None:
    if file.suffix.lower() != ".png" or not file.parent.is_dir() or file.is_dir():
        raise OutputError(f"--screenshot {file}: name a .png file in a folder that exists.")


def _lacks_display() -> bool:
    return sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _under_xvfb(screenshot: Path, overwrite: bool, debug: bool) -> NoReturn:
    """Become the same command under a display in memory."""
    xvfb = shutil.which("xvfb-run")
    if xvfb is None or shutil.which("Xvfb") is None:
        raise SettingsError(
            "There is no display, and no xvfb-run to make one: install it (Debian and Ubuntu: apt "
            "install xvfb xauth), or run this where there is a display."
        )
    command = [xvfb, "-a", "-s", "-screen 0 1600x1000x24"]
    command += [sys.executable, "-m", "seamscope", "demo", "--headless"]
    command += ["--screenshot", str(screenshot)]
    command += [*(["--overwrite"] * overwrite), *(["--debug"] * debug)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(xvfb, command)
