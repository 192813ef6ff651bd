"""An unfinished result that is opened: what it was made of, so that the dock can go on with it.

Knows records and ledgers. Does not know controls.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer

from seamscope.docks.layers import add_opened, name_of
from seamscope.errors import SeamscopeError, SettingsError
from seamscope.images.records import read_record
from seamscope.images.results.create import unfinished
from seamscope.planning.protocol import Protocol
from seamscope.prediction.resuming import share_done
from seamscope.serialization import restore
from seamscope.settings import Settings

_ENDING = ".partial"


@dataclass(frozen=True)
class Unfinished:
    """What a stopped run has left of a result.

    Attributes
    ----------
    path
        Of the result, when it is finished.
    share
        Part that is done, 0 to 1.
    image
        Name of the image's file.
    protocol
        Network and settings; None where the network was in no file.
    """

    path: str
    share: float
    image: str
    protocol: Protocol | None

    @classmethod
    def of(cls, layer: Layer | None) -> Unfinished | None:
        """Return what a visible layer shows, if it is an unfinished result with a ledger."""
        seen = isinstance(layer, ImageLayer) and layer.visible
        name = name_of(layer) if seen else ""
        if not name.endswith(_ENDING):
            return None
        path = name.removesuffix(_ENDING)
        record: dict[str, Any] = read_record(name) or {}
        try:
            ledger = unfinished(path)
            if ledger is None:
                return None
            protocol = None
            if record.get("protocol"):  # with the tiles that were chosen, and as they were asked
                asked = _settings(ledger.task["settings"])
                protocol = Protocol.from_json(record["protocol"])
                protocol = dataclasses.replace(protocol, settings=asked)
            return cls(path, share_done(ledger), record["image"]["source"] or "", protocol)
        except (SeamscopeError, KeyError, TypeError):  # of another version
            return None

    def image_layer(self, viewer: Any) -> ImageLayer:
        """Return the layer of the image, opened where it is not in the viewer.

        Raises
        ------
        SeamscopeError
            When the image or the network is in no file.
        """
        if self.protocol is None or not self.image:
            raise SettingsError(
                f"The image or the network of {Path(self.path).name} was in no file. Load both, "
                f"choose this place (Save to), and go on."
            )
        for layer in viewer.layers:
            if isinstance(layer, ImageLayer) and name_of(layer) == self.image:
                return layer
        image = self.protocol.open_image(self.image)
        return add_opened(viewer, image, Path(self.image).name, self.image)


def _settings(task: dict[str, Any]) -> Settings:
    """Return the settings in the description of the work (`task_of`)."""
    halo = task["halo"]
    if isinstance(halo, dict):  # of all axes
        halo = [halo]
    if isinstance(halo, list):
        halo = [[h["before"], h["after"]] if isinstance(h, dict) else h for h in halo]
    return restore(Settings, {**task, "halo": halo})


__all__ = ["Unfinished"]
