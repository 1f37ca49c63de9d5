"""Sphinx configuration: `make docs` builds the site from the Markdown of this folder into docs/_build/html.

Sphinx with MyST was chosen because the pages stay plain Markdown that GitHub shows, links and anchors are checked, and
the Python interface comes from docstrings. MyST-NB shows the notebook with the outputs that are stored in it.
"""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "slowfast_uniformer"
html_title = "slowfast_uniformer"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "off"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
templates_path: list[str] = []
exclude_patterns = ["_build", "README.md"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
copybutton_prompt_text = "$ "

# Pages that live elsewhere, because people look for them there: the site has each as a page of its own.
ELSEWHERE = {
    "INSTALL.md": "install.md",
    "datasets/DATASET.md": "datasets.md",
    "datasets/README.md": "dataset_format.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def page_of_elsewhere(app, docname: str, source: list[str]) -> None:
    """Fill the pages of ELSEWHERE and the front page, and let links lead to them."""
    folder = Path(app.srcdir)
    if docname == "index":
        source[0] = (folder / "README.md").read_text(encoding="utf-8") + source[0]
    for place, page in ELSEWHERE.items():
        if page == f"{docname}.md":
            source[0] = (ROOT / place).read_text(encoding="utf-8")
            folder = (ROOT / place).parent

    def target(match: re.Match) -> str:
        path, anchor = match[1], match[2] or ""
        there = (folder / path).resolve()
        if not there.is_relative_to(ROOT):
            return match[0]
        place = str(there.relative_to(ROOT))
        if place in ELSEWHERE:
            return f"]({ELSEWHERE[place]}{anchor})"
        if there.is_relative_to(app.srcdir):
            return f"]({there.relative_to(app.srcdir)}{anchor})"
        return f"](../{place}{anchor})"

    source[0] = re.sub(r"\]\(([\w./-]+)(#[\w-]+)?\)", target, source[0])


def write_pages(app) -> None:
    """Write commands.md, and empty pages for ELSEWHERE. They are not in git, so they are never out of date."""
    runpy.run_path(str(ROOT / "tools/command_reference.py"), run_name="__main__")
    for page in ELSEWHERE.values():
        (Path(app.srcdir) / page).touch()


def setup(app) -> None:
    app.connect("builder-inited", write_pages)
    app.connect("source-read", page_of_elsewhere)
