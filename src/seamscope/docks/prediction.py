"""The dock *Tiled prediction*: from an image layer and a network to a result, tile by tile.

Knows its controls, and how they are wired: controls -> `Settings` -> `resolve` -> `Plan`, and
everything that is shown is shown from the plan. Does not know how anything is computed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox
from napari.layers import Image as ImageLayer
from napari.utils import progress
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible
from superqt.utils import qthrottled

from seamscope.docks.editors import Choice, PixelsEditor, Steps
from seamscope.docks.job import Job, Outcome
from seamscope.docks.layers import (
    area_in_view,
    area_of_shape,
    axes_of,
    check_image,
    drawn_shapes,
    image_of,
    letters_of,
    shown_point,
)
from seamscope.docks.looks import (
    Kind,
    boxed,
    cost_table,
    duration,
    in_dock,
    legend,
    plain,
    set_row,
    text_label,
)
from seamscope.docks.model_picker import ModelPicker, remember_model
from seamscope.docks.options import Options
from seamscope.docks.preview import CORE, WINDOW, TilePreview
from seamscope.docks.results import ResultLayers, Run
from seamscope.docks.tasks import Load, Predict, Time
from seamscope.errors import SeamscopeError, TrustError
from seamscope.images import Image
from seamscope.inference import (
    Event,
    Finished,
    Preparing,
    Reduced,
    Started,
    TileDone,
    open_output,
)
from seamscope.model import Model, check_device
from seamscope.plan import Plan, Settings, available_memory, resolve

log = logging.getLogger(__name__)

_TRIAL_DELAY_MS = 600
_DRAW_MS = 120
_HALO_MOST = 256


class PredictionDock(QWidget):
    """Predict an image layer tile by tile.

    Parameters
    ----------
    napari_viewer
        The viewer whose layers are offered, and which gets the results.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model: Model | None = None
        self.image: Image | None = None
        self.plan: Plan | None = None
        self.problem = ""
        self._loading: Job | None = None
        self._trial: Job | None = None
        self._running: _Running | None = None
        self._pace: dict[Any, float | None] = {}  # seconds for each input pixel
        self._trial_key: Any = None
        self._turn = threading.Lock()  # one thread at a time uses the network
        self._budgets: dict[str, int] = {}
        self._preview = TilePreview(napari_viewer)
        self._make_controls()
        self._lay_out()
        self._connect()
        self.setAcceptDrops(True)
        self._layers_changed()

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
        options = self.options.values()
        if options["memory"] is None:
            options["memory"] = self._budget(options["device"])
        overlap = self.overlap.value() if self.blend.value() != "crop" else "auto"
        return Settings(
            tile=self.tile.value(),
            halo=self.halo.value(),
            overlap=None if overlap == "auto" else overlap,
            blend=self.blend.value(),
            area=self._area(),
            **options,
        )

    def set_model(self, model: Any, trust: bool = False) -> None:
        """Load a network: a model string, an `nn.Module`, or a `Model`."""
        if isinstance(model, str):
            self.model_picker.show_value(model)
        self._load(model, trust)

    @property
    def busy(self) -> bool:
        """Whether a prediction is running."""
        return self._running is not None

    @property
    def settled(self) -> bool:
        """Whether nothing is going on: no loading, no timing, no prediction."""
        idle = self._loading is None and self._trial is None and self._running is None
        return idle and not self._trial_timer.isActive()

    @property
    def results(self) -> ResultLayers | None:
        """Layers of the prediction that is running, or of the last one."""
        return self._results

    # -- making

    def _make_controls(self) -> None:
        self.image_box = ComboBox(choices=self._image_layers, nullable=True)
        self.axes = QLineEdit()
        self.axes.setPlaceholderText("one letter of tczyx for each axis, e.g. zyx")
        self.axes.setToolTip(
            "What the image's axes are, in order: t time, c channel, z, y, x.\n"
            "Axes that the network does not take are predicted one by one; to give a\n"
            "2D network several slices as its channels, call that axis c."
        )
        self.model_picker = ModelPicker()
        self.facts = text_label()
        self.tile = PixelsEditor(
            "What the network reads at once, halo included.",
            "The least computation within the memory budget.",
        )
        self.halo = PixelsEditor(
            "Pixels at a tile's sides that are not believed.",
            "As far as the network sees.",
        )
        self.blend = Choice(
            [
                ("Crop (exact)", "crop"),
                ("Linear", "linear"),
                ("Gaussian", "gaussian"),
                ("Distance-weighted", "distance"),
            ],
            "How neighbouring tiles are joined. Crop: each pixel from one tile.\n"
            "The others mix the overlap, which hides seams and does not remove them.",
        )
        self.overlap = PixelsEditor(
            "Pixels that neighbouring tiles share; what exceeds both halos is blended.",
            "Both halos, and a quarter of the tile.",
        )
        self.options = Options()
        self.preview = QCheckBox("Preview tiles")
        self.preview.setChecked(True)
        self.preview.setToolTip("Draw the tiles over the image.")
        self.cost = text_label()
        self.notes = text_label()
        self.error = text_label()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress_text = text_label()
        self.run_button = QPushButton("Run")
        self.cancel_button = QPushButton("Cancel")
        self._results: ResultLayers | None = None
        self._trial_timer = _once(self, _TRIAL_DELAY_MS)
        self._draw_timer = _once(self, _DRAW_MS)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(6)
        for name, widget in (
            ("Image", self.image_box.native),
            ("Axes", self.axes),
            ("Model", self.model_picker),
            ("", self.facts),
            ("Tile", self.tile),
            ("Halo", self.halo),
            ("Blending", self.blend),
            ("Overlap", self.overlap),
        ):
            form.addRow(name, widget) if name else form.addRow(widget)
        self._form = form
        more = QCollapsible("More options")
        more.addWidget(self.options)
        more.layout().setContentsMargins(0, 0, 0, 0)
        self.more = more
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.addLayout(form)
        for part in (
            more,
            legend(self.preview, [("core", CORE), ("read", WINDOW)]),
            self.cost,
            self.notes,
        ):
            column.addWidget(part)
        column.addStretch(1)
        self._assemble(inside)

    def _assemble(self, inside: QWidget) -> None:
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setWidget(inside)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 1)
        buttons.addWidget(self.cancel_button)
        bottom = QVBoxLayout()
        bottom.setContentsMargins(9, 0, 9, 9)
        for part in (self.error, self.progress, self.progress_text):
            bottom.addWidget(part)
            part.hide()
        bottom.addLayout(buttons)
        self.cancel_button.hide()
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(scroll, 1)
        whole.addLayout(bottom)
        self.setMinimumWidth(330)

    def _connect(self) -> None:
        layers = self.viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered, layers.renamed):
            event.connect(self._layers_changed)
        layers.removed.connect(self._layer_removed)
        self.image_box.changed.connect(self._image_changed)
        self.axes.editingFinished.connect(self._axes_edited)
        self.model_picker.asked.connect(self._load)
        for editor in (self.tile, self.halo, self.overlap, self.blend, self.options):
            editor.value_changed.connect(self.refresh)
        self.options.region.value_changed.connect(self._region_changed)
        self.preview.toggled.connect(self._show_preview)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self._trial_timer.timeout.connect(self._time_a_tile)
        self._draw_timer.timeout.connect(self._draw)
        self._follow = qthrottled(self._view_moved, timeout=100)
        self.viewer.camera.events.connect(self._camera_moved)
        self.viewer.dims.events.current_step.connect(self._camera_moved)

    # -- the image

    def _image_layers(self, _: Any = None) -> list[tuple[str, ImageLayer]]:
        return [(x.name, x) for x in self.viewer.layers if isinstance(x, ImageLayer)]

    def _layers_changed(self, event: Any = None) -> None:
        before = self.layer
        with self.image_box.changed.blocked():
            self.image_box.reset_choices()
            if self.layer is None and (choices := self._image_layers()):
                self.image_box.value = choices[0][1]
        if self.layer is not before or self.layer is None:
            self._image_changed()

    def _image_changed(self, _: Any = None) -> None:
        layer = self.layer
        axes = (axes_of(layer) or "") if layer is not None else ""
        self.axes.setText(axes)
        obvious = layer is None or layer.ndim == 2
        set_row(self._form, self.axes, not obvious)
        self.refresh()

    def _axes_edited(self) -> None:
        self.refresh()

    def _open_image(self) -> Image:
        layer = check_image(self.layer)
        return image_of(layer, self.axes.text().strip() or None)

    # -- the network

    def _load(self, spec: Any, trust: bool = False) -> None:
        if self._loading is not None:
            self._loading.abandon()
        self._cancel_trial()
        self.model = None
        self.facts.setText("<i>Loading and measuring the network …</i>")
        self._loading = self._start(f"loading {_told(spec)}", Load(spec, trust), self._loaded)
        self.refresh()

    def _loaded(self, outcome: Outcome) -> None:
        self._loading = None
        self.model = outcome.value
        self.facts.setText("")
        if isinstance(outcome.error, TrustError):
            self.model_picker.ask_consent(outcome.error.source, outcome.error.would_run)
        elif outcome.error is not None:
            self.facts.setText(boxed(self._sentence(outcome.error, "The network"), "error"))
        else:
            self._network_ready()
        self.refresh()

    def _network_ready(self) -> None:
        assert self.model is not None
        model = self.model
        sure = model.reach.bounded
        kind: Kind = "good" if sure else "warning"
        self.facts.setText(f"{plain(str(model.facts))}{boxed(model.describe(), kind)}")
        if model.spec is not None:
            self.model_picker.show_value(model.spec)
            remember_model(model.spec)
            self.model_picker.refill()
        for editor in (self.tile, self.halo, self.overlap):
            with QSignalBlocker(editor):
                editor.set_value("auto")

    # -- from controls to a plan, and from the plan to all that is shown

    def refresh(self, _: Any = None) -> None:
        """Make a plan from the controls and show it, or say why there is none."""
        self.plan, self.problem = None, ""
        try:
            self.image = self._open_image()
            self._offer()
            if self.model is not None:
                self.plan = resolve(self.settings(), self.model, self.image)
        except SeamscopeError as error:
            self.problem = in_dock(error)
        except Exception as error:
            self.problem = self._sentence(error, "The plan")
        self._show_plan()
        self._show_preview()
        self._plan_trial()

    def _offer(self) -> None:
        """Offer what image and network allow."""
        image = self.image
        assert image is not None
        axes = image.axes or ""
        several = image.shape[axes.index("c")] if "c" in axes else 0
        takes = self.model.facts if self.model is not None else None
        with QSignalBlocker(self.options):
            self.options.set_channels(several)
            self.options.set_floating(image.dtype.kind == "f")
            self.options.show_threshold(
                takes is not None
                and takes.out_channels == 1
                and self.options.result.value() == "labels"
            )
        set_row(self._form, self.overlap, self.blend.value() != "crop")
        if self.model is not None:
            self._offer_sizes(self.model, image)

    def _offer_sizes(self, model: Model, image: Image) -> None:
        lattice = model.facts.lattice
        axes = image.axes or ""
        names = "zyx"[-len(lattice) :]
        known = all(name in axes for name in names)
        if not known and image.ndim != len(lattice):
            return
        sizes = [image.shape[axes.index(n) if known else i] for i, n in enumerate(names)]
        groups = [(0, 1, 2)[: len(lattice)]] if len(lattice) < 3 else [(0,), (1, 2)]
        labels = [""] if len(groups) == 1 else ["z", "yx"]
        tiles, halos, overlaps = [], [], []
        for name, group in zip(labels, groups, strict=True):
            grid = lattice[group[-1]]
            most = max(lattice[i].size_at_least(sizes[i] + sum(lattice[i].crop)) for i in group)
            low = grid.size_at_least(1)
            tiles.append(Steps(name, group, low, most, grid.increment))
            halos.append(Steps(name, group, 0, min(_HALO_MOST, most // 2), 1))
            overlaps.append(Steps(name, group, 0, most, grid.pitch))
        for editor, steps in ((self.tile, tiles), (self.halo, halos), (self.overlap, overlaps)):
            with QSignalBlocker(editor):
                editor.set_steps(steps)

    def _show_plan(self) -> None:
        plan = self.plan
        self.error.setText(boxed(self.problem, "error") if self.problem else "")
        self.error.setVisible(bool(self.problem))
        self.run_button.setEnabled(plan is not None and not self.busy)
        if plan is None:
            self.cost.setText("" if self.model is not None else plain(self._what_is_missing()))
            self.notes.setText("")
            return
        self.tile.show_auto(plan.grid.tile_shape)
        self.halo.show_auto([max(sides) for sides in plan.grid.halo])
        self.overlap.show_auto(plan.grid.overlap)
        self.cost.setText(cost_table(plan, self._estimate(plan), self._trial is not None))
        notes = [*self.image.notes, *plan.notes] if self.image is not None else plan.notes
        self.notes.setText("".join(boxed(note, "warning") for note in notes))

    def _what_is_missing(self) -> str:
        return "" if self._loading is not None else "Choose a network, or drop its file here."

    def _show_preview(self, _: Any = None) -> None:
        if self.plan is not None and self.layer is not None and self.preview.isChecked():
            self._preview.show(self.layer, self.plan)
        else:
            self._preview.hide()

    def _budget(self, device: str) -> int:
        """Memory that may be used, asked once: free memory varies, and Auto's tile should not."""
        if device not in self._budgets:
            self._budgets[device] = available_memory(check_device(device))
        return self._budgets[device]

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
        if self.options.region.value() == "shape" and drawn_shapes(self.viewer) is None:
            layer = check_image(self.layer)
            shapes = self.viewer.add_shapes(
                ndim=layer.ndim,
                name="region",
                face_color="transparent",
                edge_color="white",
                edge_width=2 / max(self.viewer.camera.zoom * float(layer.scale[-1]), 1e-6),
                scale=layer.scale,
                translate=layer.translate,
                units=layer.units,
            )
            shapes.mode = "add_rectangle"
        shapes = drawn_shapes(self.viewer)
        if shapes is not None:
            shapes.events.data.connect(self._camera_moved)
            shapes.events.highlight.connect(self._camera_moved)

    def _camera_moved(self, event: Any = None) -> None:
        if self.options.region.value() != "image":
            self._follow()

    def _view_moved(self) -> None:
        with contextlib.suppress(RuntimeError):  # the dock may have been deleted meanwhile
            self.refresh()

    # -- how long it would take

    def _estimate(self, plan: Plan) -> float | None:
        pace = self._pace.get(self._pace_key(plan))
        return None if pace is None else pace * _pixels(plan)

    def _pace_key(self, plan: Plan) -> tuple[Any, ...]:
        return id(self.model), plan.settings.device, plan.settings.precision

    def _plan_trial(self) -> None:
        plan = self.plan
        unknown = plan is not None and self._pace_key(plan) not in self._pace
        if unknown and self._trial is None and not self.busy:
            self._trial_timer.start()

    def _time_a_tile(self) -> None:
        if self.plan is None or self._trial is not None or self.busy or self.model is None:
            return
        assert self.image is not None
        self._trial_key = self._pace_key(self.plan)
        work = Time(self.plan, self.model, self.image, self._turn)
        self._trial = self._start("timing one tile", work, self._timed)

    def _timed(self, outcome: Outcome) -> None:
        self._trial = None
        if outcome.error is not None:  # the run will meet it too, and say it
            log.debug("no time could be estimated", exc_info=outcome.error)
        self._pace[self._trial_key] = outcome.value
        self._show_plan()

    def _cancel_trial(self) -> None:
        self._trial_timer.stop()
        if self._trial is not None:
            self._trial.abandon()
            self._trial = None

    # -- running

    def run(self, _: Any = None) -> None:
        """Begin the prediction, as the button does."""
        if self.busy or self.plan is None or self.model is None or self.image is None:
            return
        layer = check_image(self.layer)
        self._cancel_trial()
        try:
            output = open_output(self.plan, self.image, self.model)
            made = Run(layer, self.image, self.model, self.plan, output)
            self._results = ResultLayers(self.viewer, made)
        except Exception as error:
            self._fail(error)
            return
        self._preview.raise_to_top()
        self._begin(made)

    def _begin(self, made: Run) -> None:
        point = shown_point(made.layer, self.viewer)
        letters = made.plan.layout.axes
        first = [float(point[letters.index(a)]) for a in made.plan.layout.spatial]
        work = Predict(made.plan, made.model, made.image, made.output, tuple(first), self._turn)
        job = self._start(f"predicting {made.layer.name}", work, self._ended)
        job.told.connect(self._hear)
        self._running = _Running(made, job, _activity(made))
        self.progress.setRange(0, 0)
        self._say("Preparing …")
        self._show_running(True)

    def cancel(self, _: Any = None) -> None:
        """Stop the prediction after the tile at hand; what is done stays."""
        if self._running is not None:
            self._running.job.cancel()
            self.cancel_button.setEnabled(False)
            self._say("Stopping after this tile …")

    def _hear(self, events: Sequence[Event | float]) -> None:
        if self._running is None or self._results is None:
            return
        for event in events:
            if isinstance(event, TileDone):
                self._results.mark(event.region)
            elif isinstance(event, float):
                self._say(f"Measuring the whole image's intensities … {event:.0%}")
            else:
                self._hear_of(event)
        done = next((e for e in reversed(events) if isinstance(e, TileDone)), None)
        if done is not None:
            self._show_progress(done)
        self._draw()

    def _draw(self) -> None:
        if self._results is not None and not self._results.draw_when_due():
            self._draw_timer.start()

    def _hear_of(self, event: Event) -> None:
        assert self._running is not None
        if isinstance(event, Preparing):
            self._say(event.what.capitalize() + " …")
        elif isinstance(event, Started):
            self._running.start(event)
            self.progress.setRange(0, event.tiles * event.frames)
        elif isinstance(event, Reduced):
            self._running.warnings.append(event.reason)
            self.notes.setText(self.notes.text() + boxed(event.reason, "warning"))
            show_warning(event.reason)

    def _show_progress(self, event: TileDone) -> None:
        assert self._running is not None
        self._running.bar.update(event.done - self._running.bar.n)
        self.progress.setMaximum(event.total)
        self.progress.setValue(event.done)
        if not self._running.job.cancelled:
            left = f", {duration(event.seconds_left)} left" if event.done > 1 else ""
            self._say(f"{event.done} of {event.total} tiles{left}")

    def _ended(self, outcome: Outcome) -> None:
        if self._running is None or self._results is None:
            return
        running, self._running = self._running, None
        running.bar.close()
        self._show_running(False)
        told: dict[str, Any] = {"finished": False, "warnings": running.warnings}
        if isinstance(outcome.value, Finished):
            figures = outcome.value.figures
            told |= {"finished": True, "figures": figures}
            self._learn_pace(running.made, outcome.value)
            self._say(_summary(figures))
        elif outcome.error is None:
            self._say(f"Stopped after {running.bar.n} tiles; what is done stays.")
        self._results.tell(told)
        self._results.finish()
        self.refresh()
        if outcome.error is not None:
            self.progress_text.hide()
            self._fail(outcome.error)

    def _learn_pace(self, made: Run, finished: Finished) -> None:
        self._pace[self._pace_key(made.plan)] = finished.seconds / max(_pixels(made.plan), 1)

    def _show_running(self, running: bool) -> None:
        self.run_button.setEnabled(not running and self.plan is not None)
        self.cancel_button.setVisible(running)
        self.cancel_button.setEnabled(running)
        self.progress.setVisible(running)
        if running:
            self.error.hide()

    def _say(self, text: str) -> None:
        self.progress_text.setText(plain(text))
        self.progress_text.show()

    def _fail(self, error: Exception) -> None:
        self.problem = self._sentence(error, "The prediction")
        self.error.setText(boxed(self.problem, "error"))
        self.error.show()

    def _sentence(self, error: Exception, what: str) -> str:
        """What to tell: our own errors as they are, all others are ours to mend."""
        if isinstance(error, SeamscopeError):
            return in_dock(error)
        if isinstance(error, MemoryError):
            return "Memory ran out: choose a smaller region, or close other programs."
        log.error("%s failed", what, exc_info=error)
        sentence = f"{what} failed: {type(error).__name__}: {error}"
        show_error(sentence)
        return sentence

    # -- threads, and the end

    def _start(self, name: str, work: Any, ended: Any) -> Job:
        job = Job(name, work, self)
        job.ended.connect(ended)
        job.start()
        return job

    def _layer_removed(self, event: Any) -> None:
        gone = self._results is not None and not self._results.present
        if self._running is not None and (gone or event.value is self._running.made.layer):
            self.cancel()
        elif gone:
            self._results = None  # let go of its array
        if event.value is self._preview.layer:
            self.preview.setChecked(False)

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


@dataclass
class _Running:
    """The prediction at hand, and what shows its progress elsewhere."""

    made: Run
    job: Job
    bar: Any
    warnings: list[str] = field(default_factory=list)

    def start(self, event: Started) -> None:
        """The number of tiles is known."""
        self.bar.reset(total=event.tiles * event.frames)


def _activity(made: Run) -> Any:
    """A bar in napari's activity dock, silent in the terminal."""
    return progress(total=0, desc=f"Tiles of {made.layer.name}", file=io.StringIO())


def _once(parent: QWidget, milliseconds: int) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    return timer


def _pixels(plan: Plan) -> int:
    return plan.tiles * plan.frames * math.prod(plan.grid.tile_shape)


def _told(spec: Any) -> str:
    return spec if isinstance(spec, str) else type(spec).__name__


def _summary(figures: dict[str, Any]) -> str:
    pace = figures.get("tiles_per_second")
    each = f", {pace:.3g} tiles a second" if pace else ""
    return f"Done: {figures['tiles']} tiles in {duration(figures['seconds'])}{each}."
