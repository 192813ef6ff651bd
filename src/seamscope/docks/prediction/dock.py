"""The dock *Tiled prediction*: from an image layer and a network to a result, tile by tile.

Knows its controls, and how they are wired: controls -> `Settings` -> `resolve` -> `Plan`, and
everything that is shown is shown from the plan. Does not know how anything is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QFormLayout

from seamscope.docks.actions import Action
from seamscope.docks.controls import Section
from seamscope.docks.dock import Dock
from seamscope.docks.evidence import Evidence
from seamscope.docks.job import Outcome
from seamscope.docks.layers import check_image, path_of, shown_point
from seamscope.docks.looks import boxed, cost_table, in_dock, legend, text_label
from seamscope.docks.prediction.destination import Destination, go_on
from seamscope.docks.prediction.file_choices import FileChoices
from seamscope.docks.prediction.folder_drops import FolderDrops
from seamscope.docks.prediction.grid_rows import GridRows
from seamscope.docks.prediction.image_rows import ImageRows
from seamscope.docks.prediction.network_rows import NetworkRows
from seamscope.docks.prediction.next_steps import axis_actions, next_actions, remedies
from seamscope.docks.prediction.options import Options
from seamscope.docks.prediction.pace import Pace
from seamscope.docks.prediction.preview import CORE, WINDOW, TilePreview
from seamscope.docks.prediction.protocols import Protocols, is_network_of
from seamscope.docks.prediction.region import Region
from seamscope.docks.prediction.run_panel import RunPanel
from seamscope.docks.prediction.unfinished import Unfinished
from seamscope.docks.results import ResultLayers, Run
from seamscope.docks.sentences import sentence
from seamscope.docks.window import come_forward
from seamscope.errors import SeamscopeError
from seamscope.images.image import Image
from seamscope.images.results.output import Output
from seamscope.models.model import Model
from seamscope.planning.case import Case
from seamscope.planning.plan import Plan
from seamscope.planning.resources import Resources
from seamscope.prediction.output import open_output
from seamscope.prediction.run import Finished
from seamscope.settings import Settings
from seamscope.tiling import Sides

_FIXED_PREFIX = "fixed · "  # of results with fixed statistics

_PREVIEW_TIP = (
    "Draw the tiles over the image: yellow is the part of each tile that is kept, blue what the\n"
    "network sees for it. One tile is filled."
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
        self.image: Image | None = None
        self.plan: Plan | None = None
        self._asked = Settings()
        self._rests = False  # the preview, after a run
        self._goes_on: Unfinished | None = None  # a result that waits for its network
        self._known_resources: dict[str, Resources] = {}
        self.tiles = TilePreview(self.viewer, self._preview_lost)
        self._drops = FolderDrops(self)
        self._make_controls()
        self._lay_out()
        self.protocols.recall()
        self._connect()
        self.session.seconds_of = self._seconds_of
        self.destroyed.connect(self.tiles.sleep)
        self._drops.found.connect(self.open_network)
        self.setAcceptDrops(True)

    # -- for programs: what the controls say, and doing what they do

    @property
    def layer(self) -> ImageLayer | None:
        """The image layer that is chosen."""
        return self.source.layer

    def settings(self) -> Settings:
        """What the controls ask for.

        Raises
        ------
        SettingsError
            When the region is not known.
        """
        options = {**self.options.values(), "area": self._area()}
        if options["memory"] is None:
            options["memory"] = self._resources(options["device"]).memory
        own = {**self.grid.values(), "seams": self.options.seams.value()}
        return Settings(**{**own, **options, **self.protocols.extra})

    def open_network(self, path: str) -> None:
        """Load a file that was dropped on the viewer, where the user sees it."""
        come_forward(self)
        self.model_picker.set_value(path)

    def set_model(self, model: Any, trust: bool = False) -> None:
        """Load a network: a model string, an `nn.Module`, or a `Model`."""
        self.model_picker.show_value(model if isinstance(model, str) else "")
        if not isinstance(model, str):
            self.model_picker.show_name(f"{getattr(model, 'name', type(model).__name__)} (given)")
        self.network.load(model, trust)

    @property
    def model(self) -> Model | None:
        """The network that predicts: with fixed statistics where wanted."""
        return self.network.model

    @property
    def plain(self) -> Model | None:
        """The network as it was loaded, without fixed statistics."""
        return self.network.plain

    @property
    def busy(self) -> bool:
        """Whether a prediction is running."""
        return self.panel.busy

    @property
    def settled(self) -> bool:
        """Whether nothing is going on: no loading, no timing, no prediction."""
        return not self.job.busy and not self.busy and self.pace.settled

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
        self.source = ImageRows(self.viewer, self)
        self.image_box, self.axes = self.source.box, self.source.axes
        self.protocols = Protocols(self)
        self.network = NetworkRows(
            self.session, self.job, self.protocols.stated, self.protocols.check
        )
        self.model_picker, self.output = self.network.picker, self.network.output
        self.facts, self.fixed = self.network.facts, self.network.fixed
        self.grid = GridRows()
        self.tile, self.halo = self.grid.tile, self.grid.halo
        self.overlap, self.blend = self.grid.overlap, self.grid.blend
        self.card_sizes, self.card_halo = self.grid.card_sizes, self.grid.card_halo
        self.options = Options()
        self.file = FileChoices(self.options, self.viewer)
        self.region = Region(self.options.region, self.viewer, self.listen)
        self.pace = Pace(self, self.session.turn)
        self.destination = Destination(
            self.viewer, self.options.run_on, self.options.place, self.job
        )
        self.preview = QCheckBox("Preview tiles")
        self.preview.setChecked(True)
        self.preview.setToolTip(_PREVIEW_TIP)
        self.cost = text_label()
        self.notes = text_label()
        self.panel = RunPanel(self.viewer, self.error)
        self.panel.place_beside(self.protocols.button)

    def _lay_out(self) -> None:
        self._form = self._make_form()
        self.more = Section("More options", "Options that are seldom changed.")
        self.more.fold(self.options)
        shown = legend(self.preview, [("kept", CORE), ("seen by the network", WINDOW)])
        parts = [self._form, self.more, shown, self.cost, self.notes]
        self.place(parts, below=self.panel)

    def _make_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setVerticalSpacing(6)
        self.source.add_to(form)
        self.network.add_to(form)
        self.grid.add_to(form)
        return form

    def _connect(self) -> None:
        self.source.layer_changed.connect(self._image_changed)
        self.source.axes_changed.connect(self.refresh)
        self.network.ready.connect(self._network_ready)
        self.network.changed.connect(self._network_changed)
        self.grid.changed.connect(self._edited)
        self.grid.sizes_wanted.connect(self._take_card_sizes)
        self.options.value_changed.connect(self._edited)
        self.options.region.value_changed.connect(self._region_changed)
        self.options.shown.value_changed.connect(self._show_channels)
        self.region.moved.connect(self.refresh)
        self.file.changed.connect(self._edited)
        self.file.opened.connect(self._take_layer)
        self.file.failed.connect(self.panel.show_problem)
        self.preview.toggled.connect(self._preview_toggled)
        self.panel.asked.connect(self.run)
        self.panel.ended.connect(self._ended)
        self.panel.progressed.connect(self.session.run_progressed)
        self.pace.changed.connect(self.refresh)
        self.destination.begun.connect(self._opened)
        self.destination.failed.connect(self._not_started)
        self.session.halo_wanted.connect(self._take_halo)
        self.session.blend_wanted.connect(self._take_blend)
        self.session.run_wanted.connect(self._run_with)
        self.session.set_wanted.connect(self._set)
        self.session.stop_wanted.connect(self._stop)
        self.job.changed.connect(self._job_changed)

    def follow(self) -> None:
        """Follow the viewer."""
        self.tiles.wake()
        layers = self.viewer.layers.events
        changes = (layers.inserted, layers.removed, layers.reordered, layers.renamed)
        self.listen(changes, self.source.layers_changed)
        self.listen([layers.removed], self.panel.layer_removed)
        self.region.follow()
        self._drops.awake = True
        self.source.layers_changed()
        self.refresh()

    def leave(self) -> None:
        """Stop the prediction, and hide the tiles."""
        self._drops.awake = False
        self.panel.stop()
        self.pace.cancel()
        self.tiles.hide()
        self.tiles.sleep()

    # -- the image

    def _image_changed(self) -> None:
        self.panel.retry()
        self.file.show_for(self.layer)
        self.destination.show_for(self.layer)
        self.refresh()

    def _take_layer(self, layer: ImageLayer) -> None:
        """Take a layer for the image."""
        self.image_box.value = layer

    # -- the network

    def _network_ready(self, model: Model) -> None:
        """A network was loaded."""
        self.grid.set_model(model)
        self.grid.start_at_auto()
        self.protocols.ready(model)

    def _network_changed(self) -> None:
        """Another network predicts, or none does."""
        self.pace.cancel()
        if self.model is None:
            self.panel.forget()
            self.grid.set_model(None)
        self.refresh()
        self._go_on_when_ready()

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
            self.image = self.source.image()
            with self.quietly():
                self._offer(self.image)
            if self.model is not None:
                self._asked = self.settings()
                self.plan = self._asked_case().plan
                problem = self.destination.problem(
                    check_image(self.layer), self.image, self.model, self.plan
                )
        except SeamscopeError as error:
            problem = in_dock(error)
        except Exception as error:
            problem = sentence(error, "The plan")
        if not self.busy:
            self.panel.show_problem(problem)
        self.panel.set_ready(
            self.plan is not None and not problem and not self.destination.unfinished
        )
        self.panel.actions.offer(self._actions(bool(problem)))
        self._show_plan()
        self._show_preview()
        if self.plan is not None and not self.busy:
            self.pace.want(self._asked_case(), self.plan, self.tile.auto.isChecked())
        trust = self.network.trust
        self.session.tell(self.model, self.layer, self._asked, self.plan, self.plain, trust)

    def case(self) -> Case:
        """The case of the plan that is shown."""
        assert self.plan is not None
        return self._asked_case().at(self.plan)

    def _asked_case(self) -> Case:
        assert self.image is not None
        assert self.model is not None
        return Case(self.image, self.model, self._asked, self._resources(self._asked.device))

    def _seconds_of(self, plan: Plan) -> float | None:
        """How long the prediction of a plan would take, as far as it is known."""
        return None if self.model is None else self.pace.estimate(self.model, plan)

    def _actions(self, refused: bool) -> list[Action]:
        """What to do next; what makes a plan possible, where it was refused."""
        found = [] if self.busy else [*self._unfinished(), *self.file.actions]
        model = self.model
        if self.plan is None and refused and model is not None and self.image is not None:
            found += axis_actions(self.image, model, self._name_axes)
            count, known = self.options.channel.count() - 1, self.image.channels
            names = [known[i].name if known else f"Channel {i}" for i in range(count)]
            return [*found, *remedies(self._asked, model, names, self._set)]
        if self.plan is None or self.busy:
            return found
        place = self.destination.actions(self.run, self.plan)
        if place:
            return [*found, *place]
        last = next(iter(reversed(self.session.runs)), None)
        own = last is not None and last.model is model and last.layer is self.layer
        report = last.evidence.report if last is not None and own else None
        return [*found, *next_actions(self.viewer, self.plan, report)]

    def _name_axes(self, letters: str) -> None:
        self.axes.setText(letters)
        self.refresh()

    def _show_nothing(self) -> None:
        """There is no image."""
        self.image = None
        if not self.busy:
            self.panel.show_problem("")
        self.panel.set_ready(False)
        self.panel.actions.offer([] if self.busy else self._unfinished())
        self._show_plan()
        self._show_preview()
        self.session.tell(self.model, None, None, None, self.plain, self.network.trust)

    def _offer(self, image: Image) -> None:
        """Offer what image and network allow."""
        axes = image.axes or ""
        self.options.set_channels(image.shape[axes.index("c")] if "c" in axes else 0)
        self.options.set_floating(image.dtype.kind == "f")
        single = self.model is not None and self.model.facts.out_channels == 1
        labels = self.options.result.value() == "labels"
        self.options.show_threshold(single and labels)
        self.offer_classes(self.model)
        if self.model is not None:
            self.grid.offer_sizes(self.model, image)

    def offer_classes(self, model: Model | None) -> None:
        """Offer the classes of a network as background, where labels are made of several."""
        labels = self.options.result.value() == "labels"
        several = labels and model is not None and model.facts.out_channels > 1
        self.options.set_classes(model.channels if several and model is not None else ())

    def _show_plan(self) -> None:
        plan, image = self.plan, self.image
        self.network.show_fixed(self.layer, plan)
        self.grid.enable(self.model is not None and image is not None)
        self.grid.show_plan(plan)
        if plan is None or self.model is None or image is None:
            self.cost.setText("" if self.problem else self._next_step())
        else:
            seconds = self.pace.estimate(self.model, plan)
            place = self.destination
            table = cost_table(
                plan, seconds, self.pace.timing, place.room(plan, image), bool(place.target)
            )
            self.cost.setText(table)
        self._show_notes()

    def _show_notes(self) -> None:
        """Say how the image was read, and what the plan has to say."""
        said = [*self.file.notes]
        said += self.image.notes if self.image is not None else ()
        said += self.plan.notes if self.plan is not None else ()
        said += self.network.notes(self.layer) + self.protocols.notes + self.destination.notes
        notes = map(in_dock, dict.fromkeys(said))
        self.notes.setText("".join(boxed(note, "warning") for note in notes))

    def _next_step(self) -> str:
        if self.layer is None:
            return "Open an image, or try File > Open Sample > Seamscope."
        waiting = self.model is None and not self.job.busy
        return "Choose a network, or drop its file here." if waiting else ""

    def _edited(self, _: Any = None) -> None:
        """A control was changed: its tiles are shown again."""
        self.panel.retry()
        self._rests = False
        self.refresh()

    def _preview_toggled(self, _: Any = None) -> None:
        self._rests = False
        self._show_preview()

    def draw(self) -> None:
        """Draw the tiles."""
        self._show_preview(again=True)

    def _show_preview(self, again: bool = False) -> None:
        """Draw the tiles; not over a new result, whose seams they would cover."""
        wanted = self.preview.isChecked() and self.front and not self._rests
        if self.plan is not None and self.layer is not None and wanted:
            self.tiles.show(self.layer, self.plan, again)
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
        with self.grid.quietly(), QSignalBlocker(self.options):
            yield

    # -- the region

    def _area(self) -> dict[str, tuple[int, int]] | None:
        return None if self.image is None else self.region.area(check_image(self.layer), self.image)

    def _region_changed(self) -> None:
        self.region.offer(self.layer)

    # -- running

    def run(self, _: Any = None, *, resume: bool = False, overwrite: bool = False) -> None:
        """Begin the prediction, as the button does.

        Parameters
        ----------
        resume, overwrite
            Of a result in a file: continue an unfinished one, or replace what is there.
        """
        if not self.region.whole:
            self.refresh()
        if self.busy or self.job.busy or self.plan is None or self.image is None:
            return
        layer, target = check_image(self.layer), self.destination.target
        if not (resume or overwrite) and self._refused(self.plan):
            self.refresh()  # such as less free memory than when the plan was made
            return
        self.pace.cancel()
        self.protocols.remember()
        if target:
            asked, letters = self._asked_case(), self.source.letters
            self.session.running = True
            self.destination.begin(asked, layer, letters, resume=resume, overwrite=overwrite)
            return
        try:
            case = self.case()
            self._start(layer, case, open_output(case))
        except Exception as error:
            self._not_started(error)

    def _refused(self, plan: Plan) -> bool:
        """Whether a new result of a plan has no place where it could be made and shown."""
        assert self.image is not None
        assert self.model is not None
        place = self.destination
        known = check_image(self.layer), self.image, self.model, plan
        return place.unfinished or bool(place.problem(*known))

    def _start(self, layer: ImageLayer, case: Case, output: Output) -> None:
        """Begin to fill a result."""
        stored = output.path is not None
        on = self.destination.on if stored else None
        resumed = output.ledger is not None and bool(output.ledger.done)
        kept = case.plan.settings.seams == "all" and on is None and not resumed
        self.session.begin_run()
        self.session.show_only(None)
        if stored:  # what was opened of an unfinished one: the run shows the same, or another
            for opened in self.viewer.layers:
                if path_of(opened) == str(output.partial):
                    opened.visible = False
        made = Run(
            layer,
            case.image,
            case.model,
            case.plan,
            output,
            Evidence(keep=kept),
            _FIXED_PREFIX if case.model.statistics is not None else "",
            bool(self.options.shown.value()),
            on,
            self.network.trust,
        )
        self.panel.begin(made, self._looked_at(made), self.session.turn)
        self.tiles.raise_to_top()

    def _opened(self, layer: ImageLayer, case: Case, output: Output) -> None:
        """The file of the result is open."""
        try:
            if not self.awake:  # closed meanwhile
                output.close()
            else:
                self._start(layer, case, output)
        except Exception as error:
            output.close()
            self._not_started(error)

    def _not_started(self, error: Exception) -> None:
        self.panel.fail(error)
        self.refresh()
        self.session.drop_run()

    def _stop(self) -> None:
        """A dock no longer uses the prediction."""
        self.panel.stop()
        if self.session.running and not self.busy:  # the file of its result is being opened
            self.job.stop()

    def _job_changed(self) -> None:
        """Nothing is loaded or opened any more; perhaps it was cancelled."""
        if self.job.busy:
            return
        if self.session.running and not self.busy:
            self.session.drop_run()
        if self.network.picker.consent.isHidden():  # else its network is loaded when it is given
            self._goes_on = None

    def _unfinished(self) -> list[Action]:
        """Offer to go on with an unfinished result that is opened."""
        known = next(filter(None, map(Unfinished.of, self.viewer.layers)), None)
        return [] if known is None else [go_on(known.share, partial(self._take_up, known))]

    def _take_up(self, known: Unfinished) -> None:
        """Go on with an unfinished result: load what it was made of."""
        try:
            self.image_box.value = known.image_layer(self.viewer)
        except SeamscopeError as error:
            self.panel.show_problem(in_dock(error))
            return
        assert known.protocol is not None
        self.options.place.set_value(known.path)
        self.protocols.take(known.protocol)
        self._goes_on = known
        self._go_on_when_ready()

    def _go_on_when_ready(self) -> None:
        known, model = self._goes_on, self.plain
        if known is None or known.protocol is None or model is None or self.job.busy:
            return
        self._goes_on = None
        place = self.destination
        ready = place.target == known.path and place.unfinished and self.plan is not None
        if ready and is_network_of(known.protocol, model):
            self.run(resume=True)

    def _show_channels(self) -> None:
        """Show the last result as one layer, or each of its channels."""
        if self.results is None or self.busy:
            return
        run = self.session.run_of(self.results.layers[0])

        def made(layer: Any) -> None:
            if run is not None:
                self.session.add_layers(run, [layer])

        self.results.show_channels(not self.options.shown.value(), made)

    def _looked_at(self, made: Run) -> Sequence[float]:
        """Where the view is, so that the frame and the tiles there come first."""
        point, layout = shown_point(made.layer, self.viewer), made.plan.layout
        places = [layout.axes.index(letter) for letter in layout.frames + layout.spatial]
        # the colours of a picture have no place in the view
        return [float(point[i]) if i < len(point) else 0.0 for i in places]

    def _ended(self, made: Run, outcome: Outcome) -> None:
        if isinstance(outcome.value, Finished) and made.on is None:
            self.pace.took(made.model, made.plan, outcome.value.seconds)
        self._rests = True
        if made.stored:
            self.destination.ended(str(made.output.path), made.finished)
        if self.results is not None:
            self.session.forget(self.results.replaced)
            self.session.add_run(made, self.results.layers)
            if made.stored and not (made.finished or Path(str(made.output.partial)).exists()):
                self.results.hide()  # nothing was written, and the file is gone
        else:
            self.session.drop_run()
        self.refresh()

    def _run_with(self, controls: dict[str, Any]) -> None:
        """A dock wants a run with other values of some controls."""
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
        """A dock found a better halo."""
        self.grid.take_halo(halo, overlap)
        self.refresh()

    def _take_blend(self, blend: str, grid: tuple[Sequence[int], Sequence[int]] | None) -> None:
        """A dock compared ways of blending: take the best, and the tiles that it was best on."""
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

    def _take_card_sizes(self) -> None:
        """Offer the tile sizes of the model's card, and take the one next to what is shown."""
        self.refresh()
        self.grid.take_card_size()

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
