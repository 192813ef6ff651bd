"""Knows how to run the same network faster on this machine, and how to prove that it is the same.

A variant is another way of computing what a network computes. `choose` builds the ways that
apply, runs each on one tile, compares the output with the plain network's, and keeps the fastest
that agrees:

- *channels last*: the channels of a pixel side by side, the layout in which convolutions are
  fastest;
- *fused*: channels last, the graph rewritten (`seamscope.models.speed.fusion`), and of each layer
  only what the kept part of the output needs (`seamscope.models.speed.trimming`);
- *frozen*: TorchScript optimized by torch, for the few that are no plain sequence;
- *openvino*: another company's compiler, where it is installed.

A variant sees nothing but the tensor it is given, so other tile and batch sizes than the
trial's are safe. Weights are copied when a variant is built: the plain network is never
modified, and later changes to its weights do not reach the variants. Fused kernels may swallow
NaN, so the reach of a network is always probed on the plain network.

Does not know tiles, images, or where the network came from.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from seamscope.models.speed.fusion import CHANNELS_LAST, HasGraph, frozen, fused, quiet_torchscript
from seamscope.models.speed.trimming import Keep, Trimmed

TOLERANCE = 2e-5
"""Largest difference allowed, in standard deviations of the plain network's output.

Float32 itself moves outputs by 1e-6 to 1e-5 of it, for instance between one thread and two.
"""

_OPENVINO_SECONDS = 10.0  # a conversion takes 6 to 10 s


class Run(Protocol):
    """Runs a network on ``(N, C, *spatial)``; returns the output, or the part to be kept.

    The result is ``(N, C', *spatial')``, contiguous, on the same device. What is not to be kept
    need not be computed.
    """

    def __call__(self, batch: torch.Tensor, keep: Keep | None = None, /) -> torch.Tensor:
        """Run the network on the batch."""
        ...


@dataclass(frozen=True)
class Trial:
    """What became of one variant.

    Attributes
    ----------
    name
        The variant's.
    seconds
        Shortest of its runs on the example; None if it never ran.
    deviation
        Largest absolute difference to the plain output, divided by the standard deviation of the
        plain output; None if it never ran.
    refused
        Why it cannot be used; None if it can.
    building
        Seconds of processor time that building it took; None if that failed.
    unsteady
        How many times the shortest of its runs the second shortest took: more than 1 where
        something else kept the machine busy.
    """

    name: str
    seconds: float | None = None
    deviation: float | None = None
    refused: str | None = None
    building: float | None = None
    unsteady: float = 1.0


@dataclass(frozen=True)
class Choice:
    """The fastest variant that agrees with the plain network, and everything that was tried."""

    name: str
    run: Run
    trial: tuple[Trial, ...]


# ---------------------------------------------------------------------------------- the trial


def choose(
    module: nn.Module,
    example: torch.Tensor,
    *,
    keep: Keep | None = None,
    tolerance: float = TOLERANCE,
    allow: Collection[str] | None = None,
    patience_s: float = 5.0,
    repeats: int = 3,
    only: str | None = None,
) -> Choice:
    """Try the variants of a network on one tile and keep the fastest that agrees with it.

    Parameters
    ----------
    module
        The network, in evaluation, on the device it is to run on. It is not modified.
    example
        One tile as the run will see it, ``(N, C, *spatial)``, on the same device; real pixels,
        since the agreement is measured on them.
    keep
        Part of the output that the run will keep of such a tile, for instance all but the halo;
        None for all. The trial times the computation of this part.
    tolerance
        Largest difference to the plain output, in standard deviations of that output.
    allow
        Names of the variants that may be tried, besides ``"plain"``; None for all.
    patience_s
        Seconds of conversion that the run ahead is worth. Variants that take longer to build are
        left out.
    repeats
        Timed runs of each variant, interleaved so that all of them meet the same weather.

    only
        Name of a variant to keep wherever it agrees, fastest or not: a run that is resumed computes
        as it did before.

    Returns
    -------
    Choice
        ``"plain"`` where nothing else is faster, or where the network is in training mode and
        so changes while it runs.
    """
    plain = _plain(module)
    names_allowed = None if allow is None else {*allow, "plain"}
    if _changes_while_running(module):
        return Choice("plain", plain, (Trial("plain"),))
    reference = plain(example)
    runs: dict[str, Run] = {"plain": plain}
    trials: dict[str, Trial] = {"plain": Trial("plain", deviation=0.0, building=0.0)}
    for name, build in variants(module, example, patience_s=patience_s):
        if name == "plain" or (names_allowed is not None and name not in names_allowed):
            continue
        if only is not None and name != only:
            continue
        run, trials[name] = _admit(name, build, (example, keep), reference, tolerance)
        if run is not None:
            runs[name] = run
    if only is not None and only in runs:
        return Choice(only, runs[only], tuple(trials.values()))
    for name, seconds in _race(runs, (example, keep), repeats).items():
        unsteady = seconds[min(1, len(seconds) - 1)] / seconds[0]
        trials[name] = replace(trials[name], seconds=seconds[0], unsteady=unsteady)
    fastest = min(runs, key=lambda name: trials[name].seconds or 0.0)
    return Choice(fastest, runs[fastest], tuple(trials.values()))


def variants(
    module: nn.Module, example: torch.Tensor, *, patience_s: float = float("inf")
) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Names of the ways to run a network like this one, each with what builds it.

    Parameters
    ----------
    module
        The network. It is not modified, by building or by running.
    example
        A tile of the kind it will see, ``(N, C, *spatial)``.
    patience_s
        Leave out what takes longer than this to build (seconds).

    Yields
    ------
    name, build
        ``build()`` returns the function to run, or raises: not every way suits every network.
    """
    yield "plain", lambda: _plain(module)
    if example.ndim not in CHANNELS_LAST or not example.is_floating_point():
        return
    yield "channels_last", lambda: _channels_last(module, example.ndim)
    yield "fused", lambda: _trimmed(module, example.ndim)
    if example.device.type != "cpu" or example.dtype != torch.float32:
        return
    if isinstance(module, torch.jit.ScriptModule):
        yield "frozen", lambda: _in_channels_last(_frozen(module, example), example.ndim)
    if importlib.util.find_spec("openvino") is not None and patience_s >= _OPENVINO_SECONDS:
        yield "openvino", lambda: _openvino(module, example)


