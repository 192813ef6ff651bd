"""All fields of a plate, one after another, into a plate of the same wells and fields.

Knows which fields are done, and which failed. Does not know how one is predicted (see
`seamscope.prediction.run`).

A plate is written beside its place as every result, and each of its fields too: a run that was
stopped is resumed field by field, and within a field block by block. A field that fails does not
stop the others; the plate stays unfinished then, and is resumed once the reason is gone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from seamscope.errors import OutputError, SeamscopeError
from seamscope.files import Claim, Place, check_places, disk_errors
from seamscope.images.addresses import is_address
from seamscope.images.image import Image, open_image
from seamscope.images.ngff import OmeZarr
from seamscope.images.plates import Plate, lay_out, plate_at
from seamscope.ledger import Ledger
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.prediction.folders import done_before, is_done
from seamscope.prediction.output import open_output
from seamscope.prediction.resuming import task_of
from seamscope.prediction.run import begin, completed, run
from seamscope.progress import QUIET, Steps, Work, check
from seamscope.serialization import plain
from seamscope.settings import Settings
from seamscope.version import __version__


@dataclass(frozen=True)
class PlateDone:
    """What became of a plate.

    Attributes
    ----------
    path
        Of the result; of the unfinished one where fields failed.
    fields
        Paths of all fields.
    failed
        Why a field failed, by its path.
    before
        Whether an earlier run has predicted all of it.
    """

    path: str
    fields: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    before: bool = False

    @property
    def sentence(self) -> str:
        """What to say of it."""
        if self.before:
            return f"{self.path} is done already."
        if not self.failed:
            return f"{self.path}: {len(self.fields)} fields."
        first, why = next(iter(self.failed.items()))
        return (
            f"{self.path} is unfinished: {len(self.failed)} of {len(self.fields)} fields failed, "
            f"the first is {first}: {why} To try them again, run the same again with `resume=True`."
        )


def predict_plate(
    plate: str | Plate,
    model: str | nn.Module | Model,
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    trust: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
    work: Work = QUIET,
    **choices: Any,
) -> PlateDone:
    """Predict all fields of a plate into a new plate.

    Parameters
    ----------
    plate
        Its path or address.
    model, settings, trust, overwrite, resume, ome, work
        As for `seamscope.predict`. The network is loaded once.
    out
        Name of the new plate, ``NAME.ome.zarr``.
    choices
        How each field is opened, as for `seamscope.images.image.open_image`: ``level``, ``axes``.

    Raises
    ------
    OutputError
        When `out` may not be written, or its unfinished plate is of another network or settings.
    SeamscopeError
        When `plate` is none, or the network cannot be loaded.
    """
    given = plate if isinstance(plate, Plate) else plate_at(plate)
    if given is None or not given.fields:
        raise SeamscopeError(f"{plate} is no plate of OME-Zarr with fields: give one image of it.")
    there = resume and is_done(out)
    path = _named(out) if there else _checked(out, given, overwrite, resume)
    place = Place(path, result=True)
    first = open_image(given.source, series=given.fields[0], **choices)
    network = Case.open(first, model, settings, trust=trust).model
    batch = _Batch(given, network, settings or Settings(), ome, work, choices)
    if there and batch.is_done(path, overwrite=overwrite):
        return PlateDone(str(path), given.fields, before=True)
    with disk_errors(path, "What was written so far is kept."), Claim(place) as claim:
        _checked(out, given, overwrite, resume)
        ledger = _ledger(claim, batch.task, str(path), resume)
        lay_out(place.partial, given, ome)
        failed = batch.carry_out(place.partial, ledger, claim)
        if failed:
            return PlateDone(str(place.partial), given.fields, failed)
        _seal(place.partial, batch.task)
        claim.swap()
    return PlateDone(str(path), given.fields)


def _named(out: Any) -> Path:
    if is_address(out) or not str(out).lower().endswith(".ome.zarr"):
        raise OutputError(
            f"{out} cannot hold a plate: write it to a folder NAME.ome.zarr, or predict one field "
            "(`series='A/1/0'`)."
        )
    return Path(out).expanduser()


def _checked(out: Any, plate: Plate, overwrite: bool, resume: bool) -> Path:
    path = _named(out)
    read = [] if is_address(plate.source) else [Path(plate.source).expanduser()]
    check_places([Place(path, result=True)], read, overwrite, resume)
    return path


def _ledger(claim: Claim, task: Mapping[str, Any], name: str, resume: bool) -> Ledger:
    place = claim.place
    if resume and place.partial.exists() and place.ledger.exists():
        ledger = Ledger(place.ledger)
        ledger.check(task, name)
        return ledger
    claim.remove()
    return Ledger.begin(place.ledger, task)


def _seal(path: Path, task: Mapping[str, Any]) -> None:
    import zarr

    group = zarr.open_group(str(path), mode="r+")
    group.attrs["seamscope"] = {"task": plain(task), "finished": True}


@dataclass(frozen=True)
class _Batch:
    """The fields of a plate, and what is done with each."""

    plate: Plate
    model: Model
    settings: Settings
    ome: OmeZarr
    work: Work
    choices: Mapping[str, Any]

    @property
    def task(self) -> dict[str, Any]:
        """What is done, for the ledger and the record."""
        fixed = self.model.statistics
        return {
            "version of Seamscope": __version__,
            "network": self.model.fingerprint,
            "statistics": None if fixed is None else fixed.digest,
            "settings": plain(self.settings),
            "OME-Zarr": plain(self.ome),
            "fields": list(self.plate.fields),
            "choices": plain(self.choices),
        }

    def is_done(self, path: Path, *, overwrite: bool) -> bool:
        """Whether a whole plate is of this network, these settings and these images.

        Raises
        ------
        OutputError
            Where it is of others, and may not be replaced.
        """
        return done_before(path, self.task, overwrite=overwrite) and all(
            done_before(path / name, self._task_of(self._image(name)), overwrite=overwrite)
            for name in self.plate.fields
        )

    def _task_of(self, image: Image) -> dict[str, Any]:
        return task_of(Case.open(image, self.model, self.settings))

    def _image(self, name: str) -> Image:
        return open_image(self.plate.source, series=name, **self.choices)

    def carry_out(self, path: Path, ledger: Ledger, claim: Claim) -> dict[str, str]:
        """Predict what is not done; return why fields failed."""
        failed: dict[str, str] = {}
        self.work.phase("Predicting", "fields")
        steps = Steps(self.work, len(self.plate.fields))
        for number, name in enumerate(self.plate.fields):
            check(self.work)
            try:
                self._predict(name, Place(path / name, result=True, member=True))
                ledger.mark(number)
            except OutputError:  # a full disk, or a field of other work, stops all of them
                raise
            except SeamscopeError as error:
                failed[name] = str(error)
                self.work.warn(f"{name} failed: {error}")
            steps.one()
        return failed

    def _predict(self, name: str, place: Place) -> None:
        image = self._image(name)
        # a mark alone does not say of which image: another plate may have fields of these names
        if done_before(place.path, self._task_of(image)):
            return
        case, task = begin(image, self.model, self.settings, place, resume=True)
        with open_output(case, place, task=task, resume=True, ome=self.ome) as output:
            completed(run(case, output, work=_Quietly(self.work)))


class _Quietly(Steps):
    """The work of one field: it shows nothing but warnings."""

    def warn(self, sentence: str) -> None:
        """Show a sentence that the user must read."""
        self._work.warn(sentence)


__all__ = ["PlateDone", "predict_plate"]
