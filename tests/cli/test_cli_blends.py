"""``seamscope blends``, end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from seamscope.cli import app
from seamscope.compare.blends import compare_blends
from seamscope.demo import sample_image
from seamscope.stitching import BLENDS

MODEL = "demo:instancenorm"


@pytest.fixture
def image(tmp_path):
    pixels = sample_image("tissue2d")[0][:160, :160]
    np.save(tmp_path / "image.npy", pixels)
    return tmp_path / "image.npy"


def _run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_table_sentence_and_json(image, tmp_path) -> None:
    file = tmp_path / "told.json"
    result = _run("blends", image, MODEL, "--tile", 96, "--json", file)
    assert result.exit_code == 0, result.stderr
    told = json.loads(file.read_text())
    expected = compare_blends(np.load(image), MODEL, tile=96)
    assert told["recommended"] == expected.recommended.blend
    np.testing.assert_allclose([way["score"] for way in told["ways"]], expected.scores, rtol=1e-3)
    lines = result.stdout.partition("\n\n")[2].splitlines()
    assert lines[0].split()[:3] == ["blend", "score", "step"]
    for blend, score, line in zip(BLENDS, expected.scores, lines[1:], strict=False):
        assert line.split()[0] == blend
        assert float(line.split()[1]) == pytest.approx(score, rel=1e-2)
    assert told["explanation"] in result.stdout


def test_a_single_tile_is_one_sentence(image) -> None:
    result = _run("blends", image, MODEL, "--tile", 160)
    assert result.exit_code != 0
    assert "no seams to compare" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
