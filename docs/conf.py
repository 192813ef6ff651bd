"""The documentation site: ``make docs`` builds it into ``docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib
import reference  # writes the pages that are made from the program itself

from seamscope.version import __version__

matplotlib.use("agg")

project = "Seamscope"
author = "The Seamscope developers"
copyright = author
release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/README.rst"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the signature and the numpydoc text say them
napoleon_google_docstring = False
default_role = "any"
nitpick_ignore_regex = [(".*", ".*")]  # names in backticks may be keywords or values
suppress_warnings = ["ref.any", "config.cache"]
html_theme = "furo"
html_title = "Seamscope"
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "which_seam",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": "plot_",
    "remove_config_comments": True,
    "min_reported_time": 3600,
    "show_memory": False,
    "download_all_examples": False,
}

reference.write(Path(__file__).parent / "reference")
