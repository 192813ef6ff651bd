"""How well labels agree with ground-truth labels, object by object, and beside seams.

Knows overlaps of two label images. Does not know how either was made.

With the intersection over union (IoU) of each ground-truth object ``g`` and predicted object ``p``:

* *average precision* at 0.5: ``TP / (TP + FP + FN)``, TP the pairs with IoU > 0.5 (as StarDist and
  the 2018 Data Science Bowl count it);
* *split*: a ground-truth object that meets two or more predicted ones with IoU > 0.1; *merge*: a
  predicted object that meets two or more ground-truth ones so (Caicedo et al. 2019,
  https://doi.org/10.1002/cyto.a.23863);
* *split by coverage*: a ground-truth object of which two or more predicted ones take at least 5 %
  each. The count above is blind to slivers: a cell cut into 92 % and 8 % is no split for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seamscope.errors import ImageError
from seamscope.images.image import Image
from seamscope.progress import QUIET, Work, check
from seamscope.segmentation.blocks import Blocks
from seamscope.segmentation.label_images import labels_of
from seamscope.segmentation.lines import Lines
from seamscope.serialization import Recorded
from seamscope.text import shape_text

Array: TypeAlias = npt.NDArray[Any]

_SPLIT_IOU = 0.1
_COVERAGE = 0.05


@dataclass(frozen=True)
class Agreement(Recorded):
    """Labels against ground truth.

    Attributes
    ----------
    objects, predicted
        Number of ground-truth and of predicted objects.
    matched
        Pairs with an IoU above 0.5.
    splits, merges
        Caicedo's, see the module.
    split_by_coverage
        Ground-truth objects that are split by coverage.
    at_seams, split_at_seams
        Ground-truth objects that a seam crosses, and how many of them are split by coverage; 0
        without a grid.
    """

    objects: int
    predicted: int
    matched: int
    splits: int
    merges: int
    split_by_coverage: int
    at_seams: int
    split_at_seams: int

    ALSO = ("average_precision", "share_split_at_seams", "share_split_elsewhere")

    @property
    def average_precision(self) -> float:
        """At an IoU of 0.5; 1 is perfect."""
        total = self.objects + self.predicted - self.matched
        return self.matched / total if total else 1.0

    @property
    def share_split_at_seams(self) -> float:
        """Share of the objects at seams that are split."""
        return self.split_at_seams / self.at_seams if self.at_seams else 0.0

    @property
    def share_split_elsewhere(self) -> float:
        """Share of all other objects that are split."""
        others = self.objects - self.at_seams
        return (self.split_by_coverage - self.split_at_seams) / others if others else 0.0

    def describe(self) -> str:
        """A few sentences for people."""
        text = (
            f"Average precision at IoU 0.5: {self.average_precision:.3g} ({self.matched} of "
            f"{self.objects} objects matched). Splits {self.splits}, merges {self.merges}; "
            f"{self.split_by_coverage} objects are split by coverage."
        )
        if self.at_seams:
            text += (
                f" At seams {self.share_split_at_seams:.1%} of {self.at_seams} objects are split, "
                f"elsewhere {self.share_split_elsewhere:.1%}."
            )
        return text


def compare_labels(
    labels: Any, ground_truth: Any, lines: Lines | None = None, *, work: Work = QUIET
) -> Agreement:
    """Compare labels with ground-truth labels, block by block.

    Parameters
    ----------
    labels, ground_truth
        As for `seamscope.find_splits`, of one size.
    lines
        Seams, to count splits beside them.
    work
        Shows progress and stops.

    Raises
    ------
    ImageError
        When the sizes differ, or either has no whole numbers.

    Examples
    --------
    >>> truth = np.ones((4, 20), int)
    >>> cut = np.where(np.arange(20) < 18, 1, 2) * truth
    >>> found = compare_labels(cut, truth)
    >>> found.splits, found.split_by_coverage, found.average_precision
    (0, 1, 0.5)
    """
    ours, theirs = labels_of(labels), labels_of(ground_truth)
    if ours.shape != theirs.shape:
        raise ImageError(
            f"The labels have {shape_text(ours.shape)} pixels, the ground truth has "
            f"{shape_text(theirs.shape)}: give labels of the same image."
        )
    pairs, counts = _overlaps(ours, theirs, work)
    crossed = _crossed(theirs, lines, work)
    return _counted(pairs, counts, crossed)


def _overlaps(ours: Image, theirs: Image, work: Work) -> tuple[Array, Array]:
    """Return pairs of ground-truth and predicted labels, and the pixels that each pair shares."""
    found: list[Array] = []
    work.phase("Comparing with ground truth")
    for region in ours.blocks():
        check(work)
        both = np.stack([theirs.read(region).ravel(), ours.read(region).ravel()], 1)
        pairs, counts = np.unique(both.astype(np.int64), axis=0, return_counts=True)
        found.append(np.concatenate([pairs, counts[:, None]], 1))
    rows = np.concatenate(found)
    pairs, group = np.unique(rows[:, :2], axis=0, return_inverse=True)
    return pairs, np.bincount(group.ravel(), weights=rows[:, 2]).astype(np.int64)


def _counted(pairs: Array, counts: Array, crossed: Array) -> Agreement:
    true, true_at = np.unique(pairs[:, 0], return_inverse=True)
    guess, guess_at = np.unique(pairs[:, 1], return_inverse=True)
    true_area = np.bincount(true_at, counts)
    guess_area = np.bincount(guess_at, counts)
    both = (pairs[:, 0] > 0) & (pairs[:, 1] > 0)
    shared, t, g = counts[both], true_at[both], guess_at[both]
    iou = shared / (true_area[t] + guess_area[g] - shared)
    meets = iou > _SPLIT_IOU
    covers = shared >= _COVERAGE * true_area[t]
    pieces = np.bincount(t[covers], minlength=len(true))
    split = pieces >= 2
    at_seam = np.isin(true, crossed) & (true > 0)
    return Agreement(
        objects=int((true > 0).sum()),
        predicted=int((guess > 0).sum()),
        matched=int((iou > 0.5).sum()),
        splits=int((np.bincount(t[meets], minlength=1) >= 2).sum()),
        merges=int((np.bincount(g[meets], minlength=1) >= 2).sum()),
        split_by_coverage=int(split.sum()),
        at_seams=int(at_seam.sum()),
        split_at_seams=int((split & at_seam).sum()),
    )


def _crossed(labels: Image, lines: Lines | None, work: Work) -> Array:
    """Return the labels that lie on both sides of a seam."""
    if lines is None:
        return np.zeros(0, np.int64)
    axes = labels.axes or ""
    space = [i for i, letter in enumerate(axes) if letter in "zyx"]
    found: set[int] = set()
    for number, axis in enumerate(space):
        for line in lines.along(number, labels.shape[axis]).tolist():
            check(work)
            size = [2 if a == axis else n for a, n in enumerate(labels.shape)]
            for region in Blocks.of(size, [min(n, 2**11) for n in size]):
                where = list(region)
                where[axis] = slice(line - 1, line + 1)
                pair = np.moveaxis(labels.read(tuple(where)), axis, 0)
                same = (pair[0] == pair[1]) & (pair[0] > 0)
                found |= set(np.unique(pair[0][same]).tolist())
    return np.array(sorted(found), np.int64)


def extra_pieces(labels: Any, ground_truth: Any) -> int:
    """Return how many pieces too many ground-truth objects fall into, of at least 5 % each.

    Parameters
    ----------
    labels, ground_truth
        As for `compare_labels`.
    """
    ours, theirs = labels_of(labels), labels_of(ground_truth)
    pairs, counts = _overlaps(ours, theirs, QUIET)
    both = (pairs > 0).all(1)
    true, at = np.unique(pairs[:, 0], return_inverse=True)
    area = np.bincount(at, counts)
    covers = both & (counts >= _COVERAGE * area[at])
    pieces = np.bincount(at[covers], minlength=len(true))
    return int(np.maximum(pieces - 1, 0).sum())


__all__ = ["Agreement", "compare_labels", "extra_pieces"]
