"""Kept values come back whole or not at all, and the folder stays small."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from seamscope import cache as caching
from seamscope.cache import Cache, cache_folder, clear, entries
from seamscope.cli import app
from seamscope.models.formats import load_model
from seamscope.models.same_network import network_key


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAMSCOPE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def files():
    return sorted(cache_folder().rglob("*.json"))


def test_values_come_back_by_kind_and_key():
    Cache("a").put("one", {"x": [1, None, "é"]})
    Cache("b").put("one", 2)
    assert Cache("a").get("one") == {"x": [1, None, "é"]}
    assert Cache("b").get("one") == 2
    assert Cache("a").get("two") is None
    Cache("a").put("one", 3)
    assert Cache("a").get("one") == 3


@pytest.mark.parametrize("damage", [b"", b'{"key"', b"[1]", b"{}", b"\xff\xfe"])
def test_a_damaged_file_is_absent_and_can_be_written_again(damage):
    Cache("a").put("one", 1)
    files()[0].write_bytes(damage)
    assert Cache("a").get("one") is None
    assert entries() == ()
    Cache("a").put("one", 2)
    assert Cache("a").get("one") == 2


def test_another_versions_values_are_not_read(monkeypatch):
    Cache("a").put("one", 1)
    monkeypatch.setattr(caching, "_version", lambda: "another")
    assert Cache("a").get("one") is None
    assert [entry.current for entry in entries()] == [False]


def test_two_keys_of_one_file_are_not_mixed_up():
    Cache("a").put("one", 1)
    content = json.loads(files()[0].read_text())
    files()[0].write_text(json.dumps(content | {"key": "two"}))
    assert Cache("a").get("one") is None


def test_the_oldest_go_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(caching, "LARGEST", 1000)
    for n in range(20):
        Cache("a").put(str(n), "x" * 100)
        for age, entry in enumerate(reversed(entries())):
            file = Cache("a")._file(entry.key)
            os.utime(file, (1000 + age, 1000 + age))
    assert sum(file.stat().st_size for file in files()) <= 1000
    assert Cache("a").get("19") == "x" * 100
    assert Cache("a").get("0") is None


def test_a_folder_that_cannot_be_written_is_no_failure(own_folder):
    own_folder.write_text("a file where the folder should be")
    Cache("a").put("one", 1)
    assert Cache("a").get("one") is None


def test_clear_removes_one_kind_or_all():
    Cache("a").put("one", 1)
    Cache("b").put("one", 2)
    assert clear("a") == 1
    assert Cache("b").get("one") == 2
    assert clear() == 1
    assert entries() == ()


def test_the_command_lists_and_clears():
    Cache("facts").put("network 12ab", {"period": [8]})
    shown = CliRunner().invoke(app, ["cache"]).output
    assert "facts" in shown
    assert "network 12ab" in shown
    assert "1 measurement from" in CliRunner().invoke(app, ["cache", "--clear"]).output
    assert Cache("facts").get("network 12ab") is None


# -- a network is not taken for another one

HELPER = "import torch\ndef shifted(x):\n    return x + torch.roll(x, {}, 3)\n"
USER = """
import torch
from torch import nn
from helper_of_a_test import shifted

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        x = self.a(x)
        return torch.where(x > 1e9, shifted(x), x)  # the sample does not show it

def network():
    torch.manual_seed(0)
    return Net().eval()
"""


def test_code_that_a_network_uses_is_part_of_its_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net.py").write_text(USER)
    names = []
    for shift in (1, 2):
        (tmp_path / "helper_of_a_test.py").write_text(HELPER.format(shift))
        model = load_model(f"{tmp_path / 'net.py'}:network", trust=True)
        names.append(model.key)
    assert names[0] != names[1]


def from_closure(shift):
    class Shifted(nn.Module):
        def forward(self, x):
            return x[..., : x.shape[-1] - shift]

    return Shifted()


def with_function(function):
    module = nn.Identity()
    module.function = function
    return module


def of_name(reduce):
    return lambda x: x * (x.mean() > 5) if reduce == "mean" else x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (from_closure(1), from_closure(3)),
        (with_function(lambda x: x.mean() > 5), with_function(lambda x: x.amax() > 5)),
        (with_function(of_name("mean")), with_function(of_name("amax"))),
        (with_function({1}), with_function({2})),
    ],
)
def test_what_code_holds_is_part_of_a_networks_name(one, other):
    (hints,) = {load_model(each).hints for each in (one, other)}
    assert network_key("", one, hints) == network_key("", one, hints)
    assert network_key("", one, hints) != network_key("", other, hints)


class Reaching(nn.Module):
    """Its weights and code are those of each other one, what it reaches is not."""

    def __init__(self, far):
        super().__init__()
        self.far = torch.tensor(far)  # no buffer, and of no size that is shown

    def forward(self, x):
        first = 8 - int(self.far)
        moved = np.pad(x.numpy(), [(0, 0)] * 3 + [(8, 0)])  # not recorded
        return x + torch.from_numpy(moved[..., first : first + x.shape[-1]])


def test_a_reach_is_of_the_network_that_a_small_prediction_shows():
    reaches = []
    for far in (2, 5, 2):
        model = load_model(Reaching(far).eval())
        reaches.append(model.reach.halo)
    assert reaches == [((0, 0), (2, 0)), ((0, 0), (5, 0)), ((0, 0), (2, 0))]
