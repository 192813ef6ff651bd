"""The rows of the network: which one, what is known of it, its output, and its fixed statistics.

Knows how a network is loaded and described. Does not know images, tiles or runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject, QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout

from seamscope.docks.editors import Choice
from seamscope.docks.job_row import JobRow
from seamscope.docks.looks import Kind, boxed, in_dock, network_text, set_row, text_label
from seamscope.docks.prediction.model_picker import ModelPicker, remember_model
from seamscope.docks.prediction.stated_rows import StatedRows
from seamscope.docks.sentences import sentence
from seamscope.docks.session import Session
from seamscope.docks.tasks import load
from seamscope.errors import TrustError
from seamscope.models.declared import disagreements
from seamscope.models.formats import Consent
from seamscope.models.formats.spec import shown_output, with_output
from seamscope.models.model import Model
from seamscope.planning.plan import Plan

_OUTPUT_TIP = "Which of the network's outputs is predicted."
_FIXED_TIP = (
    "Normalize every tile with the same statistics instead of its own: tiles then agree.\n"
    "Unticked, the network is as it was loaded."
)


class NetworkRows(QObject):
    """Loads a network and shows it.

    Parameters
    ----------
    session
        Has the fixed statistics.
    job
        Shows that a network is being loaded.
    stated
        What a loaded protocol states of a network, by its model string.
    check
        Raises an error for a network that is not the protocol's.

    Signals
    -------
    changed
        Another network predicts, or none does.
    ready : (Model)
        A network was loaded; comes before `changed`.

    Attributes
    ----------
    model
        The network that predicts: with fixed statistics where wanted.
    plain
        The same as it was loaded.
    trust
        What was allowed to run when it was loaded.
    """

    changed = Signal()
    ready = Signal(object)

    def __init__(
        self,
        session: Session,
        job: JobRow,
        stated: Callable[[Any], Mapping[str, Any]],
        check: Callable[[Model], None],
    ) -> None:
        super().__init__(job)  # the session outlives docks: nothing is heard of it any more
        self._session, self._job = session, job
        self._stated, self._check = stated, check
        self.trust: bool | Consent = False
        self._spec: Any = None
        self.model: Model | None = None
        self.plain: Model | None = None
        self.picker = ModelPicker()
        self.output = Choice((), _OUTPUT_TIP)
        self.facts = text_label()
        self.facts.hide()
        self.statements = StatedRows()
        self.fixed = QCheckBox()
        self.fixed.setToolTip(_FIXED_TIP)
        self.fixed.hide()
        self.picker.asked.connect(self.load)
        self.output.value_changed.connect(self._choose_output)
        self.statements.value_changed.connect(self._state)
        self.fixed.toggled.connect(self._use_fixed)
        session.fixed_changed.connect(self._fixed_changed)

    def add_to(self, form: QFormLayout) -> None:
        """Add the rows to a form."""
        self._form = form
        form.addRow("Model", self.picker)
        form.addRow(self.picker.consent)
        form.addRow("Output", self.output)
        set_row(form, self.output, False)
        form.addRow(self._job)
        form.addRow(self.facts)
        form.addRow(self.statements)
        form.addRow(self.fixed)

    # -- loading

    def load(self, spec: Any, trust: bool | Consent = False) -> None:
        """Load a network: a model string, an `nn.Module`, or a `Model`."""
        self._job.abandon()
        self.model = self.plain = None
        self.trust = trust
        self.show_fixed()
        self._offer_outputs(None)
        self.picker.consent.hide()
        self._show_facts("")
        name = spec if isinstance(spec, str) else type(spec).__name__
        stated = self._stated(spec)
        if stated or not _same_file(spec, self._spec):  # of another network, other things are known
            self.statements.set_value(stated)
        self._spec = spec
        stated, patience = self.statements.value(), self.statements.patience.value()
        function = partial(load, spec, trust, stated, self._check, patience)
        self._job.start(f"loading {name}", function, self._loaded, failed=self._not_loaded)
        self.changed.emit()

    def _loaded(self, model: Model | None) -> None:
        """The network is loaded; None where Cancel was pressed."""
        self.model = self.plain = model
        self._show_facts("")
        if model is not None:
            self._describe(model)
            self._offer_outputs(model)
            if model.spec is not None:
                remember_model(model.spec)
                self.picker.show_value(model.spec)
                self.picker.refill()
            self.ready.emit(model)
        self.changed.emit()

    def _not_loaded(self, error: Exception) -> None:
        self._show_facts("")
        if isinstance(error, TrustError):
            self.picker.ask_consent(error)
        else:
            self._show_facts(boxed(sentence(error, "The network"), "error"))
            self.statements.lead_to(str(error))
        self.changed.emit()

    def _state(self) -> None:
        """Load the same network again, with what is stated now; trusted as it was."""
        if self._spec is not None and self._spec != "":
            self.load(self._spec, self.trust)

    def _describe(self, model: Model) -> None:
        kind: Kind = "good" if model.reach.bounded else "warning"
        text = boxed(in_dock(model.describe()), kind)
        if model.declared is not None:  # what the card says, where measuring says otherwise
            wrong = disagreements(model.declared, model.facts, model.reach)
            text += "".join(boxed(in_dock(each), "warning") for each in wrong)
        self._show_facts(network_text(model.facts) + text)
        self.facts.setToolTip(str(model.facts))

    def _show_facts(self, text: str) -> None:
        self.facts.setText(text)
        self.facts.setVisible(bool(text))

    # -- its outputs

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
        plain = self.plain
        if plain is not None and plain.spec is not None and plain.outputs:
            spec = with_output(plain.spec, plain.outputs, self.output.value())
            self.picker.show_value(spec)
            self.load(spec, self.trust)

    # -- its fixed statistics

    def show_fixed(
        self, layer: ImageLayer | None = None, plan: Plan | None = None, use: bool = False
    ) -> None:
        """Show the box where there are statistics of this network.

        Parameters
        ----------
        layer, plan
            What is to be predicted, and how it is read.
        use
            Whether to use them from now on.
        """
        fixed = self._session.fixed
        known = fixed is not None and fixed.plain is self.plain
        with QSignalBlocker(self.fixed):
            self.fixed.setChecked(known and (use or self.fixed.isChecked()))
        self.fixed.setVisible(known)
        statistics = None if fixed is None else fixed.network.statistics
        if fixed is not None and statistics is not None:
            own = fixed.layer is not None and fixed.layer is layer
            where = "this image" if own else statistics.image or "another image"
            other = plan is not None and statistics.misread(plan.seen)
            read = ", read otherwise" if other else ""
            self.fixed.setText(f"Fixed statistics ({statistics.how}, {where}{read})")

    def notes(self, layer: ImageLayer | None) -> tuple[str, ...]:
        """Return what to know of fixed statistics that are used for another image."""
        fixed = self._session.fixed
        if fixed is None or layer is None or self.model is not fixed.network:
            return ()
        found = fixed.network.statistics
        if found is None or not found.uniform or fixed.layer is layer or not found.image:
            return ()  # local ones: the plan says it
        if _stem(found.image) == _stem(layer.name):  # the same, opened by another name
            return ()
        return (
            f"The fixed statistics are those of {found.image}, not of {layer.name}. Tiles agree, "
            "but each image may have its own. Fix them on this image (dock Network normalization).",
        )

    def _fixed_changed(self) -> None:
        """Statistics were found: use them; or they are gone."""
        self.show_fixed(self._session.layer, self._session.plan, use=True)
        self._use_fixed()

    def _use_fixed(self, _: Any = None) -> None:
        """Predict by fixed statistics, or by each tile's own, as the box says."""
        fixed, wanted = self._session.fixed, self.plain
        if fixed is not None and fixed.plain is self.plain and self.fixed.isChecked():
            wanted = fixed.network
        if wanted is not self.model:
            self.model = wanted
            if wanted is not None:
                self._describe(wanted)
            self.changed.emit()


def _stem(name: str) -> str:
    return Path(name).name.partition(".")[0]


def _same_file(spec: Any, other: Any) -> bool:
    """Whether two networks are outputs of one file, or the same object."""
    if isinstance(spec, str) and isinstance(other, str):
        return spec.partition("#")[0] == other.partition("#")[0]
    return spec is other


__all__ = ["NetworkRows"]
