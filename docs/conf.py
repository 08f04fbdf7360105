"""How Sphinx builds the documentation; `docs/build.py` calls it."""

from graphopt import __version__

project = "graphopt"
version = release = __version__
extensions = ["myst_parser"]
smartquotes = False  # an apostrophe may be a prime
myst_heading_anchors = 3
html_theme = "furo"
html_title = "graphopt"
html_copy_source = html_show_sourcelink = html_show_copyright = False
