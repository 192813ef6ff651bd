"""A run that continues an unfinished result: which tiles are left, and which blocks are whole.

Knows a plan's blocks and a result's ledger. Does not know networks.

What makes the resumed result equal to an uninterrupted one, bit for bit: the plan is the one that
was begun, with its tile, halo and batches; the network runs in the same equivalent form; a tile is
predicted with the tiles of its batch; as many threads share its sums; and a blended band begins
where the finished bands end, as it does for a region. Tiles that reach into that band are predicted
again, a few rows of them at each resume: to keep the sums of the unfinished band instead, each mark
would write a strip of float32 as wide as the image and as high as the overlap.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seamscope.errors import OutputError, SettingsError
from seamscope.images.image import Image
from seamscope.images.intensity import Intensity
from seamscope.images.passes import HERE, Passes
from seamscope.images.preparation import Prepared
from seamscope.images.results.output import Output
from seamscope.ledger import Ledger
from seamscope.models.model import Model
from seamscope.planning.blocks import Blocks
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.resources import Resources
from seamscope.progress import QUIET, Work, check
from seamscope.serialization import plain, restore
from seamscope.settings import Settings
from seamscope.tiling import Slices, Tile
from seamscope.version import __version__

POSTPROCESSING = "postprocessing"
"""Entry of a ledger: what was done to the whole result in place, or that it was begun."""
_BEGUN = "begun"

# Settings that do not change the result.
_WITHOUT_EFFECT = ("memory", "seams")
_SAMPLES, _SAMPLE_PIXELS = 16, 4096
_AT_ONCE = 2**15  # pixels of a hash whose places fit into the processor's cache


def task_of(case: Case) -> dict[str, Any]:
    """Describe what a case computes, so that other work is noticed; the plan is not needed."""
    model, image = case.model, case.image
    settings = plain(case.settings)
    settings |= {name: _shortest(settings[name]) for name in ("tile", "halo", "overlap")}
    return {
        "version of Seamscope": __version__,
        "recipe": None,  # that of labels, which are made of the same image, network and settings
        "image": image_of(image),
        "network": model.fingerprint,
        "statistics": None if model.statistics is None else model.statistics.digest,
        "settings": {k: v for k, v in settings.items() if k not in _WITHOUT_EFFECT},
        "grid": None if case.tiles is None else _hash(case.tiles),
    }


def described(image: Image, model: Model, settings: Settings, grid: Any = None) -> Case:
    """Return the case that is described to compare work: nothing is computed with it.

    It is planned for a CPU, since its device may be that of workers which are gone.
    """
    return Case.open(image, model, settings, grid=grid, resources=Resources.of("cpu"))


def image_of(image: Image) -> dict[str, Any]:
    """Describe an image, so that another one is noticed."""
    return {
        "shape": list(image.shape),
        "axes": image.axes,
        "type": str(image.dtype),
        "content": content_of(image),
    }


def _shortest(value: Any) -> Any:
    """Return numbers of pixels in one form: 32, [32, 32] and [[32, 32], [32, 32]] are the same."""
    if not isinstance(value, list):
        return value
    each = [_side(part) for part in value]
    return each[0] if each and all(part == each[0] for part in each) else each


def _side(halo: Any) -> Any:
    """Return the halo of one axis: a number, or what is before and after."""
    if not isinstance(halo, list):
        return halo
    before, after = halo
    return before if before == after else {"before": before, "after": after}


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(plain(value)).encode()).hexdigest()[:16]


def content_of(image: Image) -> str:
    """Return a hash of pixels spread over an image: a file may change and keep its name."""
    digest = hashlib.sha256()
    length = min(image.shape[-1], _SAMPLE_PIXELS)
    rng = np.random.default_rng(0)
    for _ in range(_SAMPLES):
        lines = tuple(int(rng.integers(n)) for n in image.shape[:-1])
        start = int(rng.integers(image.shape[-1] - length + 1))
        digest.update(image.read((*lines, slice(start, start + length))).tobytes())
    return digest.hexdigest()[:16]


def digest_of(image: Image, work: Work = QUIET) -> str:
    """Return a hash of all pixels, where a few decide; it costs reading the image once.

    The chunks that pixels are stored in do not matter: each pixel is mixed with its place, and
    their sum does not depend on the order in which they are read.
    """
    total = 0
    for region in image.blocks():
        check(work)
        total += _mixed(image, region)
    return _hash((image.shape, str(image.dtype), total % 2**64))


def digest_of_frames(case: Case, work: Work = QUIET) -> str:
    """Return a hash of all pixels of the frames that are predicted."""
    plan, image = case.plan, case.image
    frames = dict(zip(plan.layout.frames, plan.frame_ranges, strict=True))
    sizes = zip(plan.layout.axes, image.shape, strict=True)
    return digest_of(image.part(tuple(slice(*frames.get(a, (0, n))) for a, n in sizes)), work)


def _mixed(image: Image, region: Slices) -> int:
    """Return the sum, modulo 2**64, of the pixels of a region, each mixed with its place."""
    pixels = np.ascontiguousarray(image.read(region))
    bits = pixels.view(f"u{pixels.itemsize}").reshape(-1, pixels.shape[-1])
    strides = np.cumprod((1, *image.shape[:0:-1]), dtype=np.uint64)[::-1]
    places = [np.arange(s.start, s.stop, dtype=np.uint64) for s in region]
    *outer, last = (each * stride for each, stride in zip(places, strides, strict=True))
    lines = functools.reduce(np.add.outer, outer, np.zeros((), np.uint64)).ravel()
    total = 0
    step = max(1, _AT_ONCE // last.size)
    for first in range(0, len(lines), step):
        for left in range(0, last.size, _AT_ONCE):
            part = slice(left, left + _AT_ONCE)
            z = lines[first : first + step, None] + last[part]
            z *= np.uint64(0x9E3779B97F4A7C15)  # Steele, Lea & Flood, OOPSLA 2014: SplitMix64
            z += bits[first : first + step, part]
            z ^= z >> np.uint64(30)
            z *= np.uint64(0xBF58476D1CE4E5B9)
            z ^= z >> np.uint64(27)
            z *= np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
            total += int(z.sum(dtype=np.uint64))
    return total


def continued(case: Case, ledger: Ledger, name: str) -> Case:
    """Return a case with the plan that an unfinished result was begun with.

    Raises
    ------
    OutputError
        When the result is of another image, network or settings; the message names it.
    """
    ledger.check(task_of(case), name)
    plan: Plan = restore(Plan, ledger.task["plan"])
    return case.at(plan)


def keep_intensity(case: Case, ledger: Ledger | None, work: Work, passes: Passes = HERE) -> None:
    """Measure the whole image's intensities, or take those that the result was begun with.

    Parameters
    ----------
    case
        Whose image is measured, at most once.
    ledger
        Of the result, where they are kept.
    work
        Shows progress, and stops when asked to.
    passes
        Carries out each pass over the image; by default this process.

    Raises
    ------
    InterruptedError
        When stopped.
    """
    kept = None if ledger is None else ledger.task.get("intensity")
    if kept is not None:
        kind: Any = Prepared if case.plan.preparation is not None else Intensity
        case.assume_intensity(restore(kind, kept))
        return
    found = case.intensity(work, passes)
    if ledger is not None:
        ledger.note("intensity", plain(found))


def task_with(task: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return the description of the work with its plan, as a ledger holds it."""
    return {**task, "plan": plain(plan)}


