"""Hooks of MkDocs: pages from outside docs/, and links that lead out of docs/.

README, CHANGELOG and others stand at the places where a reader of the repository looks for them. The site
shows them too. There is no public address of the repository yet, so a link to a file that is not a page
becomes the file's name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "deploy/README.md": "deploy.md",
    "docker/README.md": "docker.md",
}
"""Files of the repository, and the pages that show them."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=rewrite(text, source, page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page in docs/ that lead out of it."""
    own = page.file.src_uri
    return markdown if own in PAGES.values() else rewrite(markdown, f"docs/{own}", own)


def rewrite(text: str, source: str, page: str) -> str:
    """Return a text whose links lead to pages of the site.

    Args:
        text: Markdown.
        source: Its path in the repository, which its links are relative to.
        page: Its path in the site.
    """

    def replace(match: re.Match[str]) -> str:
        picture, words, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is None:
            return words if words.strip("`") == path else f"{words} (`{path}`)"
        link = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{picture}[{words}]({link}{anchor or ''})"

    return _LINK.sub(replace, text)
