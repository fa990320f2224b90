"""Settings of Sphinx for the site: `tox -e docs` builds it.

The sources are the Markdown files as they are, so that GitHub shows the same pages. What the site
needs besides is added while it is built: the tree of pages comes from the links of docs/index.md,
and the API reference from the names that docs/api.md lists.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

import shared_sync

ROOT = Path(__file__).parents[1]

project = "shared_sync"
copyright = "shared_sync contributors, MIT licence"
version = release = shared_sync.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "benchmarks/README.md",
    "deploy/README.md",
    "examples/README.md",
]
exclude_patterns = [".*", "build", "dist", "site", "shared", "venv"]

nitpicky = True
# Signatures name types of Python and of private modules: they are shown, and lead nowhere.
nitpick_ignore_regex = [("py:(class|data|exc|obj)", r".*")]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
default_role = "code"
python_maximum_signature_line_length = 90
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"shared_sync {version}"
html_copy_source = False
templates_path = ["templates"]
html_additional_pages = {"index": "to_first_page.html"}

FOREIGN = ("builtins", "logging", "typing")
"""Modules of Python whose classes ours are derived from; what they inherit is not repeated."""

HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
PAGE_LINK = re.compile(r"\]\(((?:\.\./)?[\w/-]+\.md)\)")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)\)")
PUBLIC_NAME = re.compile(r"^- `(\w+)`", re.MULTILINE)


def sections(text: str) -> list[tuple[str, str]]:
    """Return each second-level heading with the text below it."""
    _, *parts = HEADING.split(text)
    return list(zip(parts[::2], parts[1::2], strict=True))


def page_tree(index: str) -> str:
    """Return a hidden table of contents for each section, with the pages that it links to."""
    trees = []
    for caption, text in sections(index):
        pages = "\n".join(dict.fromkeys(PAGE_LINK.findall(text)))
        if pages:
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n")
    return "\n".join(trees)


def api_reference(page: str) -> str:
    """Return the page with the documentation of each name in the place of the list of names."""
    for module, text in sections(page):
        names = PUBLIC_NAME.findall(text)
        directives = "".join(directive(module, name) for name in names)
        page = page.replace(text, f"{text}\n```{{eval-rst}}\n{directives}```\n\n")
    return page


def directive(module: str, name: str) -> str:
    """Return the directive that shows the docstrings of a public name."""
    named = getattr(import_module(module), name)
    if inspect.isclass(named):
        foreign = [base.__name__ for base in named.__mro__ if base.__module__ in FOREIGN]
        option = f"inherited-members: {', '.join(foreign)}"
        if issubclass(named, Exception):
            option = "show-inheritance:"
        return f".. autoclass:: {module}.{name}\n   :members:\n   :{option}\n\n"
    return f".. auto{'function' if callable(named) else 'data'}:: {module}.{name}\n\n"


def mark_code(
    app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Mark indented code for reStructuredText; the docstrings have it as Markdown does."""
    marked: list[str] = []
    for number, line in enumerate(lines):
        is_code = line.startswith("    ") and (number == 0 or not lines[number - 1].strip())
        above = next((earlier for earlier in reversed(marked) if earlier.strip()), "")
        if is_code and not above.startswith("    ") and not above.endswith("::"):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def without_links_to_folders(page: str, folder: Path) -> str:
    """Return the page with only the text of each link to a folder, which the site does not have."""
    return LINK.sub(
        lambda link: link[1] if (folder / link[2]).is_dir() else link[0],
        page,
    )


def complete_page(app: Sphinx, name: str, source: list[str]) -> None:
    page = without_links_to_folders(source[0], (ROOT / name).parent)
    if name == "docs/index":
        page += f"\n{page_tree(page)}"
    if name == "docs/api":
        page = api_reference(page)
    source[0] = page


def setup(app: Sphinx) -> None:
    app.connect("source-read", complete_page)
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before napoleon
