"""What it costs that a run can be resumed: the marks, and the run that goes on.

``python benchmarks/ledger.py --size 2048``. Processor time of this process, so that other work on
the machine disturbs little. Goals: marks at most 2% of a run of tiles of 256 pixels with the demo's
network; a resumed run at most 2% more than its missing part.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import seamscope
from seamscope.ledger import Ledger
from seamscope.prediction.resuming import Left
from seamscope.progress import QUIET, Steps

HOW = {"tile": 256, "halo": 48, "seams": "none", "accelerate": False}


class Clock:
    """Processor time that is spent in some functions."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._inside = 0.0, 0, False

    def around(self, home: Any, name: str) -> None:
        """Count a function of a class from now on."""
        real: Callable[..., Any] = getattr(home, name)

        def counted(*args: Any, **how: Any) -> Any:
            if self._inside:
                return real(*args, **how)
            self._inside, begin = True, time.thread_time()
            try:
                return real(*args, **how)
            finally:
                self.seconds += time.thread_time() - begin
                self.calls += 1
                self._inside = False

        setattr(home, name, counted)


class StopAfter(Steps):
    """Stops a run after so many tiles."""

    def __init__(self, tiles: int) -> None:
        super().__init__(QUIET)
        self.tiles, self.last = tiles, 0

    def step(self, done: int, total: int) -> None:
        """Note how many are done."""
        self.last = done

    def stopped(self) -> bool:
        """Return whether so many are done."""
        return self.last >= self.tiles


def run(image: Path, out: Path, **how: Any) -> float:
    """Predict; return the processor time."""
    begin = time.process_time()
    seamscope.predict(str(image), NETWORK, out, **HOW, **how)
    return time.process_time() - begin


NETWORK: Any = None


def main() -> None:
    global NETWORK
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    NETWORK = seamscope.load_model("demo:batchnorm")
    marks = Clock()
    for home, name in ((Ledger, "begin"), (Ledger, "mark"), (Ledger, "note"), (Left, "wrote")):
        marks.around(home, name)
    with tempfile.TemporaryDirectory() as made:
        image, out = Path(made) / "image.npy", Path(made) / "out.zarr"
        np.save(image, np.random.default_rng(0).random((args.size, args.size), np.float32))
        run(image, out)
        for _ in range(args.repeats):
            marks.seconds, marks.calls = 0.0, 0
            whole = run(image, out, overwrite=True)
            print(f"whole run {whole:.2f} s, {marks.calls} calls of the ledger: "
                  f"{marks.seconds / whole:.2%}")  # fmt: skip
            shutil.rmtree(out)
            stop = StopAfter(int(0.5 * (args.size / 160) ** 2))
            begin = time.process_time()
            with contextlib.suppress(InterruptedError):
                seamscope.predict(str(image), NETWORK, out, **HOW, work=stop)
            first = time.process_time() - begin
            rest = run(image, out, resume=True)
            print(f"stopped after {stop.last} tiles: {first:.2f} s, then {rest:.2f} s, together "
                  f"{(first + rest) / whole - 1:+.2%} of the whole run", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
