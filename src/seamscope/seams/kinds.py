"""What is predicted, as far as it decides how two predictions are compared.

Knows the kinds, and how one is guessed. Does not know how they are compared (see
`seamscope.seams.comparison`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy.typing as npt

if TYPE_CHECKING:
    from seamscope.models.facts import Facts

Kind: TypeAlias = Literal["probabilities", "logits", "values", "embeddings", "labels"]
Classes: TypeAlias = Literal["largest", "threshold"]


def kind_for(facts: Facts) -> Kind | Literal["auto"]:
    """Return how a network's predictions are compared (`seamscope.models.output_kind`).

    Whether a network without a last activation gives logits shows in its values.
    """
    if facts.kind == "classes":
        return "labels" if facts.out_channels == 1 else "values"  # a mask of each class
    return facts.kind if facts.kind_certain else "auto"


def kind_of(prediction: npt.NDArray[Any]) -> Kind:
    """Guess what is predicted from the values of one tile."""
    low, high = float(prediction.min(initial=0)), float(prediction.max(initial=0))
    if low > -1e-3 and high < 1.001:
        return "probabilities"
    # trained towards 0 and 1, but free to miss them a little: logits lie far on both sides of 0
    near = low > -0.25 and 0.75 < high < 1.25
    return "values" if near else "logits"


__all__ = ["Classes", "Kind", "kind_for", "kind_of"]
