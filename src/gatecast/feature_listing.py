"""The catalogue for people: what `gatecast features --list` prints, and the page docs/features.md (`make docs`)."""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gatecast.config import Config
from gatecast.features.catalogue import catalogue, declared
from gatecast.features.feature import Feature, Recipe
from gatecast.market.publications.table import SOURCES, sources_of
from gatecast.params import read_config
from gatecast.workspace import find_workspace

_PAGE = """# The catalogue of features

Made by `make docs` from the entries in `src/gatecast/features/indicators`, with the shipped spans and, for what needs
several, two markets; `gatecast features --list` prints it for your configuration. A feature at `ts` uses candles up to
and including `ts`, and what was published before they closed: it is known at `ts + timeframe`.

*Look-back*: candles from which the value follows to 1e-6 of its standard deviation, as every run proves on its own
data. *Warm-up*: candles before there is a value. *Volatility* is the EWMA volatility of one bar that also scales the
target.

| name | formula | unit | look-back | warm-up | range | source |
|---|---|---|---|---|---|---|
{rows}

## Adding one

1. Choose the module of its kind in `src/gatecast/features/indicators`, and its function there.
2. `yield` a `Feature` with name, polars expression, unit, formula in words, source, look-back and warm-up. The columns
   that an expression may use are the candle's and those in `gatecast.features.feature`.
3. Its rows: `candles` (default) are the candles that are there, one after the other; `grid` has missing bars as nulls,
   for what counts bars by the clock, such as `shift(24)`.
4. Look back with `rolling_*` (exact), `ewm` (declare `decay(half_life)`) or `shift`, never with a whole column.
5. Give it `bounds` where the definition has them, and scale it by volatility or range: levels of prices drift.
6. What needs a published source names it in `published`, begins with the prefix of that source, and is off without it.
7. `make docs`, and write its slow definition into `tests/features/definitions.py`.

Nothing else: leak prover, parity, warm-up, ranges, null shares, `--list` and this page find it by themselves.
"""


def recipe_of(config: Config) -> Recipe:
    """What a run with this configuration builds."""
    ingest = config.ingest
    return Recipe(config.features, ingest.symbols, ingest.timeframe, sources_of(ingest))


def listing(recipe: Recipe) -> list[dict[str, Any]]:
    """A dict an entry, those not in use included: its declaration, and whether it is used."""
    used = {entry.name for entry in catalogue(recipe)}
    return [_plain(entry) | {"used": entry.name in used} for entry in declared(recipe)]


def in_words(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines that a terminal shows of a listing."""
    for entry in entries:
        needs = "two markets" if entry["n_markets"] > 1 else entry["published"]
        yield entry["name"] + ("" if entry["used"] else f"  (off: needs {needs})" if needs else "  (off)")
        yield f"    {entry['formula']}"
        yield f"    in {entry['unit']}; looks back {entry['look_back']:,}, first value at {entry['warm_up']:,}"
        yield f"    {entry['source']}"
    n_used = sum(entry["used"] for entry in entries)
    yield ""
    yield f"{n_used} of {len(entries)} features are used (features.use); look-backs and first values count candles"


def page(recipe: Recipe) -> str:
    """The catalogue as Markdown."""
    rows = (
        f"| `{entry['name']}` | {entry['formula']} | {entry['unit']} | {entry['look_back']:,} | {entry['warm_up']:,}"
        f" | {_range(entry['bounds'])} | {entry['source']} |"
        for entry in listing(recipe)
    )
    return _PAGE.format(rows="\n".join(rows))


def _plain(entry: Feature) -> dict[str, Any]:
    return {
        "name": entry.name,
        "formula": entry.formula,
        "unit": entry.unit,
        "source": entry.source,
        "look_back": entry.look_back,
        "warm_up": entry.warm_up,
        "bounds": [bound if math.isfinite(bound) else None for bound in entry.bounds],
        "rows": entry.rows,
        "published": entry.published or None,
        "n_markets": entry.n_markets,
    }


def _range(bounds: list[float | None]) -> str:
    low, high = ("" if bound is None else f"{bound:.4g}" for bound in bounds)
    return f"{low} … {high}" if low or high else ""


def _main() -> None:
    config = read_config(find_workspace(None))
    recipe = Recipe(config.features, ("BTC/USDT", "ETH/USDT"), "1h", SOURCES)
    Path(sys.argv[1]).write_text(page(recipe), encoding="utf-8")


if __name__ == "__main__":
    _main()
