"""What another process needs to do its part of a run: paths, names and numbers, never pixels.

Knows how image, network and plan are written beside the marks of a result, and read again. Does
not know who reads them.

What is read again is checked: the image has the same pixels at the same places, the network the
same weights, and Seamscope the same version. Otherwise the process refuses, and another does the
work.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seamscope.errors import SettingsError
from seamscope.files import disk_errors, write_file
from seamscope.images.image import Image, open_image
from seamscope.images.intensity import Intensity
from seamscope.images.preparation import Prepared
from seamscope.images.stored import Choice
from seamscope.ledger import Ledger
from seamscope.models.formats import load_model
from seamscope.models.model import Model
from seamscope.normalization.statistics import Statistics
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.prediction.resuming import task_of
from seamscope.serialization import plain, restore

_RECIPE, _STATISTICS = "recipe.json", "statistics.safetensors"
# Of a ledger's task: what must be the same wherever a block is computed.
_CHECKED = ("version of Seamscope", "image", "network", "statistics")


@dataclass(frozen=True)
class ImageFile:
    """How another process opens the same image.

    Attributes
    ----------
    opener, choice, axes
        What `open_image` is given.
    folder
        Where the run was begun: names of files may be relative to it.
    """

    opener: str
    choice: Choice
    axes: str | None
    folder: str

    @classmethod
    def of(cls, image: Image) -> ImageFile:
        """Describe an image that is a file."""
        assert image.opener is not None
        return cls(image.opener, image.choice, image.axes, os.getcwd())

    def open(self) -> Image:
        """Open it here.

        Raises
        ------
        ImageError
            When it cannot be read.
        """
        with inside_folder(self.folder):
            return open_image(self.opener, axes=self.axes, **_fields_of(self.choice))


@dataclass(frozen=True)
class Recipe:
    """How another process makes the same case.

    Attributes
    ----------
    image
        The image's file.
    network, statements
        What `load_model` is given; names of files may be relative to the image's `folder`.
    intensity, prepared
        How intensities are normalized: one of the two.
    way
        Name of the network's equivalent that is used.
    kind
        What is predicted, for the seams' measures; None where none are made.
    unfinished, final
        The result while it is written, and its name; equal endings.
    """

    image: ImageFile
    network: str
    statements: dict[str, Any]
    intensity: Intensity | None
    prepared: Prepared | None
    way: str
    kind: str | None
    unfinished: str
    final: str

    @classmethod
    def of(cls, case: Case, way: str, kind: str | None, unfinished: str, final: str) -> Recipe:
        """Describe a case whose intensities are measured.

        Raises
        ------
        SettingsError
            When its image or network is in memory only.
        """
        image, model = case.image, case.model
        check_travels(image, model)
        assert model.spec is not None
        found = case.intensity()
        return cls(
            ImageFile.of(image),
            model.spec,
            dict(model.statements),
            found if isinstance(found, Intensity) else None,
            found if isinstance(found, Prepared) else None,
            way,
            kind,
            os.path.abspath(unfinished),
            os.path.abspath(final),
        )

    def save(self, folder: Path, statistics: Statistics | None) -> None:
        """Write it into the folder of a ledger.

        Raises
        ------
        OutputError
            When the disk refuses.
        """
        with disk_errors(folder, "What was written so far is kept."):
            write_file(folder / _RECIPE, json.dumps(plain(self)).encode())
        if statistics is not None:
            statistics.save(folder / _STATISTICS)

    @classmethod
    def load(cls, folder: Path) -> Recipe:
        """Read what `save` wrote.

        Raises
        ------
        SettingsError
            When it is missing or damaged.
        """
        try:
            content = json.loads((folder / _RECIPE).read_bytes())
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{folder} cannot be read by a worker. Workers must see the result under the same "
                "name as the command: write it to a disk that all machines share."
            ) from error
        return restore(cls, content)

    def open(self, ledger: Ledger, *, trust: bool) -> Case:
        """Open image and network here, and check that they are those of the run.

        Parameters
        ----------
        ledger
            Of the result; holds plan and checks.
        trust
            Whether code that comes with the network's file may run.

        Raises
        ------
        SeamscopeError
            When one of them is missing or another one.
        """
        plan: Plan = restore(Plan, ledger.task["plan"])
        image = self.image.open()
        with inside_folder(self.image.folder):
            model = self._model(plan, ledger.folder, trust)
        case = Case.planned(image, model, plan)
        found = self.intensity or self.prepared
        assert found is not None
        case.assume_intensity(found)
        here = {key: value for key, value in task_of(case).items() if key in _CHECKED}
        ledger.check(here, "The result")
        return case

    def _model(self, plan: Plan, folder: Path, trust: bool) -> Model:
        model = load_model(self.network, trust=trust, **self.statements)
        model.take_measured(plan.facts, plan.reach)
        statistics = folder / _STATISTICS
        if not statistics.exists():
            return model
        return model.with_statistics(Statistics.load(statistics))


def check_travels(image: Image, model: Model) -> None:
    """Check that other processes can open an image and a network.

    Raises
    ------
    SettingsError
        When one of them is in memory only.
    """
    check_image_travels(image)
    if model.spec is None:
        raise SettingsError(
            f"The network {model.name} is in the memory of this process, where workers cannot read "
            "it. Give a file, or a Python factory with its weights "
            "(unet.py:UNet@weights.safetensors)."
        )


def check_image_travels(image: Image, what: str = "image") -> None:
    """Check that other processes can open an image; `what` it is called.

    Raises
    ------
    SettingsError
        When it is in memory only, or was opened in a way that cannot be repeated.
    """
    if image.opener is None:
        raise SettingsError(f"The {what} {image.name} {image.stays or _IN_MEMORY}")


_IN_MEMORY = (
    "is in the memory of this process, where workers cannot read it. Save it to a file (zarr), and "
    "give its path."
)


def _fields_of(choice: Choice) -> Mapping[str, Any]:
    """Return the fields of a choice by name."""
    return {name: getattr(choice, name) for name in choice.__dataclass_fields__}


@contextlib.contextmanager
def inside_folder(folder: str) -> Iterator[None]:
    """Work in a folder for a moment, where it exists: relative names of files begin there."""
    before = os.getcwd()
    with contextlib.suppress(OSError):
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


__all__ = ["ImageFile", "Recipe", "check_image_travels", "check_travels", "inside_folder"]
