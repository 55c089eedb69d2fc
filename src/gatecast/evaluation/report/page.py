"""A page that opens anywhere, offline: one file with its style, its scripts and its pictures in it."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from gatecast.evaluation import notation
from gatecast.evaluation.notation import finite, price_text
from gatecast.evaluation.report.plots import Plot, library, markup

_PACKAGE: Final = "gatecast.evaluation.report"


def render_page(template: str, plots: Mapping[str, Plot], **content: Any) -> str:
    """A self-contained page: nothing is loaded, every text is escaped, and no script runs but the page's own two.

    Equal content gives equal bytes.

    Args:
        template: File name of a template beside this module that extends `page.html.jinja`.
        plots: Pictures by name: letters, digits and hyphens.
        **content: What the template tells.
    """
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=notation.number, percent=notation.percent, signed=notation.signed, count=notation.count,
        interval=notation.interval, p_value=notation.p_value, when=notation.when, day=notation.day,
        price=lambda value: price_text(finite(value)), model=notation.model_name, ahead=notation.bars_ahead,
        words=notation.words,
    )  # fmt: skip
    scripts = (library(), _text("page.js"))
    return environment.get_template(template).render(
        style=_text("page.css"),
        scripts=scripts,
        script_hashes=[_hash(script) for script in scripts],
        plots={name: markup(name, plot) for name, plot in plots.items()},
        **content,
    )


def _text(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """By which a browser knows a script that it may run (Content Security Policy Level 3)."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
