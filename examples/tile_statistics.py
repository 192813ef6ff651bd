"""What statistics of tiles do to a prediction, and what fixed statistics remove: one figure.

The demo networks are two U-Nets that differ in their normalization only. Both predict images they
have not seen, made by the same code as the ones they were trained on, in tiles of several sizes
with the same halo; then the InstanceNorm one again with exact statistics of each whole image, and
with local ones (`seamscope.freeze_statistics`), without any training. Drawn against the size of the
tiles:

* tile mismatch, the mean over channels of the median over overlaps of 1 - Dice of the two
  neighbours (`seamscope.measure_seams`),
* Dice with the ground truth, the mean over the four classes (`seamscope.sweep`),
* train/eval disparity of the BatchNorm network, batches of one tile
  (`seamscope.explain.train_eval.measure_disparity`),

each the mean over images with a band from the lowest to the highest of them; and a place of the
first image where the size of the tiles matters most to the InstanceNorm network.

Run it: ``python examples/tile_statistics.py --out figure.png`` (some minutes on one core);
``--quick`` takes a small image and two sizes of tiles.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seamscope
from seamscope.compare.tile_sizes import Sweep, sweep
from seamscope.demo import CHANNEL_COLORS, CHANNEL_NAMES
from seamscope.demo.tissue import tissue
from seamscope.explain.train_eval import measure_disparity
from seamscope.models.model import Model
from seamscope.reports.page import INK, MUTED, SERIES, drawn_here

BATCH, INSTANCE = "BatchNorm", "InstanceNorm"
FIXED, LOCAL = "InstanceNorm, exact statistics", "InstanceNorm, local statistics"
COLORS = dict(zip((BATCH, INSTANCE, FIXED, LOCAL), SERIES, strict=False))
MARKERS = {BATCH: "s", INSTANCE: "o", FIXED: "D", LOCAL: "^"}
HALO = 16  # pixels, for all tiles: the smallest have no room for the reach of 46
FIRST_SEED = 20_100  # no demo network was trained on images of seeds from 10,000 on

Images = list[tuple[np.ndarray, np.ndarray]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """A square of the first image; classes of all but the image."""

    image: np.ndarray
    before: np.ndarray
    exact: np.ndarray
    local: np.ndarray
    ground_truth: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """All that is drawn. ``I`` images, ``T`` sizes of tiles.

    Attributes
    ----------
    tiles
        Sizes, ``T``.
    size
        Side of the images: the untiled prediction's tile.
    mismatch
        ``(I, T)`` by network.
    dice
        ``(I, T + 1)`` by network; the last is untiled.
    reach
        How far the convolutions see, in pixels.
    at_reach
        ``(I,)`` by network: mismatch with the largest tiles and a halo as wide as that.
    disparity
        ``(I, T, channels)``.
    place
        Pictures.
    """

    tiles: tuple[int, ...]
    size: int
    mismatch: dict[str, np.ndarray]
    dice: dict[str, np.ndarray]
    reach: int
    at_reach: dict[str, np.ndarray]
    disparity: np.ndarray
    place: Place


# -- measuring


def measure(images: Images, tiles: Sequence[int], side: int, tell: Tell = print) -> Outcome:
    """Measure the four on all images; `side` of the place that is shown, in pixels."""
    reach = max(max(sides) for sides in seamscope.load_model("demo:batchnorm").reach.halo)
    mismatch, dice, at_reach = ({name: [] for name in COLORS} for _ in range(3))
    place: Place | None = None
    for number, (image, ground_truth) in enumerate(images):
        networks = dict(_networks(image))
        for name, model in networks.items():
            swept = sweep(image, model, tiles, labels=ground_truth, halo=HALO)
            mismatch[name].append([_mismatch(image, model, tile, HALO) for tile in tiles])
            dice[name].append(np.nanmean(swept.dice.value, axis=1))
            at_reach[name].append(_mismatch(image, model, tiles[-1], reach))
            if name == INSTANCE:
                corner = _corner(swept, image.shape, side)
        place = place or _place(image, ground_truth, networks, tiles[0], corner, side)
        tell(f"image {number + 1} of {len(images)} done")
    assert place is not None
    return Outcome(
        tuple(tiles),
        images[0][0].shape[0],
        {name: np.array(values) for name, values in mismatch.items()},
        {name: np.array(values) for name, values in dice.items()},
        reach,
        {name: np.array(values) for name, values in at_reach.items()},
        np.array([_disparity(image, tiles) for image, _ in images]),
        place,
    )


def _networks(image: np.ndarray) -> Iterator[tuple[str, Model]]:
    yield BATCH, seamscope.load_model("demo:batchnorm")
    instance = seamscope.load_model("demo:instancenorm")
    yield INSTANCE, instance
    yield FIXED, instance.with_statistics(seamscope.freeze_statistics(image, instance))
    yield LOCAL, instance.with_statistics(seamscope.freeze_statistics(image, instance, "local"))


def _mismatch(image: np.ndarray, model: Model, tile: int, halo: int) -> float:
    seams = seamscope.measure_seams(image, model, tile=tile, halo=halo)
    return float(np.mean(seams.measures.present))


def _disparity(image: np.ndarray, tiles: Sequence[int]) -> list[tuple[float, ...]]:
    found = (measure_disparity(image, "demo:batchnorm", tile=t, halo=HALO) for t in tiles)
    return [each.per_channel for each in found]


def _corner(swept: Sweep, shape: tuple[int, ...], side: int) -> tuple[int, ...]:
    """First pixel of a square around the middle of the place where predictions differ most."""
    shown = swept.pictures.image.shape
    middle = (c + n // 2 for c, n in zip(swept.pictures.corner, shown, strict=True))
    return tuple(min(max(m - side // 2, 0), n - side) for m, n in zip(middle, shape, strict=True))


def _place(
    image: np.ndarray,
    ground_truth: np.ndarray,
    networks: dict[str, Model],
    tile: int,
    corner: tuple[int, ...],
    side: int,
) -> Place:
    square = tuple(slice(c, c + side) for c in corner)
    before, exact, local = (
        seamscope.predict(image, networks[name], tile=tile, halo=HALO, result="labels")[square]
        for name in (INSTANCE, FIXED, LOCAL)
    )
    return Place(image[square], before, exact, local, ground_truth[square])


# -- telling


def table(outcome: Outcome) -> str:
    """Write the figures as text: mean, and lowest to highest of all images."""
    lines = ["tile      " + "".join(f"{t:>24}" for t in (*outcome.tiles, "untiled"))]
    for what, curves in (("tile mismatch", outcome.mismatch), ("Dice", outcome.dice)):
        for name, values in curves.items():
            lines += [f"{what}, {name}", " " * 10 + "".join(map(_spread, values.T))]
    for k, name in enumerate(CHANNEL_NAMES):
        columns = outcome.disparity[..., k].T
        lines += [f"disparity, {name}", " " * 10 + "".join(map(_spread, columns))]
    for name, values in outcome.at_reach.items():
        spread = _spread(values).strip()
        lines.append(
            f"tile mismatch, halo {outcome.reach}, tile {outcome.tiles[-1]}, {name}: {spread}"
        )
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():>9.4g} ({values.min():.3g}-{values.max():.3g})".rjust(24)


@drawn_here
def draw(outcome: Outcome) -> Any:
    """Draw the figure: three plots above five pictures."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9.6, 6.1), layout="constrained", facecolor="white")
    drawn.get_layout_engine().set(w_pad=0.08, h_pad=0.07)
    above, below = drawn.subfigures(2, 1, height_ratios=(1.12, 1))
    for part in (above, below):
        part.set_facecolor("white")
    mismatch, dice, disparity = above.subplots(1, 3)
    _curves(mismatch, outcome.tiles, outcome.mismatch)
    _curves(dice, (*outcome.tiles, outcome.size), outcome.dice)
    _channels(disparity, outcome)
    mismatch.set(yscale="log", title=f"Tile mismatch, 1 − Dice (halo {HALO})")
    dice.set_title("Dice with the ground truth, mean of classes")
    disparity.set_title("Train/eval disparity, BatchNorm")
    for axes in (mismatch, dice, disparity):
        sizes = outcome.tiles if axes is not dice else (*outcome.tiles, outcome.size)
        axes.set(xlabel="tile (pixels)", xscale="log")
        axes.set_xticks(sizes, [*map(str, outcome.tiles), "whole"][: len(sizes)])
        axes.set_xticks([], minor=True)
    disparity.set_xlabel("tile (pixels), one per batch")
    _note_full_halo(mismatch, outcome)
    _legend(above, mismatch, len(outcome.disparity))
    _pictures(below, outcome)
    return drawn


