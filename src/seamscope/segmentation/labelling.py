"""Labels of any size on a ledger: what was done is kept, whatever is killed, and shared by workers.

Knows which stages follow each other, which blocks are marked, and who does the others. Does not
know what a block makes (see `seamscope.segmentation.stages`).

::

    with begin_labels(prediction, recipe, "labels.ome.zarr", resume=True) as labelling:
        found = labelling.find()       basins of all blocks, joined; sizes; holes
        labelling.write(found)         labels of all blocks; the result takes its place

A block is written, then marked. The same call with ``resume=True`` does what has no mark, and the
labels are those of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from seamscope.errors import OutputError, SettingsError
from seamscope.execution.pool import On, Pool, check_on, open_pool
from seamscope.execution.recipe import check_image_travels, check_travels, inside_folder
from seamscope.execution.sharing import ordering, share_out
from seamscope.execution.worker import Order
from seamscope.files import disk_errors, kept_beside, write_file
from seamscope.images.addresses import is_address, without_secrets
from seamscope.images.image import Image, open_image
from seamscope.images.ngff import OmeZarr
from seamscope.images.results.create import unfinished
from seamscope.images.results.formats import format_of
from seamscope.images.results.output import Output
from seamscope.images.stored import Choice
from seamscope.ledger import Ledger
from seamscope.planning.case import Case
from seamscope.prediction.resuming import about_lost, content_of, task_of
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.basins import check_size
from seamscope.segmentation.blocks import Blocks, in_order
from seamscope.segmentation.kept_here import KeptHere
from seamscope.segmentation.label_files import check_label_target, label_output
from seamscope.segmentation.objects import Space
from seamscope.segmentation.predicted import (
    Placed,
    Predicted,
    check_recipe,
    predict_for,
    space_of,
)
from seamscope.segmentation.recipe import Heights, Recipe, channel_names, scaling_note
from seamscope.segmentation.room import Folder, Room
from seamscope.segmentation.segment import check_threads, find_objects
from seamscope.segmentation.segmentation import Segmentation
from seamscope.segmentation.stages import Painting, Stages, Written, whole_chunks
from seamscope.segmentation.subject import Subject
from seamscope.serialization import plain, restore
from seamscope.tiling import Slices
from seamscope.version import __version__

_SOURCE = "source.json"
_PLACES = "blocks of the labels"  # in the ledger of the result
_NAMES = {
    "basins": "Finding basins",
    "sizes": "Measuring objects",
    "background": "Finding holes",
    "facing": "Finding holes",
    "labels": "Writing labels",
}


# -- the same prediction in another process


@dataclass(frozen=True)
class Source:
    """How another process reads the same heights: a path and numbers.

    Attributes
    ----------
    image, choice
        What `open_image` is given; names may be relative to `folder`.
    axes, scale, units, origin
        Of the prediction.
    corner, whole
        Where the prediction lies in one of the whole image; None for one that is whole.
    names
        Of its channels.
    recipe
        How objects are made.
    corner_of_labels
        Where the labels begin, pixels of the prediction without channels.
    blocks
        Of the labels.
    arrays
        Where pixels are kept.
    content
        Hash of some of its pixels.
    """

    image: str
    choice: Choice
    folder: str
    axes: str
    scale: tuple[float, ...]
    units: tuple[str, ...]
    origin: tuple[float, ...]
    corner: tuple[int, ...] | None
    whole: tuple[int, ...] | None
    names: tuple[str, ...] | None
    recipe: Recipe
    corner_of_labels: tuple[int, ...]
    blocks: Blocks
    arrays: str
    content: str

    def stages(self, folder: Path) -> Stages:
        """Open the prediction here.

        Parameters
        ----------
        folder
            Of the marks.

        Raises
        ------
        SeamscopeError
            When it is missing or another one.
        """
        how = {name: getattr(self.choice, name) for name in self.choice.__dataclass_fields__}
        with inside_folder(self.folder):
            image = open_image(self.image, axes=self.axes, **how)
        if self.corner is not None and self.whole is not None:
            image = open_image(Placed(image.data, self.corner, self.whole), axes=self.axes)
        if self.content and content_of(image) != self.content:
            raise OutputError(f"{self.image} is not the prediction that labels were begun with.")
        image = dataclasses.replace(image, scale=self.scale, units=self.units, origin=self.origin)
        heights = Heights(image, self.recipe, self.names)
        read = moved(heights, self.corner_of_labels)
        return Stages(folder, Path(self.arrays), read, self.blocks, self.recipe)


def moved(heights: Heights, corner: Sequence[int]) -> Any:
    """Return heights whose regions are counted from a corner."""

    def read(region: Slices) -> Any:
        return heights(
            tuple(
                slice(part.start + low, part.stop + low)
                for part, low in zip(region, corner, strict=True)
            )
        )

    return read


def open_stages(ledger: Ledger, order: Order) -> Stages:
    """Open a segmentation in this process, as `seamscope.execution.worker` asks for.

    Raises
    ------
    SeamscopeError
        When this process cannot do it.
    """
    try:
        content = json.loads((ledger.folder / _SOURCE).read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{ledger.folder} cannot be read by a worker. Workers must see the result under the "
            "same name as the command: write it to a disk that all machines share."
        ) from error
    ledger.check({"version of Seamscope": __version__}, "The result")
    source: Source = restore(Source, content)
    return source.stages(ledger.folder)


# -- from beginning to end


def task_of_labels(
    image: Image,
    recipe: Recipe,
    *,
    case: Case | None = None,
    area: Mapping[str, tuple[int, int]] | None = None,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
    corrections: str | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Describe labels, so that other work is noticed; parameters are those of `begin_labels`."""
    own = {"recipe": plain(recipe), "corrections": corrections, "OME-Zarr": plain(ome)}
    if case is not None:
        return task_of(case) | own
    about = {
        "shape": list(image.shape),
        "axes": image.axes,
        "type": str(image.dtype),
        "content": content_of(image),
    }
    settings = {"area": plain(area)}
    named = list(channel_names(image) if names is None else names) or None  # decide what is read
    known = {"version of Seamscope": __version__, "image": about, "settings": settings}
    return {**known, "network": None, "channel names": named, **own}


