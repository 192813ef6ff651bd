"""Pages: every number they claim, nothing loaded, nothing executed, names of any kind."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Drawn
from torch import nn

import networks
import seamscope
from seamscope.compare.tile_content import content
from seamscope.compare.tile_sizes import sweep
from seamscope.errors import ImageError, SettingsError
from seamscope.planning.case import Case
from seamscope.planning.plan import resolve
from seamscope.planning.thumbnails import image_under, thumbnail
from seamscope.prediction.measure_seams import measure_seams
from seamscope.reports import figures
from seamscope.reports.page import SERIES, drawn_here, figure, name_text, page
from seamscope.reports.parts import Definition, Facts, Section, Table, Text, Verdict
from seamscope.reports.seam_page import _lines, seam_page, sweep_page
from seamscope.seams.views import look_at
from seamscope.settings import Settings
from seamscope.text import figure_text

MATH = "out $x^ \\frac$"  # what matplotlib would take for a formula, and fail
HOSTILE = "</title><script>alert(1)</script>&\"' $x^ \\frac ${} {{7*7}} \x1b\x00 \ud800 日本 é"


class Reader(HTMLParser):
    """Text, table cells, tags and attributes; checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, first: str) -> dict[str, list[str]]:
        """Columns of the table whose header begins so."""
        start = next(k for k, row in enumerate(self.rows) if row[0] == first)
        names = self.rows[start]
        body = []
        for row in self.rows[start + 1 :]:
            if len(row) != len(names) or row[0] in ("channel", "halo", "tile", "tile A"):
                break
            body.append(row)
        return dict(zip(names, map(list, zip(*body, strict=True)), strict=True))


class TileMean(nn.Module):
    def forward(self, x):
        p = torch.sigmoid(4 * (x - 1.5 * x.mean((2, 3), keepdim=True)))
        return torch.cat([p, 1 - p], 1)


