"""The page *Fix statistics*: statistics are found or read, and all docks use them from then on.

Knows what its controls ask for, what that costs, and what of an interrupted search is kept. Does
not know how statistics are found, or the controls themselves (see `FreezePanel`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from seamscope.docks.controls import stack
from seamscope.docks.job import Job, Outcome
from seamscope.docks.kept_work import KeptWork
from seamscope.docks.layers import file_of_layer, image_of, name_of
from seamscope.docks.looks import Kind, boxed, plain
from seamscope.docks.normalization.bench import Bench
from seamscope.docks.normalization.freeze_panel import FreezePanel
from seamscope.docks.sentences import sentence
from seamscope.docks.session import Fixed
from seamscope.docks.tasks import from_file
from seamscope.docks.typed_place import typed_place
from seamscope.errors import OutputError
from seamscope.execution.devices import on_workers
from seamscope.execution.pool import On
from seamscope.fixed_statistics.freeze_plan import FreezePlan, plan_freeze
from seamscope.fixed_statistics.freezing import carry_out, check_workers
from seamscope.images.image import Image
from seamscope.ledger import claimed, discard
from seamscope.models.formats.export import Exported, export
from seamscope.models.model import Model
from seamscope.normalization.statistics import How, Statistics
from seamscope.planning.case import Case
from seamscope.progress import Work
from seamscope.settings import Settings
from seamscope.text import figure_text

_COST_DELAY_MS = 200
_NOT_USED = "The statistics are fixed, and not used now: tick Fixed statistics in the step Predict."
_NOTHING_TO_FIX = "No layer of this network uses per-tile statistics: there is nothing to fix."
_NO_PLACE = (
    "The workers of a scheduler keep what they find in files. Choose a file (Save to), on a disk "
    "that all of them see."
)


class FreezePage(QWidget):
    """Fix the statistics of the network.

    Attributes
    ----------
    panel
        The controls.
    plan
        Of what they ask for; None as long as it is not known.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self.plan: FreezePlan | None = None
        self._foreseeing: Job | None = None
        self._foreseen: tuple[Any, ...] | None = None
        self.kept = KeptWork(self)
        self.panel = FreezePanel()
        stack(self, self.panel)
        self._cost_timer = QTimer(self)
        self._cost_timer.setSingleShot(True)
        self._cost_timer.setInterval(_COST_DELAY_MS)
        self._connect()

    def _connect(self) -> None:
        self.panel.changed.connect(self.foresee_soon)
        self.panel.wanted.connect(self._freeze)
        self.panel.again.connect(self._begin_again)
        self.panel.save_wanted.connect(self.save_to)
        self.panel.export_wanted.connect(self.export_to)
        self._cost_timer.timeout.connect(self._foresee)
        self._bench.replaced.connect(self._forget)
        self._bench.patch_changed.connect(self.panel.cell.setValue)
        self._bench.changed.connect(self._show_fixed)
        self._bench.changed.connect(self.foresee_soon)
        self._bench.session.fixed_changed.connect(self._show_fixed)

    @property
    def settled(self) -> bool:
        """Whether nothing is being found out about costs."""
        return self._foreseeing is None and not self._cost_timer.isActive()

    def asked(self) -> FreezeAsked | None:
        """What the controls ask to be fixed; None as long as nothing can be, and for files."""
        bench, how = self._bench, self.panel.how.value()
        plan, wanted = bench.session.plan, self._wanted()
        if bench.model is None or bench.layer is None or plan is None or wanted is None:
            return None
        if how == "file":
            return None
        layer, axes = bench.layer, plan.layout.axes
        return FreezeAsked(
            bench.model,
            image_of(layer, axes),
            how,
            wanted,
            self.panel.cell.value(),
            self.panel.tiles.value(),
            partial(file_of_layer, layer, axes) if name_of(layer) else None,
        )

    def _wanted(self) -> Settings | None:
        """Tiles that are visited, and how they are read; None as long as that is not known."""
        plan, settings = self._bench.session.plan, self._bench.session.settings
        if plan is None or settings is None:
            return None
        tile: Any = "auto" if self.panel.grid_value() == "auto" else plan.grid.tile_shape
        # a sample is of the prediction's own tiles; exact ones need all of the reach
        halo: Any = plan.grid.halo if self.panel.how.value() == "sampled" else "auto"
        return settings.but(
            tile=tile, halo=halo, overlap=None, area=None, blend="crop", seams="none"
        )

    def sleep(self) -> None:
        """Find out nothing more."""
        self._cost_timer.stop()
        self._abandon()

    def _forget(self) -> None:
        """What was found on the way belongs to another network or image."""
        self.kept.forget()
        self.plan = self._foreseen = None
        self._show_fixed()

    def _abandon(self) -> None:
        if self._foreseeing is not None:
            self._foreseeing.abandon()
            self._foreseeing = None

    def _key(self) -> tuple[Any, ...]:
        """What distinguishes this request from all others."""
        panel, how = self.panel, self.panel.how.value()
        own: Any = {"local": panel.cell, "sampled": panel.tiles}.get(how)
        return how, None if own is None else own.value(), repr(self._wanted())

    def _unfinished(self) -> Path:
        """Where what is found on the way is kept: beside the file, as `seamscope freeze` does."""
        target = self.panel.target
        if target is None:
            return self.kept.folder(self._key())
        return target.with_name(f"{target.name}.partial")

    def _resumable(self) -> bool:
        """Whether an interrupted search can go on."""
        return self._unfinished().exists()

    def _begin_again(self) -> None:
        """Remove what a stopped search has found, and fix the statistics."""
        self._freeze(again=True)

    def _show_state(self) -> None:
        bench = self._bench
        calls = bench.audit is None or bool(bench.audit.calls)
        needed = (*bench.needed, (calls, _NOTHING_TO_FIX))
        found = bench.session.fixed is not None
        self.panel.show_state(needed, self._resumable(), found, bench.busy)

    # -- what it will cost

    def foresee_soon(self, _: Any = None) -> None:
        """Estimate the cost, once the controls rest."""
        self._show_state()
        if self.panel.how.value() == "file":
            self.panel.cost.setText("The file says which network its statistics belong to.")
        elif self._bench.awake and self._key() != self._foreseen:
            self._cost_timer.start()

    def _foresee(self) -> None:
        if self.isHidden() or self._bench.audit is None:  # another tab is shown
            return
        key = self._key()
        try:
            asked = self.asked()
        except Exception as error:
            self.panel.cost.setText(boxed(sentence(error, "Planning"), "error"))
            return
        if asked is None and self._bench.session.plan is None:
            self.panel.cost.setText("<i>The step Predict says what to fix first.</i>")
        if asked is None or key == self._foreseen:
            return
        self._abandon()
        self.plan, self._foreseen = None, key
        self.panel.cost.setText("<i>Estimating the cost …</i>")
        turn = self._bench.session.turn
        self._foreseeing = Job("estimating the cost", asked.plan, self, turn)
        self._foreseeing.ended.connect(self._foresaw)
        self._foreseeing.start()

    def _foresaw(self, outcome: Outcome) -> None:
        self._foreseeing = None
        self.plan = outcome.value
        if outcome.error is not None:
            model, audit = self._bench.model, self._bench.audit
            bounded = model is not None and model.reach.bounded
            none = audit is not None and not audit.calls  # no layer has statistics to fix
            kind: Kind = "good" if bounded and none else "warning"
            cost = boxed(sentence(outcome.error, "Planning"), kind)
        elif self.plan is None:
            self._foreseen, cost = None, ""
        else:
            cost = plain(self.plan.sentence)
        self.panel.cost.setText(cost)
        self._show_state()

    # -- finding, reading, writing

    def _freeze(self, again: bool = False) -> None:
        """Find the statistics, or read them, as the button does."""
        model, layer = self._bench.model, self._bench.layer
        if self._bench.busy or model is None or layer is None:
            return
        if self.panel.how.value() == "file":
            path, problem = typed_place(self.panel.file.text().strip())
            if path is None:
                self._bench.tell(problem)
                return

            def read(work: Work) -> Model:
                return model.with_statistics(Statistics.load(path))

            self._bench.begin(f"reading {path.name}", read, self._taken_over, self._stopped)
            return
        try:
            asked = self.asked()
        except Exception as error:
            self._bench.fail(error, "Fixing the statistics")
            return
        if asked is None:
            return
        on, target = self.panel.run_on.value(), self.panel.target
        problem = self._refused(on, target)
        if problem:
            self._bench.tell(problem)
            return
        planned = self.plan if self._key() == self._foreseen else None
        trust = self._bench.session.trust
        question = partial(asked.freeze, planned, self._unfinished(), target, on, trust, again)
        name = f"fixing the statistics of {layer.name}"
        self._bench.begin(name, question, self._frozen, self._stopped, kept=True)

    def _refused(self, on: On, target: Path | None) -> str:
        """Say why a search cannot begin; empty where it can."""
        if self.panel.problem:
            return self.panel.problem
        if target is None:
            return _NO_PLACE if isinstance(on, str) else ""
        return f"{target.name} exists. Choose another name (Save to)." if target.exists() else ""

    def _stopped(self) -> str:
        if self._resumable():
            return "Stopped. Go on continues from here."
        return "Stopped: nothing new was measured."

    def _frozen(self, network: Model) -> None:
        self._use(network, self._bench.layer)

    def _taken_over(self, network: Model) -> None:
        self._use(network, None)

    def _use(self, network: Model, layer: ImageLayer | None) -> None:
        """Let all docks use the network with fixed statistics."""
        if self._bench.model is not None:
            self._bench.session.fix(Fixed(self._bench.model, network, layer))

    def _show_fixed(self) -> None:
        """Say where statistics are fixed and not used; those that are used, all pages name."""
        session = self._bench.session
        own = session.fixed is not None and session.fixed.plain is self._bench.model
        used = session.fixed is None or session.model is session.fixed.network
        self.panel.result.setText(boxed(_NOT_USED, "warning") if own and not used else "")
        self._show_state()

    def save_to(self, path: Path) -> None:
        """Write the statistics to a file."""
        fixed = self._bench.session.fixed
        statistics = None if fixed is None else fixed.network.statistics
        if statistics is None or self._bench.busy:
            return

        def saved(_: Any) -> None:
            self.panel.cost.setText(f"Written to {plain(path.name)}.")

        def save(work: Work) -> bool:
            statistics.save(path)
            return True

        self._bench.tell("")
        self._bench.job.start(f"writing {path.name}", save, saved)

    def export_to(self, path: Path) -> None:
        """Write the network with fixed statistics to a file, and read it back."""
        fixed = self._bench.session.fixed
        if fixed is None or self._bench.busy:
            return
        network = fixed.network

        def written(found: Exported) -> None:
            same = f"Read back, it predicts the same up to {figure_text(found.max_dist)}."
            notes = " ".join((f"Written to {path.name} ({found.kind}).", same, *found.notes))
            self.panel.cost.setText(plain(notes))

        def write(work: Work) -> Exported:
            return export(network, path, overwrite=True)

        self._bench.begin(f"writing {path.name}", write, written)


