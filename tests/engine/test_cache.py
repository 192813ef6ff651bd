"""Kept values come back whole or not at all, and the folder stays small."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from seamscope import cache as caching
from seamscope.cache import Cache, cache_folder, clear, entries
from seamscope.cli import app


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
