"""Which statistics are closest to the ground truth: per-tile ones, or which of the fixed ones.

``python benchmarks/frozen_statistics.py [--seeds 5] [--size 768] [--trained 3 --weights FOLDER]``

Dice with the ground truth, and the mismatch of neighbouring tiles that is left, of

* the demo InstanceNorm network on images it was not trained on, beside its BatchNorm twin;
* with ``--trained N``: N more of its kind, trained from other seeds (ten minutes each, once: their
  weights are kept in FOLDER);
* the shared real InstanceNorm network, on nuclei of which it was not trained on a single one. Its
  output has no natural threshold: the best one for tiles of 256 on the whole image is taken for
  all ways, and beside it stands Dice at each way's own best threshold.

Then why local statistics are taken window by window and not layer by layer: a window predicted with
its own statistics, with those of another window, and with some layers' from here and the others'
from there. ``--quick`` takes little of each (seconds instead of a quarter of an hour).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tifffile
import torch
from safetensors.torch import load, save

from seamscope import Settings, freeze_statistics, load_model, measure_seams, predict
from seamscope.demo import RECIPES, sample_image, zscore
from seamscope.demo.tissue import tissue
from seamscope.demo.train import train
from seamscope.models.model import Model
from seamscope.normalization.statistics import Statistics

Array: TypeAlias = np.ndarray[Any, Any]
Score: TypeAlias = Callable[[Array, Array], tuple[float, float]]

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("SEAMSCOPE_REAL", ROOT.parent / "shared" / "real"))
FIRST_SEED = 20_010  # no demo network was trained on images of seeds from 10,000 on
THRESHOLDS = 200


@dataclass(frozen=True)
class Ways:
    """What is compared.

    Attributes
    ----------
    tiles
        Sizes of tiles that are normalized with per-tile statistics. Each is predicted with the halo
        it has room for; the last also with fixed statistics.
    references
        Those of them that all others are held against.
    cells
        Of local statistics.
    sample
        Tiles of sampled ones.
    """

    tiles: tuple[int, ...] = (64, 96, 128, 160, 256)
    references: tuple[int, ...] = (160, 256)
    cells: tuple[int, ...] = (64, 128, 256)
    sample: int = 16


QUICK = Ways((96, 128), (128,), (64,), 4)


@dataclass
class Scores:
    """Of one way, over images: Dice, Dice at the best threshold, mismatch that is left."""

    dice: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    mismatch: list[float] = field(default_factory=list)


Table: TypeAlias = dict[str, Scores]


def main(arguments: Sequence[str] | None = None) -> dict[str, Table]:
    """Measure and print; return the tables by network."""
    args = _arguments(arguments)
    torch.set_num_threads(args.threads)
    begin = time.perf_counter()
    ways, tables = (QUICK, {}) if args.quick else (Ways(), {})
    seeds, size = (1, 192) if args.quick else (args.seeds, args.size)
    for title, model, twin in _demo_networks(args) if seeds else ():
        table = tables[title] = {}
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            image, labels = tissue((size, size), seed)
            if twin is not None:
                _note(
                    table, "BatchNorm twin", twin, zscore(image), labels, ways.tiles[-1], _classes
                )
            _compare(table, model, zscore(image), labels, ways, _classes)
        print(f"\n{title}, {seeds} image{'s' * (seeds > 1)} of {size} x {size}")
        print("\n".join(lines(table, ways)), flush=True)
    if args.trained and not args.quick:
        print(f"\nAll {len(tables)} networks together")
        print("\n".join(lines(together(tables.values()), ways)), flush=True)
    if REAL.is_dir():
        table = tables["real"] = _real(ways, args.quick)
        print("\n".join(lines(table, ways, thresholds=True)), flush=True)
    else:
        print(f"\nThe real network is left out: there is no folder {REAL} (SEAMSCOPE_REAL).")
    print("\nA window's pixels that are right, by where the statistics of its layers are from")
    for name, right in mixed(1 if args.quick else 4):
        print(f"{name:58s}{right:7.3f}", flush=True)
    print(f"\n{time.perf_counter() - begin:.0f} s")
    return tables


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="images for each network; 0 for none")
    parser.add_argument("--size", type=int, default=768, help="of the images")
    parser.add_argument("--trained", type=int, default=0, help="networks to train")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="where they are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args(arguments)


# -- networks and images


def _demo_networks(args: argparse.Namespace) -> Iterator[tuple[str, Model, Model | None]]:
    yield "demo:instancenorm", load_model("demo:instancenorm"), load_model("demo:batchnorm")
    for seed in range(1, args.trained + 1):
        yield f"trained, seed {seed}", load_model(_trained(seed, args.weights)), None


def _trained(seed: int, folder: Path) -> torch.nn.Module:
    """The demo InstanceNorm network from another seed, trained unless it was before."""
    recipe = RECIPES["instancenorm"]
    file = folder / f"instancenorm-{seed}.safetensors"
    if not file.exists():
        network = train(recipe, seed)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(save(network.state_dict()))
    network = recipe.network()
    network.load_state_dict(load(file.read_bytes()))
    return network.eval()


def _real(ways: Ways, quick: bool) -> Table:
    """The real network on the whole image, and on each of its corners by itself."""
    weights = REAL / "models" / "unet2d_covid_if_instancenorm" / "state_dict.safetensors"
    factory = ROOT / "tests" / "real_networks.py"
    model = load_model(f"{factory}:covid_instancenorm@{weights}", trust=True)
    image = zscore(tifffile.imread(REAL / "images" / "nuclei_2d.tif"))
    labels = tifffile.imread(REAL / "images" / "nuclei_2d_labels.tif") > 0
    ends = (slice(0, 384), slice(128, 512))
    parts: list[Any] = [np.s_[:, :]]
    parts += [(y, x) for y in ends for x in ends]
    if quick:
        parts = [np.s_[:192, :192]]
    own, _ = _predicted(model, image[parts[0]].copy(), ways.tiles[-1])
    threshold = _best_threshold(own[0], labels[parts[0]])
    print(f"\nunet2d_covid_if_instancenorm, nuclei_2d and its corners, threshold {threshold:.3f}")
    table: Table = {}
    for part in parts:
        _compare(table, model, image[part].copy(), labels[part], ways, _foreground(threshold))
    return table


# -- measuring


def _compare(
    table: Table, model: Model, image: Array, labels: Array, ways: Ways, score: Score
) -> None:
    """Predict an image in all ways, and note how close each is to the ground truth."""
    last = ways.tiles[-1]
    for tile in ways.tiles:
        _note(table, f"own, tile {tile}", model, image, labels, tile, score)
    for name, statistics in _fixed(model, image, ways):
        fixed = model.with_statistics(statistics)
        _note(table, name, fixed, image, labels, last, score)


def _fixed(model: Model, image: Array, ways: Ways) -> Iterator[tuple[str, Statistics]]:
    settings = Settings(normalize="none")
    yield "exact", freeze_statistics(image, model, "exact", settings)
    for cell in ways.cells:
        found = freeze_statistics(image, model, "local", settings, cell=cell)
        yield f"local, cells of {cell}", found
    sampled = settings.but(tile=ways.tiles[-1])
    found = freeze_statistics(image, model, "sampled", sampled, tiles=ways.sample)
    yield f"sampled, {ways.sample} tiles", found


def _note(
    table: Table, name: str, model: Model, image: Array, labels: Array, tile: int, score: Score
) -> None:
    prediction, mismatch = _predicted(model, image, tile)
    dice, best = score(prediction, labels)
    scores = table.setdefault(name, Scores())
    scores.dice.append(dice)
    scores.best.append(best)
    scores.mismatch.append(mismatch)


def _predicted(model: Model, image: Array, tile: int) -> tuple[Array, float]:
    """Predict in tiles: ``(C, Y, X)``, and the mean mismatch of the channels."""
    whole: list[Array] = []

    def gather(plan: Any, frame: Any, tile: Any, prediction: Array) -> None:
        if not whole:
            whole.append(np.empty((len(prediction), *plan.grid.output_shape), np.float32))
        whole[0][:, *tile.core] = prediction[:, *tile.crop]

    settings = Settings(tile=tile, normalize="none")
    report = measure_seams(image, model, settings, watchers=[gather])
    return whole[0], float(np.mean(report.measures.soft)) if report.measures else 0.0


def _classes(prediction: Array, labels: Array) -> tuple[float, float]:
    """Mean Dice of all classes; the largest wins, and there is no threshold to choose."""
    found = prediction.argmax(0)
    mean = float(np.mean([_dice(found == k, labels == k) for k in range(len(prediction))]))
    return mean, mean


def _foreground(threshold: float) -> Score:
    def score(prediction: Array, labels: Array) -> tuple[float, float]:
        best = _best_threshold(prediction[0], labels)
        return _dice(prediction[0] > threshold, labels), _dice(prediction[0] > best, labels)

    return score


def _best_threshold(prediction: Array, labels: Array) -> float:
    tried = np.quantile(prediction, np.linspace(0.3, 0.999, THRESHOLDS))
    return float(max(tried, key=lambda t: _dice(prediction > t, labels)))


def _dice(a: Array, b: Array) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


# -- why statistics of several layers belong together


def mixed(count: int) -> Iterator[tuple[str, float]]:
    """Predict windows with layers' statistics from two places; the share of right pixels.

    Windows of the sample image with and without background: there statistics differ most.
    """
    model = load_model("demo:instancenorm")
    image, labels = zscore(sample_image("tissue2d")[0]), sample_image("tissue2d")[1]
    places = [((512, 0), (0, 256)), ((0, 512), (512, 256)), ((512, 0), (0, 768)),
              ((0, 512), (0, 768))][:count]  # fmt: skip
    settings = Settings(normalize="none", seams="none", tile=256)
    rights: dict[str, list[float]] = {}
    for here, there in places:
        window, other = (tuple(slice(k, k + 256) for k in at) for at in (here, there))
        own, away = (
            freeze_statistics(image[w].copy(), model, "exact", settings) for w in (window, other)
        )
        for name, layers in _mixtures(own, away):
            fixed = model.with_statistics(dataclasses.replace(own, layers=layers))
            found = predict(image[window].copy(), fixed, settings=settings).argmax(0)
            rights.setdefault(name, []).append(float((found == labels[window]).mean()))
    yield from ((name, float(np.mean(values))) for name, values in rights.items())


def _mixtures(own: Statistics, away: Statistics) -> Iterator[tuple[str, tuple[Any, ...]]]:
    count = len(own.layers)
    yield f"all {count} its own", own.layers
    yield f"all {count} another window's", away.layers
    for first in (1, 2, count // 2):
        name = f"the first {first} its own, the others another window's"
        yield name, (*own.layers[:first], *away.layers[first:])


# -- telling


def together(tables: Iterable[Table]) -> Table:
    """Put together the scores of ways that all networks have."""
    first, *others = tables
    return {
        name: Scores(
            *(
                [value for table in (first, *others) for value in getattr(table[name], what)]
                for what in ("dice", "best", "mismatch")
            )
        )
        for name in first
        if all(name in other for other in others)
    }


def lines(table: Table, ways: Ways, thresholds: bool = False) -> Iterator[str]:
    """Write a table: mean and extremes over images, and each image against the references."""
    head = f"{'statistics':24s}{'Dice':>7s}{'lowest':>8s}{'highest':>8s}"
    head += f"{'best':>8s}" if thresholds else ""
    head += f"{'mismatch':>11s}"
    yield head + "".join(f"{f'than tile {tile}':>20s}" for tile in ways.references)
    for name, scores in table.items():
        dice = np.array(scores.dice)
        line = f"{name:24s}{dice.mean():7.3f}{dice.min():8.3f}{dice.max():8.3f}"
        line += f"{np.mean(scores.best):8.3f}" if thresholds else ""
        line += f"{np.mean(scores.mismatch):11.2g}"
        for tile in ways.references:
            apart = dice - np.array(table[f"own, tile {tile}"].dice)
            better = f"{apart.mean():+.3f} ({(apart > 0).sum()} of {len(apart)})"
            line += f"{better:>20s}"
        yield line


if __name__ == "__main__":
    main()
