"""The long description of a distribution: README.md, whose links lead to the repository where a package index cannot follow them.

Everything else about the distribution is said in pyproject.toml.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def absolute_links(page: str, repository: str, version: str) -> str:
    """`page` with each relative link led to this version's file in `repository`; pictures to the file itself."""

    def lead(match: re.Match[str]) -> str:
        view = "raw" if match["picture"] else "blob"
        return f"{match['picture']}[{match['text']}]({repository}/{view}/v{version}/{match['target']})"

    return re.sub(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?![a-z]+:|#)(?P<target>[^)]+)\)", lead, page)


if __name__ == "__main__":
    setup(
        long_description=absolute_links(
            (HERE / "README.md").read_text(encoding="utf-8"),
            PROJECT["urls"]["Repository"],
            PROJECT["version"],
        ),
        long_description_content_type="text/markdown",
    )
