"""The same with real nuclei: output windows n * f^l and others, as in Rumberger et al. 2021.

A U-Net with four poolings by 2 has a period of 16. Here it learns to give each nucleus of a real
image an embedding of its own, from the upper two thirds of the image (discriminative loss, windows
of 84 pixels). The image is then predicted in windows of many sizes, and objects are made of the
embeddings: nuclei that fall into pieces are false splits (figure 6 of the paper, on one image).

* Windows of n * 16 pixels give the objects of the untiled run.
* All other windows do not: neighbouring windows embed the two parts of a nucleus differently. How
  many nuclei that splits depends on how far the network has learnt to tell nuclei apart by where
  they lie on its grid. After 2500 steps the objects differ and the precision falls, but no more
  nuclei are split. In a network that was trained for 7400 steps with an earlier version of this
  script, 10 nuclei were split untiled and in windows of n * 16, and 17 to 37 in all others, most of
  them where windows meet.

Run it: ``python examples/nuclei_windows.py --out nuclei.png`` (minutes on one core; ``--quick``
trains for seconds, which shows equality alone; ``--steps 7400`` trains longer). It needs an image
of nuclei and its labels: by default ``nuclei_2d.tif`` of BBBC038 (2018 Data Science Bowl) in
``../shared/real/images``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

sys.path.insert(0, str(Path(__file__).resolve().parent))
from periodic_discs import PUSH, UNet, accepted, discriminative_loss, lost, stitch

from seamscope.images.ground_truth import open_labels
from seamscope.images.image import open_image
from seamscope.segmentation.agreement import Agreement, compare_labels
from seamscope.segmentation.lines import Lines
from seamscope.segmentation.segment import segment

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "images"
LEVELS = 4
PERIOD = 2**LEVELS
WIDTH = 8  # channels of the first level
EMBEDDING = 6  # channels; one more is the foreground
TRAINING = 84  # output window; not a multiple of the period, and larger than it
Labels: TypeAlias = np.ndarray[Any, Any]

WINDOWS = (20, 32, 37, 44, 48, 52, 64, 70, 80, 88, 96, 102)
DYNAMICS = (0.05, 0.1, 0.2, 0.4)  # least depth of a seed, in distance between embeddings


@dataclass(frozen=True)
class Nuclei:
    """A square image with its labels.

    Attributes
    ----------
    image
        ``(1, 1, Y, X)``, the 1st percentile is 0 and the 99.8th is 1; with a border of mirrored
        pixels, half of what the network loses before, and more behind.
    labels
        ``(Y, X)``.
    """

    image: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def open(cls, image: Path, labels: Path, size: int | None = None) -> Nuclei:
        """Read both, the first `size` pixels of each axis."""
        values = np.asarray(open_image(image).data)[:size, :size].astype(np.float32)
        numbers = np.asarray(open_labels(labels).data)[:size, :size].astype(np.int64)
        low, high = np.percentile(values, (1, 99.8)).astype(np.float32)
        before = lost(LEVELS) // 2
        border = (before, before + max(TRAINING, *WINDOWS) + PERIOD)
        padded = np.pad((values - low) / (high - low), border, "symmetric")
        return cls(torch.from_numpy(padded)[None, None], torch.from_numpy(numbers))

    @property
    def size(self) -> int:
        """Pixels along an axis."""
        return len(self.labels)

    @property
    def seen(self) -> int:
        """Rows that the network is trained on."""
        return 2 * self.size // 3


def train(nuclei: Nuclei, steps: int, seed: int = 0) -> UNet:
    """Train on random windows of the upper rows, turned and mirrored, one window at a time."""
    torch.manual_seed(seed)
    network = UNet(LEVELS, WIDTH, EMBEDDING + 1)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    size = accepted(TRAINING, LEVELS)
    read = size + lost(LEVELS)
    loss = torch.zeros(())
    for step in range(steps):
        y = int(torch.randint(0, nuclei.seen - size + 1, ()))
        x = int(torch.randint(0, nuclei.size - size + 1, ()))
        turns, mirrored = int(torch.randint(0, 4, ())), bool(torch.randint(0, 2, ()))
        image = nuclei.image[..., y : y + read, x : x + read]
        number = nuclei.labels[y : y + size, x : x + size]
        image, number = image.rot90(turns, (-2, -1)), number.rot90(turns)
        if mirrored:
            image, number = image.flip(-1), number.flip(-1)
        number = number[:TRAINING, :TRAINING]
        found = network(image * (0.8 + 0.4 * torch.rand(())))[0, :, :TRAINING, :TRAINING]
        if not number.any():
            continue
        foreground = (number > 0).float()
        loss = discriminative_loss(found[:EMBEDDING], number)
        loss = loss + F.binary_cross_entropy_with_logits(found[EMBEDDING], foreground)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 499:
            print(f"{step + 1} of {steps} steps: loss {loss.item():.3g}", flush=True)
    return network.eval()


def objects(prediction: torch.Tensor, dynamics: float) -> Labels:
    """Make objects of embeddings and of the foreground's logits ``(C, Y, X)``."""
    channels = torch.cat([prediction[:EMBEDDING], prediction[EMBEDDING:].sigmoid()])
    found = segment(
        channels.numpy(), kind="embeddings", foreground=EMBEDDING, dynamics=dynamics,
        cap=4 * PUSH, min_size=20, axes="cyx",
    )  # fmt: skip
    return np.asarray(found.labels)