def uneven() -> np.ndarray:
    pixels = np.random.default_rng(5).random((96, 80)).astype(np.float32)
    return pixels * np.linspace(0.2, 1, 96, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def model():
    loaded = seamscope.load_model(TileMean())
    return dataclasses.replace(loaded, name=HOSTILE, channel_names=("<b>in</b>", MATH))


@pytest.fixture(scope="module")
def measured(model):
    image = seamscope.open_image(uneven())
    report = measure_seams(image, model, tile=32, halo=4, overlap=16)
    return image, report


@pytest.fixture(scope="module")
def html(model, measured):
    image, report = measured
    return seam_page(
        report,
        thumbnail(report.plan, image),
        views=look_at(Case.planned(image, model, report.plan), report.seams[:3]),
        sweep=sweep(image, model, [32, 64], halo=4, labels=(uneven() > 0.3).astype(int)),
        content=content(image, [16, 32]),
        setting=[("file", HOSTILE)],
        reach={"theoretical": 7},
    )


# ------------------------------------------------------------------------------------- what it says


def test_every_measure_is_told(html, measured):
    report = measured[1]
    read = Reader(html)
    table = read.table("channel")
    assert table["channel"] == list(report.channels)
    assert table["max difference"] == [figure_text(v) for v in report.measures.max_dist_per_channel]
    assert table["tile mismatch"] == [figure_text(v) for v in report.measures.soft]
    assert table["thresholded"] == [figure_text(v) for v in report.measures.hard]
    assert f"max difference {figure_text(report.measures.max_dist)}" in read.text
    assert f"mean difference {figure_text(report.measures.mean_dist)}" in read.text
    assert f"tolerance {figure_text(report.tolerance)}" in read.text
    assert "tile 32 × 32 px" in read.text
    assert "stride 16 × 16 px" in read.text
    assert f"measured {report.measured} of {report.overlaps} overlaps" in read.text


def test_the_curve_is_told_at_its_halos(html, measured):
    curve = measured[1].curve
    table = Reader(html).table("halo")
    halos = [int(h) for h in table["halo"]]
    assert halos[0] == 0
    assert halos[-1] == curve.halo[-1]
    assert table["max difference"] == [figure_text(float(curve.max_dist[h])) for h in halos]
    assert table[f"mismatch, {MATH}"] == [figure_text(float(curve.soft[h, 1])) for h in halos]


def test_the_worst_borders_are_told(html, measured):
    seams = measured[1].seams[:12]
    table = Reader(html).table("tile A")
    assert table["tile A"] == [", ".join(map(str, b.lower)) for b in seams]
    assert table["max difference"] == [figure_text(b.max_dist) for b in seams]
    assert table["worst pixel"] == [f"y {b.worst[0]}, x {b.worst[1]}" for b in seams]


def test_one_tile_and_no_overlap_are_no_trouble(model):
    image = uneven()
    for asked in ({"tile": (96, 80)}, {"tile": 32, "halo": 0, "overlap": 0}):
        report = measure_seams(image, model, **asked)
        read = Reader(seam_page(report, image))
        words = "there are no seams" if "96" in str(asked) else report.sentence()[-30:]
        assert words.lower() in read.text.lower()


def test_a_sweep_has_its_page(model):
    image = uneven()
    found = sweep(image, model, [32, 64], halo=4, labels=(image > 0.3).astype(int))
    read = Reader(sweep_page(found, content(image, [16, 32]), [("image", "<img src=x>")]))
    table = read.table("tile")
    assert table["tile"] == ["32", "64", "untiled"]
    assert table[MATH] == [figure_text(v) for v in found.to_last.value[:, 1]]
    scores = [row for row in read.rows if row[0] in ("32", "64", "untiled")][3:6]
    assert [row[1:] for row in scores] == [[figure_text(v) for v in each]
                                           for each in found.dice.value]  # fmt: skip
    assert "<img src=x>" in read.text


def test_three_dimensions_have_a_page():
    volume = np.random.default_rng(1).random((32, 48, 48)).astype(np.float32)
    network = networks.UNet(ndim=3, levels=1, norm="instance").eval()
    loaded = seamscope.load_model(network)
    image = seamscope.open_image(volume, axes="zyx")
    report = measure_seams(image, loaded, tile=16, halo=2, overlap=8, accelerate=False)
    views = look_at(Case.planned(image, loaded, report.plan), report.seams[:3])
    read = Reader(seam_page(report, thumbnail(report.plan, image), views=views))
    assert "The largest along z." in read.text
    assert [v.seam for v in views] == list(report.seams[:3])


def test_one_dimension_has_a_page_without_maps():
    line = np.random.default_rng(1).random((1, 400), np.float32)
    network = nn.Sequential(nn.Conv1d(1, 4, 5, 2, 2), nn.Tanh(), nn.ConvTranspose1d(4, 2, 2, 2))
    network.eval()
    as_it_is = {"tile": 64, "normalize": "none", "axes": "cx"}
    with torch.no_grad():
        whole = network(torch.from_numpy(line)[None])[0].numpy()
    found = seamscope.predict(line, network, result="probabilities", **as_it_is)
    assert np.abs(found - whole).max() < 1e-5 * whole.std()
    loaded, image = seamscope.load_model(network), seamscope.open_image(line, axes="cx")
    report = measure_seams(image, loaded, tile=64, halo=0, overlap=8, normalize="none")
    assert not report.seamless
    views = look_at(Case.planned(image, loaded, report.plan), report.seams[:3])
    text = Reader(seam_page(report, thumbnail(report.plan, image), views=views)).text
    assert "max difference" in text
    assert "Where the seams are" not in text
    with pytest.raises(ImageError, match="for a 1D network to 1 x n with `axes` cx"):
        seamscope.predict(line[0], network)


# ------------------------------------------------------------------------------- it stands alone


def test_nothing_is_loaded_and_nothing_runs(html):
    read = Reader(html)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in read.tags}
    for tag, attributes in read.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("data:image/png;base64,", "#")), (tag, value[:40])
            assert "url(" not in (value or "") or "url(#" in value
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    policy = next(a for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_names_of_any_kind_are_shown_as_they_are(html):
    read = Reader(html)
    assert "<script>alert(1)</script>" in read.text
    assert "{{7*7}}" in read.text
    assert "日本" in read.text
    assert "<b>in</b>" in read.text
    assert "$x^ \\frac ${}" in read.text
    html.encode("utf-8")


def test_ids_are_unique_and_references_meet_them(html):
    read = Reader(html)
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", html))
    used |= {a["href"][1:] for _, a in read.tags if a.get("href", "").startswith("#")}
    assert used
    assert used <= set(ids)


def test_figures_take_the_pages_colors(html):
    inside = "".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert "var(--ink)" in inside
    assert "var(--series-1)" in inside
    for color in SERIES:
        assert color not in inside
        assert color in html
    assert "prefers-color-scheme: dark" in html


def test_figures_have_their_words_as_words(html):
    inside = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", html))
    assert "halo (pixels)" in inside
    assert "theoretical 7" in inside
    assert "$\\mathdefault" not in html


# ------------------------------------------------------------------------------------------- parts


def test_all_parts_in_order():
    @drawn_here
    def draw():
        drawn = Drawn()
        drawn.subplots().plot([1, 2])
        return drawn

    parts = [
        Text("first <"),
        Verdict("Fine", "second", True),
        Facts([("name", "third")]),
        Definition("term", "fourth", "<math><mi>x</mi></math>"),
        Table(["a", "b"], [["fifth", "1.5"], ["x", "–"]], "caption"),
        figure(draw(), "sixth", "alt <text>"),
    ]
    read = Reader(page("Title", [Section("Head", parts)], lead="lead"))
    words = ["lead", "Head", "first <", "second", "third", "fourth", "fifth", "sixth"]
    order = [read.text.index(word) for word in words]
    assert order == sorted(order)
    numeric = [a for tag, a in read.tags if tag == "td" and a.get("class") == "number"]
    assert len(numeric) == 2
    assert any(a.get("aria-label") == "alt <text>" for _, a in read.tags)
    assert "math" in {tag for tag, _ in read.tags}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0123456, "0.0123"), (1.2345e-6, "1.23e-06"), (123456.7, "123457"),
        (float("nan"), "–"), (None, "–"), (float("inf"), "∞"), (1, "1"), (-0.5, "-0.5"),
    ],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert figure_text(value) == text


