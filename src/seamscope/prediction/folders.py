"""Many images one after another, by one network that is loaded and measured once.

Knows that an image that fails does not stop the others, and that what is done need not be done
again. Does not know command lines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from seamscope.errors import OutputError, SeamscopeError
from seamscope.images.addresses import is_address
from seamscope.images.folders import (
    check_apart,
    images_in,
    make_folders,
    names_for,
    place_of,
    without_results,
)
from seamscope.images.image import open_image
from seamscope.images.records import read_record
from seamscope.ledger import differing
from seamscope.models.formats import load_model
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.prediction.resuming import task_of
from seamscope.prediction.run import predict
from seamscope.progress import QUIET, Work, check
from seamscope.settings import Settings


@dataclass(frozen=True)
class Done:
    """What became of one image.

    Attributes
    ----------
    image, out
        Where it is, and where its result is.
    state
        ``"skipped"`` where the result was there.
    sentence
        Why it failed; empty otherwise.
    seconds
        That it took.
    record
        Of the result.
    """

    image: str
    out: str
    state: Literal["done", "skipped", "failed"]
    sentence: str = ""
    seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Job:
    """One image of several, and the place of its result."""

    image: str
    out: str


def jobs_for(
    images: str | Sequence[str | os.PathLike[str]], out: str, *, resume: bool = False
) -> list[Job]:
    """Return what is to be done.

    Parameters
    ----------
    images
        A pattern, a folder, or paths.
    out
        A folder, or a path with ``*`` for the image's name.
    resume
        Whether images that an earlier run made of others are left out.

    Raises
    ------
    ImageError, OutputError
        Where there are no images, `out` is one file, or a result would overwrite an image.
    """
    names = (images_in(images) or (images,)) if isinstance(images, str) else images
    paths = [os.fspath(name) for name in names]
    if resume:
        paths = list(without_results(paths, _places(paths, out)))
    outs = _places(paths, out)
    check_apart(paths, outs)
    return list(map(Job, paths, outs))


def _places(paths: Sequence[str], out: str) -> list[str]:
    return [place_of(out, name) for name in names_for(paths)]


def predict_all(
    images: str | Sequence[str | os.PathLike[str]],
    model: str | nn.Module | Model,
    out: str,
    settings: Settings | None = None,
    *,
    trust: bool = False,
    axes: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tell: Callable[[Done], None] | None = None,
    work: Work = QUIET,
    **asked: Any,
) -> list[Done]:
    """Predict many images, one after another.

    Parameters
    ----------
    images
        A pattern (``"images/*.tif"``), a folder, or paths.
    model, settings, trust, axes, overwrite, asked
        As for `seamscope.predict`.
    out
        A folder, which is made and gets OME-Zarr, or a path with ``*`` for the image's name.
    resume
        Whether results that are there are left as they are, and an unfinished one is continued.
        A result of another network, image or settings fails.
    tell
        Called after each image.

    Returns
    -------
    list of Done
        One for each image, in order. An image that fails does not stop the others.

    Raises
    ------
    SeamscopeError
        Where there are no images, or the network cannot be loaded.
    InterruptedError
        When stopped; results until then stay.
    """
    network = load_model(model, trust=trust)
    wanted = (settings or Settings()).but(**asked)

    def act(job: Job) -> tuple[Literal["done", "skipped"], dict[str, Any]]:
        case = Case.open(open_image(job.image, axes=axes), network, wanted)
        if resume and done_before(job.out, task_of(case)):
            return "skipped", read_record(job.out) or {}
        predict(case, None, job.out, overwrite=overwrite, resume=resume, work=work)
        return "done", read_record(job.out) or {}

    jobs = jobs_for(images, out, resume=resume)
    make_folders([job.out for job in jobs])
    found = []
    for number, job in enumerate(jobs):
        check(work)
        work.phase(f"Image {number + 1} of {len(jobs)}: {Path(job.image).name}")
        found.append(_attempt(job, act))
        if tell is not None:
            tell(found[-1])
    return found


def _attempt(
    job: Job, act: Callable[[Job], tuple[Literal["done", "skipped"], dict[str, Any]]]
) -> Done:
    begin = time.perf_counter()
    try:
        state, record = act(job)
    except InterruptedError:
        raise
    except (SeamscopeError, MemoryError, OSError) as error:
        seconds = time.perf_counter() - begin
        return Done(job.image, job.out, "failed", str(error) or type(error).__name__, seconds)
    return Done(job.image, job.out, state, "", time.perf_counter() - begin, record)


def is_done(target: str | os.PathLike[str]) -> bool:
    """Return whether there is a whole result of Seamscope."""
    return bool((record_at(target) or {}).get("finished"))


def record_at(target: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record of a result at a path or an address; None where there is none."""
    if is_address(target):
        return read_record(target)
    path = Path(target).expanduser()
    return read_record(path) if path.exists() else None


def done_before(
    target: str | os.PathLike[str], task: Mapping[str, Any], *, overwrite: bool = False
) -> bool:
    """Return whether a result is whole, and of this image, network and settings.

    Parameters
    ----------
    target
        Where it is.
    task
        What it would be made of (see `seamscope.prediction.resuming.task_of`).
    overwrite
        Whether a result of others may be replaced.

    Raises
    ------
    OutputError
        Where it is of others; the message names what differs.
    """
    if not is_done(target):
        return False
    made_of = (record_at(target) or {}).get("task")
    return is_made_of(made_of, task, target, overwrite=overwrite)


def is_made_of(
    before: Mapping[str, Any] | None,
    task: Mapping[str, Any],
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> bool:
    """Return whether a whole result is one of this work.

    Parameters
    ----------
    before
        What it says that it was made of; None where it does not.
    task
        What it would be made of.
    target
        Where it is.
    overwrite
        Whether one of other work may be replaced.

    Raises
    ------
    OutputError
        Where it is of other work, and may not be replaced; the message names what differs.
    """
    if overwrite:
        return bool(before) and not any(differing(before or {}, task))
    if not before:
        raise OutputError(
            f"{target} does not say what it was made of, so it cannot be compared. Choose another "
            "name, or allow it to be replaced (`overwrite=True`)."
        )
    for what, old, new in differing(before, task):
        raise OutputError(
            f"{target} was made with another {what} ({old}, now {new}). Ask for the same as then, "
            "choose another name, or allow it to be replaced (`overwrite=True`)."
        )
    return True


__all__ = [
    "Done",
    "Job",
    "done_before",
    "is_done",
    "is_made_of",
    "jobs_for",
    "predict_all",
    "record_at",
]
