"""Why tiles must start on a network's grid: periodic discs, as in Rumberger et al. 2021.

A U-Net with three poolings by 2 has a period of 8: it is 8 x 8 different functions, one for each
position of an output pixel modulo 8. Here one learns to give each disc of a periodic pattern an
embedding of its own (discriminative loss, De Brabandere et al. 2017). The discs all look the same;
the network can tell 64 of them apart only by where they lie on its grid. Three ways to predict a
larger image:

* trained on windows of 8, no larger than the period: discs are split at the grid's borders even in
  one piece, since the functions on either side never were neighbours in training;
* trained on windows of 21, stitched from windows of 20: discs are split where windows meet;
* trained on windows of 21, stitched from windows of 24 = 3 * 8: no disc is split, the result is
  that of the untiled run.

Seamscope measures the period without looking into the network, and predicts which windows
break the rules. Run it: ``python examples/periodic_discs.py --out discs.png`` (a minute or two on
one core); ``--quick`` trains for seconds only, which shows equality but no clean discs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from seamscope.models.model import as_model
from seamscope.receptive_field.grid_rules import Windows, check_windows
from seamscope.segmentation.agreement import extra_pieces
from seamscope.segmentation.segment import segment

LEVELS = 3
PERIOD = 2**LEVELS  # of the network
EMBEDDING = 3  # channels
SPACING = 7  # of the discs; has no factor in common with the period
IMAGE = 126  # output pixels of the test image, along either axis


def lost(levels: int) -> int:
    """Return input pixels without output: three valid convolutions on each side of a level."""
    return 12 * 2**levels - 8


LOST = lost(LEVELS)


# -- the image


def discs(size: int, shift: tuple[int, int] = (0, 0)) -> tuple[torch.Tensor, torch.Tensor]:
    """Pattern of discs, 1 on 0, and the number of the disc each pixel belongs to, 0 for none."""
    y, x = (torch.arange(size) + s for s in shift)
    centre = SPACING // 2
    near_y, near_x = y % SPACING - centre, x % SPACING - centre
    inside = near_y[:, None] ** 2 + near_x[None] ** 2 <= 6
    row, column = y // SPACING, x // SPACING
    number = 1 + row[:, None] * (size // SPACING + 3) + column[None]
    return inside.float()[None, None], torch.where(inside, number, 0)


# -- the network


class UNet(nn.Module):
    """Valid convolutions, max-pooling and learnt upsampling by 2, as in the paper."""

    def __init__(self, levels: int = LEVELS, width: int = 8, channels: int = EMBEDDING) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]

        def twice(before: int, after: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(before, after, 3), nn.ReLU(), nn.Conv2d(after, after, 3), nn.ReLU()
            )

        pairs = list(zip([1, *widths], widths, strict=False))
        self.down = nn.ModuleList(twice(*pair) for pair in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(twice(2 * w, w) for w in reversed(widths[:-1]))
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed each pixel: ``(N, 1, Y, X)`` to ``(N, C, Y - lost, X - lost)``."""
        skips = []
        for down in self.down[:-1]:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            skip = skips.pop()
            cut = (skip.shape[-1] - x.shape[-1]) // 2
            skip = skip[..., cut : cut + x.shape[-2], cut : cut + x.shape[-1]]
            x = merge(torch.cat([skip, x], 1))
        return self.last(x)


def accepted(window: int, levels: int = LEVELS) -> int:
    """Smallest output of the network that is not below `window`: 4 more than a multiple of 2^l."""
    return window + (4 - window) % 2**levels


PULL, PUSH = 0.1, 1.0  # margins: within a disc, and half of that between discs


