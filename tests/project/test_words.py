"""Words that we do not write, and what stands for them; `CONTRIBUTING.md` has the rule.

Names in code count too. A room is listed once it is clean, and stays clean.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from places import ROOT

# What is not written: what is written instead.
WORDS = {
    r"told|tells": "says, shows, reports, returns, prints; record, rows, sentences",
    r"(is|are|was) asked( for)?|asked for": "requested, chosen; setting, default",
    r"believed|distrust\w*": "discarded, halo; valid",
    r"strays?|straying|wanders?": "differs from; deviation",
    r"mend(s|ed|ing)?|cures?|cured|heals?|healed": "fix, remove",
    r"(in|at) hand": "loaded, given",
    r"goes on beyond": "padding",
    r"somebody|whoever|nobody": "the noun: the user, the author, ...",
    r"(?<!ground )(?<!ground-)the truth": "the ground truth, labels",
    r"largest distance": "max difference",
    r"by (its|their) own statistics|each tile's own statistics": "with per-tile statistics",
    r"frozen statistics": "fixed statistics",
    r"also where|else refused|for what\b(?= it)": "two sentences",
    r"anew": "again, new",
}
# Rooms of `src/seamscope`, and files of the checkout, that are clean.
ROOMS = (
    "bootstrap.py",
    "cache.py",
    "cli",
    "compare",
    "demo",
    "dice.py",
    "docks",
    "errors.py",
    "execution",
    "explain",
    "files.py",
    "fixed_statistics",
    "images",
    "ledger.py",
    "models",
    "normalization",
    "plain.py",
    "planning",
    "prediction",
    "process_memory.py",
    "receptive_field",
    "reports",
    "seams",
    "segmentation",
    "settings.py",
    "stitching.py",
    "tape.py",
    "text.py",
    "tiling.py",
    "version.py",
    "work.py",
)
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md", "benchmarks", "examples")


def _files() -> list[Path]:
    package = ROOT / "src" / "seamscope"
    found = [ROOT / name for name in FILES]
    for room in ROOMS:
        path = package / room
        found += [path] if path.suffix else sorted(path.rglob("*.py"))
    for name in (*FILES,):
        if (ROOT / name).is_dir():
            found += sorted((ROOT / name).rglob("*.py"))
    return [path for path in found if path.is_file()]


def _bad(text: str) -> list[str]:
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}: write {instead}"
        for pattern, instead in WORDS.items()
        for match in re.finditer(rf"(?<![A-Za-z.])(?:{pattern})(?![A-Za-z])", text, re.I)
    ]


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words(path: Path) -> None:
    assert _bad(path.read_text(encoding="utf8")) == []


def test_the_list_finds_what_it_is_for() -> None:
    old = "told = what is asked for; tiles stray from the truth; no halo mends it; in hand"
    assert len(_bad(old)) == 6
    assert _bad("says; requested; the ground truth; ground_truth; found.truth; amend; hand") == []
