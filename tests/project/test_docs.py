"""The documentation builds without a warning, and every command and example in it runs."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys

import pytest
from typer.testing import CliRunner

import seamscope
from places import ROOT
from seamscope.cli import app

DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.parent.name in ("docs", "questions"))
GALLERY = sorted((DOCS / "gallery").glob("plot_*.py"))


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf8"), re.S)


def test_there_is_something_to_run():
    assert sum(len(blocks(page, "sh")) for page in PAGES) >= 10
    assert len(GALLERY) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_prints_what_the_page_says(page, capsys):
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
        printed = capsys.readouterr().out.split("\n")
        for promised in re.findall(r"^# (.*)$", block, re.M):
            assert promised in printed


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "sh")], ids=lambda p: p.stem)
def test_commands_run(page, tmp_path, monkeypatch, workers_here):
    """In this process; that workers start and share a run is shown by ``test_workers.py``."""
    monkeypatch.chdir(tmp_path)
    for line in filter(None, "\n".join(blocks(page, "sh")).splitlines()):
        program, *arguments = shlex.split(line)
        assert program == "seamscope"
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        assert (2 in workers_here) == ("--workers 2" in line)
        workers_here.clear()


@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_the_gallery_runs(script, capsys):
    # the variable MPLBACKEND is not read where an earlier test has imported matplotlib
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


def test_every_public_name_has_its_place(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import reference

    grouped = [name for names in reference.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(set(seamscope.__all__) - {"__version__"})


def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx_gallery", reason="install seamscope[docs] to build the pages")
    import subprocess

    options = ["-q", "-W", "--keep-going", "-D", "sphinx_gallery_conf.plot_gallery=0"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SEAMSCOPE_PICTURES": "no"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "html" / "reference" / "python.html").read_text().count("sig-name") > 100
    docks = (tmp_path / "html" / "reference" / "docks.html").read_text()
    assert all(f"<p>{control}</p>" in docks for control in ("Run", "Padding", "Use this margin"))