def _curves(axes: Any, sizes: Sequence[int], curves: dict[str, np.ndarray]) -> None:
    for name, values in curves.items():
        axes.fill_between(sizes, values.min(0), values.max(0), color=COLORS[name], alpha=0.16, lw=0)
        axes.plot(sizes, values.mean(0), color=COLORS[name], marker=MARKERS[name], ms=5, label=name)


def _note_full_halo(axes: Any, outcome: Outcome) -> None:
    """Write what is left at a halo as wide as the convolutions reach; 0 has no logarithm."""
    left = "\n".join(
        f"{name.replace('InstanceNorm, ', '')}: {values.mean():.2g}"
        for name, values in outcome.at_reach.items()
    )
    axes.set_ylim(bottom=axes.get_ylim()[0] / 60)
    axes.annotate(
        f"halo {outcome.reach}, tiles of {outcome.tiles[-1]}:\n{left}",
        (0.03, 0.03), xycoords="axes fraction", fontsize=8.5, linespacing=1.3,
    )  # fmt: skip


def _legend(part: Any, axes: Any, images: int) -> None:
    from matplotlib.patches import Patch

    band = Patch(
        color=MUTED,
        alpha=0.25,
        lw=0,
        label=f"lowest to highest of {images} image{'s' * (images > 1)}",
    )
    handles = [*axes.get_legend_handles_labels()[0], band]
    part.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)


