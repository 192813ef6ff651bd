"""The dock *Receptive field*: how far the network can see, and how far it does.

Knows its controls, and how they are wired: the network and image of *Tiled prediction* -> maps ->
plot, numbers, layers, a halo. Does not know how anything is measured or drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QHBoxLayout, QSpinBox, QWidget

from seamscope.docks.controls import BUSY, NO_CASE, allow, button, form, stack, ticked
from seamscope.docks.dock import Dock
from seamscope.docks.editors import Choice
from seamscope.docks.layers import image_of, on_click, shown_point
from seamscope.docks.looks import boxed, in_dock, legend, plain, text_label
from seamscope.docks.receptive_field.layers import EFFECTIVE, FieldLayers, box_around, centred
from seamscope.docks.receptive_field.probes import Probes
from seamscope.docks.receptive_field.profile_plot import THEORY, ProfilePlot
from seamscope.models.model import Model
from seamscope.models.sentences import some_names
from seamscope.planning.plan import Plan
from seamscope.progress import Work
from seamscope.receptive_field.fields import ReceptiveField, measure_receptive_field
from seamscope.receptive_field.gradient_maps import SHARES, EffectiveField, GradientMap
from seamscope.receptive_field.gradient_probe import MOST_TILES, GradientProbe
from seamscope.settings import Settings
from seamscope.text import axes_text, far_text, halo_text, percent_text
from seamscope.tiling import Sides

Shown = Literal["mean", "pixel"]
_Place: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # spatial pixel, and frame

_TIPS = {
    "channel": "Channel of the prediction whose gradient is computed. All together: the sum of\n"
    "the absolute gradients of all channels.",
    "tile": "Size of the tiles in which gradients are computed. Networks that see the whole tile\n"
    "see further in larger tiles.",
    "most": "Largest number of tiles. Averaging ends earlier when two halves of the tiles agree.",
    "compute": "Average the gradient of a tile's middle pixel over tiles from the whole image.",
    "probe": "While this is on, click into the image: the map of that pixel is computed.",
    "shown": "Map that is plotted and drawn.",
    "map": "Draw the map over the image, on a logarithmic scale: the mean in the middle of the\n"
    "view, the map of one pixel at that pixel.",
    "boxes": "Draw the theoretical receptive field, and the box that holds 99% of the gradient.",
    "halo": "Theoretical: exact. Effective: pixels further away change the prediction little.",
    "use": "Set this margin (halo) in the step Predict.",
}
_WAITING = (
    "Choose an image and a network in the step <i>Predict</i>: how far the network looks is "
    "shown here."
)


class ReceptiveFieldDock(Dock):
    """See how far a network looks.

    Parameters
    ----------
    napari_viewer
        The viewer over whose images maps are drawn; network and image are those of its dock
        *Tiled prediction*.
    """

    def build(self) -> None:
        """Make the controls and wire them."""
        self.theory: ReceptiveField | None = None
        self.mean: EffectiveField | None = None
        self.pixel: GradientMap | None = None
        self._model: Model | None = None
        self._layer: ImageLayer | None = None
        self._plan: Plan | None = None  # of what is shown
        self._origin: tuple[int, ...] | None = None  # of the mean's map, once it has a place
        self._clicked = on_click(self.probe_at)
        self._clicked_at: _Place | None = None
        self._waiting: _Place | None = None  # clicked while something was measured
        self._probes = Probes()
        self.layers = FieldLayers(self.viewer)
        self._make_controls()
        self._lay_out()
        self._connect()
        self.destroyed.connect(self.layers.sleep)

    # -- for programs

    @property
    def busy(self) -> bool:
        """Whether something is being measured."""
        return self.job.busy

    @property
    def map(self) -> GradientMap | None:
        """The map that is shown."""
        if self.shown.value() == "pixel":
            return self.pixel
        return None if self.mean is None else self.mean.map

    def settings(self) -> Settings | None:
        """How the image is read for gradients; None as long as nothing can be."""
        plan = self.session.plan
        if plan is None:
            return None
        tile = plan.grid.tile_shape if self.tile.value() == "plan" else "auto"
        return plan.settings.but(tile=tile, halo=0, area=None)

    # -- making

    def _make_controls(self) -> None:
        self.verdict = text_label()
        self.details = text_label()
        self.channel = Choice([("All together", None)], _TIPS["channel"])
        self.tile = Choice(
            [("Automatic", "auto"), ("As in Predict", "plan")],
            _TIPS["tile"],
        )
        self.most = QSpinBox()
        self.most.setRange(1, 4096)
        self.most.setValue(MOST_TILES)
        self.most.setToolTip(_TIPS["most"])
        self.compute = button("Compute", _TIPS["compute"])
        self.probe = button("Probe a pixel", _TIPS["probe"])
        self.probe.setCheckable(True)
        self.shown = Choice((), _TIPS["shown"])
        self.plot = ProfilePlot()
        self.numbers = text_label()
        self.show_map = ticked("Map", _TIPS["map"])
        self.show_boxes = ticked("Boxes", _TIPS["boxes"])
        self.halo = Choice((), _TIPS["halo"])
        self.use = button("Use this margin", _TIPS["use"])
        self.used = text_label()

    def _lay_out(self) -> None:
        controls = form(
            ("Channel", self.channel), ("Tile size", self.tile), ("Tiles at most", self.most)
        )
        self.boxes_row = legend(
            self.show_boxes, [("theoretical", THEORY), ("99% of the gradient", EFFECTIVE)]
        )
        self._result = QWidget()
        shown = form(("Shown", self.shown))
        stack(self._result, shown, self.plot, self.numbers, self.show_map, self.boxes_row)
        parts = [
            *(self.verdict, self.details, controls, _row(self.compute, self.probe)),
            self._result,
            *(form(("Margin (halo)", self.halo)), self.use, self.used),
        ]
        self.place_with_status(parts)
        self._result.hide()

    def _connect(self) -> None:
        self.compute.clicked.connect(self._compute)
        self.job.changed.connect(self._job_changed)
        self.probe.toggled.connect(self._probe_toggled)
        self.channel.value_changed.connect(self._probe_again)
        self.tile.value_changed.connect(self._probe_again)
        self.shown.value_changed.connect(self._show_result)
        self.show_map.toggled.connect(lambda _: self._show_layers(boxes_again=True))
        self.show_boxes.toggled.connect(lambda _: self._show_layers(map_again=True))
        self.use.clicked.connect(self._use_halo)
        self.session.changed.connect(self._session_changed)

    # -- coming and going

    def follow(self) -> None:
        """Follow the viewer and the session."""
        self.layers.wake()
        self._session_changed()

    def leave(self) -> None:
        """Stop work, and hide map and boxes."""
        self.stop()
        self.probe.setChecked(False)
        self.layers.hide_map()
        self.layers.hide_boxes()
        self.layers.sleep()

    def plots(self) -> Sequence[Any]:
        """The one plot."""
        return (self.plot,)

    # -- the network and the image

    def _session_changed(self) -> None:
        """Another network, image or plan."""
        if not self.awake:
            return
        session = self.session
        self.used.setText("")
        if session.model is not self._model:
            self._new_model(session.model)
        if session.layer is not self._layer:
            self._layer = session.layer
            self._forget_maps()
        self._show_state()

    def _new_model(self, model: Model | None) -> None:
        self._model = model
        self.theory = None
        self._forget_maps()
        names = () if model is None else model.channels
        each = [(name, number) for number, name in enumerate(names)]
        with QSignalBlocker(self.channel):
            self.channel.set_options([("All together", None), *(each if len(each) > 1 else [])])
        self.channel.setEnabled(len(each) > 1)
        self.job.abandon()
        if model is not None:
            measure = partial(measure_receptive_field, None, model, most_tiles=0)
            self.start(f"measuring what {model.name} sees", measure, self._understood)

    def _understood(self, found: ReceptiveField | None) -> None:
        self.theory = found

    def _forget_maps(self) -> None:
        self.mean = self.pixel = self._origin = self._plan = self._clicked_at = None
        self.session.tell_effective(None)
        self._offer_shown()
        self._show_result()

    def _show_state(self) -> None:
        """Show what is known of the network, and which controls make sense."""
        theory, model = self.theory, self.session.model
        planned = self.session.plan is not None, NO_CASE
        allow(self.compute, planned, (not self.busy, BUSY))
        allow(self.probe, planned)
        if model is None or self.session.layer is None:
            self.verdict.setText(_WAITING)
            self.details.setText("")
        else:
            kind: Literal["good", "warning"] = "good" if model.reach.bounded else "warning"
            self.verdict.setText(boxed(in_dock(model.describe()), kind))
            self.details.setText("" if theory is None else _details(theory))
        self._offer_halos()

    # -- measuring

    def _compute(self, _: Any = None) -> None:
        """Average over tiles, as the button does."""
        channel, most = self.channel.value(), self.most.value()

        def question(probe: GradientProbe, work: Work) -> EffectiveField:
            return probe.average(channel, most=most, work=work)

        self._differentiate("averaging gradients", question, self._averaged)

    def _averaged(self, found: EffectiveField | None) -> None:
        if found is None:
            self._tell_stopped()
            return
        self.mean = found
        self._origin = None
        radii = found.map.radius(0.99)
        self.session.tell_effective(tuple((r, r) for r in radii))
        self._offer_shown("mean")

    def _probe_toggled(self, wanted: bool) -> None:
        callbacks = self.viewer.mouse_drag_callbacks
        if wanted:
            callbacks.append(self._clicked)
        elif self._clicked in callbacks:
            callbacks.remove(self._clicked)

    def probe_at(self, world: Sequence[float]) -> None:
        """Make the map of the pixel at a point of the world."""
        plan, layer = self.session.plan, self.session.layer
        if plan is None or layer is None:
            return
        point = layer.world_to_data(list(world)[-layer.ndim :])
        found = _image_pixel(plan, point)
        if found is None:
            self.tell("This point is outside the image: click into the image.", "warning")
            return
        self._clicked_at = found
        self._probe_pixel(found)

    def _probe_again(self) -> None:
        """Answer the new question about the pixel that is shown."""
        if self._clicked_at is not None and self.shown.value() == "pixel":
            self._probe_pixel(self._clicked_at)

    def _probe_pixel(self, place: _Place) -> None:
        if self.busy:
            self._waiting = place
            return
        (pixel, frame), channel = place, self.channel.value()

        def question(probe: GradientProbe, work: Work) -> GradientMap:
            return probe.at(pixel, channel, frame)

        self._differentiate("making the map of one pixel", question, self._probed)

    def _probed(self, found: GradientMap | None) -> None:
        if found is None:
            self._tell_stopped()
            return
        self.pixel = found
        self._offer_shown("pixel")

    def _differentiate(self, name: str, question: Any, done: Callable[[Any], None]) -> None:
        session, settings = self.session, self.settings()
        if self.busy or settings is None or session.model is None or session.layer is None:
            return
        plan = session.plan
        assert plan is not None
        try:
            image = image_of(session.layer, plan.layout.axes)
        except Exception as error:
            self.fail(error, "Measuring the receptive field")
            return
        self._plan = plan
        probe = partial(self._probes.of, image, session.model, settings)

        def answer(work: Work) -> Any:
            return question(probe(work), work)

        self.start(name, answer, done)

    def stop(self, _: Any = None) -> None:
        """Stop what is going on."""
        self._waiting = None
        self.job.stop()

    def _job_changed(self) -> None:
        """A job began or ended: after it, make the map that was clicked meanwhile."""
        self._show_state()
        if not self.busy:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                self._probe_pixel(waiting)

    def _tell_stopped(self) -> None:
        self.tell("Stopped: nothing new was measured.", "warning")

    # -- what is shown

    def _offer_shown(self, choose: Shown | None = None) -> None:
        options: list[tuple[str, Shown]] = []
        if self.mean is not None:
            options.append((f"Mean of {self.mean.tiles} tiles", "mean"))
        if self.pixel is not None:
            place = ", ".join(map(str, _position(self.pixel)))
            options.append((f"Pixel {place}", "pixel"))
        with QSignalBlocker(self.shown):
            self.shown.set_options(options)
            if choose is not None:
                self.shown.set_value(choose)
        self._result.setVisible(bool(options))
        self._show_result()

    def _show_result(self) -> None:
        """Plot, numbers and layers of the map that is chosen."""
        shown, plan = self.map, self._plan
        fields = None if self._model is None or shown is None else self._model.fields
        letters = "" if plan is None else plan.layout.spatial
        self.plot.show_map(shown, fields, letters)
        self.numbers.setText("" if shown is None else self._numbers(shown))
        self._show_layers()
        self._offer_halos()

    def _numbers(self, shown: GradientMap) -> str:
        rows = [
            (f"{100 * share:g}% within", f"{axes_text(shown.radius(share))} px") for share in SHARES
        ]
        fields = None if self._model is None else self._model.fields
        if fields is not None:
            rows.append(("Beyond the convolutions", percent_text(shown.beyond(fields))))
        notes = []
        if self.mean is not None and shown is self.mean.map:
            notes += [boxed(note, "warning") for note in self.mean.notes]
            if self.mean.doubt:
                notes.append(boxed(self.mean.doubt, "warning"))
        return _table(rows) + "".join(notes)

    def draw(self) -> None:
        """Draw map and boxes over the image."""
        self._show_layers(map_again=True, boxes_again=True)

    def _show_layers(self, map_again: bool = False, boxes_again: bool = False) -> None:
        """Map and boxes over the image; what was there stays hidden where it was hidden."""
        shown, plan, layer = self.map, self._plan, self._layer
        there = layer is not None and layer in self.viewer.layers
        if shown is None or plan is None or layer is None or not (there and self.front):
            self.layers.hide_map()
            self.layers.hide_boxes()
            return
        origin = shown.origin if shown.origin is not None else self._place(shown, plan, layer)
        if self.show_map.isChecked():
            self.layers.show_map(layer, plan.layout, shown, origin, map_again)
        else:
            self.layers.hide_map()
        if self.show_boxes.isChecked():
            effective, theory = self._boxes(shown, origin)
            self.layers.show_boxes(layer, plan.layout, effective, theory, boxes_again)
        else:
            self.layers.hide_boxes()

    def _place(self, shown: GradientMap, plan: Plan, layer: ImageLayer) -> tuple[int, ...]:
        """Where the mean's map is drawn: in the middle of the view, when it was made."""
        if self._origin is None:
            point = shown_point(layer, self.viewer)
            spatial = [float(point[plan.layout.axes.index(a)]) for a in plan.layout.spatial]
            self._origin = centred(shown, spatial, [a.pitch for a in plan.facts.lattice])
        return self._origin

    def _boxes(self, shown: GradientMap, origin: Sequence[int]) -> list[list[Sides] | None]:
        radii = [(r, r) for r in shown.radius(0.99)]
        fields = None if self._model is None else self._model.fields
        theory = None if fields is None else box_around(shown.covered, origin, shown.sides(fields))
        return [box_around(shown.covered, origin, radii), theory]

    # -- the halo

    def _offer_halos(self) -> None:
        model, shown = self.session.model, self.map
        options: list[tuple[str, tuple[Sides, ...]]] = []
        if model is not None and model.reach.convolutional is not None:
            name = "Theoretical, exact" if model.reach.bounded else "Of the convolutions"
            halo = model.reach.convolutional
            options.append((f"{name}: {halo_text(halo)}", halo))
        if shown is not None:
            for share in reversed(SHARES):
                halo = tuple((r, r) for r in shown.radius(share))
                options.append((f"Effective, {100 * share:g}%: {halo_text(halo)}", halo))
        with QSignalBlocker(self.halo):
            self.halo.set_options(options)
        known = bool(options), "First press Compute: no margin of this network is known yet."
        allow(self.use, (self.session.plan is not None, NO_CASE), known)
        self.halo.setEnabled(bool(options))

    def _use_halo(self, _: Any = None) -> None:
        halo = self.halo.value()
        if halo is not None:
            self.session.want_halo(halo)
            self.used.setText(f"Margin {halo_text(halo)} is set in the step <i>Predict</i>.")


