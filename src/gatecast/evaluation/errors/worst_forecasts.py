"""The forecasts that went most wrong, and what they have in common."""

from datetime import timedelta
from typing import Any, Final

import polars as pl

from gatecast.evaluation.errors.context import LOSS, RECENT_BARS, RETURN_BEFORE, SINCE_GAP
from gatecast.evaluation.notation import listed
from gatecast.features.feature import VOLATILITY
from gatecast.market.candles import BAR, SYMBOL, TS, iso
from gatecast.model.predictions import FOLD, LEVELS, QUANTILES, TARGET

Json = dict[str, Any]

N_WORST: Final = 20
_LOW, _MEDIAN, _HIGH = (QUANTILES[LEVELS.index(level)] for level in (0.05, 0.5, 0.95))
_WEEK: Final = timedelta(days=7)


def worst_forecasts(frame: pl.DataFrame, horizon: int) -> Json:
    """The rows of largest loss in units of the volatility known then, the largest first, and a sentence on them.

    Of forecasts of one market whose spans overlap only the worst counts.

    Args:
        frame: A row a forecast of the model: symbol, ts, bar, fold, target, a column a level and loss (log return),
            volatility, return_before, bars_since_gap.
        horizon: Bars ahead.
    """
    chosen = _apart(frame.sort(pl.col(LOSS) / pl.col(VOLATILITY), descending=True, nulls_last=True), horizon)
    rows = chosen.select(
        pl.col(SYMBOL),
        pl.col(TS).map_elements(iso, return_dtype=pl.String),
        pl.col(FOLD),
        pl.col(TARGET),
        pl.col(_MEDIAN).alias("median"),
        pl.col(_LOW).alias("low"),
        pl.col(_HIGH).alias("high"),
        pl.col(LOSS),
        pl.col(RETURN_BEFORE, VOLATILITY, SINCE_GAP),
    )
    return {"rows": rows.to_dicts(), "sentence": _sentence(chosen, horizon)}


def _apart(ordered: pl.DataFrame, horizon: int) -> pl.DataFrame:
    taken: dict[str, list[int]] = {}
    places: list[int] = []
    for place, (symbol, bar) in enumerate(ordered.select(SYMBOL, BAR).iter_rows()):
        before = taken.setdefault(symbol, [])
        if all(abs(bar - other) >= horizon for other in before):
            before.append(bar)
            places.append(place)
        if len(places) == N_WORST:
            break
    return ordered[places]


def _sentence(chosen: pl.DataFrame, horizon: int) -> str:
    n, near = len(chosen), max(horizon, RECENT_BARS)
    n_gap = int((chosen[SINCE_GAP] <= near).sum())
    n_above, n_below = (int(each.sum()) for each in (chosen[TARGET] > chosen[_HIGH], chosen[TARGET] < chosen[_LOW]))
    ways = [f"in {n_above} the price ended above the 90 % range", f"in {n_below} below it"]
    if n_above + n_below < n:
        ways.append(f"in {n - n_above - n_below} within it")
    gaps = f"{n_gap} came within {near} bars of a missing bar"
    return f"Of the {n} worst forecasts {_clustered(chosen)}, and {gaps}; {listed(ways)}."


def _clustered(chosen: pl.DataFrame) -> str:
    """The most of them within seven days, and the first day of those."""
    stamps = sorted(chosen[TS])
    counts = [sum(first <= each < first + _WEEK for each in stamps) for first in stamps]
    most = max(counts)
    if most == 1:
        return "no two fall within one week"
    return f"{most} fall within one week, from {iso(stamps[counts.index(most)])[:10]} on"
