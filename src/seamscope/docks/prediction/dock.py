"""The dock *Tiled prediction*: from an image layer and a network to a result, tile by tile.

Knows its controls, and how they are wired: controls -> `Settings` -> `resolve` -> `Plan`, and
everything that is shown is shown from the plan. Does not know how anything is computed.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from magicgui.widgets import ComboBox
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QSignalBlocker, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QLineEdit,
    QSizePolicy,
)
from superqt import QCollapsible
from superqt.utils import qthrottled

from seamscope.docks.actions import Action
from seamscope.docks.dock import Dock
from seamscope.docks.editors import Choice, PixelsEditor, Steps
from seamscope.docks.evidence import Evidence
from seamscope.docks.job import Job, Outcome
from seamscope.docks.layers import (
    area_in_view,
    area_of_shape,
    axes_of,
    camera,
    check_image,
    drawn_shapes,
    image_of,
    letters_of,
    nodata_of,
    opened_as,
    propose_nodata,
    set_nodata,
    shown_point,
)
from seamscope.docks.looks import (
    Kind,
    boxed,
    cost_table,
    in_dock,
    legend,
    plain,
    set_row,
    text_label,
)
from seamscope.docks.opening import open_step
from seamscope.docks.prediction.card_buttons import CardHalo, CardSizes
from seamscope.docks.prediction.folder_drops import FolderDrops
from seamscope.docks.prediction.layer_file import LayerFile
from seamscope.docks.prediction.model_picker import ModelPicker, remember_model
from seamscope.docks.prediction.options import Options
from seamscope.docks.prediction.preview import CORE, WINDOW, TilePreview
from seamscope.docks.prediction.protocols import Protocols
from seamscope.docks.prediction.run_panel import RunPanel
from seamscope.docks.results import ResultLayers, Run
from seamscope.docks.sentences import sentence
from seamscope.docks.tasks import load, seconds_per_pixel
from seamscope.docks.window import come_forward
from seamscope.errors import SeamscopeError, TrustError
from seamscope.explain.advice import advise, smallest_tile
from seamscope.images.image import Image
from seamscope.images.stored import Offer
from seamscope.models.declared import disagreements
from seamscope.models.formats import Consent
from seamscope.models.formats.spec import shown_output, with_output
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.resources import Resources
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished
from seamscope.settings import Settings
from seamscope.text import axes_text, bytes_text
from seamscope.tiling import Sides

log = logging.getLogger(__name__)

_TRIAL_DELAY_MS = 600
_FOLLOW_MS = 100
_HALO_MOST = 256
_MOST_CHANNELS = 4  # that are offered as buttons
_RESULT_SHARE = 0.5  # of the free memory, that a result may take
_TOO_LARGE = (
    "The result takes {} and {} of memory are free. Choose a smaller region in More options, or "
    "write the result to a file: seamscope predict IMAGE MODEL RESULT.ome.zarr."
)
_ACTION_TIPS = {
    "tile": "Set the smallest tile that has room for the halo.",
    "channel": "Predict this channel of the image.",
    "file": "Open the file again, as Seamscope reads it, as a layer of its own.",
    "seams": "Where neighbouring tiles disagree, and how much.",
}
_FIXED_PREFIX = "fixed · "  # of results with fixed statistics
_OUTPUT_TIP = "Which of the network's outputs is predicted."
_FIXED_TIP = (
    "Normalize every tile by the same statistics, found in the dock Normalization, and not by\n"
    "its own: tiles then agree. Without it, the network is as it was loaded."
)


class PredictionDock(Dock):
    """Predict an image layer tile by tile.

    Parameters
    ----------
    napari_viewer
        The viewer whose layers are offered, and which gets the results.
    """

    def build(self) -> None:
        """Make the controls and wire them."""
        self.model: Model | None = None  # that predicts: with fixed statistics where wanted
        self._plain: Model | None = None  # as it was loaded
        self.image: Image | None = None
        self.plan: Plan | None = None
        self._asked = Settings()
        self._file: LayerFile | None = None  # behind the layer
        self._rests = False  # the preview, after a run
        self._trusted: bool | Consent = False  # of the network that is shown
        self._trial: Job | None = None
        self._trial_key: Any = None
        self._pace: dict[Any, float | None] = {}  # seconds for each input pixel
        self._known_resources: dict[str, Resources] = {}
        self._sides: tuple[Sides, ...] = ()  # of the halo shown
        self.tiles = TilePreview(self.viewer, self._preview_lost)
        self._drops = FolderDrops(self)
        self._make_controls()
        self._lay_out()
        self.protocols.recall()
        self._connect()
        self.destroyed.connect(self.tiles.sleep)
        self._drops.found.connect(self.open_network)
        self.setAcceptDrops(True)

    # -- for programs: what the controls say, and doing what they do

    @property
    def layer(self) -> ImageLayer | None:
        """The image layer that is chosen."""
        value = self.image_box.value
        return value if isinstance(value, ImageLayer) else None

    def settings(self) -> Settings:
        """What the controls ask for.

        Raises
        ------
        SettingsError
            When the region cannot be told.
        """
        options = {**self.options.values(), "area": self._area()}
        if options["memory"] is None:
            options["memory"] = self._resources(options["device"]).memory
        overlap = self.overlap.value()
        return Settings(
            tile=self.tile.value(),
            halo=self._halo(),
            overlap=None if isinstance(overlap, str) else overlap,
            blend=self.blend.value(),
            **{"seams": self.options.seams.value(), **options, **self.protocols.extra},
        )

    def _halo(self) -> Any:
        """The halo chosen: with both its sides as long as nobody moves the slider."""
        shown = self.halo.value()
        known = self._sides
        return known if known and shown == tuple(max(sides) for sides in known) else shown

    def open_network(self, path: str) -> None:
        """Load a file that was dropped on the viewer, where the user sees it."""
        come_forward(self)
        self.model_picker.set_value(path)

    def set_model(self, model: Any, trust: bool = False) -> None:
        """Load a network: a model string, an `nn.Module`, or a `Model`."""
        self.model_picker.show_value(model if isinstance(model, str) else "")
        if not isinstance(model, str):
            self.model_picker.show_name(f"{getattr(model, 'name', type(model).__name__)} (given)")
        self._load(model, trust)

    @property
    def plain(self) -> Model | None:
        """The network as it was loaded, without fixed statistics."""
        return self._plain

    @property
    def busy(self) -> bool:
        """Whether a prediction is running."""
        return self.panel.busy

    @property
    def settled(self) -> bool:
        """Whether nothing is going on: no loading, no timing, no prediction."""
        idle = not self.job.busy and self._trial is None and not self.busy
        return idle and not self._trial_timer.isActive()

    @property
    def problem(self) -> str:
        """The sentence on what is wrong, empty when nothing is."""
        return self.panel.problem

    @property
    def results(self) -> ResultLayers | None:
        """Layers of the prediction that is running, or of the last one."""
        return self.panel.results

    # -- making

    def _make_controls(self) -> None:
        self.image_box = ComboBox(choices=self._image_layers, nullable=True)
        # names of results are long, and the dock would be cut off at its side
        self.image_box.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.image_box.native.setToolTip("Image layer to predict.")
        self.axes = _axes_line()
        self.model_picker = ModelPicker()
        self.output = Choice((), _OUTPUT_TIP)
        self.facts = text_label()
        self.facts.hide()
        self.fixed = QCheckBox()
        self.fixed.setToolTip(_FIXED_TIP)
        self.fixed.hide()
        self.tile = PixelsEditor(
            "Tile: size of the window that the network reads at once, halo included, in pixels.",
            "Use the tile that needs the least computation within the memory limit.",
        )
        self.halo = PixelsEditor(
            "Margin (halo): pixels at the sides of each tile whose prediction is discarded.",
            "Use the reach of the network: then tiles agree exactly.",
        )
        self.card_sizes, self.card_halo = CardSizes(), CardHalo()
        self.blend = _blend_choice()
        self.overlap = PixelsEditor(
            "Pixels that neighbouring tiles share: both halos, and the blended part.",
            "Use twice the halo; for blends a quarter of the tile more.",
        )
        self.options = Options()
        self.preview = QCheckBox("Preview tiles")
        self.preview.setChecked(True)
        self.preview.setToolTip("Draw the tiles over the image, one of them filled.")
        self.cost = text_label()
        self.notes = text_label()
        self.panel = RunPanel(self.viewer, self.error)
        self.protocols = Protocols(self)
        self.panel.place_beside(self.protocols.button)
        self._trial_timer = QTimer(self)
        self._trial_timer.setSingleShot(True)
        self._trial_timer.setInterval(_TRIAL_DELAY_MS)

    def _lay_out(self) -> None:
        self._form = self._make_form()
        self.more = QCollapsible("More options")
        self.more.addWidget(self.options)
        self.more.toggleButton().setToolTip("Options that are seldom changed.")
        self.options.setEnabled(False)  # folded away: the Tab key passes by
        self.more.toggled.connect(self.options.setEnabled)
        self.more.layout().setContentsMargins(0, 0, 0, 0)
        shown = legend(self.preview, [("kept", CORE), ("read", WINDOW)])
        parts = [self._form, self.more, shown, self.cost, self.notes]
        self.place(parts, below=self.panel)

    def _make_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(6)
        form.addRow("Image", self.image_box.native)
        form.addRow("Axes", self.axes)
        form.addRow("Model", self.model_picker)
        form.addRow(self.model_picker.consent)
        form.addRow("Output", self.output)
        set_row(form, self.output, False)
        form.addRow(self.job)
        form.addRow(self.facts)
        form.addRow(self.fixed)
        form.addRow("Tile", self.tile)
        form.addRow("", self.card_sizes)
        form.addRow("Halo", self.halo)
        form.addRow("", self.card_halo)
        form.addRow("Blending", self.blend)
        form.addRow("Overlap", self.overlap)
        return form

    def _connect(self) -> None:
        self.image_box.changed.connect(self._image_changed)
        self.axes.editingFinished.connect(self.refresh)
        self.model_picker.asked.connect(self._load)
        self.output.value_changed.connect(self._choose_output)
        self.card_halo.clicked.connect(self._take_card_halo)
        self.card_sizes.clicked.connect(self._take_card_sizes)
        for editor in (self.tile, self.halo, self.overlap, self.blend, self.options):
            editor.value_changed.connect(self._edited)
        self.options.region.value_changed.connect(self._region_changed)
        self.options.shown.value_changed.connect(self._show_channels)
        self.options.series.value_changed.connect(self._choose_series)
        self.options.level.value_changed.connect(self._choose_level)
        self.options.nodata.value_changed.connect(self._choose_nodata)
        self.preview.toggled.connect(self._preview_toggled)
        self.panel.asked.connect(self.run)
        self.panel.ended.connect(self._ended)
        self._trial_timer.timeout.connect(self._time_a_tile)
        self.session.halo_wanted.connect(self._take_halo)
        self.session.blend_wanted.connect(self._take_blend)
        self.session.fixed_changed.connect(self._fixed_changed)
        self.session.run_wanted.connect(self._run_with)
        self.session.set_wanted.connect(self._set)
        self.session.stop_wanted.connect(self.panel.stop)
        self.fixed.toggled.connect(self._use_fixed)
        # not at once: what is in view is known when it has been drawn
        self._follow = qthrottled(self._view_moved, timeout=_FOLLOW_MS, leading=False)

    def follow(self) -> None:
        """Follow the viewer."""
        self.tiles.wake()
        viewer = self.viewer
        layers, dims = viewer.layers.events, viewer.dims.events
        changes = (layers.inserted, layers.removed, layers.reordered, layers.renamed)
        self.listen(changes, self._layers_changed)
        self.listen([layers.removed], self.panel.layer_removed)
        self.listen([camera(viewer).events, dims.current_step], self._camera_moved)
        self._drops.awake = True
        self._layers_changed()
        self.refresh()

    def leave(self) -> None:
        """Stop the prediction, and hide the tiles."""
        self._drops.awake = False
        self.panel.stop()
        self._cancel_trial()
        self.tiles.hide()
        self.tiles.sleep()

    # -- the image

    def _image_layers(self, _: Any = None) -> list[tuple[str, ImageLayer]]:
        return [(x.name, x) for x in self.viewer.layers if isinstance(x, ImageLayer)]

    def _layers_changed(self, event: Any = None) -> None:
        before = self.layer
        with self.image_box.changed.blocked():
            self.image_box.reset_choices()
            if self.layer is None:
                self.image_box.value = self._likely_layer()
        if self.layer is not before or self.layer is None:
            self._image_changed()

    def _likely_layer(self) -> ImageLayer | None:
        """The selected image layer, else the lowest; one of our own results only if chosen."""
        layers = [layer for _, layer in self._image_layers()]
        active = self.viewer.layers.selection.active
        own = [layer for layer in layers if "seamscope" not in layer.metadata]
        return active if active in own else next(iter(own), None)

    def _image_changed(self, _: Any = None) -> None:
        layer = self.layer
        self.axes.setText((axes_of(layer) or "") if layer is not None else "")
        set_row(self._form, self.axes, layer is not None and layer.ndim != 2)
        self._look_at_file(layer)
        self._offer_fixed()
        self.refresh()

    def _look_at_file(self, layer: ImageLayer | None) -> None:
        """Offer the other images and resolutions of the layer's file."""
        self._file = None if layer is None else LayerFile.of(layer)
        if layer is None or self._file is None:
            self.options.set_file(Offer(), None, False)
            return
        offer, own = self._file.offer, opened_as(layer)
        propose_nodata(layer, offer.nodata)
        takes_nodata = not layer.rgb and not (own is not None and own.missing)
        self.options.set_file(offer, nodata_of(layer), takes_nodata)

    def _choose_nodata(self) -> None:
        if self.layer is not None:
            set_nodata(self.layer, self.options.nodata.value())
            self._edited()

    def _choose_series(self) -> None:
        if self._file is not None:
            number = self.options.series.value()
            self._open_other(partial(self._file.open_series, self.viewer, number))

    def _choose_level(self) -> None:
        if self._file is not None:
            level = self.options.level.value()
            self._open_other(partial(self._file.open_level, self.viewer, level))

    def _open_other(self, add: Callable[[], ImageLayer]) -> None:
        """Add a layer of the same file, and take it for the image."""
        try:
            self.image_box.value = add()
        except SeamscopeError as error:
            self.panel.show_problem(in_dock(error))

    # -- the network

    def _load(self, spec: Any, trust: bool | Consent = False) -> None:
        self.job.abandon()
        self._cancel_trial()
        self.model = self._plain = None
        self._trusted = trust
        self.panel.forget()
        self._offer_fixed()
        self._offer_outputs(None)
        self.card_sizes.show_for(None)
        self.model_picker.consent.hide()
        self._tell_facts("")
        name = spec if isinstance(spec, str) else type(spec).__name__
        stated = self.protocols.stated(spec)
        function = partial(load, spec, trust, stated, self.protocols.check)
        self.job.start(f"loading {name}", function, self._loaded, failed=self._not_loaded)
        self.refresh()

    def _loaded(self, model: Model | None) -> None:
        """The network is loaded; None where Cancel was pressed."""
        self.model = self._plain = model
        self._tell_facts("")
        if model is not None:
            self._network_ready(model)
        self.refresh()

    def _not_loaded(self, error: Exception) -> None:
        self._tell_facts("")
        if isinstance(error, TrustError):
            self.model_picker.ask_consent(error)
        else:
            self._tell_facts(boxed(sentence(error, "The network"), "error"))
        self.refresh()

    def _network_ready(self, model: Model) -> None:
        self._describe(model)
        self._offer_outputs(model)
        self.card_sizes.show_for(model)
        if model.spec is not None:
            remember_model(model.spec)
            self.model_picker.show_value(model.spec)
            self.model_picker.refill()
        with self.quietly():
            for editor in (self.tile, self.halo, self.overlap):
                editor.set_value("auto")
        self.protocols.ready(model)

    def _describe(self, model: Model) -> None:
        kind: Kind = "good" if model.reach.bounded else "warning"
        told = boxed(model.describe(), kind)
        if model.declared is not None:  # what the card says, where measuring says otherwise
            wrong = disagreements(model.declared, model.facts, model.reach)
            told += "".join(boxed(each, "warning") for each in wrong)
        self._tell_facts(plain(str(model.facts)) + told)

    def _tell_facts(self, text: str) -> None:
        self.facts.setText(text)
        self.facts.setVisible(bool(text))

    def _offer_outputs(self, model: Model | None) -> None:
        """Offer the outputs of a network that has several."""
        names = () if model is None or model.spec is None else model.outputs or ()
        self.output.set_options([(name, place) for place, name in enumerate(names)])
        if model is not None and model.spec is not None and names:
            with QSignalBlocker(self.output):
                self.output.set_value(shown_output(model.spec, names))
        set_row(self._form, self.output, len(names) > 1)

    def _choose_output(self) -> None:
        """Load the same file again, for another of its outputs; trusted as it was."""
        plain = self._plain
        if plain is not None and plain.spec is not None and plain.outputs:
            spec = with_output(plain.spec, plain.outputs, self.output.value())
            self.model_picker.show_value(spec)
            self._load(spec, self._trusted)

    # -- the same network with fixed statistics

    def _fixed_changed(self) -> None:
        """Somebody has found statistics: use them; or they are gone."""
        self._offer_fixed(use=True)
        self._use_fixed()

    def _offer_fixed(self, use: bool = False) -> None:
        """Show the box where there are statistics of this network."""
        fixed = self.session.fixed
        known = fixed is not None and fixed.plain is self._plain
        with QSignalBlocker(self.fixed):
            self.fixed.setChecked(known and (use or self.fixed.isChecked()))
        self.fixed.setVisible(known)
        statistics = None if fixed is None else fixed.network.statistics
        if fixed is not None and statistics is not None:
            own = fixed.layer is not None and fixed.layer is self.layer
            where = "this image" if own else statistics.image or "another image"
            plan = self.plan
            other = plan is not None and statistics.misread(plan.seen)
            read = ", read otherwise" if other else ""
            self.fixed.setText(f"Fixed statistics ({statistics.how}, {where}{read})")

    def _use_fixed(self, _: Any = None) -> None:
        """Predict by fixed statistics, or by each tile's own, as the box says."""
        fixed = self.session.fixed
        wanted = self._plain
        if fixed is not None and fixed.plain is self._plain and self.fixed.isChecked():
            wanted = fixed.network
        if wanted is not self.model:
            self._cancel_trial()
            self.model = wanted
            if wanted is not None:
                self._describe(wanted)
            self.refresh()

    # -- from controls to a plan, and from the plan to all that is shown

    def refresh(self, _: Any = None) -> None:
        """Make a plan from the controls and show it, or say why there is none."""
        if not self.awake:
            return
        self.plan = None
        problem = ""
        if self.layer is None:
            self._show_nothing()
            return
        try:
            self.image = self._open_image()
            with self.quietly():
                self._offer(self.image)
            if self.model is not None:
                self._asked = self.settings()
                self.plan = self._asked_case().plan
        except SeamscopeError as error:
            problem = in_dock(error)
        except Exception as error:
            problem = sentence(error, "The plan")
        if not self.busy:
            self.panel.show_problem(problem)
        self.panel.set_ready(self.plan is not None)
        more = self._remedies() if problem else self._next_actions()
        self.panel.actions.offer([*self._file_actions(), *more])
        self._show_plan()
        self._show_preview()
        self._plan_trial()
        self.session.tell(self.model, self.layer, self._asked, self.plan, self._plain)

    def case(self) -> Case:
        """The case of the plan that is shown."""
        assert self.plan is not None
        return self._asked_case().at(self.plan)

    def _asked_case(self) -> Case:
        assert self.image is not None
        assert self.model is not None
        return Case(self.image, self.model, self._asked, self._resources(self._asked.device))

    def _remedies(self) -> list[Action]:
        """What makes a plan possible, where that is one click."""
        model, image = self.model, self.image
        if model is None or image is None:
            return []
        found = []
        reach = model.reach.halo or model.reach.convolutional
        tile = smallest_tile(self._asked, model.facts.lattice, reach)
        if tile is not None:
            act = partial(self._set, {"tile": tile})
            found.append(Action(f"Use tile {axes_text(tile)}", _ACTION_TIPS["tile"], act))
        channels = self.options.channel.count() - 1
        if model.facts.in_channels == 1 and channels > 1 and self.options.channel.value() is None:
            for number in range(min(channels, _MOST_CHANNELS)):
                act = partial(self._set, {"channel": number})
                found.append(Action(f"Channel {number}", _ACTION_TIPS["channel"], act))
        return found

    def _file_actions(self) -> list[Action]:
        """What to do where napari and Seamscope read a file differently."""
        file = self._file
        if file is None or not file.otherwise or self.busy:
            return []
        act = partial(self._open_other, partial(file.open_as_read, self.viewer))
        return [Action("Open with Seamscope", _ACTION_TIPS["file"], act)]

    def _next_actions(self) -> list[Action]:
        """What to do about seams: those of the last result, else those that are to be expected."""
        if self.plan is None or self.busy:
            return []
        report = None
        last = next(iter(reversed(self.session.runs)), None)
        if last is not None and last.model is self.model and last.layer is self.layer:
            report = last.evidence.report
        advice = advise(self.plan) if report is None else advise(report.plan, report)
        if not advice.needed:
            return []
        fix = Action("Fix it", in_dock(advice.why), partial(open_step, self.viewer, "fix"))
        see = Action(
            "See the seams", _ACTION_TIPS["seams"], partial(open_step, self.viewer, "seams")
        )
        return [fix] if report is None else [see, fix]

    def _show_nothing(self) -> None:
        """There is no image."""
        self.image = None
        if not self.busy:
            self.panel.show_problem("")
        self.panel.set_ready(False)
        self.panel.actions.offer()
        self._show_plan()
        self._show_preview()
        self.session.tell(self.model, None, None, None, self._plain)

    def _open_image(self) -> Image:
        layer = check_image(self.layer)
        return image_of(layer, self.axes.text().strip() or None)

    def _offer(self, image: Image) -> None:
        """Offer what image and network allow."""
        axes = image.axes or ""
        self.options.set_channels(image.shape[axes.index("c")] if "c" in axes else 0)
        self.options.set_floating(image.dtype.kind == "f")
        single = self.model is not None and self.model.facts.out_channels == 1
        labels = self.options.result.value() == "labels"
        self.options.show_threshold(single and labels)
        several = labels and self.model is not None and not single
        self.options.set_classes(self.model.channels if several and self.model is not None else ())
        if self.model is not None:
            self.offer_sizes(self.model, image)

    def remember_sides(self, halo: Sequence[Sides]) -> None:
        """Keep both sides of a halo, of which the control shows the larger."""
        pairs = [(side, side) if isinstance(side, int) else tuple(side) for side in halo]
        self._sides = tuple((before, after) for before, after in pairs)

    def offer_sizes(self, model: Model, image: Image) -> None:
        """Offer the sizes of tiles that a network takes."""
        lattice = model.facts.lattice
        names = "zyx"[-len(lattice) :]
        axes = image.axes or (names if image.ndim == len(names) else "")
        if not set(names) <= set(axes):
            return  # nobody knows yet which axes are tiled
        sizes = [image.shape[axes.index(name)] for name in names]
        tiles, halos, overlaps = [], [], []
        for name, group in _groups(len(lattice)):
            grid = lattice[group[-1]]
            most = max(lattice[i].size_at_least(sizes[i] + sum(lattice[i].crop)) for i in group)
            measured = grid.size_at_least(1), grid.increment
            low, step = self.card_sizes.sizes(model, group[-1]) or measured
            tiles.append(Steps(name, group, low, max(most, low), step))
            halos.append(Steps(name, group, 0, min(_HALO_MOST, most // 2), 1))
            overlaps.append(Steps(name, group, 0, most, grid.pitch))
        self.tile.set_steps(tiles)
        self.halo.set_steps(halos)
        self.overlap.set_steps(overlaps)

    def _show_plan(self) -> None:
        plan, image = self.plan, self.image
        self._offer_fixed()
        for editor in (self.tile, self.halo, self.overlap, self.blend):
            editor.setEnabled(self.model is not None and image is not None)
        if plan is None or image is None:
            self.cost.setText("" if self.problem else self._next_step())
            self._show_notes()
            self.card_halo.show_for(self.model, self.halo.shown())
            return
        self.tile.show_auto(plan.grid.tile_shape)
        if self.halo.auto.isChecked():
            self._sides = plan.grid.halo
        self.halo.show_auto([max(sides) for sides in plan.grid.halo])
        self.overlap.show_auto(plan.grid.overlap)
        self.card_halo.show_for(self.model, self.halo.shown())
        self.cost.setText(cost_table(plan, self._estimate(plan), self._trial is not None))
        self._show_notes()

    def _show_notes(self) -> None:
        """Say how the image was read, and what the plan has to say."""
        said = [*(self._file.notes if self._file is not None else ())]
        said += self.image.notes if self.image is not None else ()
        said += self.plan.notes if self.plan is not None else ()
        said += self.protocols.notes
        notes = map(in_dock, dict.fromkeys(said))
        self.notes.setText("".join(boxed(note, "warning") for note in notes))

    def _next_step(self) -> str:
        if self.layer is None:
            return "Open an image, or try File > Open Sample > Seamscope."
        waiting = self.model is None and not self.job.busy
        return "Choose a network, or drop its file here." if waiting else ""

    def _edited(self, _: Any = None) -> None:
        """A control was changed: its tiles are shown again."""
        self._rests = False
        self.refresh()

    def _preview_toggled(self, _: Any = None) -> None:
        self._rests = False
        self._show_preview()

    def _show_preview(self) -> None:
        """Draw the tiles; not over a new result, whose seams they would cover."""
        wanted = self.preview.isChecked() and not self._rests
        if self.plan is not None and self.layer is not None and wanted:
            self.tiles.show(self.layer, self.plan)
        else:
            self.tiles.hide()

    def _resources(self, device: str) -> Resources:
        """Ask the machine once: free memory varies, and Auto's tile should not."""
        if device not in self._known_resources:
            self._known_resources[device] = Resources.of(device)
        return self._known_resources[device]

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Change controls without hearing of it."""
        editors = (self.tile, self.halo, self.overlap, self.blend, self.options)
        blockers = [QSignalBlocker(editor) for editor in editors]
        try:
            yield
        finally:
            for blocker in blockers:
                blocker.unblock()

    # -- the region

    def _area(self) -> dict[str, tuple[int, int]] | None:
        kind = self.options.region.value()
        if kind == "image" or self.image is None:
            return None
        layer = check_image(self.layer)
        letters = letters_of(layer, self.image)
        if kind == "view":
            return area_in_view(layer, letters, self.viewer)
        return area_of_shape(drawn_shapes(self.viewer), layer, letters)

    def _region_changed(self) -> None:
        self._follow()
        if self.options.region.value() != "shape" or self.layer is None:
            return
        shapes = drawn_shapes(self.viewer) or self._add_region(self.layer)
        self.listen([shapes.events.data, shapes.events.highlight], self._camera_moved)

    def _add_region(self, layer: ImageLayer) -> Any:
        """Add a layer to draw in, with the rectangle tool selected."""
        pixel = max(camera(self.viewer).zoom * float(layer.scale[-1]), 1e-6)
        shapes = self.viewer.add_shapes(
            ndim=layer.ndim,
            name="region",
            face_color="transparent",
            edge_color="white",
            edge_width=2 / pixel,
            scale=layer.scale,
            translate=layer.translate,
            units=layer.units,
        )
        shapes.mode = "add_rectangle"
        return shapes

    def _camera_moved(self, event: Any = None) -> None:
        if self.options.region.value() != "image":
            self._follow()

    def _view_moved(self) -> None:
        with contextlib.suppress(RuntimeError):  # the dock may have been deleted meanwhile
            self.refresh()

    # -- how long it would take

    def _estimate(self, plan: Plan) -> float | None:
        assert self.model is not None
        measured = self._pace.get((self._pace_key(plan), plan.grid.tile_shape))
        speed = self.model.speeds.get(plan.speed_key)
        if measured is None and speed is not None and plan.settings.accelerate:
            measured = speed.per_pixel(math.prod(plan.grid.tile_shape))
        pace = measured or self._pace.get(self._pace_key(plan))
        return None if pace is None else pace * _pixels(plan)

    def _pace_key(self, plan: Plan) -> tuple[Any, ...]:
        settings = plan.settings
        return id(self.model), settings.device, settings.precision, settings.accelerate

    def _trial_needed(self, plan: Plan) -> Any:
        """What is to be timed; for Auto's tile how speed depends on size, for large images."""
        auto = self.tile.auto.isChecked() and plan.image_shape
        return self._pace_key(plan), auto

    def _plan_trial(self) -> None:
        plan = self.plan
        unknown = plan is not None and self._trial_needed(plan) not in self._pace
        if unknown and self._trial is None and not self.busy:
            self._trial_timer.start()

    def _time_a_tile(self) -> None:
        if self.plan is None or self.model is None or self.image is None or self.busy:
            return
        self._trial_key = self._trial_needed(self.plan)
        settings = self._asked.but(area=None)
        time = partial(seconds_per_pixel, self.image, self.model, settings)
        self._trial = Job("timing one tile", time, self, self.session.turn)
        self._trial.ended.connect(self._timed)
        self._trial.start()
        self._show_plan()

    def _timed(self, outcome: Outcome) -> None:
        self._trial = None
        if outcome.error is not None:  # the run will meet it too, and say it
            log.debug("no time could be estimated", exc_info=outcome.error)
        self._pace[self._trial_key] = self._pace[self._trial_key[0]] = outcome.value
        self.refresh()

    def _cancel_trial(self) -> None:
        self._trial_timer.stop()
        if self._trial is not None:
            self._trial.abandon()
            self._trial = None

    # -- running

    def run(self, _: Any = None) -> None:
        """Begin the prediction, as the button does."""
        if self.options.region.value() != "image":
            self.refresh()
        if self.busy or self.plan is None or self.model is None or self.image is None:
            return
        layer = check_image(self.layer)
        needed, free = self.plan.result_bytes, psutil.virtual_memory().available
        if needed > free * _RESULT_SHARE:
            self.panel.show_problem(_TOO_LARGE.format(bytes_text(needed), bytes_text(free)))
            return
        self._cancel_trial()
        self.protocols.remember()
        try:
            output = open_output(self.case())
            evidence = Evidence(keep=self.plan.settings.seams == "all")
            self.session.begin_run()
            self.session.show_only(None)
            shown = bool(self.options.shown.value())
            prefix = _FIXED_PREFIX if self.model.statistics is not None else ""
            made = Run(layer, self.image, self.model, self.plan, output, evidence, prefix, shown)
            self.panel.begin(made, self._looked_at(made), self.session.turn)
        except Exception as error:
            self.session.running = False
            self.panel.show_problem(sentence(error, "The prediction"))
        self.tiles.raise_to_top()

    def _show_channels(self) -> None:
        """Show the last result as one layer, or each of its channels."""
        if self.results is None or self.busy:
            return
        made = self.results.show_channels(not self.options.shown.value())
        run = self.session.run_of(self.results.layers[0])
        if run is not None and made:
            self.session.add_layers(run, made)

    def _looked_at(self, made: Run) -> Sequence[float]:
        """Where the view is, so that tiles there come first."""
        point = shown_point(made.layer, self.viewer)
        return [float(point[made.plan.layout.axes.index(a)]) for a in made.plan.layout.spatial]

    def _ended(self, made: Run, outcome: Outcome) -> None:
        if isinstance(outcome.value, Finished):
            pace = outcome.value.seconds / max(_pixels(made.plan), 1)
            self._pace[self._pace_key(made.plan), made.plan.grid.tile_shape] = pace
        self._rests = True
        if self.results is not None:
            self.session.add_run(made, self.results.layers)
        self.refresh()

    def _run_with(self, controls: dict[str, Any]) -> None:
        """Somebody wants a run with other values of some controls."""
        if not self.busy:
            self._set(controls)
            self.run()

    def _set(self, controls: dict[str, Any]) -> None:
        """Set some controls."""
        with self.quietly():
            for name, value in controls.items():
                self._control(name).set_value(value)
        self._edited()

    def _control(self, name: str) -> Any:
        own: dict[str, Any] = {
            "tile": self.tile,
            "halo": self.halo,
            "overlap": self.overlap,
            "blend": self.blend,
            "channel": self.options.channel,
        }
        return own[name]

    def _take_halo(self, halo: Sequence[Sides], overlap: Any) -> None:
        """Somebody found a better halo."""
        self._sides = tuple((before, after) for before, after in halo)
        with self.quietly():
            self.halo.set_value([max(sides) for sides in halo])
            self.overlap.set_value("auto" if overlap is None else overlap)
        self.refresh()

    def _take_blend(self, blend: str, grid: tuple[Sequence[int], Sequence[int]] | None) -> None:
        """Somebody compared ways of blending: take the best, and the tiles that it was best on."""
        with self.quietly():
            self.blend.set_value(blend)
        self.refresh()
        if grid is None or self.plan is None:
            return
        tile, overlap = grid
        if tuple(tile) != self.plan.grid.tile_shape:
            self.tile.set_value(tile)
        if self.plan is None or tuple(overlap) != self.plan.grid.overlap:
            self.overlap.set_value(overlap)

    def _take_card_halo(self) -> None:
        """Use the halo of the model's card."""
        if self.model is not None and self.model.declared is not None:
            self.halo.set_value(self.model.declared.halo or "auto")

    def _take_card_sizes(self, pressed: bool) -> None:
        """Offer the tile sizes of the model's card, and take the one next to what is shown."""
        self.refresh()
        self.tile.set_value(self.tile.shown() if pressed else "auto")

    # -- threads, layers, files

    def _preview_lost(self) -> None:
        self.preview.setChecked(False)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        """Be where the viewer is."""
        super().showEvent(event)
        self._drops.watch()

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802
        """Take files."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:  # noqa: N802
        """Load the first file as a network."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if paths:
            event.acceptProposedAction()
            self.model_picker.set_value(str(Path(paths[0])))


def _axes_line() -> QLineEdit:
    line = QLineEdit()
    line.setPlaceholderText("one letter of tczyx for each axis, e.g. zyx")
    line.setToolTip(
        "What the image's axes are, in order: t time, c channel, z, y, x.\n"
        "Axes that the network does not take are predicted one by one; to give a\n"
        "2D network several slices as its channels, call that axis c."
    )
    return line


def _blend_choice() -> Choice:
    return Choice(
        [
            ("Crop (exact)", "crop"),
            ("Linear", "linear"),
            ("Gaussian", "gaussian"),
            ("Distance-weighted", "distance"),
        ],
        "How neighbouring tiles are joined. Crop: each pixel from one tile.\n"
        "The others mix the overlap, which hides seams and does not remove them;\n"
        "the tab Blends of the dock Normalization compares them on this image.",
    )


def _groups(ndim: int) -> list[tuple[str, tuple[int, ...]]]:
    """Axes that share one slider: the plane, and z by itself."""
    return [("z", (0,)), ("yx", (1, 2))] if ndim == 3 else [("", tuple(range(ndim)))]


def _pixels(plan: Plan) -> int:
    return plan.tiles * plan.frames * math.prod(plan.grid.tile_shape)