@dataclass(frozen=True)
class Outcome:
    """One window's result.

    Attributes
    ----------
    window
        Output pixels along an axis; the image's size for the untiled run.
    apart
        Largest difference of the embeddings to the untiled run.
    untiled
        Against the objects of the untiled run: how many are split, at seams and elsewhere.
    seen, unseen
        Against the ground truth: rows of the training, and the others.
    labels
        ``(Y, X)``.
    """

    window: int
    apart: float
    untiled: Agreement
    seen: Agreement
    unseen: Agreement
    labels: Labels

    @property
    def splits(self) -> int:
        """Ground-truth nuclei that are split by coverage."""
        return self.seen.split_by_coverage + self.unseen.split_by_coverage


def predict_in_windows(network: UNet, nuclei: Nuclei, windows: Sequence[int]) -> Iterator[Outcome]:
    """Predict the image untiled, then in windows of several sizes.

    The depth of seeds is that with the best precision of the untiled run, on the rows of the
    training.
    """
    truth = nuclei.labels.numpy().astype(np.int32)
    size, seen = nuclei.size, nuclei.seen
    whole = stitch(network, nuclei.image, size, size, LEVELS)

    def precision(dynamics: float) -> float:
        return compare_labels(objects(whole, dynamics)[:seen], truth[:seen]).average_precision

    dynamics = max(DYNAMICS, key=precision)
    print(f"Seeds of dynamics {dynamics} or more")
    untiled = objects(whole, dynamics)
    for window in (size, *windows):
        found = stitch(network, nuclei.image, size, window, LEVELS)
        labels = objects(found, dynamics)
        apart = (found[:EMBEDDING] - whole[:EMBEDDING]).abs().max()
        yield Outcome(
            window, float(apart), compare_labels(labels, untiled, Lines.of(window)),
            compare_labels(labels[:seen], truth[:seen]),
            compare_labels(labels[seen:], truth[seen:]), labels,
        )  # fmt: skip


# -- telling