@dataclass(frozen=True)
class FreezeAsked:
    """What the controls ask for.

    Attributes
    ----------
    model, image
        The network as it was loaded; what statistics are found on.
    how
        Which statistics.
    settings
        Of the tiles to visit.
    cell
        Pixels, for local ones.
    tiles
        How many, for sampled ones.
    in_file
        Finds the image's file and the image in it; None where it is in no file.
    """

    model: Model
    image: Image
    how: How
    settings: Settings
    cell: int
    tiles: int
    in_file: Callable[[], tuple[str, Image]] | None = None

    @property
    def case(self) -> Case:
        """Image, network and settings."""
        return Case.open(self.image, self.model, self.settings)

    def plan(self, case: Case | None = None, *, work: Work) -> FreezePlan:
        """Find out what fixing statistics will cost, by default on this machine."""
        return plan_freeze(case or self.case, self.how, cell=self.cell, tiles=self.tiles)

    def freeze(
        self,
        plan: FreezePlan | None,
        unfinished: Path,
        target: Path | None = None,
        on: On = None,
        trust: Any = False,
        again: bool = False,
        *,
        work: Work,
    ) -> Model:
        """Find statistics, and make the network that uses them.

        Parameters
        ----------
        plan
            If it is known already.
        unfinished
            Folder for what is found on the way; an interrupted search goes on from there.
        target
            File that they are written to; None for none.
        on, trust
            As for `seamscope.freeze_statistics`.
        again
            Whether what was found on the way is removed, once nothing refuses the new search.
        work
            Shows progress, and stops when asked to.
        """
        case = from_file(self.case, self.in_file, needed=on is not None)
        check_workers(case.image, case.model, on)
        here, case = case, on_workers(case, on, work)
        planned = plan if plan is not None and case is here else self.plan(case, work=work)
        if again:
            with claimed(unfinished):
                discard(unfinished)
        resume = unfinished.exists()
        found = carry_out(case, planned, unfinished, work, on=on, trust=trust, resume=resume)
        if target is not None and target.exists():
            raise OutputError(
                f"{target.name} was made by something else meanwhile. Move it away, and press Go "
                "on: what was found is kept."
            )
        if target is not None:
            found.save(target)
        discard(unfinished)
        return self.model.with_statistics(found)


__all__ = ["FreezePage"]
