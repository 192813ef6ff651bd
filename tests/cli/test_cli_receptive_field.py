"""The command ``seamscope receptive-field``, from the shell's words to JSON and page."""

from __future__ import annotations

import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import networks
from seamscope.cli import app
from seamscope.text import percent_text, typeset

runner = CliRunner()


def run(*words):
    result = runner.invoke(app, ["receptive-field", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "noise.npy"
    np.save(path, np.random.default_rng(0).standard_normal((150, 140)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """TorchScript files of small networks, by normalization."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for norm in ("batch", "instance"):
        torch.manual_seed(0)
        network = networks.UNet(2, 2, norm=norm).eval()
        found[norm] = folder / f"{norm}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of itself
            torch.jit.trace(network, torch.zeros(1, 1, 32, 32)).save(found[norm])
    return found


KEYS = {
    "period",
    "bounded",
    "theoretical",
    "convolutional",
    "halo",
    "effective",
    "mass_outside",
    "couplings",
    "valid_crop",
    "scale",
}


def test_json_of_a_bounded_network(scripts, image) -> None:
    code, out, _ = run(scripts["batch"], "--image", image, "--tiles", 8, "--json", "-")
    told = json.loads(out)
    assert code == 0
    assert told.keys() >= KEYS
    assert told["period"] == [4, 4]
    assert told["bounded"] is True
    assert told["theoretical"] == told["convolutional"] == [[23, 23], [23, 23]]
    assert told["halo"] == [[22, 22], [22, 22]]
    assert told["effective"].keys() == {"0.95", "0.99", "0.999"}
    assert all(0 < r <= 23 for radii in told["effective"].values() for r in radii)
    assert told["mass_outside"] == 0
    assert told["couplings"] == []
    assert told["valid_crop"] == [[0, 0], [0, 0]]
    assert told["scale"] == [1.0, 1.0]


def test_json_of_one_that_sees_the_whole_tile(scripts, image, tmp_path) -> None:
    file = tmp_path / "told.json"
    code, out, _ = run(
        scripts["instance"], "--image", image, "--tiles", 4, "--json", file, "--pixel", "70,61"
    )
    told = json.loads(file.read_text())
    assert code == 0
    assert told["bounded"] is False
    assert told["theoretical"] is told["halo"] is None
    assert told["convolutional"] == [[23, 23], [23, 23]]
    assert told["mass_outside"] > 0
    assert told["couplings"] == ["10 x instance or batch normalization"]
    assert told["pixel"]["at"] == [70, 61]
    assert told["pixel"]["phase"] == [2, 1]
    assert "Overlap cannot remove the seams" in out
    assert f"What depends on the whole tile: {told['couplings'][0]}" in out
    assert "beyond" in out


def test_sizes_are_checked_and_the_nearest_ones_offered(scripts) -> None:
    code, out, _ = run(
        scripts["batch"],
        *("--tiles", 0, "--tile", "61,64", "--stride", 21, "--core", 30, "--training", 4),
        *("--json", "-"),
    )
    told = json.loads(out)
    assert code == 0
    assert told["effective"] is None
    assert {(v["what"], v["axes"]): v["nearest"] for v in told["violations"]} == {
        ("tile", "y"): [60, 64],
        ("stride", "y"): [16],  # all that is left between halos of 22 in tiles of 61
        ("stride", "x"): [20],
        ("core", "yx"): [28, 32],
        ("training", "yx"): [8],
    }
    assert all(v["sentence"] in told["sentences"] for v in told["violations"])


def test_a_tile_that_the_network_does_not_take_is_told_not_refused(scripts, image) -> None:
    code, out, _ = run(scripts["batch"], "--image", image, "--tile", 61, "--tiles", 2)
    assert code == 0
    assert "Tile 61 along y and x is not a size this network takes: use 60 or 64." in out


class Texts(HTMLParser):
    """All text of a page, and all addresses it mentions."""

    def __init__(self, source):
        super().__init__()
        self.text, self.addresses, self.figures = "", [], 0
        self.feed(source)

    def handle_data(self, data):
        self.text += f"{data}\n"

    def handle_starttag(self, tag, attributes):
        self.figures += tag == "svg"
        self.addresses += [v for k, v in attributes if k in ("src", "href") and v]


def test_the_page_stands_alone_and_says_what_was_measured(scripts, image, tmp_path) -> None:
    page, file = tmp_path / "page.html", tmp_path / "told.json"
    code, _, _ = run(
        *(scripts["instance"], "--image", image, "--tiles", 4, "--stride", 50),
        *("--pixel", "70,61", "--report", page, "--json", file),
    )
    assert code == 0
    told, shown = json.loads(file.read_text()), Texts(page.read_text())
    assert "mathdefault" not in shown.text  # what matplotlib writes at logarithmic axes
    assert shown.figures == 5  # phases; profiles and map, averaged and of the pixel
    assert all(address.startswith(("#", "data:")) for address in shown.addresses)
    for sentence in told["sentences"]:
        assert typeset(sentence) in shown.text
    for share in ("0.95", "0.99", "0.999"):
        assert f"{100 * float(share):g}%" in shown.text
        assert all(str(r) in shown.text for r in told["effective"][share])
    assert percent_text(told["mass_outside"]) in shown.text
    assert "Pixel 70, 61" in shown.text
    assert re.search(r"stride\s+y x\s+50\s+48 or 52", shown.text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pixel", "3,3"], "name that with --image"),
        (["--output-channel", 7], "Output channel 7: the network predicts 2"),
        (["--phase", "9,9", "--tiles", 2], "phases go from 0 to 3"),
        (["--stride", "4,4,4", "--tiles", 0], "3 numbers for 2 spatial axes"),
        (["--report", "/nowhere/page.html"], "There is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(scripts, words, told) -> None:
    code, out, error = run(scripts["batch"], *words)
    assert code == 1
    assert out == ""
    assert told in error
    assert "Traceback" not in error


def test_a_pixel_outside_of_the_image_is_one_sentence(scripts, image) -> None:
    code, _, error = run(scripts["batch"], "--image", image, "--pixel", "150,3")
    assert code == 1
    assert "Pixel (150, 3) is not in the image of 150 x 140" in error


def test_the_page_of_whatever_was_measured_can_be_drawn(scripts, tmp_path) -> None:
    """3D, no gradients, no reach: nothing of the page may depend on what is missing."""
    import couplings
    from seamscope.models.model import as_model
    from seamscope.receptive_field.fields import measure_receptive_field
    from seamscope.reports.field_page import field_page

    found = [
        measure_receptive_field(None, as_model(couplings.Unetr()), most_tiles=2),
        measure_receptive_field(None, as_model(networks.UNet(3, 2, features=1)), most_tiles=2),
        measure_receptive_field(None, as_model(networks.ValidUNet()), most_tiles=0),
    ]
    for each in found:
        assert "<svg" in field_page(each, "<script>alert(1)</script>")
        assert "<script>alert" not in field_page(each, "<script>alert(1)</script>")
