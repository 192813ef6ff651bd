"""One face for every network.

Knows what a network is called, what is stated and what was measured of it, and where that is kept.
Does not know images, how it was loaded (see `seamscope.models.formats`), or how it runs on a device
(see `seamscope.models.runner`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from seamscope.cache import Cache
from seamscope.errors import ModelError, SeamscopeError
from seamscope.models.couplings import HeldAttention, coupling_layers
from seamscope.models.declared import Declared, TestVectors
from seamscope.models.ends import trimmed
from seamscope.models.facts import Facts
from seamscope.models.input_search import Hints, Layout, arranged, says
from seamscope.models.output_kind import WHOLE, OutputKind, undecided
from seamscope.models.probe import probe
from seamscope.models.reach import PhaseFields, Reach, measure_fields, measure_reach, measure_rest
from seamscope.models.runnable import runnable
from seamscope.models.runner import Runner, Speed
from seamscope.models.same_network import (
    network_key,
    same_sample,
    sample_of,
)
from seamscope.models.sentences import describe
from seamscope.models.single import single_tensor
from seamscope.models.slab import slabs
from seamscope.models.speed.acceleration import Choice
from seamscope.models.stated import Stated, axes_of, for_axes
from seamscope.models.trials import PATIENCE, Attempt, Limits, Trials
from seamscope.normalization.audit import Audit, audit, statistics_calls
from seamscope.progress import QUIET, Work
from seamscope.serialization import plain, restore
from seamscope.settings import Precision
from seamscope.text import axes_text, shape_text
from seamscope.tiling import Slices

if TYPE_CHECKING:
    from seamscope.images.postprocessing import Postprocessing
    from seamscope.images.preparation import Preparation
    from seamscope.normalization.statistics import Statistics

Array: TypeAlias = npt.NDArray[Any]


@dataclass(eq=False)
class Model:
    """A network in evaluation mode.

    Attributes
    ----------
    module
        The network: an `nn.Module`, a script module, or what behaves like one.
    name
        What to call it in front of a person.
    spec
        The string that loads it again; None for a module that was handed over.
    hints
        What its file or the user says, where that need not be measured.
    channel_names, channel_colors
        Of the prediction, where known; colours as ``"#rrggbb"``.
    normalize
        How its images are to be normalized, where known.
    preparation
        What its file says is to be done to intensities, where that is more than a name.
    postprocessing
        What its file says is to be done to the whole prediction.
    declared
        What its file says of halo, step and axes; only measured values are used.
    outputs
        Names of all its outputs, where it has several and one was chosen.
    read_audit
        Reads from its file what normalizes and what else sees the whole tile, where another
        program runs the network, so that its calls cannot be watched.
    read_memory
        Then returns the bytes that it takes for an input of a shape.
    vectors
        Reads the test input and output that came with it, for `seamscope.models.formats.verify`.
    notes
        Sentences its user should read.
    choices, speeds
        What trials on this machine found: for each device the fastest equivalent of the network,
        for each device and halo how long tiles of several sizes take
        (`seamscope.planning.tuning.tune`).
    statistics
        By which its layers normalize instead of by their tile's (see `with_statistics`).
    stated_kind
        What the user says that its values are; None to go by `Facts.kind`.
    statements
        All that the user states of it, as `seamscope.load_model` takes it.

    Notes
    -----
    `facts` and `reach` are measured when first used, in seconds, on the CPU and with the
    plain network, and then kept.
    """

    module: nn.Module
    name: str
    spec: str | None = None
    hints: Hints = field(default_factory=Hints)
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    normalize: str | None = None
    preparation: Preparation | None = None
    postprocessing: Postprocessing | None = None
    declared: Declared | None = None
    outputs: tuple[str, ...] | None = None
    read_audit: Callable[[], Audit] | None = field(default=None, repr=False)
    read_memory: Callable[[Sequence[int]], int] | None = field(default=None, repr=False)
    vectors: TestVectors | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    choices: dict[str, Choice] = field(default_factory=dict, repr=False)
    speeds: dict[str, Speed] = field(default_factory=dict, repr=False)
    statistics: Statistics | None = field(default=None, repr=False)
    stated_kind: OutputKind | None = None
    statements: Stated = field(default_factory=Stated, repr=False)
    _arranged: Layout | None = field(default=None, init=False, repr=False)
    _trimmed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._limits = Limits()
        self.module, notes = runnable(self.module)
        self.notes = (*self.notes, *(note for note in notes if note not in self.notes))

    def stated(self, **stated: Unpack[Stated]) -> Model:
        """Return this network with what the user states of it; itself where that is nothing.

        Raises
        ------
        SettingsError
            Where a value contradicts another one.
        """
        given = {name: value for name, value in stated.items() if value is not None}
        if given.pop("dropout", True) and not given:
            return self
        statements: Stated = {**self.statements, **stated}
        hints = self.hints
        size, step = stated.get("input_size"), stated.get("step")
        axes = stated.get("spatial_axes") or hints.spatial_axes or axes_of(size) or axes_of(step)
        if isinstance(size, int) or isinstance(step, int):
            axes = axes or self._axes_seen()
        hints = dataclasses.replace(
            hints,
            spatial_axes=axes,
            in_channels=stated.get("channels") or hints.in_channels,
            shape=hints.shape if size is None else for_axes(size, axes, "input size"),
            step=None if step is None else for_axes(step, axes, "step"),
        )
        model = dataclasses.replace(
            self,
            hints=hints,
            stated_kind=stated.get("kind") or self.stated_kind,
            statements=statements,
        )
        if not stated.get("dropout", True):
            from seamscope.models.formats.wrappers import WithoutChance

            model.module = WithoutChance(model.module)
        return model

    def _axes_seen(self) -> int:
        """Number of spatial axes, by the network's own layers."""
        names = [type(module).__name__.lower() for module in self.module.modules()]
        return 3 if any("conv3d" in name for name in names) else 2

    def measure(self, *, work: Work = QUIET, patience: float | None = PATIENCE) -> None:
        """Measure `facts` and `reach`, or read them from the user's cache.

        Parameters
        ----------
        work
            Receives progress.
        patience
            Seconds after which the measurement ends with what is certain until then; None for no
            limit.

        Raises
        ------
        ModelError
            Where the network runs on no input.
        InterruptedError
            When stopped.
        """
        self._limits = Limits(work, patience, time.monotonic())
        try:
            _ = self.facts, self.reach
        finally:
            self._limits = Limits()

    def take_measured(self, facts: Facts, reach: Reach) -> None:
        """Take what another process measured of the same network, instead of measuring it."""
        with self.on_cpu():
            self._initialize()
        if facts.layout is not None:
            self._rearrange(facts.layout)
        if facts.cut:
            self._trim(facts)
        vars(self).update(facts=facts, reach=reach)

    @cached_property
    def facts(self) -> Facts:
        """Axes, channels, period, sizes, crop and scale, as measured."""
        with self.on_cpu():
            self._initialize()
            facts = self._kept("facts", Facts) or self._measured_facts()
        if facts.layout is not None:
            self._rearrange(facts.layout)
        if facts.cut:
            self._trim(facts)
        if self.stated_kind is not None:
            facts = dataclasses.replace(facts, kind=self.stated_kind, kind_certain=True)
        if self.read_audit is None:
            return facts
        statistics = facts.statistics
        with contextlib.suppress(ModelError):  # what reads the file may not be installed
            statistics = statistics_calls(self.audit)
        return dataclasses.replace(
            facts,
            forward_only=True,
            statistics=statistics,
            bytes_per_pixel=self._bytes_per_pixel(facts),
        )

    def _measured_facts(self) -> Facts:
        limits = self._limits
        trials = limits.trials(self.forward, self.module)
        facts = probe(trials, self._complete_hints())
        vars(self).update(_sample=trials.sample, _may_decide=trials.decides)
        self._keep("facts", plain(facts), trials.finished, facts)
        return facts

    def _measurable(self, facts: Facts, limits: Limits | None = None) -> Trials:
        """The network as it is measured: without chance and without decisions.

        Without a limit of time, unless one is given.
        """
        limits = limits or Limits(patience=None)
        trials = limits.trials(self.forward, self.module)
        trials.random = facts.noise > 0
        if facts.layout is not None and self._arranged is None:
            trials.forward = arranged(trials.forward, facts.layout)
        if facts.cut and not self._trimmed:
            trials.forward = trimmed(trials.forward, facts.cut)
        if facts.kind in WHOLE and self._may_decide:
            trials.forward = undecided(trials.forward, self._small(facts))
        return trials

    def _small(self, facts: Facts) -> torch.Tensor:
        return torch.randn(
            1, facts.in_channels, *facts.narrow, generator=torch.Generator().manual_seed(0)
        )

    def _rearrange(self, layout: Layout) -> None:
        """Bring the axes of input and output to the order of ``(N, C, *spatial)``."""
        from seamscope.models.formats.wrappers import Rearranged

        self.module = Rearranged(self.module, layout.given, layout.returned)
        self._arranged = layout
        self.notes = (*self.notes, str(layout))

    def _trim(self, facts: Facts) -> None:
        """Leave out what the network gives beyond the ends of its input."""
        from seamscope.models.formats.wrappers import Trimmed

        self.module = Trimmed(self.module, facts.cut)
        self._trimmed = True
        ends = ("beginning", "end")
        counts = [[sides[k] for sides in facts.cut] for k in (0, 1)]
        said = [
            f"{axes_text(count)} at the {end} of each axis"
            for end, count in zip(ends, counts, strict=True)
            if any(count)
        ]
        self.notes = (
            *self.notes,
            "The network gives more pixels than its input has: Seamscope leaves out "
            f"{' and '.join(said)}.",
        )

    def _initialize(self) -> None:
        """Let lazy layers take their shapes from one forward pass."""
        lazy = [m for m in self.module.modules() if isinstance(m, LazyModuleMixin)]
        if not any(m.has_uninitialized_params() for m in lazy):
            return
        axes = self.hints.spatial_axes or (3 if "3d" in type(lazy[0]).__name__ else 2)
        shape = self.hints.shape or (64,) * axes
        weights = [p for p in self.module.parameters() if not isinstance(p, UninitializedParameter)]
        kernels = {weight.shape[1] for weight in weights if weight.ndim == axes + 2}
        given = self.hints.in_channels
        for channels in (given,) if given else dict.fromkeys((1, *sorted(kernels))):
            x = torch.zeros(1, channels, *shape)
            try:
                with torch.no_grad():
                    _copied(self.module)(x)  # what fails leaves shapes in some layers
                    self.module(x)
                break
            except Exception as error:  # whatever a network raises for another input
                why = says(error)
        else:
            raise ModelError(
                "Its lazy layers take their shapes from a first input, and the network fails on "
                f"one of {shape_text(shape)} px ({why}): state its `channels` and a size "
                "(`input_size`)."
            )
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        if given is None:
            self.notes = (
                *self.notes,
                "Its lazy layers had no weights: they were initialized at random for "
                f"{channels} channel{'s' * (channels != 1)}. State another number of channels "
                "(`channels`).",
            )

    # -- what is kept for later

    @property
    def key(self) -> str:
        """Name of the network, its structure and what is stated of it: equal for equal facts."""
        return network_key(self.fingerprint, self.module, self.hints)

    def _kept(self, kind: str, cls: type[Any], beside: str = "", facts: Facts | None = None) -> Any:
        """What was measured before of this network, as a small prediction shows; else None."""
        content = Cache(kind).get(self.key + beside)
        if content is None:
            return None
        patience = self._limits.patience
        try:
            if not content["finished"] and (patience is None or patience > content["patience"]):
                return None
            record = dict(content["record"])
            sample = record.pop("sample")
            found = restore(cls, record)
            now = self._sample or sample_of(self._measurable(facts or found), facts or found)
            if not same_sample(sample, now):
                return None
            vars(self)["_sample"] = now
            return found
        except InterruptedError:
            raise
        except Exception:  # whatever is wrong with it: measure again
            return None

    @cached_property
    def _may_decide(self) -> bool:
        """Whether numbers that it gives may be decided; until it is measured, they may."""
        return True

    @cached_property
    def _sample(self) -> list[float]:
        """Some values of a small prediction, once it was made; before, none."""
        return []

    def _keep(
        self, kind: str, record: Mapping[str, Any], finished: bool, facts: Facts, beside: str = ""
    ) -> None:
        patience = self._limits.patience or 0.0
        vars(self)["_sample"] = self._sample or sample_of(self._measurable(facts), facts)
        record = dict(record) | {"sample": self._sample}
        content = {"record": record, "finished": finished, "patience": patience}
        Cache(kind).put(self.key + beside, content)

    def _bytes_per_pixel(self, facts: Facts) -> float:
        """What another program takes, which torch does not see."""
        seen = facts.bytes_per_pixel
        if self.read_memory is None:
            return seen
        side = {1: 4096, 2: 256, 3: 48}[len(facts.lattice)]
        shape = [axis.size_at_least(side + sum(axis.crop)) for axis in facts.lattice]
        with contextlib.suppress(ModelError):  # what reads the file may not be installed
            seen = max(seen, self.read_memory((1, facts.in_channels, *shape)) / math.prod(shape))
        return seen

    @cached_property
    def reach(self) -> Reach:
        """Theoretical reach for tiles on the period's grid, as measured."""
        facts = self.facts
        beside = f" {hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"
        kept: Reach | None = self._kept("reach", Reach, beside, facts)
        if kept is not None:
            return kept
        with self.on_cpu():
            trials = self._measurable(facts, self._limits)
            trials.phase("Measuring the reach")
            reach = measure_reach(trials, facts)
            named = reach.convolutional is not None or reach.depends_on_size or reach.couplings
            finished = reach.finished and trials.finished
            if not named and finished and not facts.forward_only:
                # in a short slab a layer that only reaches far looks like one that couples it
                with Attempt():
                    for slab in slabs(trials, facts, facts.spatial_axes - 1, fixed=True):
                        names, before = coupling_layers(self.module, slab), reach.couplings
                        reach = dataclasses.replace(reach, couplings=names)
                        if names == before:
                            break
            if reach.halo is None and finished and not (reach.couplings or facts.statistics):
                with Attempt():
                    names = tuple(op.name for op in self.audit.global_operations)
                    reach = dataclasses.replace(reach, couplings=names)
            if reach.rest is not None and not reach.rest_measured and finished:
                held = HeldAttention(trials, self.module, reach.couplings)
                with Attempt():
                    rest = measure_rest(held, facts)
                    reach = reach.with_rest(rest) if held.complete else reach
        self._keep("reach", plain(reach), trials.finished, facts, beside)
        return reach

    @cached_property
    def fields(self) -> tuple[PhaseFields, ...] | None:
        """Receptive field of an output pixel by phase, along each axis, as measured.

        With the tile's statistics held fixed where the network uses them; None where even then it
        sees the whole tile.
        """
        facts, reach = self.facts, self.reach
        with self.on_cpu(), Attempt():
            return measure_fields(self._measurable(facts, self._limits), facts, reach)
        return None

    @cached_property
    def audit(self) -> Audit:
        """Layers that use the statistics of their tile, and what else sees all of it."""
        if self.read_audit is not None:
            return self.read_audit()
        small, large = self.examples
        with self.on_cpu():
            return audit(self.forward, small, large, self.module)

    @property
    def examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Random inputs of two accepted sizes, where the network takes more than one.

        One sample, and two of the larger size where the network takes several.
        """
        lattice = self.facts.lattice
        side = {1: 256, 2: 64, 3: 24}[len(lattice)]
        large = tuple(
            axis.size_at_least(axis.size_at_least(side + sum(axis.crop)) + 1) for axis in lattice
        )
        small = tuple(axis.size_at_most(n - 1) or n for axis, n in zip(lattice, large, strict=True))
        random = torch.Generator().manual_seed(0)
        channels = self.facts.in_channels
        x, y = (torch.randn(1, channels, *shape, generator=random) for shape in (small, large))
        return x, torch.cat([y, y.flip(-1)]) if self.hints.shape is None else y

    def with_statistics(self, statistics: Statistics) -> Model:
        """Return this network with layers that normalize by fixed statistics.

        What was measured of it holds on, but that its reach is that of its convolutions.

        Parameters
        ----------
        statistics
            Of this network (see `seamscope.freeze_statistics`).

        Raises
        ------
        SettingsError
            Where they belong to another network.
        """
        from seamscope.models.fixed import with_fixed_statistics

        statistics.check_model(self.fingerprint, self.name)
        with self.on_cpu():
            axes = self.facts.spatial_axes
            module = with_fixed_statistics(self.module, statistics, self.audit, axes, self.examples)
        model = dataclasses.replace(
            self, module=module, choices={}, speeds={}, statistics=statistics
        )
        own, reach = self.facts, self.reach
        answered = {layer.call for layer in statistics.layers}
        left = set(self.audit.calls) - answered
        known = {
            "fingerprint": self.fingerprint,
            "facts": own if left else dataclasses.replace(own, statistics=()),
            "reach": reach if left else dataclasses.replace(reach, halo=reach.convolutional),
            # `module` is wrapped already, which `replace` forgets
            "_arranged": self._arranged,
            "_trimmed": self._trimmed,
        }
        vars(model).update(known)
        return model

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the network's weights and buffers, the same wherever it is loaded from."""
        digest = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            for tensor in _tensors(value):
                values = tensor.detach().cpu().contiguous()
                digest.update(f" {tuple(values.shape)} {values.dtype}".encode())
                plain = values.int_repr() if values.is_quantized else values
                digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the predicted channels."""
        return self.channels_of(self.facts)

    def channels_of(self, facts: Facts) -> tuple[str, ...]:
        """Names of the channels predicted under these facts (see `Facts.with_channels`)."""
        count = facts.out_channels
        if len(self.channel_names) == count:
            return self.channel_names
        return tuple(f"channel {i}" for i in range(count)) if count > 1 else (self.name,)

    def describe(self) -> str:
        """One sentence on what halo this network needs, or why none helps."""
        return describe(self.facts, self.reach)

    def runner(self, device: str = "cpu", precision: Precision = "float32") -> Runner:
        """Prepare the network to run on a device."""
        return Runner(self, device, precision)

    def run_plain(self, x: torch.Tensor, keep: Slices | None = None, /) -> torch.Tensor:
        """Run the network itself, and cut out what is to be kept."""
        y = self.forward(x)
        return y if keep is None else y[:, :, *keep]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network itself: what probes and audits are put to.

        On a copy, since code such as ``x -= mean`` changes its input.
        """
        return single_tensor(self.module(x.clone()))

    def _complete_hints(self) -> Hints:
        if self.hints.weights:
            return self.hints
        weights = tuple(tuple(p.shape) for p in self.module.parameters())
        return dataclasses.replace(self.hints, weights=weights)

    @contextlib.contextmanager
    def on_cpu(self) -> Iterator[None]:
        """Probing is done on the CPU: GPU convolutions may let NaN leak between neighbours.

        And by one thread: inputs are so small that more only wait for each other, 40 times longer
        on a busy machine (measured).
        """
        tensor = next(self.module.parameters(), None)
        home = tensor.device if tensor is not None else torch.device("cpu")
        threads = torch.get_num_threads()
        self.module.to("cpu")
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            self.module.to(home)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Tensors of a state; quantized layers keep theirs in tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def of_network(error: BaseException) -> bool:
    """Return whether an exception was raised within a network that `Model.forward` ran."""
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code is Model.forward.__code__:
            return not isinstance(error, SeamscopeError)
        place = place.tb_next
    return False


def as_model(network: Any) -> Model:
    """Wrap a module that is loaded; a `Model` is returned as it is.

    A module in training mode is copied before it is set to evaluation, so that yours is untouched.
    """
    if isinstance(network, Model):
        return network
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{type(network).__name__} is no network: give a torch.nn.Module, or load one with "
            "seamscope.load_model."
        )
    mode = getattr(network, "training", None)
    if mode is None:  # a frozen script
        if "mkldnn" in str(network.graph):
            raise ModelError(
                "This script was made by torch.jit.optimize_for_inference, and its operations "
                "cannot be watched: give the script it was made of, which Seamscope makes faster "
                "itself."
            )
        return Model(network, type(network).__name__)
    if mode:
        network = _copied(network)
    return Model(network.eval(), type(network).__name__)


def _copied(module: nn.Module) -> nn.Module:
    """A copy, also of lazy layers, whose buffers torch refuses to copy."""
    lazy = [each for each in module.buffers() if isinstance(each, UninitializedBuffer)]
    return copy.deepcopy(module, {id(each): UninitializedBuffer() for each in lazy})


__all__ = ["Model", "as_model", "of_network"]