def blocks_of(plan: Plan, ledger: Ledger | None) -> Blocks:
    """Return the blocks that a result is made of: those it was begun with."""
    edges = None if ledger is None else ledger.task.get("blocks")
    return Blocks(plan) if edges is None else Blocks(plan, given=tuple(map(tuple, edges)))


def check_written(
    blocks: Blocks,
    ledger: Ledger | None,
    output: Output,
    work: Work,
    damaged: Callable[[int], bool] = lambda block: False,
) -> None:
    """Remove the marks of blocks whose pixels the disk has lost, so that they are done again.

    Those below them, too, where rows are blended from top to bottom.

    Parameters
    ----------
    blocks
        Of the result.
    ledger
        Its marks; None where nothing can be resumed.
    output
        Where blocks are written.
    work
        Shows how many are done again.
    damaged
        Whether something else that belongs to a block is lost.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    since = math.inf if ledger is None else ledger.doubtful_since
    lost = [
        block
        for block in sorted(() if ledger is None else ledger.done)
        if damaged(block) or output.has_lost(blocks.index(block), since)
    ]
    if ledger is None:
        return
    if lost:
        ledger.unmark(lost)
        work.note(about_lost(len(lost)))
    changed = ledger.task.get(POSTPROCESSING)
    if changed == _BEGUN or (changed is not None and len(ledger.done) < len(blocks)):
        ledger.forget()  # what is changed in part cannot be distinguished from what is not
        forget_changes(ledger)
    if blocks.plan.blends and blocks.given is None:
        ledger.unmark(_below_gaps(blocks, ledger.done))


@contextlib.contextmanager
def changing_all(output: Output) -> Iterator[Callable[[Any], None]]:
    """Change a whole result in place: one that was changed in part is predicted again.

    Yields
    ------
    callable
        Called with what was done, once it is: a resumed run does not do it again.
    """
    ledger = output.ledger
    if ledger is None:
        yield lambda done: None
        return
    ledger.note(POSTPROCESSING, _BEGUN)

    def note(done: Any) -> None:
        output.flush()
        ledger.note(POSTPROCESSING, done)

    yield note


def forget_changes(ledger: Ledger) -> None:
    """Note that a result is as the network gave it."""
    if ledger.task.get(POSTPROCESSING) is not None:
        ledger.note(POSTPROCESSING, None)


def _below_gaps(blocks: Blocks, done: Collection[int]) -> list[int]:
    """Return the done bands of rows that lie below one of their frame that is not done.

    The band above is blended with tiles that reach into them, so they are stitched again.
    """
    count = blocks.per_frame
    frames = (range(first, first + count) for first in range(0, len(blocks), count))
    below = (itertools.dropwhile(done.__contains__, frame) for frame in frames)
    return [block for block in itertools.chain(*below) if block in done]


def about_lost(blocks: int) -> str:
    """Return what to say of blocks that the disk has lost."""
    return (
        f"The disk has lost {blocks} of the blocks that were written, as it may when the power "
        "fails. They are done again."
    )


def share_done(ledger: Ledger) -> float:
    """Return which part of a prediction's blocks is written, 0 to 1.

    Raises
    ------
    OutputError
        When the unfinished result is of other work, such as labels.
    """
    if "plan" not in ledger.task:
        name = ledger.folder.name.removeprefix(".").removesuffix(".ledger")
        raise OutputError(
            f"{name} was begun as labels, not as a prediction: choose another name, or finish the "
            "labels (`seamscope segment --resume`)."
        )
    plan: Plan = restore(Plan, ledger.task["plan"])
    return len(ledger.done) / len(blocks_of(plan, ledger))


class Left:
    """What is left of a run.

    Parameters
    ----------
    plan
        What is done in all.
    output
        Its result; one without a ledger is predicted whole.

    Attributes
    ----------
    not_finite
        Pixels of the result that are not finite, those of earlier runs included.
    """

    def __init__(self, plan: Plan, output: Output | None) -> None:
        self._plan = plan
        self._output = output
        self._ledger = None if output is None else output.ledger
        self._blocks = blocks_of(plan, self._ledger)
        self._before = dict(self._ledger.done if self._ledger else {})
        self._bad: dict[int, int] = {}
        self.not_finite = sum(self._before.values())
        self._pixels: dict[int, int] = {}
        if output is not None and self._ledger is not None:
            for block in self._before:
                output.already(self._blocks.index(block), self._ledger.doubtful_since)

    @property
    def resumes(self) -> bool:
        """Whether blocks were written before this run."""
        return bool(self._before)

    def needs(self, frame: tuple[int, ...], tile: Tile) -> bool:
        """Return whether a tile contributes to a block that was not written before this run."""
        return not self._before or self._blocks.needs(frame, tile, self._before)

    def area(self, frame: tuple[int, ...]) -> Slices:
        """Part of a frame to stitch, in output pixels; blended bands begin below the whole ones."""
        plan = self._plan
        if not self._before or not plan.blends:
            return plan.area
        top, *others = plan.area
        first = self._blocks.first_of(frame)
        whole = 0
        while whole < self._blocks.per_frame and first + whole in self._before:
            whole += 1
        if whole == self._blocks.per_frame:
            return plan.area
        start = top.start + self._blocks.edges[0][whole]
        return slice(start, top.stop), *others

    def wrote(
        self, frame: tuple[int, ...], region: Slices, bad: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Note that a region is written; mark the blocks that are whole now.

        Parameters
        ----------
        frame
            Index along each iterated axis of the image.
        region
            In output pixels, counted from the corner of the plan's area.
        bad
            Which of its pixels are not finite; None where all are finite.
        """
        if bad is not None:
            self.not_finite += int(bad.sum())
        if self._ledger is None or self._output is None:
            return
        for block, pixels in self._blocks.touching(frame, region):
            if bad is not None:
                own = _within(region, self._blocks.region(block))
                self._bad[block] = self._bad.get(block, 0) + int(bad[own].sum())
            left = self._pixels.pop(block, None)
            left = (self._blocks.pixels(block) if left is None else left) - pixels
            if left:
                self._pixels[block] = left
            else:
                self._output.flush()
                self._ledger.mark(block, self._bad.pop(block, 0))


