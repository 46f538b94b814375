"""How Sphinx builds these pages; ``python -m tests.documentation`` builds them strictly.

``sphinx-build -W -n docs docs/_build`` builds them to be looked at; the pages ask no other host for anything.
"""

import runpy
from pathlib import Path

project = "dbml-magics"
author = "the authors of dbml-magics"
release = runpy.run_path(str(Path(__file__).parents[1] / "dbml_magics" / "_version.py"))["__version__"]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # as GitHub makes them, so that a link is good there and here
nitpicky = True
smartquotes = False  # two hyphens begin an option
highlight_language = "text"

html_theme = "furo"
html_title = f"dbml-magics {release}"
html_copy_source = False
html_show_copyright = False
