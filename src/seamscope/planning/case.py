"""One value that carries an image, a network and settings through the engine.

Knows what follows from the three: the plan, how intensities are normalized, how tiles are read.
Does not know what is predicted, measured or written.

Everything that takes an image, a network and settings begins with `Case.open`, and is given a
`Case` where one was made already::

    case = Case.open("image.tif", "demo:batchnorm", tile=256)
    case.plan                      made when first needed
    case.but(halo=16).plan         another plan; intensities are not measured again
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from seamscope.cache import Cache
from seamscope.errors import SettingsError
from seamscope.images.image import Image, open_image
from seamscope.images.intensity import Intensity
from seamscope.images.passes import HERE, Passes
from seamscope.images.preparation import Prepared
from seamscope.models.formats import load_model
from seamscope.models.model import Model
from seamscope.planning.given import GivenTiles
from seamscope.planning.plan import Plan, image_layout, resolve
from seamscope.planning.reading import TileReader, intensity_key, whole_image_intensity
from seamscope.planning.resources import Resources
from seamscope.progress import QUIET, Work
from seamscope.serialization import plain, restore
from seamscope.settings import Settings


@dataclass(frozen=True, eq=False)
class Case:
    """An image, a network and settings, on the resources of a machine.

    Attributes
    ----------
    image, model, settings
        What is predicted, by what, how. The image must not change while the case is in use.
    resources
        Device and memory that may be used.
    asked
        The settings before a plan replaced them (`at`); None where none did.
    tiles
        Read windows and cores that another program planned; None where they are planned here.
    """

    image: Image
    model: Model
    settings: Settings
    resources: Resources
    _intensities: dict[Any, Intensity | Prepared] = field(default_factory=dict, repr=False)
    asked: Settings | None = field(default=None, repr=False)
    tiles: GivenTiles | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        image: Any,
        model: str | nn.Module | Model | None = None,
        settings: Settings | None = None,
        *,
        trust: bool = False,
        axes: str | None = None,
        grid: Any = None,
        resources: Resources | None = None,
        **asked: Any,
    ) -> Case:
        """Open an image and load a network.

        Parameters
        ----------
        image
            Array-like (numpy, dask, zarr), path, or `Image`. Or a `Case`, which brings its own
            network, and settings unless others are given.
        model
            Module, loaded model, or a string as for `seamscope.load_model`.
        settings
            Settings; single ones may be given by name instead, ``tile=256, halo=32``.
        trust
            Whether code that comes with the model's file may run.
        axes
            One letter of ``tczyx`` for each of the image's axes, where its file does not say.
        grid
            Tiles that another program planned, a file or a list (`seamscope.planning.given`).
        resources
            Device and memory, by default those of this machine. A case brings its own.

        Raises
        ------
        SeamscopeError
            Where image or network cannot be opened, or there is no such setting.
        """
        tiles = None if grid is None else GivenTiles.of(grid)
        if isinstance(image, Case):
            wanted = (settings or image.settings).but(**asked)
            network = image.model if model is None else load_model(model, trust=trust)
            case = image.but(wanted).of(network)
            return case if tiles is None else dataclasses.replace(case, tiles=tiles)
        if model is None:
            raise TypeError("give a network: a module, a Model, or a string for load_model")
        wanted = (settings or Settings()).but(**asked)
        opened, network = open_image(image, axes=axes), load_model(model, trust=trust)
        resources = resources or Resources.of(wanted.device)
        return cls(opened, network, wanted, resources, tiles=tiles)

    @classmethod
    def planned(cls, image: Image, model: Model, plan: Plan) -> Case:
        """Return the case of a plan that was made already."""
        settings = plan.settings
        memory = settings.memory or 0
        return cls(image, model, settings, Resources(settings.device, memory, memory)).at(plan)

    def at(self, plan: Plan) -> Case:
        """Return the same case with a plan of its image and network that was made already."""
        asked = self.asked or self.settings
        case = dataclasses.replace(self, settings=plan.settings, asked=asked)
        case.__dict__["plan"] = plan
        return case

    @cached_property
    def plan(self) -> Plan:
        """What exactly will be done.

        The network is measured first, which takes seconds, unless it has been.

        Raises
        ------
        SettingsError, ImageError
            When settings, network and image contradict each other.
        """
        if self.tiles is None:
            return resolve(self.image, self.model, self.settings, self.resources)
        return self._on_given(self.tiles)

    def _on_given(self, tiles: GivenTiles) -> Plan:
        """Return a plan with the tiles of another program."""
        facts = self.model.facts
        layout = image_layout(self.settings, facts, self.image)
        grid = tiles.grid(layout.sizes(layout.spatial, self.image.shape), facts.lattice)
        own = {"tile": grid.tile_shape, "halo": grid.halo, "overlap": grid.overlap}
        plan = resolve(self.image, self.model, self.settings.but(**own), self.resources)
        return dataclasses.replace(plan, grid=grid, settings=plan.settings.but(**own))

    def but(self, settings: Settings | None = None, **changes: Any) -> Case:
        """Return the same case with some settings changed; what still holds is not measured again.

        Parameters
        ----------
        settings
            Instead of the case's own.
        changes
            Single settings by name.
        """
        wanted = (settings or self.settings).but(**changes)
        if wanted == self.settings:
            return self
        resources = self.resources
        if wanted.device not in (self.settings.device, resources.device):
            resources = Resources.of(wanted.device)
        return Case(self.image, self.model, wanted, resources, self._intensities, tiles=self.tiles)

    def of(self, model: Model) -> Case:
        """Return the same case with another network."""
        return self if model is self.model else dataclasses.replace(self, model=model)

    def intensity(
        self,
        work: Work = QUIET,
        passes: Passes = HERE,
    ) -> Intensity | Prepared:
        """Return how intensities are normalized; the whole image is measured once.

        Parameters
        ----------
        work
            Shows progress, and stops when asked to (see `seamscope.progress`).
        passes
            Carries out each pass over the image; by default this process.

        Raises
        ------
        InterruptedError
            When stopped.
        """
        key = intensity_key(self.plan)
        if key not in self._intensities:
            self._intensities[key] = self._cached_intensity(repr(key), work, passes)
        return self._intensities[key]

    def assume_intensity(self, found: Intensity | Prepared) -> None:
        """Take what another process measured of the same image, instead of measuring it."""
        self._intensities[intensity_key(self.plan)] = found

    def _cached_intensity(self, key: str, work: Work, passes: Passes) -> Intensity | Prepared:
        """Return what an earlier command measured on the same file, else measure."""
        if not self.image.identity or self.plan.settings.normalize == "none":
            return whole_image_intensity(self.plan, self.image, work, passes)
        kind: Any = Prepared if self.plan.preparation is not None else Intensity
        cache, key = Cache("intensities"), f"{self.image.identity} {self.image.shape} {key}"
        known = cache.get(key)
        if known is not None:
            with contextlib.suppress(SettingsError):  # a damaged entry
                found: Intensity | Prepared = restore(kind, known)
                return found
        found = whole_image_intensity(self.plan, self.image, work, passes)
        cache.put(key, plain(found))
        return found

    def reader(self, work: Work = QUIET) -> TileReader:
        """Return what reads tiles as the network takes them; intensities are measured first."""
        return TileReader(self.plan, self.image, self.intensity(work))


__all__ = ["Case"]
