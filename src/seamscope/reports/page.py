"""Pages that stand alone: text, tables and figures in one HTML file, fit for a supplement.

Knows typography, colours and HTML. Does not know seams, networks or images: sections are given.

::

    page(title, [Section("Setting", [Facts(...)]), Section("Curve", [figure(drawn, ...)])])

Everything that comes from outside (names of files, models, channels) is escaped; figures are inside
the page and nothing is loaded from anywhere. Figures are drawn once and follow the reader's light
or dark scheme: their colours become variables of the page. The series' colours can be distinguished
by the colour-blind (Okabe and Ito 2008); in the dark they are lighter.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar
from xml.etree import ElementTree

from seamscope import __version__
from seamscope.errors import SettingsError
from seamscope.reports.parts import Figure, Section
from seamscope.text import percent_text, typeset, with_controls

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, RULE = "#1c2126", "#5c6670", "#d5dade"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0589a", "#c98600", "#3f9fd8")
_DARK_SERIES = ("#56b4e9", "#f28c4f", "#35c796", "#df9cc6", "#e9b949", "#8fd0f5")
# What figures are drawn in, and what the page calls it.
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule"} | {
    color: f"series-{k}" for k, color in enumerate(SERIES, start=1)
}

# Characters that XML cannot hold; names of files can.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def figure(drawn: Any, caption: str, alt: str = "") -> Figure:
    """Take a figure that matplotlib has drawn, by a function that is `drawn_here`."""
    return Figure(_inline_svg(drawn, alt or caption), caption, alt or caption)


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """Compose a page.

    Parameters
    ----------
    title, lead
        Plain text; the lead stands below the title.
    sections
        In the order of reading.

    Returns
    -------
    str
        HTML that needs no other file.

    Raises
    ------
    SettingsError
        Where what draws reports is not installed.
    """
    require()
    import jinja2

    template = (files("seamscope") / "resources" / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_neutral,
    )
    environment.filters |= {"typeset": typeset, "percent": percent_text}
    composed: str = environment.from_string(template).render(
        title=title,
        lead=lead,
        sections=sections,
        version=__version__,
        light=dict(zip(_VARIABLES.values(), _VARIABLES, strict=True)),
        dark=dict(
            zip(_VARIABLES.values(), ("#e4e7ea", "#9aa5ae", "#3a4249", *_DARK_SERIES), strict=True)
        ),
    )
    return _written(composed)


def _neutral(value: Any) -> Any:
    """Settings in plain text, named as Python has them."""
    if type(value) is not str:  # markup is left alone
        return value
    return with_controls(value, lambda name, stated: f"{name}={stated}" if stated else name)


def require() -> None:
    """Check that reports can be made here; better before hours of work than after.

    Raises
    ------
    SettingsError
        With the line that installs what is missing.
    """
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f'A report needs {" and ".join(missing)}: install with pip install "seamscope[report]".'
        )


def _written(text: str) -> str:
    """Replace what no file can hold: halves of characters, from names of files in other codes."""
    return text.encode("utf-8", "replace").decode("utf-8")


# -- numbers for people


def name_text(name: str, longest: int = 40) -> str:
    """Write a name from outside so that it can be drawn: on one line, and not too long."""
    text = _written(_CONTROL.sub("", " ".join(name.split())))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


# -- drawing


def drawn_here(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function draw in the style of these pages; it imports matplotlib itself."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        require()
        with _style():
            return draw(*args, **kwargs)

    return styled


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context(
        {
            "font.family": ["sans-serif"],
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
            "text.parse_math": False,  # a dollar in a file's name is no formula
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "axes.titlesize": 9,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=SERIES),
            "axes.facecolor": "none",
            "axes.formatter.use_mathtext": False,
            "figure.facecolor": "none",
            "grid.color": RULE,
            "grid.linewidth": 0.6,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "lines.linewidth": 1.6,
            "svg.fonttype": "none",
            "savefig.dpi": 120,
        }
    ):
        yield


def _inline_svg(drawn: Any, alt: str) -> str:
    """Return SVG to be put into a page: no names of its own, colours of the page."""
    buffer = io.StringIO()
    with _style(), warnings.catch_warnings():
        # the page has other fonts for what this one lacks
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        drawn.savefig(buffer, format="svg", transparent=True)
    source = _written(_CONTROL.sub("", buffer.getvalue()))
    root = ElementTree.fromstring(source)
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _embed(element, mark)
    root.attrib.pop("version", None)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.attrib |= {"role": "img", "aria-label": alt, "style": f"max-width: {width * 4 / 3:.0f}px"}
    return ElementTree.tostring(root, encoding="unicode")


def _embed(element: Any, mark: str) -> None:
    """Take namespaces off an element, make its names unique, and its colours the page's."""
    element.tag = _local(element.tag)
    for name in list(element.attrib):
        value = element.attrib.pop(name)
        local = _local(name)
        if local == "id":
            value = f"{mark}-{value}"
        elif local == "href" and value.startswith("#"):
            value = f"#{mark}-{value[1:]}"
        elif "url(#" in value:
            value = value.replace("url(#", f"url(#{mark}-")
        if local in ("style", "fill", "stroke"):
            value = _in_page_colors(value)
        element.attrib[local] = value


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _in_page_colors(style: str) -> str:
    for color, variable in _VARIABLES.items():
        style = style.replace(color, f"var(--{variable})")
    # the page's own fonts: what was drawn with is only the wider one
    return style.replace("'DejaVu Sans', sans-serif", "var(--sans)").replace(
        "'DejaVu Sans'", "var(--sans)"
    )


__all__ = [
    "INK",
    "MUTED",
    "RULE",
    "SERIES",
    "drawn_here",
    "figure",
    "name_text",
    "page",
    "require",
]
