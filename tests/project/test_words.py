"""Words that we do not write, and what stands for them; `CONTRIBUTING.md` has the rule.

Names in code count too.
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
    r"(in|at) hand(?!\.)": "loaded, given",
    r"goes on beyond": "padding",
    r"somebody|whoever|nobody": "the noun: the user, the author, ...",
    r"(?<!ground )(?<!ground-)the truth": "the ground truth, labels",
    r"largest distance": "max difference",
    r"by (its|their) own statistics|each tile's own statistics": "with per-tile statistics",
    r"frozen statistics": "fixed statistics",
    r"also where|else refused|for what\b(?= it)": "two sentences",
    r"anew": "again, new",
    r"in vain|lets? go of": "without success; release, close",
    r"but for": "except (for)",
    r"(of )?no more use|(read|held|kept|fresh|used) no more|no more of the": "no longer used",
}
# Files and folders that are clean, which is all that people read.
PLACES = ("CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md", "docs", "benchmarks",
          "examples", "src/seamscope")  # fmt: skip


def _files() -> list[Path]:
    places = [ROOT / name for name in PLACES]
    inside = (file for place in places for file in sorted(place.rglob("*")))
    return [place for place in places if place.is_file()] + [
        file for file in inside if file.suffix in (".md", ".py") and "_build" not in file.parts
    ]


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
    assert len(_bad("alike but for rounding; in vain; of no more use; held no more")) == 4
    assert _bad("says; requested; the ground truth; ground_truth; found.truth; amend; hand") == []