def _within(region: Slices, block: Slices) -> Slices:
    """Part of a region that lies in a block, counted from the region's corner."""
    return tuple(
        slice(max(part.start, box.start) - part.start, min(part.stop, box.stop) - part.start)
        for part, box in zip(region, block, strict=True)
    )


def same_way(ledger: Ledger | None, way: str | None = None) -> str | None:
    """Return the equivalent of the network that a result was begun with; None where none was.

    Parameters
    ----------
    ledger
        Of the result.
    way
        The one that is used now, to be remembered.

    Raises
    ------
    SettingsError
        When it is not the one that the result was begun with.
    """
    if ledger is None:
        return None
    known: str | None = ledger.task.get("equivalent")
    if way is None or known == way:
        return known
    if known is not None and ledger.done:
        raise SettingsError(
            f"The unfinished result was made with an equivalent of the network ({known}) that "
            "cannot be made here, so that new pixels would differ from old ones by rounding. "
            "Begin again (overwrite)."
        )
    ledger.note("equivalent", way)
    return way


def threads_of(ledger: Ledger, now: int) -> int:
    """Return the number of threads that a result is computed with: the one it was begun with.

    How sums are split between threads decides how they are rounded, in the seventh digit.

    Parameters
    ----------
    ledger
        Of the result.
    now
        Threads that would be used now, remembered where the result begins.
    """
    known: int | None = ledger.task.get("threads")
    if known is None:
        ledger.note("threads", now)
    return known or now


@contextlib.contextmanager
def same_threads(ledger: Ledger | None) -> Iterator[None]:
    """Compute in this process with as many threads as the result was begun with."""
    before = torch.get_num_threads()
    if ledger is not None:
        torch.set_num_threads(threads_of(ledger, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = [
    "POSTPROCESSING",
    "Left",
    "about_lost",
    "blocks_of",
    "changing_all",
    "check_written",
    "content_of",
    "continued",
    "described",
    "digest_of",
    "digest_of_frames",
    "forget_changes",
    "image_of",
    "keep_intensity",
    "same_threads",
    "same_way",
    "share_done",
    "task_of",
    "task_with",
    "threads_of",
]