def test_names_that_are_drawn():
    assert name_text("a\nb\x00c") == "a bc"
    assert len(name_text("x" * 99)) == 40


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch, measured):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "matplotlib" else found(n, *a)
    )
    with pytest.raises(
        SettingsError, match=r'needs matplotlib: .*pip install "seamscope\[report\]"'
    ):
        page("x", [])
    with pytest.raises(SettingsError, match="matplotlib"):
        figures.shares({"a": 1.0})


def test_drawing_leaves_nobodys_settings_changed():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.shares({"edge effects": 0.7, "tile statistics": 0.3})
    assert dict(matplotlib.rcParams) == before


# ------------------------------------------------------------------------------------ what is drawn


def test_curves_are_drawn_where_they_are():
    halo = np.arange(6)
    falling = np.array([1, 0.1, 0.01, 2e-4, 0, 0])
    drawn = figures.halo_curve(
        halo, {"largest": falling}, {"a": falling, "b": falling / 2},
        tolerance=1e-4, marks={"used": 3, "theoretical": 9}, solid=4,
    )  # fmt: skip
    left, right = drawn.axes
    y = left.lines[0].get_ydata()
    np.testing.assert_array_equal(y, falling[:4])
    floor = left.get_ylim()[0]
    assert 0 < floor < 1e-4
    assert left.get_yticklabels()[0].get_text() == "0"
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [2e-4, floor, floor])
    assert left.get_xlim()[1] > 9
    assert [line.get_xdata()[0] for line in left.lines[2:]] == [3, 9]
    assert len(right.get_legend().get_texts()) == 2


