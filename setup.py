"""Entry point for build tools; all is declared in setup.cfg, but for the description on PyPI.

That is README.md. Its links lead to files of the repository, which PyPI does not have.
"""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>[^)\s]+)\)")


def description(readme, source):
    """Return the README with links that lead somewhere on any page.

    `source` is where the files of this release can be read. Without one, a link becomes the path
    that the file has in the source distribution.
    """

    def replaced(link):
        text, path = link["text"], link["path"]
        if "://" in path or path.startswith("#"):
            return link[0]
        if source:
            return f"[{text}]({source.rstrip('/')}/{path})"
        return text if path in text else f"{text} ({path})"

    return LINK.sub(replaced, readme)


def source_address():
    """Return `Source` of the project_urls in setup.cfg, if it is there."""
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = settings.get("metadata", "project_urls", fallback="").splitlines()
    addresses = dict(line.split(" = ", 1) for line in lines if " = " in line)
    return addresses.get("Source", "")


if __name__ == "__main__":
    setup(
        long_description=description(
            (ROOT / "README.md").read_text(encoding="utf-8"), source_address()
        ),
        long_description_content_type="text/markdown",
    )