def discriminative_loss(embedding: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Pull pixels to their disc's mean, push the means of different discs apart."""
    inside = number > 0
    points, owner = embedding[:, inside].T, number[inside]
    _, owner = torch.unique(owner, return_inverse=True)
    count = torch.bincount(owner).float()
    means = torch.zeros(len(count), points.shape[1]).index_add(0, owner, points) / count[:, None]
    pull = F.relu((points - means[owner]).norm(dim=1) - PULL) ** 2
    pull = (torch.zeros(len(count)).index_add(0, owner, pull) / count).mean()
    apart = torch.cdist(means, means) + 10 * torch.eye(len(count))
    push = (F.relu(2 * PUSH - apart) ** 2).sum() / max(1, len(count) * (len(count) - 1))
    return pull + push


def train(window: int, steps: int, seed: int = 0) -> UNet:
    """Train on random places of the pattern, one window of output at a time."""
    torch.manual_seed(seed)
    network = UNet()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    size = accepted(window)
    loss = torch.zeros(())
    for _ in range(steps):
        down, along = (int(n) for n in torch.randint(0, SPACING * PERIOD, (2,)))
        image, number = discs(size + LOST, (down, along))
        first = LOST // 2
        embedding = network(image)[0, :, :window, :window]
        loss = discriminative_loss(
            embedding, number[first : first + window, first : first + window]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"  trained on windows of {window}: loss {loss.item():.4f}")
    return network.eval()


# -- predicting in windows


def stitch(
    network: UNet, image: torch.Tensor, size: int, window: int, levels: int = LEVELS
) -> torch.Tensor:
    """Predict ``(C, size, size)`` from windows laid edge to edge, each cropped to ``window``."""
    result = torch.empty(network.last.out_channels, size, size)
    read = accepted(window, levels) + lost(levels)
    with torch.inference_mode():
        for top in range(0, size, window):
            for left in range(0, size, window):
                tile = network(image[..., top : top + read, left : left + read])[0]
                part = result[:, top : top + window, left : left + window]
                part.copy_(tile[:, : part.shape[1], : part.shape[2]])
    return result


def false_splits(embedding: torch.Tensor, number: torch.Tensor) -> int:
    """Count the pieces too many that discs fall into.

    Objects are made of the embeddings as of any network's: they grow from pixels whose neighbours
    on the disc are all embedded nearer than the push margin.
    """
    on_disc = (number > 0).float()[None]
    channels = torch.cat([embedding, on_disc]).numpy()
    objects = segment(
        channels, kind="embeddings", foreground=3, seed_threshold=PUSH, cap=4 * PUSH, axes="cyx"
    )
    return extra_pieces(objects.labels, number.numpy())


@dataclass(frozen=True)
class Outcome:
    """One way to predict the test image.

    Attributes
    ----------
    training, window
        Output windows the network was trained on, and those the result is stitched from.
    embedding
        ``(3, Y, X)``.
    splits
        Pieces too many that discs fall into.
    apart
        Largest difference to the untiled run.
    """

    training: int
    window: int
    embedding: torch.Tensor
    splits: int
    apart: float


def predict_in_windows(
    network: UNet, training: int, size: int, windows: Sequence[int]
) -> Iterator[Outcome]:
    """Predict a test image from windows of several sizes; ``size`` itself is the untiled run."""
    image, number = discs(2 * size + LOST, shift=(3, 1))  # windows may reach beyond the result
    first = LOST // 2
    number = number[first : first + size, first : first + size]
    whole = stitch(network, image, size, size)
    for window in windows:
        embedding = stitch(network, image, size, window)
        apart = float((embedding - whole).abs().max())
        yield Outcome(training, window, embedding, false_splits(embedding, number), apart)


# -- telling


def predicted_violations(network: UNet, windows: Windows) -> Iterator[str]:
    """What Seamscope says of a network and of windows, without a look at its layers."""
    model = as_model(network)
    yield f"{model.facts}"
    for violation in check_windows(windows, model.facts.lattice):
        yield violation.sentence


def draw(shown: Sequence[Outcome], curve: Sequence[Outcome], file: Path) -> None:
    """Save a picture: embeddings as colours, and false splits against the window's size."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 6.6), layout="constrained")
    grid = drawn.add_gridspec(2, len(shown), height_ratios=(1.25, 1))
    for k, outcome in enumerate(shown):
        axes = drawn.add_subplot(grid[0, k])
        part = min(63, outcome.embedding.shape[-1])
        colors = outcome.embedding[:, :part, :part].permute(1, 2, 0).numpy()
        low, high = np.percentile(outcome.embedding.flatten(1), (2, 98), axis=1)
        background = discs(part + LOST, (3, 1))[1][LOST // 2 :, LOST // 2 :][:part, :part] == 0
        colors = np.clip((colors - low) / (high - low), 0, 1)
        colors[background.numpy()] = 1
        axes.imshow(colors, interpolation="nearest")
        step = PERIOD if outcome.training <= PERIOD else outcome.window
        for at in range(step, part, step):
            axes.axvline(at - 0.5, color="#1c2126", lw=0.8, ls="--")
            axes.axhline(at - 0.5, color="#1c2126", lw=0.8, ls="--")
        way = (
            "untiled"
            if outcome.window == outcome.embedding.shape[-1]
            else f"windows of {outcome.window}"
        )
        axes.set_title(
            f"trained on windows of {outcome.training},\n{way}: {outcome.splits} false splits",
            fontsize=9,
        )
        axes.set(xticks=[], yticks=[])
    axes = drawn.add_subplot(grid[1, :])
    sizes = [outcome.window for outcome in curve]
    axes.bar(sizes, [outcome.splits for outcome in curve], color="#d55e00")
    for outcome in curve:
        axes.annotate(
            str(outcome.splits), (outcome.window, outcome.splits), ha="center", va="bottom",
            fontsize=8, color="#1c2126",
        )  # fmt: skip
    axes.set(
        xlabel=f"window that tiles are cropped to (pixels); the period is {PERIOD}",
        ylabel="false splits",
        xticks=sizes,
    )
    axes.spines[["top", "right"]].set_visible(False)
    drawn.savefig(file, dpi=130)


def main(arguments: Sequence[str] | None = None) -> list[Outcome]:
    """Train, predict, count, and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("periodic_discs.png"))
    parser.add_argument("--quick", action="store_true", help="train for seconds, on small images")
    asked = parser.parse_args(arguments)
    steps, size = (40, 48) if asked.quick else (2500, IMAGE)
    start = time.perf_counter()
    for sentence in predicted_violations(UNet(), Windows(core=20, training=PERIOD)):
        print(sentence)
    print(f"Training on windows of {PERIOD} and of 21:")
    narrow, wide = train(PERIOD, steps), train(21, steps)
    windows = (20, 24) if asked.quick else range(9, 33)
    outcomes = [
        *predict_in_windows(narrow, PERIOD, size, [size]),
        *predict_in_windows(wide, 21, size, [size, *windows]),
    ]
    print("trained on  windows of  false splits  largest difference to untiled")
    for each in outcomes:
        print(f"{each.training:10}  {each.window:10}  {each.splits:12}  {each.apart:.2g}")
    shown = [o for o in outcomes if o.window in (size, 20, 24)]
    draw(shown, outcomes[2:], asked.out)
    print(f"{asked.out} saved after {time.perf_counter() - start:.0f} s")
    return outcomes


if __name__ == "__main__":
    main()
