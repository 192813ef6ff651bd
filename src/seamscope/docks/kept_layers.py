"""Layers that a dock draws into: taken over by the next picture, hidden, never removed.

Knows which layer a picture fits into, and how it is found again. Does not know what is drawn.

napari crashes on software OpenGL where shapes layers go, and a layer that goes loses what a user
has set on it. So a picture takes over the layer of the one before, where that has as many
dimensions; a dock that is opened again takes over what one before it has left in the viewer.

A picture that comes back with its page, or follows the view, stays hidden where a user has hidden
its layer; a new picture is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from napari.layers import Layer, Shapes

_RANGE, _LIMITS = "contrast_limits_range", "contrast_limits"
_kept: WeakKeyDictionary[Layer, tuple[Hashable, ...]] = WeakKeyDictionary()


class KeptLayers:
    """Layers of one owner, one for each key.

    Parameters
    ----------
    viewer
        They are added to it when first shown.
    owner
        What another owner of the same name has left in the viewer is taken over.
    """

    def __init__(self, viewer: Any, owner: str) -> None:
        self._viewer = viewer
        self._owner = owner
        self._wanted: WeakSet[Layer] = WeakSet()  # that one is not seen is the user's wish

    def all(self, *key: Hashable) -> Iterator[Any]:
        """Yield the layers in the viewer whose keys begin like this, the lowest first."""
        begin = (self._owner, *key)
        for layer in self._viewer.layers:
            if _kept.get(layer, ())[: len(begin)] == begin:
                yield layer

    def seen(self, *key: Hashable) -> Any:
        """Return the visible layer of such a key; None where none is."""
        return next((layer for layer in self.all(*key) if layer.visible), None)

    def key_of(self, layer: Layer) -> tuple[Any, ...] | None:
        """Return the key of a layer, also of one that was removed; None for a layer of others."""
        owner, *key = _kept.get(layer, (None,))
        return tuple(key) if owner == self._owner else None

    def hide(self, *key: Hashable) -> None:
        """Show none of the layers whose keys begin like this."""
        for layer in self.all(*key):
            if layer.visible:
                self._wanted.discard(layer)
                layer.visible = False

    def raise_to_top(self) -> None:
        """Move the layers that are seen above all others."""
        layers = self._viewer.layers
        own = [layer for layer in self.all() if layer.visible]
        if own != list(layers)[len(layers) - len(own) :]:
            for layer in own:
                layers.move(layers.index(layer), len(layers))

    def show(
        self,
        key: tuple[Hashable, ...],
        kind: Callable[..., Layer],
        data: Any,
        place: Mapping[str, Any],
        look: Mapping[str, Any],
        again: bool = False,
        **first: Any,
    ) -> Any:
        """Show a picture in the layer of a key.

        Parameters
        ----------
        key
            Pictures with equal keys fit into one layer.
        kind
            Class of the layer.
        data
            What is shown.
        place
            Where it lies (see `seamscope.docks.layers.place_like`).
        look
            Attributes that belong to the picture; its metadata are added to those of the layer.
        again
            Whether the picture was there already: where the user has hidden it, it stays hidden.
        first
            Other arguments of the class, for a layer that is made. A user may change them.
        """
        layer = next(self.all(*key), None)
        if layer is None:
            chosen = set(self._viewer.layers.selection)
            made = {name: value for name, value in look.items() if name != _RANGE}
            layer = kind(data, **{**first, **place, **made})
            _kept[layer] = (self._owner, *key)  # before it is added: that may call `show` again
            self._viewer.add_layer(layer)
            self._viewer.layers.selection = chosen & set(self._viewer.layers)
            _set(layer, None, {name: look[name] for name in (_RANGE, _LIMITS) if name in look})
        else:
            draw(layer, data, place, look)
        if not (again and layer in self._wanted):
            layer.visible = True
            self._wanted.add(layer)
        return layer


class ResultsUnderMaps:
    """Results give way to maps over the image: colours over colours cannot be read.

    Parameters
    ----------
    viewer
        The layers of results are in it.
    results
        Returns these layers, as they are drawn now.
    """

    def __init__(self, viewer: Any, results: Callable[[], Sequence[Layer]]) -> None:
        self._viewer, self._results = viewer, results
        self._hidden: list[Layer] = []

    def give_way(self, mapped: bool) -> None:
        """Hide the results where there is a map, and show them again without one."""
        if mapped:
            seen = [layer for layer in self._results() if layer.visible]
            self._hidden += seen
            for layer in seen:
                layer.visible = False
            return
        drawn = self._results()
        for layer in self._hidden:
            if layer in self._viewer.layers and layer in drawn:
                layer.visible = True
        self.forget()

    def forget(self) -> None:
        """Show none of them again: there are others."""
        self._hidden = []


def draw(layer: Any, data: Any, place: Mapping[str, Any], look: Mapping[str, Any]) -> None:
    """Replace what a layer shows.

    Parameters
    ----------
    layer, data, place, look
        As for `KeptLayers.show`.
    """
    for name, value in place.items():
        if not _same(getattr(layer, name), value):
            setattr(layer, name, value)
    if isinstance(layer, Shapes):  # a thumbnail of all lines takes longer than everything else
        with layer.block_thumbnail_update():
            _set(layer, data, look)
    else:
        _set(layer, data, look)


def _set(layer: Any, data: Any, look: Mapping[str, Any]) -> None:
    """Set data, unless there are none, and attributes."""
    if data is not None:
        layer.data = data
    for name, value in look.items():
        if name == "metadata":
            layer.metadata = {**layer.metadata, **value}
        elif name != "name" or layer.name != value:
            setattr(layer, name, value)


def _same(own: Any, wanted: Any) -> bool:
    own = getattr(own, "affine_matrix", own)
    if isinstance(wanted, tuple):
        return tuple(own) == wanted
    return np.shape(own) == np.shape(wanted) and bool(np.allclose(own, wanted))


__all__ = ["KeptLayers", "ResultsUnderMaps", "draw"]