def draw(outcomes: Sequence[Outcome], nuclei: Nuclei, file: Path) -> None:
    """Save a picture: objects at three windows, false splits and precision against the window."""
    from matplotlib.figure import Figure

    untiled, *tiled = outcomes
    off = max(tiled, key=lambda outcome: outcome.untiled.split_at_seams)
    on = min(
        (outcome for outcome in tiled if outcome.window % PERIOD == 0),
        key=lambda outcome: abs(outcome.window - off.window),
    )
    drawn = Figure(figsize=(10, 7.4), layout="constrained")
    grid = drawn.add_gridspec(2, 6, height_ratios=(1.3, 1))
    before, side = lost(LEVELS) // 2, min(160, nuclei.size)
    shape = nuclei.labels.shape
    corners = [
        (y, x) for y in range(0, shape[0] - side + 1, 32) for x in range(0, shape[1] - side + 1, 32)
    ]
    area = {c: tuple(slice(first, first + side) for first in c) for c in corners}

    def more(corner: tuple[int, int]) -> int:
        """How many objects more there are than untiled."""
        part = area[corner]
        return len(np.unique(off.labels[part])) - len(np.unique(untiled.labels[part]))

    part = area[max(corners, key=more)]
    picture = nuclei.image[0, 0, before:, before:][part].numpy()
    for k, outcome in enumerate((untiled, on, off)):
        axes = drawn.add_subplot(grid[0, 2 * k : 2 * k + 2])
        axes.imshow(np.clip(picture, 0, 1) ** 0.6, cmap="gray")
        labels = outcome.labels[part]
        axes.imshow(np.where(labels, 1 + labels * 7 % 19, np.nan), cmap="tab20", alpha=0.6)
        for line, span in ((axes.axhline, part[0]), (axes.axvline, part[1])):
            for at in range(outcome.window, span.stop, outcome.window):
                if at > span.start:
                    line(at - span.start - 0.5, color="white", lw=0.8, ls="--")
        way = "untiled" if outcome is untiled else f"windows of {outcome.window}"
        axes.set_title(f"{way}: {outcome.splits} nuclei split", fontsize=9)
        axes.set(xticks=[], yticks=[])
    sizes = [outcome.window for outcome in tiled]
    colors = ["#0072b2" if size % PERIOD == 0 else "#d55e00" for size in sizes]
    axes = drawn.add_subplot(grid[1, :3])
    axes.bar(sizes, [outcome.splits for outcome in tiled], 2.4, color=colors)
    axes.axhline(untiled.splits, color="#1c2126", lw=1, ls=":")
    axes.set_ylabel("nuclei that are split")
    axes.set_title(f"blue: multiples of {PERIOD}; dotted: untiled", fontsize=9)
    precision = drawn.add_subplot(grid[1, 3:])
    for name, marker in (("seen", "o"), ("unseen", "s")):
        values = [getattr(outcome, name).average_precision for outcome in tiled]
        precision.plot(sizes, values, color="#9aa0a6", lw=0.8)
        precision.scatter(sizes, values, c=colors, marker=marker, zorder=3)
        precision.annotate(f"   {name} rows", (sizes[-1], values[-1]), fontsize=8, va="center")
        level = getattr(untiled, name).average_precision
        precision.axhline(level, color="#1c2126", lw=1, ls=":")
    precision.set(ylabel="average precision at IoU 0.5", xlim=(min(sizes) - 4, max(sizes) + 18))
    for plot in (axes, precision):
        plot.set_xlabel("window that tiles are cropped to (pixels)")
        plot.spines[["top", "right"]].set_visible(False)
    drawn.savefig(file, dpi=130)


def main(arguments: Sequence[str] | None = None) -> list[Outcome]:
    """Train, predict, count, and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("nuclei_windows.png"))
    parser.add_argument("--image", type=Path, default=REAL / "nuclei_2d.tif")
    parser.add_argument("--labels", type=Path, default=REAL / "nuclei_2d_labels.tif")
    parser.add_argument("--steps", type=int, default=2500, help="of the training")
    parser.add_argument("--quick", action="store_true", help="train for seconds, on a small part")
    asked = parser.parse_args(arguments)
    for file in (asked.image, asked.labels):
        if not file.exists():
            print(
                f"Skipped: {file} does not exist. Give an image and its labels: --image, --labels."
            )
            return []
    steps, size, windows = (3, 128, (52, 64)) if asked.quick else (asked.steps, None, WINDOWS)
    start = time.perf_counter()
    nuclei = Nuclei.open(asked.image, asked.labels, size)
    network = train(nuclei, steps)
    outcomes = []
    for each in predict_in_windows(network, nuclei, windows):
        outcomes.append(each)
        print(
            f"window {each.window:3}: {each.apart:.2g} from untiled at most; {each.splits} nuclei "
            f"split; of the untiled objects {each.untiled.share_split_at_seams:.1%} on seams and "
            f"{each.untiled.share_split_elsewhere:.1%} elsewhere are split; average precision "
            f"{each.seen.average_precision:.3f} seen, {each.unseen.average_precision:.3f} unseen",
            flush=True,
        )
    draw(outcomes, nuclei, asked.out)
    print(f"{asked.out} saved after {time.perf_counter() - start:.0f} s")
    return outcomes


if __name__ == "__main__":
    main()
