"""Training with one tile per batch: BatchNorm, InstanceNorm and BatchRenorm side by side.

Microscopy images are large and differ from place to place; memory allows a tile or two per batch.
Then BatchNorm trains with statistics that it will not predict with, and InstanceNorm predicts with
statistics of each tile, which no halo makes agree. Batch renormalization (Ioffe 2017) trains with
the statistics it predicts with. Here three small U-Nets, that differ in normalization only, learn
to segment synthetic tissue from single tiles; then for each of them

* train/eval disparity: how far what it learned is from what it predicts,
* tile mismatch and the max difference between neighbouring tiles, at a halo as wide as the
  convolutions reach,
* Dice in evaluation, on an image it has not seen,
* and the same after its statistics were fixed (`seamscope.freeze_statistics`), where it uses those
  of its tiles.

Run it: ``python examples/batch_renorm.py`` (three minutes on one core); ``--steps 20`` shows that
it runs, and nothing about accuracy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import seamscope
from seamscope.demo import zscore
from seamscope.demo.network import UNet
from seamscope.demo.tissue import tissue
from seamscope.explain.train_eval import measure_disparity
from seamscope.models.model import Model, as_model
from seamscope.normalization.batch_renorm import Warmup, replace_normalization

TILE = 64  # pixels of a training patch
IMAGE = 384  # of the images trained on, and of the one that is predicted
HELD_OUT = 20_100


def main() -> None:
    """Train the three, and print what became of them."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    image, labels = tissue((asked.size, asked.size), HELD_OUT)
    print(f"{'':24s}{'disparity':>10s}{'mismatch':>10s}{'max dist':>10s}{'Dice':>8s}{'train':>8s}")
    for name in ("BatchNorm", "InstanceNorm", "BatchRenorm"):
        begin = time.perf_counter()
        model = as_model(train(name, asked.steps, asked.batch))
        seconds = time.perf_counter() - begin
        _report(name, model, zscore(image), labels, f"{seconds:.0f} s")
        if model.audit.calls:
            statistics = seamscope.freeze_statistics(zscore(image), model, normalize="none")
            _report(f"{name}, fixed", model.with_statistics(statistics), zscore(image), labels, "-")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2500, help="training steps of each network")
    parser.add_argument("--batch", type=int, default=1, help="tiles per batch")
    parser.add_argument("--size", type=int, default=IMAGE, help="of the image that is predicted")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


# -- training


def train(name: str, steps: int, batch: int) -> nn.Module:
    """Train a small U-Net with this normalization; returned in evaluation mode."""
    torch.manual_seed(0)
    network: nn.Module = UNet(2, features=(12, 24, 48), normalization="batch")
    if name == "InstanceNorm":
        network = replace_normalization(network, "InstanceNorm")
    if name == "BatchRenorm":
        # the paper's share of the training, though only hundreds of steps
        warmup = Warmup(steps // 10, steps // 2, steps // 3)
        network = replace_normalization(network, momentum=0.03, warmup=warmup)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    weights = torch.tensor([1.0, 2.0, 1.5, 1.0])  # membranes are thin
    network.train()
    for x, labels in _patches(steps, batch):
        logits: torch.Tensor = network.logits(x)  # type: ignore[operator]
        loss = F.cross_entropy(logits, labels, weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _patches(steps: int, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of random patches, the same for every network."""
    rng = np.random.default_rng(1)
    pictures = [tissue((IMAGE, IMAGE), seed) for seed in range(8)]
    standard = [(zscore(image), labels.astype(np.int64)) for image, labels in pictures]
    for _ in range(steps):
        chosen = [
            (standard[rng.integers(8)], *rng.integers(IMAGE - TILE, size=2)) for _ in range(batch)
        ]
        cut = [(x[i : i + TILE, j : j + TILE], t[i : i + TILE, j : j + TILE])
               for (x, t), i, j in chosen]  # fmt: skip
        yield (
            torch.from_numpy(np.stack([x for x, _ in cut])[:, None]),
            torch.from_numpy(np.stack([t for _, t in cut])),
        )


# -- looking at it


def _report(
    name: str, model: Model, image: np.ndarray, labels: np.ndarray, train_time: str
) -> None:
    settings = seamscope.Settings(tile=96, normalize="none")
    disparity = measure_disparity(image, model, settings) if model.statistics is None else None
    seams = seamscope.measure_seams(image, model, settings)
    found = seamscope.predict(image, model, settings=settings, result="labels")
    dice = np.mean([_dice(found == k, labels == k) for k in range(4)])
    worst = f"{disparity.worst:.3f}" if disparity else "-"
    mismatch = max(seams.measures.soft)
    print(
        f"{name:24s}{worst:>10s}{mismatch:10.4f}{seams.measures.max_dist:10.2g}{dice:8.3f}"
        f"{train_time:>8s}",
        flush=True,
    )


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


if __name__ == "__main__":
    main()
