"""What is asked of a GPU: its logic on the CPU, with tiles that cost nothing."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import torch

from places import ROOT


@pytest.fixture(scope="module")
def gpu():
    if not (ROOT / "benchmarks" / "gpu.py").exists():
        pytest.skip("benchmarks are not part of the source distribution")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        yield importlib.import_module("benchmarks.gpu")


def test_without_a_gpu_it_says_so(gpu, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([])
    assert "no GPU" in capsys.readouterr().out


def test_every_part_is_measured(gpu, monkeypatch) -> None:
    ways = {name: gpu.WAYS[name] for name in ("float32", "bfloat16")}
    monkeypatch.setattr(gpu, "WAYS", ways)
    rows = {row.name: row for row in gpu.report(gpu.Bench("cpu", 80, tile=32, halo=8, repeats=1))}
    for name in ("batch norm, float32", "instance norm, float32", "gradient map"):
        assert rows[name].good is True, rows[name]
    assert rows["batch norm, bfloat16"].good is None
    assert "of the network alone" in rows["float32"].value
    assert rows["fixed statistics (means)"].good is True
    assert rows["out of memory"].value == "measured on a GPU only"


def test_what_differs_and_what_fails_is_a_row_to_look_at(gpu, monkeypatch, capsys) -> None:
    right = np.array([0.0, 1.0])
    assert gpu._difference("", right + 1e-3, right, {}).good is False
    assert gpu._difference("", right, right, {}).good is True

    def broken(bench):
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(gpu, "PARTS", {"memory": broken})
    (row,) = gpu.report(gpu.Bench("cpu"))
    assert row.good is False
    assert "driver is too old" in capsys.readouterr().out
