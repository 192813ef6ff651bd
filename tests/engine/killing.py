"""Runs commands that are killed at chosen moments: ``python killing.py``.

Each line it reads is a list of commands, as JSON: a folder to run in (perhaps a copy of another),
variables of the environment, a signal, and the number of the event at which the process gets it.
An event is that a file below the folder is opened for writing, renamed, removed or made. One
process imports everything and forks for each command; a command without a signal runs to its end.
It answers each line with one: exit code and number of events of each command, and what a result,
the old one aside and the new one beside it held before each event.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import seamscope.cli
import seamscope.compare.before_after
import seamscope.fixed_statistics.freezing
import seamscope.images.results.create
import seamscope.models.formats.export
import seamscope.prediction.run
import seamscope.segmentation.segment

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}


def digest(path: Path) -> str:
    """Stands for the names and bytes of a file or folder; empty where there is none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    found = hashlib.sha256()
    for file in files:
        found.update(str(file.relative_to(path)).encode() + b"\0")
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest() if files else ""


class Count:
    """Counts events below a folder, and kills its own process at one of them."""

    def __init__(self, folder: str, at: int, number: int, result: str) -> None:
        self.folder, self.at, self.number = os.path.realpath(folder), at, number
        self.result = Path(result) if result else None
        self.events = 0
        self.seen: list[tuple[str, ...]] = []
        self.looks = False

    def look(self) -> None:
        """Note what is at the result's place, and beside it."""
        path = self.result
        if path is not None:
            names = (path.name, f".{path.name}.replaced", f"{path.name}.partial")
            self.looks = True
            self.seen.append(tuple(digest(path.with_name(name)) for name in names))
            self.looks = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looks:
            return
        writes = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if not writes and event not in CHANGES:
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike):
            return
        if os.path.join(os.path.realpath(os.path.dirname(path)), "").startswith(self.folder):
            self.events += 1
            self.look()
            if self.events == self.at:
                os.kill(os.getpid(), self.number)


def run(step: dict[str, Any]) -> tuple[int, int, list[list[str]]]:
    if "copy" in step:
        shutil.copytree(step["copy"], step["folder"])
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as file:
            said = json.loads(file.read() or "[-1, [], []]")
        _, status = os.waitpid(child, 0)
        events, seen, imported = said
        for name in imported:  # so that the next ones need not
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        return os.waitstatus_to_exitcode(status), events, seen
    before = set(sys.modules)
    os.chdir(step["folder"])
    os.environ.update(step["environment"])
    tempfile.tempdir = None  # found again, in this environment
    for number in (1, 2):
        os.dup2(os.open(os.devnull if number == 1 else "said", os.O_WRONLY | os.O_CREAT), number)
    number = step.get("signal", signal.SIGKILL)
    count = Count(step["folder"], step.get("at", -1), number, step.get("result", ""))
    sys.addaudithook(count)
    code = 0
    try:
        seamscope.cli.app(step["command"], prog_name="seamscope")
    except SystemExit as end:
        code = int(end.code or 0)
    imported = [name for name in sys.modules if name not in before]
    with os.fdopen(writing, "w") as file:
        json.dump([count.events, count.seen, imported], file)
    sys.stderr.flush()
    count.looks = True  # the command has ended
    atexit._run_exitfuncs()  # what vanishes at the end of a process
    os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps([run(step) for step in json.loads(line)]), flush=True)
