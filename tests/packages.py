"""Packages of bioimage.io as others write them, and what bioimageio.core itself predicts with them.

The independent oracle of what is done before, between and after: bioimageio.spec reads and packs
the card, bioimageio.core predicts a whole image, both in a process of their own, since they change
logging and warnings of the whole process.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

COMMON = {
    "type": "model", "name": "Test network", "description": "For a test", "license": "MIT",
    "authors": [{"name": "A. Person"}], "documentation": "README.md",
    "cite": [{"text": "none", "url": "https://bioimage.io"}], "timestamp": "2026-01-01T00:00:00",
    "format_version": "0.5.4",
}  # fmt: skip

_PROGRAM = """
import sys, logging, warnings
logging.disable(logging.CRITICAL); warnings.simplefilter("ignore")
import numpy as np
from pathlib import Path
from bioimageio.spec import load_description, save_bioimageio_package
from bioimageio.core import predict, test_model
for folder in map(Path, sys.argv[1:]):
    described = load_description(folder / "rdf.yaml")
    package = folder.with_suffix(".zip")
    save_bioimageio_package(described, output_path=package)
    tested = test_model(package)
    assert tested.status == "passed", [str(each.errors) for each in tested.details]
    found = predict(model=package, inputs=dict(np.load(folder / "given.npz")))
    np.savez(folder / "found.npz", **{
        str(name): np.asarray(tensor.data) for name, tensor in found.members.items()})
"""


def npy(array: Any) -> bytes:
    """An array as the bytes of its file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def sha(data: bytes) -> str:
    """Its checksum, as cards have it."""
    return hashlib.sha256(data).hexdigest()


def tensor(name: str, channels: int, test: Any, **more: Any) -> tuple[dict[str, Any], bytes]:
    """Description of an input of format 0.5, and its test data."""
    space = [{"type": "space", "id": n, "size": {"min": 8, "step": 4}} for n in "yx"]
    names = [f"{name}{i}" for i in range(channels)]
    axes = [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space]
    data = npy(test)
    told = {"id": name, "data": {"type": "float32"}, "axes": axes}
    return told | {"test_tensor": {"source": f"{name}.npy", "sha256": sha(data)}} | more, data


def result(name: str, of: str, channels: int, test: Any, **more: Any) -> tuple[dict, bytes]:
    """Description of an output that has the sizes of an input, and its test data."""
    told, data = tensor(name, channels, test, **more)
    for axis in told["axes"][2:]:
        axis["size"] = {"tensor_id": of, "axis_id": axis["id"]}
    return told, data


def state_dict(source: str, net: torch.nn.Module, **kwargs: Any) -> tuple[dict, dict[str, bytes]]:
    """Weights of a card: Python source and the network's state."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    files = {"net.py": source.encode(), "w.pt": buffer.getvalue(), "README.md": b"# Test\n"}
    told = {
        "source": "w.pt", "sha256": sha(files["w.pt"]), "pytorch_version": "2.4",
        "architecture": {"source": "net.py", "sha256": sha(files["net.py"]), "callable": "Net",
                         "kwargs": kwargs},
    }  # fmt: skip
    return {"pytorch_state_dict": told}, files


def written(folder: Path, inputs: Any, outputs: Any, weights: Any, **card: Any) -> Path:
    """Write a package as a folder; tensors as `tensor` and `result` give them."""
    told, files = weights
    files = {**files, **{f"{each['id']}.npy": data for each, data in (*inputs, *outputs)}}
    card = {**COMMON, "inputs": [each for each, _ in inputs], "weights": told, **card}
    card["outputs"] = [each for each, _ in outputs]
    folder.mkdir()
    for name, data in {"rdf.yaml": yaml.safe_dump(card).encode(), **files}.items():
        (folder / name).write_bytes(data)
    return folder


def predicted_by_core(given: dict[Path, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Let bioimageio pack, test and predict.

    Parameters
    ----------
    given
        For each folder the images of its inputs, ``(1, C, *spatial)``; the package itself is
        then beside it, ``name.zip``.

    Returns
    -------
    predictions
        For each folder's name the predictions by outputs' names.
    """
    for folder, images in given.items():
        np.savez(folder / "given.npz", **images)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, given)],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {folder.name: dict(np.load(folder / "found.npz")) for folder in given}
