"""What is written is true: docstring examples and the README's Python run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re

import numpy as np
import pytest
import torch

import seamscope
from places import ROOT

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(seamscope.__path__, "seamscope.")
    if "docks" not in name and not name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["seamscope", *MODULES])
def test_examples_in_docstrings(name) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch, "np": np})
    assert result.failed == 0


def test_docstrings_have_examples_at_all() -> None:
    finder = doctest.DocTestFinder()
    found = sum(
        len(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
    )
    assert found >= 10


def test_the_readme_runs(capsys) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
        printed = capsys.readouterr().out.split("\n")
        for promised in re.findall(r"^# (.*)$", block, re.M):
            assert promised in printed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(page) -> None:
    text = (ROOT / page).read_text(encoding="utf8")
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)+(?:\.py)?/?)`", text)
    places = (ROOT, ROOT / "src" / "seamscope", ROOT / "tests")
    made = {"docs/_build/html", "shared/real"}  # by commands, or by the user
    for name in set(named) - made:
        file = name if name.endswith((".py", "/")) else f"{name}.py"
        assert any((p / name).exists() or (p / file).exists() for p in places), name
    assert named
