"""Train the demo models: ``python -m seamscope.demo.train [--only NAME]``.

Knows the recipe of each demo model and where its weights are kept. Does not know how they are
used.

Both of a pair are trained alike, on random patches of moderate size as most networks are:
a patch rarely looks like the whole image, which BatchNorm averages away in its running statistics
and InstanceNorm does not. Seeds are fixed; another machine or number of threads changes the last
digits of the weights and nothing that matters.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from seamscope.demo import CHANNEL_NAMES, NAMES, RECIPES, Recipe, weights_file, zscore
from seamscope.demo.network import UNet
from seamscope.demo.tissue import BOUNDARY, tissue

_FIRST_HELD_OUT = 10_000  # seeds from here on are never trained on
_CLASS_WEIGHTS = (1.0, 2.0, 1.5, 1.0)  # membranes are thin


def train(recipe: Recipe, seed: int = 0) -> UNet:
    """Train one demo model from nothing, deterministically.

    Parameters
    ----------
    recipe
        Usually one of `RECIPES`.
    seed
        Of the first weights and of the choice of patches, not of the images; the bundled weights
        are those of seed 0.

    Returns
    -------
    UNet
        In evaluation mode.
    """
    torch.manual_seed(7 + seed)
    network = recipe.network()
    layout = torch.channels_last if recipe.spatial_axes == 2 else torch.channels_last_3d
    _lay_out(network, layout)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps
    )
    for step, (image, labels) in enumerate(_patches(recipe, seed)):
        loss = _loss(network.logits(image.contiguous(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"  step {step + 1}/{recipe.steps}  loss {loss.item():.3f}", flush=True)
    return _lay_out(network, torch.contiguous_format).eval()


def _lay_out(network: UNet, layout: torch.memory_format) -> UNet:
    """Reorder the weights in memory, in place; torch's stubs do not know this call."""
    network.to(memory_format=layout)  # type: ignore[call-overload]
    return network


def evaluate(
    network: nn.Module, recipe: Recipe, seed: int = _FIRST_HELD_OUT
) -> NDArray[np.float64]:
    """Dice of each class on one held-out image, predicted whole.

    Parameters
    ----------
    network
        In evaluation mode.
    recipe
        Gives the shape of the image.
    seed
        Of the image; from 10,000 on no seed was trained on.

    Returns
    -------
    ndarray
        `(4,)`, float64.
    """
    image, labels = tissue(recipe.image, seed)
    with torch.inference_mode():
        predicted = network(torch.from_numpy(zscore(image))[None, None])[0].argmax(0).numpy()
    pairs = [(predicted == k, labels == k) for k in range(len(CHANNEL_NAMES))]
    return np.array([2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in pairs])


def _patches(recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of random patches, `(N, 1, *patch)` float32 and `(N, *patch)` int64."""
    rng = np.random.default_rng(11 + seed)
    pictures = [tissue(recipe.image, seed) for seed in range(recipe.images)]
    standard = [(zscore(image), labels) for image, labels in pictures]
    for _ in range(recipe.steps):
        pairs = [
            _patch(*standard[rng.integers(len(standard))], recipe.patch, rng)
            for _ in range(recipe.batch)
        ]
        yield (
            torch.from_numpy(np.stack([image for image, _ in pairs])[:, None]),
            torch.from_numpy(np.stack([labels for _, labels in pairs]).astype(np.int64)),
        )


def _patch(
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    size: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut one patch, mirror and turn it, vary its contrast, brightness and noise a little."""
    start = [rng.integers(n - p + 1) for n, p in zip(image.shape, size, strict=True)]
    window = tuple(slice(s, s + p) for s, p in zip(start, size, strict=True))
    flips = tuple(slice(None, None, int(rng.choice([-1, 1]))) for _ in size)
    turn = (*range(len(size) - 2), *(rng.permutation(2) + len(size) - 2))
    patch = image[window][flips].transpose(turn)
    patch = patch * np.float32(rng.normal(1, 0.1)) + np.float32(rng.normal(0, 0.1))
    patch += np.float32(rng.uniform(0, 0.12)) * rng.standard_normal(patch.shape, dtype=np.float32)
    return patch, labels[window][flips].transpose(turn)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with heavier membranes, plus the soft Dice of the membranes."""
    entropy = functional.cross_entropy(logits, labels, weight=torch.tensor(_CLASS_WEIGHTS))
    predicted, labelled = logits.softmax(1)[:, BOUNDARY], (labels == BOUNDARY).float()
    dice = (2 * (predicted * labelled).sum() + 1) / (predicted.sum() + labelled.sum() + 1)
    return entropy + 0.5 * (1 - dice)


def main() -> int:
    """Train, save and judge the chosen models."""
    parser = argparse.ArgumentParser(description="Train the demo models of Seamscope.")
    parser.add_argument("--only", choices=NAMES, help="train this model alone")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in [asked.only] if asked.only else NAMES:
        begun = time.perf_counter()
        print(name, flush=True)
        network = train(RECIPES[name])
        target = Path(str(weights_file(name)))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(save(network.state_dict()))
        scores = zip(CHANNEL_NAMES, evaluate(network, RECIPES[name]), strict=True)
        judged = "  ".join(f"{channel} {score:.3f}" for channel, score in scores)
        print(f"  {time.perf_counter() - begun:.0f} s, held-out Dice: {judged}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