def test_a_mark_far_away_is_told_and_squeezes_nothing():
    curve = np.array([0.004, 0.003, 0.002])
    drawn = figures.halo_curve(
        np.arange(3), {"largest": curve}, {"a": curve}, tolerance=0.0, marks={"reach": 130}
    )
    left = drawn.axes[0]
    assert left.get_xlim()[1] == 2
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["largest", "(reach 130)"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["0.002", "0.005"]


@pytest.mark.parametrize("values", [np.zeros(3), np.full(3, np.nan), np.array([np.inf, 1, 0])])
def test_curves_of_nothing_are_drawn_too(values):
    drawn = figures.halo_curve(np.arange(3), {"m": values}, {"c": values}, tolerance=0.0)
    assert figure(drawn, "x").svg.startswith("<svg")


def test_matrix_tells_its_numbers_in_percent():
    values = np.array([[0, 0.0123], [0.0123, 0]])
    drawn = figures.mismatch_matrix(["32", "untiled"], [("in", values)])
    assert [t.get_text() for t in drawn.axes[0].texts] == ["0", "1.2", "1.2", "0"]


def test_strips_hold_every_tile():
    values = [np.random.default_rng(0).random((n, 2)) for n in (20, 5)]
    drawn = figures.content_strips(["16", "32"], ["mean", "std"], values, np.array([0.5, 0.2]))
    for k, axes in enumerate(drawn.axes):
        for line, each in zip(axes.lines, values, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), each[:, k])


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.2, 0.9], [0.1, 0.2, 0.5]),  # from half of the least, or a tenth of the most
        ([1e-5, 1e-3, 1.0], [1e-4, 1e-3, 1e-2, 0.1, 1]),  # from the tolerance
        ([1e-6], [1e-4, 2e-4, 5e-4, 1e-3]),  # noise is dark
        ([], [1e-4, 2e-4, 5e-4, 1e-3]),
    ],
)
def test_colors_span_what_there_is_above_noise(values, ticks):
    scale = figures._color_scale(np.array(values), 1e-4)
    assert figures._color_ticks(scale) == pytest.approx(ticks)
    assert max(values, default=0) <= scale.vmax


def test_seams_lie_where_tiles_meet(measured):
    report = measured[1]
    axes = report.plan.grid.axes
    rows, columns = ([(t.core[0], t.core[1]) for t in axis] for axis in axes)
    table = next(iter(report.tables.values()))[..., 0]
    lines = dict(_lines(table, rows, columns))
    assert len(lines) == report.overlaps
    for seam in report.seams:
        lower, upper = report.plan.grid[seam.lower], report.plan.grid[seam.upper]
        line_at = lower.core[seam.axis].stop
        assert line_at == upper.core[seam.axis].start
        line = next(ends for ends in lines if ends[1] == tuple(c.stop for c in lower.core)
                    and ends[0][seam.axis] == line_at)  # fmt: skip
        assert lines[line] == pytest.approx(seam.max_dist)


# -------------------------------------------------------------------------------------- both tiles


def test_views_show_what_each_tile_predicts(model, measured):
    image, report = measured
    plan = report.plan
    for view in look_at(Case.planned(image, model, plan), report.seams[:4], side=12):
        seam = view.seam
        for index, shown in ((seam.lower, view.lower), (seam.upper, view.upper)):
            tile = plan.grid[index]
            pixels = torch.from_numpy(uneven()[tuple(tile.read)])[None, None]
            whole = TileMean()(pixels)[0, view.channel].numpy()
            y, x = (c - o for c, o in zip(view.corner, tile.origin, strict=True))
            np.testing.assert_allclose(
                shown, whole[y : y + shown.shape[0], x : x + shown.shape[1]], atol=1e-6
            )
        apart = np.abs(view.lower - view.upper)
        at = tuple(w - c for w, c in zip(seam.worst, view.corner, strict=True))
        assert apart[at] == pytest.approx(seam.max_dist, abs=1e-6)
        y, x = view.corner
        np.testing.assert_array_equal(
            view.image, uneven()[y : y + apart.shape[0], x : x + apart.shape[1]]
        )
        axis = view.axes.index(view.cut[0])
        assert view.corner[axis] + view.cut[1] == plan.grid[seam.upper].core[seam.axis].start


def test_the_image_under_a_larger_result_is_the_nearest_pixel():
    model = seamscope.load_model(nn.Upsample(scale_factor=2))
    pixels = uneven()
    image = seamscope.open_image(np.stack([pixels, pixels + 1]), axes="tyx")
    plan = resolve(image, model, Settings(tile=32))
    found = image_under(plan, image, (slice(3, 9), slice(10, 12)), (1,))
    expected = np.repeat(np.repeat(pixels + 1, 2, 0), 2, 1)[3:9, 10:12]
    np.testing.assert_array_equal(found, expected)


def test_thumbnail_is_every_so_many_pixels():
    pixels = np.arange(5 * 90 * 40).reshape(5, 90, 40)
    image = seamscope.open_image(pixels, axes="zyx")
    model = seamscope.load_model(nn.Conv3d(1, 1, 1))
    plan = resolve(image, model, Settings(tile=16))
    np.testing.assert_array_equal(thumbnail(plan, image, longest=30), pixels[2, ::3, ::3])