def can_resume(out: Any) -> bool:
    """Return whether labels can be resumed where a name asks for such a file."""
    if not isinstance(out, str | os.PathLike) or is_address(str(out)):
        return False
    return format_of(Path(out).expanduser()).resume is not None


class Labelling:
    """Labels that are being made; use it in a ``with`` statement (see `begin_labels`)."""

    def __init__(
        self,
        prediction: Any,
        recipe: Recipe,
        out: Any,
        *,
        case: Case | None,
        task: Mapping[str, Any],
        output: Output | None,
        kept: KeptHere | None,
        how: Mapping[str, Any],
        on: On,
        trust: bool,
        threads: int,
        scratch: str | Path | None,
        overwrite: bool,
        resume: bool,
        ome: OmeZarr,
        source: Image | None,
        work: Work,
    ) -> None:
        self._prediction, self._recipe, self._out = prediction, recipe, out
        self._case, self._task, self._how = case, dict(task), dict(how)
        self._on, self._trust, self._threads, self._work = on, trust, threads, work
        self._overwrite, self._resume, self._ome, self._source = overwrite, resume, ome, source
        self._output, self._kept, self._scratch = output, kept, scratch
        self._stack = contextlib.ExitStack()
        self._pool: Pool | None = None
        self._order: Order | None = None
        self._whole = False
        if output is not None and output.ledger is not None and output.basins is not None:
            self._folder = Folder(output.basins)
            self._ledger = output.ledger
            self._folder.path.mkdir(exist_ok=True)
        elif kept is not None:
            self._folder, self._ledger = Folder(kept.folder), kept.ledger
        else:
            self._folder = Folder.temporary(scratch)
            self._ledger = Ledger.begin(self._folder.path / "ledger", task)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            if self._output is not None and self._predicted:
                self._output.close()  # not discarded for having no labels yet
            elif self._output is not None:
                self._output.__exit__(kind, error, trace)
            if self._kept is not None:
                begun = bool(self._ledger.done) or self._predicted
                self._kept.close(keep=begun and not self._whole)

    @property
    def _predicted(self) -> bool:
        """Whether a prediction, or a part of one, is kept for labels."""
        names = ("prediction.zarr", "prediction.zarr.partial")
        return any((self._folder.path / name).exists() for name in names)

    @property
    def unfinished(self) -> str:
        """A sentence on what is kept of labels that are not finished; empty where nothing is."""
        done = len(self._ledger.done)
        if not self._stays or not (done or self._predicted):
            return ""
        kept = f"{done} block{'s' * (done != 1)} of labels are done"
        name = self._out if self._output is None else self._output.partial
        return (
            f"{name} is unfinished, and "
            f"{kept if done else 'a part of the prediction is done'}. To continue, repeat it with "
            "`resume=True`."
        )

    @property
    def _stays(self) -> bool:
        """Whether what is done stays where this is stopped."""
        return self._output is not None or self._kept is not None

    def note(self, key: str, value: Any) -> None:
        """Keep something with what is done, for the run that resumes this one.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        self._ledger.note(key, value)

    # -- objects

    def find(self) -> Segmentation:
        """Find the objects, block by block.

        Raises
        ------
        SeamscopeError
            One sentence with the value, the rule and the remedy. What was done stays.
        InterruptedError
            When stopped. What was done stays.
        """
        made: Predicted | None = None
        prediction, how = self._prediction, self._how
        staged = self._stays or self._on is not None
        if self._case is not None:
            made = predict_for(
                self._recipe, self._case, self._folder.path, self._work,
                ledger=self._ledger if staged else None, on=self._on, trust=self._trust,
            )  # fmt: skip
            prediction = made.image
            how = how | {"area": made.area, "names": made.channels, "seams": made.seams}
            how["axes"] = None
        if not staged:
            subject = Subject.of(prediction, self._recipe, **how)
            # whose room is its own: this folder vanishes with the labelling, and objects stay
            return find_objects(subject, self._threads, self._scratch, self._work)
        size = self._ledger.task.get("block size")
        if size is not None:
            how = how | {"blocks": tuple(size)}
        subject = Subject.of(prediction, self._recipe, **how)
        if any(subject.blocks.origin):
            raise SettingsError("Blocks that are kept on a disk begin at 0: give their size only.")
        check_size(subject.blocks)
        if size is None:
            self._ledger.note("block size", subject.blocks.size)
        self._subject, self._made = subject, made
        self._stages = stages = Stages(
            self._ledger.folder, self._folder.path, subject.read, subject.blocks, self._recipe,
            self._ledger.unmark,
        )  # fmt: skip
        self._do("basins")
        self._work.phase("Joining blocks")
        basins = dataclasses.replace(stages.joined.basins, numbers=stages.numbered)
        check(self._work)
        chunks = tuple(map(min, subject.blocks.size, subject.blocks.shape))
        room = Room(stages.numbered, stages.heights, self._folder, chunks, True)
        found = subject.segmentation(basins, room)
        if self._recipe.kind == "components":
            self._do("sizes")
            found.assume(stages.sizes())
        if self._recipe.fill_holes:
            stages.keep_objects(found.enclosing)
            self._do("background")
            stages.join_background()
            self._do("facing")
            found.assume(holes=stages.holes())
        if note := found.empty_note:
            self._work.note(note)
        return found

    def correct_by(self, corrections: str | None) -> None:
        """Say by which corrections the objects of `find` are changed, where only they tell.

        Parameters
        ----------
        corrections
            Hash of them; None for none.

        Raises
        ------
        OutputError
            When unfinished labels were begun with others, or the disk refuses.
        """
        key = "set of corrections"
        if key in self._ledger.task:
            self._ledger.check({key: corrections}, Path(str(self._out)).name)
        else:
            self.note(key, corrections)
        self._task["corrections"] = corrections

    # -- labels

    def write(
        self,
        found: Segmentation,
        metadata: Mapping[str, Any] | None = None,
        *,
        keep: bool = False,
    ) -> Any:
        """Write the labels, block by block; the result takes its place.

        Parameters
        ----------
        found
            What `find` returned, perhaps with corrections.
        metadata
            Added to the record.
        keep
            Whether objects can be read after this; their basins then vanish with them.

        Returns
        -------
        array
            The labels as they were written.

        Raises
        ------
        SeamscopeError, InterruptedError
            As `find`.
        """
        record = {**found.record(), "task": self._task, **(metadata or {})}
        if self._kept is not None:
            return self._write_to_store(found, record, keep=keep)
        if self._output is None:
            return found.write(
                self._out, overwrite=self._overwrite, source=self._source, ome=self._ome,
                metadata=record, work=self._work,
            )  # fmt: skip
        output, ledger = self._output, self._ledger
        if ledger.task.get("type") != str(found.dtype):
            ledger.note("type", str(found.dtype))
        if output.array.dtype != found.dtype:
            output.retype(found.dtype, record)
        self._fill(output, ledger, found, shared=self._on is not None and self._shared_by(found))
        if keep:
            self._finish_and_keep(record)
        else:
            output.finish(record, work=self._work)
        return output.array

    def _write_to_store(self, found: Segmentation, record: dict[str, Any], *, keep: bool) -> Any:
        """Write the labels to an object store, whose marks of their blocks are there, too."""
        assert self._kept is not None
        with label_output(
            self._out, found.shape, found.dtype, found.space, overwrite=self._overwrite,
            source=self._source, metadata=record, ome=self._ome, task=self._task,
            resume=self._resume,
        ) as output:  # fmt: skip
            assert output.ledger is not None
            self._fill(output, output.ledger, found, shared=False)
            output.finish(record, work=self._work)
        self._whole = True
        if keep:
            self._folder.path = self._kept.moved()
            self._folder.vanish(self._folder.path)
            self._stages.moved(self._folder.path)
            shutil.rmtree(self._folder.path / "prediction.zarr", ignore_errors=True)
        return output.array

    def _same_places(self, ledger: Ledger) -> None:
        """Forget marks in a store that number other blocks, of a run whose basins are gone."""
        places = [self._stages.numbers("labels").start, plain(self._stages.places)]
        if ledger.task.get(_PLACES) != places:
            ledger.forget()
            ledger.note(_PLACES, places)

    def _fill(self, output: Output, ledger: Ledger, found: Segmentation, *, shared: bool) -> None:
        """Write all blocks of the labels that have no mark."""
        stages = self._stages
        stages.output, stages.paint = output, found.paint
        stages.places = whole_chunks(found.shape, output.chunks, stages.blocks.size)
        if self._kept is not None:
            self._same_places(ledger)
        self._forget_lost("labels", ledger)
        for number in stages.numbers("labels"):  # by workers: perhaps not in lower resolutions
            if number in ledger.done:
                output.already(stages.region(number), ledger.doubtful_since)
        if shared:
            stages.keep_painting(Painting(*found.tables), self._written(found))
        try:
            self._do("labels", shared, ledger, output)
        finally:
            stages.let_go()

    def _shared_by(self, found: Segmentation) -> bool:
        """Whether workers can write the labels: zarr, without corrections by hand."""
        assert self._output is not None
        return self._output.takes_parts and not found.is_corrected

    def _written(self, found: Segmentation) -> Written:
        output, places = self._output, self._stages.places
        assert output is not None
        assert places is not None
        unfinished, final = (os.path.abspath(str(each)) for each in (output.partial, output.path))
        return Written(unfinished, final, found.shape, str(found.dtype), found.space.axes, places)

    def _finish_and_keep(self, record: Mapping[str, Any]) -> None:
        """Finish the result, and keep what objects are read from for as long as they are there."""
        assert self._output is not None
        kept = kept_beside(Path(str(self._output.path)))
        self._folder.vanish(kept)  # first, so that nothing stays where this is stopped half-way
        self._output.finish(record, kept, self._work)
        self._folder.path = kept
        self._stages.moved(kept)
        shutil.rmtree(kept / "prediction.zarr", ignore_errors=True)

    # -- blocks

    def _do(
        self,
        stage: str,
        shared: bool | None = None,
        ledger: Ledger | None = None,
        output: Output | None = None,
    ) -> None:
        """Have all blocks of a stage done that are not marked; labels go to an output."""
        ledger = ledger or self._ledger
        if stage != "labels":
            self._forget_lost(stage, ledger)
        numbers = self._stages.numbers(stage)
        left = [number for number in numbers if number not in ledger.done]
        done = len(numbers) - len(left)
        shared = self._on is not None if shared is None else shared
        if left and shared and self._pool is None:
            self._start_workers()
        self._work.phase(_NAMES[stage], "blocks", done)
        if not left:
            return
        each = self._by_workers(numbers) if shared else self._here(left, ledger)
        with contextlib.closing(each):
            for number in each:
                if shared and output is not None:
                    output.wrote(self._stages.region(number))
                done += 1
                self._work.step(done, len(numbers))

    def _forget_lost(self, stage: str, ledger: Ledger) -> None:
        """Remove the marks of a stage's blocks whose pixels the disk has lost."""
        stages = self._stages
        stages.forget_damaged(stage)
        marked = [number for number in stages.numbers(stage) if number in ledger.done]
        lost = [n for n in marked if stages.has_lost(n, ledger.doubtful_since)]
        if lost:
            ledger.unmark(lost)
            self._work.note(about_lost(len(lost)))

    def _here(self, numbers: Sequence[int], ledger: Ledger) -> Generator[int, None, None]:
        """Do blocks in this process."""

        def one(number: int) -> int:
            check(self._work)
            self._stages.carry_out(number)
            ledger.mark(number)
            return number

        return in_order(one, numbers, self._threads)

    def _by_workers(self, numbers: range) -> Generator[int, None, None]:
        """Have blocks done by workers."""
        assert self._pool is not None
        assert self._order is not None
        outcomes = share_out(
            numbers, self._ledger, self._pool, self._order, self._where, self._work
        )
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                yield outcome.block

    def _start_workers(self) -> None:
        ledger = self._ledger
        with disk_errors(ledger.folder, "What was written so far is kept."):
            write_file(ledger.folder / _SOURCE, json.dumps(plain(self._given())).encode())
        self._work.phase("Starting workers")
        self._pool, _ = self._stack.enter_context(open_pool(self._on, gpu=None, work=self._work))
        opens = f"{__name__}:open_stages"
        self._order = self._stack.enter_context(ordering(ledger, self._pool, 1, self._trust, opens))

    def _given(self) -> Source:
        """Say how another process reads the same heights."""
        subject, made = self._subject, self._made
        image = subject.image
        opener, choice = image.opener, image.choice
        content = "" if made is not None else content_of(image)
        if made is not None:
            opener, choice = str(made.file), Choice()
        assert opener is not None
        corner, whole = (None, None) if made is None or made.place is None else made.place
        return Source(
            opener, choice, os.getcwd(), image.axes or "", image.scale, image.units, image.origin,
            corner, whole, None if subject.names is None else tuple(subject.names),
            subject.recipe, tuple(s.start for s in subject.part), subject.blocks,
            str(self._folder.path.absolute()), content,
        )  # fmt: skip

    def _where(self, number: int) -> str:
        """Say where a block lies."""
        parts = zip(self._subject.heights.axes, self._stages.region(number), strict=True)
        return ", ".join(f"{axis} {part.start}:{part.stop}" for axis, part in parts)


