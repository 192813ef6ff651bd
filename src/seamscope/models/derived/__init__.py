"""What the list of a network's operations implies, without looking at a number it computes.

Knows what each ATen operation reads, position by position. Does not know weights, or what a network
gives for an image; `seamscope.models.probe` measures that.

Every operation is carried out on positions instead of values. For each spatial axis, an element of
a tensor is the interval of input pixels ``[lo, hi]`` it depends on, and a *kind*: a hash of how
what it depends on lies relative to `lo`. Reshapes, rolls and windows move intervals; convolutions,
pooling and attention join them::

    input        [0] [1] [2] [3] [4] [5] [6] [7]
    conv 3      [0-1][0-2][1-3] ...                   kinds  a b b b b b b c   (a, c: zeros)
    stride 2    [0-1]     [1-3]     [3-5]     [5-7]
    upsample 2  [0-1][0-1][1-3][1-3][3-5][3-5]...     the interval moves by 2 after 2

Where interval and kind repeat after `q` outputs, moved by `p` pixels, the network has period `p`
and scale `q / p`; the intervals of one period are its receptive field at each phase. That is
interval arithmetic (Araujo, Norris, Sim, *Computing receptive fields of convolutional neural
networks*, Distill 2019) with phases, so that it holds for windows, shuffles and uneven strides.

Statistics over a whole axis (instance, group and layer normalization, squeeze-and-excite, global
response normalization, pooling to one pixel) are listed and then held fixed: what is derived is the
field of the rest. Attention over a whole axis leaves no rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from seamscope.models.derived.facts import (
    Coupling,
    Derived,
    DerivedAxis,
)
from seamscope.models.derived.reader import Reader
from seamscope.tape import Forward, Tape, record

_LARGEST = 1 << 18  # pixels of an input that is not made longer


def derive(network: Tape | nn.Module | Forward, example: torch.Tensor) -> Derived:
    """Derive what a network's operations imply.

    Parameters
    ----------
    network
        A tape, or what is recorded: ``(N, C, *spatial)`` to one tensor ``(N, C', *spatial')``.
    example
        One sample of an accepted size. Several periods and receptive fields have to fit into it:
        in too small a one nothing repeats. So a network, but not a tape, is recorded again with a
        longer one along axes in which nothing repeats, up to a million pixels.

    Raises
    ------
    seamscope.tape.Unrecordable
        Where the operations depend on the values of the input.
    """
    if isinstance(network, Tape):
        return Reader(network, tuple(example.shape)).derived()
    module = network if isinstance(network, nn.Module) else None
    shape = tuple(example.shape)
    tape = record(network, example.clone(), module=module)
    derived = Reader(tape, shape).derived()
    for axis in range(len(derived.axes)):
        longer = example
        while _worthwhile(derived, axis, longer):
            longer = torch.cat([longer, longer], axis + 2)
            try:
                long_tape = record(network, longer.clone(), module=module)
            except Exception:  # it takes no other size, whatever it raises then
                break
            if len(long_tape.steps) > 1.5 * len(tape.steps):  # once more for each position
                scans = Coupling("scan", _grown(tape, long_tape), (axis,), statistic=False)
                derived = replace(derived, couplings=(*derived.couplings, scans))
                break
            again = Reader(long_tape, tuple(longer.shape)).derived()
            axes = [*derived.axes]
            axes[axis] = again.axes[axis]
            couplings = _merged((*derived.couplings, *again.couplings))
            derived = replace(derived, axes=tuple(axes), couplings=couplings)
    return derived


def _merged(couplings: Iterable[Coupling]) -> tuple[Coupling, ...]:
    """Each operation once, with all axes that it was found to couple."""
    found: dict[tuple[str, str, bool], set[int]] = {}
    for one in couplings:
        found.setdefault((one.operation, one.module, one.statistic), set()).update(one.axes)
    return tuple(
        Coupling(name, module, tuple(sorted(axes)), statistic)
        for (name, module, statistic), axes in found.items()
    )


def _grown(short: Tape, long: Tape) -> str:
    """The module that does most more operations."""
    counts: Counter[str] = Counter()
    for tape, sign in ((long, 1), (short, -1)):
        for node, _ in tape.steps:
            counts[str(node.meta.get("module", ""))] += sign
    return counts.most_common(1)[0][0]


def _worthwhile(derived: Derived, axis: int, x: torch.Tensor) -> bool:
    """Whether a longer input may show what repeats along an axis."""
    coupled = any(not one.statistic and axis in one.axes for one in derived.couplings)
    found = derived.axes[axis].period is not None or derived.axes[axis].absolute
    pixels = x[0, 0].numel()
    return not (found or coupled or derived.unknown or pixels > _LARGEST)


__all__ = ["Coupling", "Derived", "DerivedAxis", "derive"]
