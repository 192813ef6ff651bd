"""All that is found out about the false splits of one label image, before and after merging.

Knows the order of the questions. Does not know command lines, windows or reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from seamscope.images.image import Image
from seamscope.progress import QUIET, Work
from seamscope.segmentation.agreement import Agreement, compare_labels
from seamscope.segmentation.asking import Opinion
from seamscope.segmentation.false_splits import SplitReport, find_splits
from seamscope.segmentation.label_images import labels_of, merge_pairs
from seamscope.serialization import record


@dataclass(frozen=True)
class Merged:
    """Labels after pairs of them were made one.

    Attributes
    ----------
    pairs
        What was merged.
    report, agreement
        Of the merged labels, on the same lines; None where there are no lines or no ground truth.
    """

    pairs: Sequence[tuple[int, int]]
    report: SplitReport | None = None
    agreement: Agreement | None = None


@dataclass(frozen=True)
class SplitFindings:
    """What was found out.

    Attributes
    ----------
    report
        The test, and candidates.
    opinions
        Of the network, with the seam in the middle of a tile.
    agreement
        With ground truth.
    merged
        After merging.
    """

    report: SplitReport
    opinions: Sequence[Opinion] = ()
    agreement: Agreement | None = None
    merged: Merged | None = None

    def pairs(self, rate: float | None = None) -> list[tuple[int, int]]:
        """Return the pairs to be merged: up to a false-discovery rate, and one for the network.

        Parameters
        ----------
        rate
            None for all that the network sees as one object; none at all without a network.
        """
        if not self.opinions:
            return [] if rate is None else [c.labels for c in self.report.below(rate)]
        one = {o.candidate for o in self.opinions if o.vanished}
        among = self.report.candidates if rate is None else self.report.below(rate)
        return [c.labels for c in among if c in one]

    def merge(
        self,
        labels: Image,
        rate: float | None,
        out: Any,
        *,
        ground_truth: Any = None,
        overwrite: bool = False,
        work: Work = QUIET,
    ) -> SplitFindings:
        """Write labels with pairs made one, and ask the same of them.

        Parameters
        ----------
        labels
            The label image that was examined.
        rate
            As for `pairs`.
        out, overwrite
            As for `seamscope.segmentation.label_images.merge_pairs`.
        ground_truth
            As for `seamscope.segmentation.agreement.compare_labels`.
        work
            Shows progress and stops.

        Returns
        -------
        SplitFindings
            With `merged`.
        """
        pairs = self.pairs(rate)
        merge_pairs(labels, pairs, out, overwrite=overwrite, work=work)
        merged = labels_of(out, labels.axes)
        lines, report, agreement = self.report.lines, None, None
        if lines is not None:
            report = find_splits(merged, lines=lines, work=work)
        if ground_truth is not None:
            agreement = compare_labels(merged, ground_truth, lines, work=work)
        return replace(self, merged=Merged(pairs, report, agreement))

    def to_json(self) -> dict[str, Any]:
        """Return the report's own keys beside those of what was done with its pairs."""
        after = self.merged
        return record(
            **self.report.to_json(),
            asked_again=[
                {"labels": o.candidate.labels, "vanished": o.vanished} for o in self.opinions
            ],
            agreement=self.agreement,
            merged=after.pairs if after else [],
            after=after
            and {
                "test": after.report and after.report.to_json()["test"],
                "agreement": after.agreement,
            },
        )


__all__ = ["Merged", "SplitFindings"]