def begin_labels(
    prediction: Any,
    recipe: Recipe,
    out: Any = None,
    *,
    case: Case | None = None,
    area: Mapping[str, tuple[int, int]] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    ome: OmeZarr = OmeZarr(),  # noqa: B008  (frozen)
    corrections: str | None = None,
    source: Image | None = None,
    on: On = None,
    trust: bool = False,
    threads: int = 1,
    scratch: str | Path | None = None,
    work: Work = QUIET,
    **how: Any,
) -> Labelling:
    """Begin labels, or take up unfinished ones.

    Parameters
    ----------
    prediction, recipe, out, area, overwrite, resume, ome, on, threads, scratch, work
        As for `seamscope.segment`.
    case
        That of an image that is predicted first; `prediction` is the image then.
    corrections
        Hash of corrections by hand that will be applied.
    source
        Image that must not be overwritten.
    trust
        Whether code that comes with the network's file may run in workers.
    how
        ``axes``, ``blocks``, ``names``, ``seams`` (see `seamscope.segmentation.subject.Subject`).

    Raises
    ------
    SeamscopeError
        When the place cannot be written, or the unfinished labels are of other work.
    """
    check_on(on)
    image = prediction if isinstance(prediction, Image) else open_image(prediction)
    axes = how.get("axes")
    check_threads(threads)
    if axes is not None and image.axes != axes:
        image = image.with_axes(axes)
    if on is not None:
        _check_shared(image, case)
    task = task_of_labels(
        image, recipe, case=case, area=area, ome=ome, corrections=corrections,
        names=how.get("names"),
    )  # fmt: skip
    output = kept = None
    if case is not None:
        check_recipe(recipe, case)
    elif said := scaling_note(image, recipe):
        work.note(said)
    if is_address(out):
        again = {"overwrite": overwrite, "resume": resume}
        check_label_target(out, source=source or image, **again)
        kept = KeptHere(out, task, scratch, **again)
        work.note(
            f"Until {without_secrets(out)} is written, what is found for it is kept in "
            f"{kept.folder}."
        )
    if can_resume(out):
        if case is not None:
            shape, space = space_of(case.plan)
        else:
            subject = Subject.of(image, recipe, area=area, **how)
            shape, space = subject.blocks.shape, subject.space
        output = _output(out, shape, space, task, recipe, overwrite, resume, ome, source or image)
    try:
        return Labelling(
            image, recipe, out, case=case, task=task, output=output, kept=kept,
            how={**how, "area": area}, on=on, trust=trust, threads=threads, scratch=scratch,
            overwrite=overwrite, resume=resume, ome=ome, source=source or image, work=work,
        )  # fmt: skip
    except BaseException:
        if output is not None:
            output.close()
        if kept is not None:
            kept.close(keep=bool(kept.ledger.done))
        raise


def _check_shared(image: Image, case: Case | None) -> None:
    """Check that other processes can open what is segmented."""
    if case is not None:
        check_travels(case.image, case.model)
    else:
        check_image_travels(image, "prediction")


def _output(
    out: Any,
    shape: tuple[int, ...],
    space: Space,
    task: Mapping[str, Any],
    recipe: Recipe,
    overwrite: bool,
    resume: bool,
    ome: OmeZarr,
    source: Image | None,
) -> Output:
    """Create the result, or open an unfinished one; its type is known once objects are counted."""
    before = unfinished(out) if resume else None
    known = None if before is None else before.task.get("type")
    metadata = {"segmentation": {"recipe": plain(recipe)}, "task": dict(task)}
    kinds = ["uint32"] if known in (None, "uint32") else [known, "uint32"]
    for kind in kinds:  # killed before the type was changed: the second
        try:
            return label_output(
                out, shape, np.dtype(kind), space, overwrite=overwrite, source=source,
                metadata=metadata, ome=ome, task=task, resume=resume,
            )  # fmt: skip
        except OutputError:
            if kind == kinds[-1]:
                raise
    raise AssertionError


__all__ = ["Labelling", "Source", "begin_labels", "can_resume", "open_stages", "task_of_labels"]