def _admit(
    name: str,
    build: Callable[[], Run],
    case: tuple[torch.Tensor, Keep | None],
    reference: torch.Tensor,
    tolerance: float,
) -> tuple[Run | None, Trial]:
    # Building meets other people's networks and other versions of torch: whatever goes wrong
    # there is a reason to run the network as it is, and never a reason to fail.
    try:
        start = time.process_time()
        run = build()
        building = time.process_time() - start
        example, keep = case
        middle = keep or _middle_of(reference)
        deviation = max(
            _deviation(run(example), reference, reference),
            _deviation(run(example, middle), _part(reference, middle), reference),
        )
    except Exception as problem:
        return None, Trial(name, refused=f"{type(problem).__name__}: {problem}".split("\n")[0])
    if not deviation <= tolerance:
        reason = f"differs by {deviation:.1e} standard deviations, more than {tolerance:.1e}"
        return None, Trial(name, deviation=deviation, refused=reason)
    return run, Trial(name, deviation=deviation, building=building)


def _middle_of(output: torch.Tensor) -> Keep:
    """Return a part that is no multiple of anything, so that trimming is put to the test."""
    return tuple(slice(extent // 3, extent - extent // 3) for extent in output.shape[2:])


def _deviation(output: torch.Tensor, right: torch.Tensor, reference: torch.Tensor) -> float:
    if output.shape != right.shape or output.dtype != right.dtype:
        return float("inf")
    difference = float((output - right).abs().max())
    spread = float(reference.std(correction=0))
    if difference == 0 or not difference >= 0 or not spread > 0:
        return 0.0 if difference == 0 else float("inf")  # a NaN anywhere proves nothing
    return difference / spread


def _race(
    runs: dict[str, Run], case: tuple[torch.Tensor, Keep | None], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each run of each variant, from short to long."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats if len(runs) > 1 else 1):
        for name, run in runs.items():
            taken[name].append(_seconds(run, *case))
    return {name: sorted(seconds) for name, seconds in taken.items()}


def _seconds(run: Run, example: torch.Tensor, keep: Keep | None) -> float:
    _synchronize(example.device)
    begin = time.perf_counter()
    run(example, keep)
    _synchronize(example.device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _changes_while_running(module: nn.Module) -> bool:
    """Whether running the network would update it, or give another result each time."""
    changing = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    # a frozen TorchScript module has no such flag any more
    return getattr(module, "training", False) or any(
        part.training for part in module.modules() if isinstance(part, changing)
    )


# ---------------------------------------------------------------------------- the simple ways


def _plain(module: Callable[[torch.Tensor], Any]) -> Run:
    def run(batch: torch.Tensor, keep: Keep | None = None, /) -> torch.Tensor:
        with torch.inference_mode():
            return _kept(module(batch), keep)

    return run


def _in_channels_last(module: Callable[[torch.Tensor], Any], ndim: int) -> Run:
    def run(batch: torch.Tensor, keep: Keep | None = None, /) -> torch.Tensor:
        with torch.inference_mode():
            return _kept(module(batch.contiguous(memory_format=CHANNELS_LAST[ndim])), keep)

    return run


def _trimmed(module: nn.Module, ndim: int) -> Run:
    network = Trimmed(fused(module))
    most = module.graph_batch if isinstance(module, HasGraph) else None

    def run(batch: torch.Tensor, keep: Keep | None = None, /) -> torch.Tensor:
        with torch.inference_mode():
            parts = batch.split(most or len(batch))
            if len(parts[-1]) != len(parts[0]) or len(parts[0]) < (most or 0):
                return _kept(module(batch), keep)  # it fills such batches up
            outputs = [
                network(part.contiguous(memory_format=CHANNELS_LAST[ndim]), keep) for part in parts
            ]
            return _kept(torch.cat(outputs) if len(outputs) > 1 else outputs[0], None)

    return run


def _kept(output: Any, keep: Keep | None) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the network returned {type(output).__name__}, one tensor is needed")
    return (output if keep is None else _part(output, keep)).contiguous()


def _part(output: torch.Tensor, keep: Keep) -> torch.Tensor:
    return output[:, :, *keep]


def _channels_last(module: nn.Module, ndim: int) -> Run:
    with quiet_torchscript():
        twin = copy.deepcopy(module)
    for weights in (*twin.parameters(), *twin.buffers()):
        if weights.ndim == ndim:
            weights.data = weights.data.contiguous(memory_format=CHANNELS_LAST[ndim])
    return _in_channels_last(twin, ndim)


def _frozen(module: nn.Module, example: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """TorchScript with its weights made constants and its graph optimized, by torch itself."""
    with quiet_torchscript(), torch.inference_mode():
        optimized: Any = torch.jit.optimize_for_inference(frozen(module))
        for _ in range(2):  # the interpreter profiles, then specializes
            optimized(example)
    return optimized  # type: ignore[no-any-return]


def _openvino(module: nn.Module, example: torch.Tensor) -> Run:
    """Compiled for tiles of the example's size; others take the plain way.

    The converter traces, and tracing may turn a size into a constant; so what was not checked is
    not run.
    """
    import openvino

    plain, one = _plain(module), example[:1]
    with quiet_torchscript(), torch.no_grad():
        converted = openvino.convert_model(module, example_input=one)
    converted.reshape(list(one.shape))
    compiled = openvino.Core().compile_model(
        converted,
        "CPU",
        {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"},
    )
    request = compiled.create_infer_request()

    def run(batch: torch.Tensor, keep: Keep | None = None, /) -> torch.Tensor:
        if batch.shape[1:] != one.shape[1:]:
            return plain(batch, keep)
        tiles = [request.infer([tile[None].numpy()])[0].copy() for tile in batch.contiguous()]
        return _kept(torch.cat([torch.from_numpy(tile) for tile in tiles]), keep)

    return run