def _image_pixel(plan: Plan, point: Sequence[float]) -> _Place | None:
    """Spatial pixel and frame of the image at a point of its layer; None beside it."""
    axes, shape = plan.layout.axes, plan.image_shape
    found = {}
    for letter, place in zip(axes, point, strict=False):
        number = round(float(place))
        if not 0 <= number < shape[axes.index(letter)]:
            return None
        found[letter] = number
    pixel = tuple(found[letter] for letter in plan.layout.spatial)
    return pixel, tuple(found[letter] for letter in plan.layout.frames)


def _position(shown: GradientMap) -> list[int]:
    starts = shown.origin or (0,) * shown.values.ndim
    return [first + start for (first, _), start in zip(shown.covered, starts, strict=True)]


def _details(theory: ReceptiveField) -> str:
    rows = [("Period", f"{axes_text(theory.facts.period)} px: tiles start on multiples of it")]
    if theory.convolutional is not None:
        alone = "" if theory.bounded else ", by its convolutions alone"
        worst = "where it looks farthest within a period"
        rows.append(("Looks", f"{far_text(theory.convolutional)} far, {worst}{alone}"))
    if theory.couplings:
        rows.append(("Whole tile through", plain(some_names(theory.couplings))))
    notes = "".join(boxed(note, "warning") for note in theory.notes)
    return _table(rows) + notes


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><td style="padding-right: 10px">{name}</td><td>{text}</td></tr>'
        for name, text in rows
    )
    return f"<table>{cells}</table>"


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget, 1)
    return row


__all__ = ["ReceptiveFieldDock"]