def _channels(axes: Any, outcome: Outcome) -> None:
    """One line per channel, in the colours of the pictures and distinguished by their markers."""
    styles = zip(CHANNEL_COLORS, ("-", "--", "-.", ":"), "vXP^", strict=True)
    for k, (color, line, marker) in enumerate(styles):
        values = outcome.disparity[..., k]
        axes.fill_between(
            outcome.tiles, values.min(0), values.max(0), color=color, alpha=0.18, lw=0
        )
        axes.plot(
            outcome.tiles, values.mean(0), color=color, ls=line, lw=2.2, marker=marker,
            ms=7, mec=INK, mew=0.7, label=CHANNEL_NAMES[k],
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, loc="upper right")


def _pictures(below: Any, outcome: Outcome) -> None:
    from matplotlib.colors import ListedColormap

    place, tile = outcome.place, outcome.tiles[0]
    classes = ListedColormap(CHANNEL_COLORS)
    shown = {
        "image": place.image,
        f"own, tiles of {tile}": place.before,
        f"exact, tiles of {tile}": place.exact,
        f"local, tiles of {tile}": place.local,
        "ground truth": place.ground_truth,
    }
    for axes, (title, picture) in zip(below.subplots(1, 5), shown.items(), strict=True):
        if picture is place.image:
            axes.imshow(picture, cmap="gray", interpolation="nearest")
        else:
            axes.imshow(picture, cmap=classes, vmin=0, vmax=3, interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=title)
        axes.spines[:].set_visible(False)
    below.legend(handles=_swatches(), loc="outside lower center", ncols=4, fontsize=9)


def _swatches() -> list[Any]:
    from matplotlib.patches import Patch

    pairs = zip(CHANNEL_NAMES, CHANNEL_COLORS, strict=True)
    return [Patch(color=color, label=name) for name, color in pairs]


def save(drawn: Any, file: Path) -> None:
    """Save with 256 colours, so that the file stays small enough for a page."""
    from PIL import Image

    buffer = io.BytesIO()
    drawn.savefig(buffer, dpi=160, facecolor="white")
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main(arguments: Sequence[str] | None = None) -> Outcome:
    """Measure, print the figures, and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("tile_statistics.png"))
    parser.add_argument("--quick", action="store_true", help="one small image, two sizes of tiles")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    count, size, tiles = (1, 192, (64, 128)) if asked.quick else (5, 512, (64, 96, 128, 192, 256))
    start = time.perf_counter()
    images = [tissue((size, size), FIRST_SEED + k) for k in range(count)]
    outcome = measure(images, tiles, side=min(256, size))
    print(table(outcome))
    save(draw(outcome), asked.out)
    print(f"{asked.out} saved after {time.perf_counter() - start:.0f} s")
    return outcome


if __name__ == "__main__":
    main()
