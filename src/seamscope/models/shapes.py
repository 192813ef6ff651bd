"""Which shapes a network takes and gives, asked without computing anything.

Knows inputs without content. Does not know what is concluded from it (see
`seamscope.models.limits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from seamscope.errors import SeamscopeError
from seamscope.models.trials import OutOfPatience
from seamscope.normalization.calls import Forward
from seamscope.recorded_graph import Unrecordable, record


class Shapes:
    """A network as a function of shapes.

    Tensors that depend on the input have a shape alone. All else, such as indices into a table of
    positions, is computed, so that a table that is too short is refused as in a forward pass.

    Parameters
    ----------
    forward
        ``(N, C, *spatial)`` tensor to a tensor.
    module
        What `forward` runs.
    """

    def __init__(self, forward: Forward, module: nn.Module | None) -> None:
        self._forward, self._module = forward, module
        self._known: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        self._most: int | None = None  # operations: code may do more for each pixel

    def __call__(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the shape of the output for that of an input; None where it is not taken.

        The first one should be small, and one that is taken.

        Raises
        ------
        seamscope.recorded_graph.Unrecordable
            Where that is not known: the code depends on what is computed, or very much has to be.
        """
        key = tuple(shape)
        if key not in self._known:
            self._known[key] = self._run(key)
        return self._known[key]

    def _run(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        x = torch.zeros(()).expand(shape)
        most = self._most or 1 << 20
        try:
            graph = record(self._forward, x, module=self._module, computed=False, most=most)
        except (Unrecordable, OutOfPatience, InterruptedError, SeamscopeError, MemoryError):
            raise
        except NotImplementedError as error:  # an operation that says nothing of shapes
            raise Unrecordable(str(error)) from error
        except Exception:  # whatever a network raises means "not this"
            return None
        self._most = self._most or 4 * len(graph.steps) + 200
        result: Any = graph.steps[-1][0].args[0]
        return tuple(result.meta["val"].shape)


__all__ = ["Shapes"]
