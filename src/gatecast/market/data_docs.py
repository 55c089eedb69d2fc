"""Data Docs that open without a network: the library's pages with a style of our own, and an index in plain words.

The library's pages load their style, icons and scripts from six hosts; its index is empty without its scripts.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

from gatecast.market.expectations import FAIL, WARN, Finding
from gatecast.workspace import write_atomically

_DROPPED: Final = (
    r"<script\b.*?</script>",
    r"<style\b.*?</style>",
    r"<link\b[^>]*>",
    r"<img\b[^>]*>",
    r"<footer\b.*?</footer>",
    r'<div class="card mb-3">\s*<div class="card-header p-2">\s*<strong>Actions</strong>.*?<input.*?</label>\s*</div>'
    r"\s*</div>\s*</div>\s*</div>\s*</div>",
)
_INDEX_LINK: Final = re.compile(r'href="(\.\./)+index\.html"\s*>\s*</a>')
_SUITE_LINK: Final = re.compile(r'<a href="[^"]*expectations/[^"]*"\s*>(.*?)</a>')
_OUTSIDE: Final = re.compile(r"<[^>]*\bhttps?:[^>]*>")


def write_data_docs(folder: Path, pages: Path, title: str, findings: Mapping[str, Sequence[Finding]]) -> None:
    """Replace the Data Docs: an index and a page a suite, none of which loads anything.

    Args:
        folder: Where to.
        pages: What the library rendered.
        title: What the suites are about.
        findings: By suite, in the order of the index.
    """
    shutil.rmtree(folder, ignore_errors=True)
    style = _resource("data_docs.css")
    for page in sorted(pages.glob("validations/*/**/*.html")):
        suite = page.relative_to(pages).parts[1]
        html = self_contained(page.read_text(encoding="utf-8"), f"{title}: {suite}", style)
        _write(folder / _page(suite), html)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    flat = [finding for each in findings.values() for finding in each]
    index = environment.from_string(_resource("data_docs.html.jinja")).render(
        title=title,
        style=style,
        suites=[(suite, _page(suite), each) for suite, each in findings.items()],
        failed=[each for each in flat if not each.success and each.severity == FAIL],
        warned=[each for each in flat if not each.success and each.severity == WARN],
        total=len(flat),
    )
    _write(folder / "index.html", index)


def self_contained(html: str, title: str, style: str) -> str:
    """A page of the library without whatever it would load, in a style of its own.

    Args:
        html: As the library rendered it.
        title: Of the page.
        style: Style sheet.
    """
    for pattern in _DROPPED:
        html = re.sub(pattern, "", html, flags=re.DOTALL)
    html = _INDEX_LINK.sub('href="index.html">gatecast Data Docs</a>', html)
    html = _SUITE_LINK.sub(r"\1", html).replace("../../../../index.html", "index.html")
    html = re.sub(r"<title>.*?</title>", "", html, flags=re.DOTALL)
    html = _OUTSIDE.sub("", html)
    html = html.replace("<html>", '<html lang="en">', 1)
    return html.replace("</head>", f"<title>{title}</title><style>{style}</style></head>", 1)


def _page(suite: str) -> str:
    return f"{suite.replace(' ', '-')}.html"


def _resource(name: str) -> str:
    return resources.files("gatecast.market").joinpath(name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
