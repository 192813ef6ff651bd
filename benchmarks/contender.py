"""One way of predicting an image tile by tile, in a process of its own; started by prediction.py.

``python contender.py NAME CASE``, CASE being JSON. Predicts once for each line it reads, and
answers with one line of JSON. Needs of seamscope only what its own contender imports, so that the
others can run where they are installed.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]


def monai(case: dict[str, Any], batch: int) -> Predict:
    """MONAI's sliding window, its overlap chosen so that the stride is the same."""
    import torch
    from monai.inferers import sliding_window_inference

    from networks import network

    unet = network(case["network"], case["axes"])
    overlap = [2 * h / t for h, t in zip(case["halo"], case["tile"], strict=True)]

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            whole = torch.from_numpy(image)[None, None]
            result = sliding_window_inference(
                whole, case["tile"], batch, unet, overlap=overlap, mode="constant"
            )
        return result[0].numpy()

    return predict


def torch_em(case: dict[str, Any]) -> Predict:
    """torch_em's blocks with a halo; its block is what the others call core."""
    from torch_em.util.prediction import predict_with_halo

    from networks import network

    unet = network(case["network"], case["axes"])
    core = [t - 2 * h for h, t in zip(case["halo"], case["tile"], strict=True)]

    def predict(image: np.ndarray) -> np.ndarray:
        options = {"preprocess": None, "disable_tqdm": True}
        return predict_with_halo(image, unet, ["cpu"], core, case["halo"], **options)

    return predict


def forward(case: dict[str, Any]) -> Predict:
    """The plain network over the same tiles, and nothing else."""
    import torch

    from networks import network

    unet = network(case["network"], case["axes"])

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            for place in _places(case, image.shape):
                unet(torch.from_numpy(np.ascontiguousarray(image[place]))[None, None])
        return np.zeros(0)

    return predict


def whole(case: dict[str, Any]) -> Predict:
    """The plain network over the whole image at once: what tiles should add up to."""
    import torch

    from networks import network

    unet = network(case["network"], case["axes"])

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return unet(torch.from_numpy(image)[None, None])[0].numpy()

    return predict


def loop(case: dict[str, Any]) -> Predict:
    """The least that can be done: cut, run, copy what is kept, without a thought for borders."""
    import torch

    from networks import network

    unet = network(case["network"], case["axes"])
    inner = tuple(slice(h, t - h) for h, t in zip(case["halo"], case["tile"], strict=True))

    def predict(image: np.ndarray) -> np.ndarray:
        result = np.empty((unet.out_channels, *image.shape), np.float32)
        with torch.inference_mode():
            for place in _places(case, image.shape):
                tile = torch.from_numpy(np.ascontiguousarray(image[place]))[None, None]
                kept = unet(tile)[0].numpy()[:, *inner]
                result[:, *place][:, *inner] = kept
        return result

    return predict


def _places(case: dict[str, Any], shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    import itertools

    axes = []
    for extent, tile, halo in zip(shape, case["tile"], case["halo"], strict=True):
        starts = [*range(0, extent - tile, tile - 2 * halo), extent - tile]
        axes.append([slice(start, start + tile) for start in starts])
    return list(itertools.product(*axes))


def seamscope(
    case: dict[str, Any], accelerate: bool, auto: bool, memory: str = "", seams: str = "sample"
) -> Predict:
    """Seamscope; `network_seconds` of the process is the time its network ran.

    A sample of the overlaps is compared, as ``seams="auto"`` does from 2048 x 2048 pixels on.
    """
    from seamscope import process_memory

    if memory:
        getattr(process_memory, memory)()
    from networks import network
    from seamscope.images.image import open_image
    from seamscope.models.model import as_model
    from seamscope.models.runner import Runner
    from seamscope.prediction.output import open_output
    from seamscope.prediction.run import begin, run
    from seamscope.settings import Settings

    model = as_model(network(case["network"], case["axes"]))
    call = Runner.__call__

    def timed(self: Runner, *given: Any) -> Any:
        begin = time.perf_counter()
        result = call(self, *given)
        FIGURES["network_seconds"] += time.perf_counter() - begin
        FIGURES["forwards"] += 1
        return result

    Runner.__call__ = timed  # type: ignore[method-assign]
    tile, halo = ("auto" if auto else case["tile"]), case["halo"]

    def predict(image: np.ndarray) -> np.ndarray:
        FIGURES.update(network_seconds=0.0, forwards=0)

        def note(event: Any) -> None:
            figures = getattr(event, "figures", None)
            if figures:
                way = figures["network"]
                FIGURES.update(run_seconds=event.seconds, way=way, tiles=figures["tiles"])
                FIGURES["network_seconds_of_run"] = FIGURES["network_seconds"]
            elif type(event).__name__ == "Started":
                tile = list(event.plan.grid.tile_shape)
                FIGURES.update(network_seconds=0.0, forwards=0, tile=tile)

        options: dict[str, Any] = {"tile": tile, "halo": halo, "accelerate": accelerate}
        settings = Settings(normalize="none", device="cpu", seams=seams, **options)
        source, out = open_image(image, axes="zyx"[-case["axes"] :]), case.get("out")
        planned, task = begin(source, model, settings, out)
        with open_output(planned, out, overwrite=True, task=task) as output:
            for event in run(planned, output):
                note(event)
            return output.array

    return predict


FIGURES: dict[str, Any] = {}

CONTENDERS: dict[str, Callable[[dict[str, Any]], Predict]] = {
    "forward": forward,
    "whole": whole,
    "loop": loop,
    "MONAI, batch 1": lambda case: monai(case, 1),
    "MONAI, batch 4": lambda case: monai(case, 4),
    "torch_em": torch_em,
    "Seamscope, plain": lambda case: seamscope(case, False, False),
    "Seamscope": lambda case: seamscope(case, True, False),
    "Seamscope, no seams": lambda case: seamscope(case, True, False, seams="none"),
    "Seamscope, all seams": lambda case: seamscope(case, True, False, seams="all"),
    "Seamscope, huge pages": lambda case: seamscope(case, True, False, "use_huge_pages"),
    "Seamscope, kept memory": lambda case: seamscope(case, True, False, "keep_freed_memory"),
    "Seamscope, auto tile": lambda case: seamscope(case, True, True),
    "Seamscope, auto tile, kept memory": lambda case: seamscope(
        case, True, True, "keep_freed_memory"
    ),
    "Seamscope, auto tile, huge pages": lambda case: seamscope(case, True, True, "use_huge_pages"),
}


class Peak:
    """Largest anonymous memory while a thread watches; page cache does not count."""

    def __init__(self) -> None:
        self.bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("RssAnon:"):
                    self.bytes = max(self.bytes, int(line.split()[1]) * 1024)
            time.sleep(0.02)


def main() -> None:
    name, case = sys.argv[1], json.loads(sys.argv[2])
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        predict = CONTENDERS[name](case)
    except ImportError as missing:
        print(json.dumps({"missing": str(missing)}), flush=True)
        return
    import torch

    torch.set_num_threads(case["threads"])
    image: Any = case["image"]
    image = np.load(image) if image.endswith(".npy") else image
    print(json.dumps({"ready": True}), flush=True)
    peak = Peak() if case.get("peak") else None
    for _ in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        result = predict(image)
        answer = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
        if case.get("result") and result is not None and np.size(result):
            np.save(case["result"], result)
        if peak is not None:
            answer["peak"] = peak.bytes
        print(json.dumps(answer | FIGURES), flush=True)


if __name__ == "__main__":
    main()
