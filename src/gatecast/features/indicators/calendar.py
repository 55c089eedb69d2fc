"""Features of the calendar: where in its day, week and funding period a bar opens."""

import math
from collections.abc import Iterator

import polars as pl

from gatecast.features.feature import Feature, Recipe
from gatecast.market.candles import TS

_HOUR_MS = 3_600_000
_PERIODS_H = {"day": 24, "week": 7 * 24, "funding": 8}  # perpetual contracts settle at 00, 08 and 16 UTC


def calendar(_: Recipe) -> Iterator[Feature]:
    """Sine and cosine of the open time within each period, so that its end and its beginning are neighbours."""
    for period, hours in _PERIODS_H.items():
        length = hours * _HOUR_MS
        angle = (pl.col(TS).dt.epoch("ms") % length).cast(pl.Float64) * (2 * math.pi / length)
        for wave, value in (("sine", angle.sin()), ("cosine", angle.cos())):
            yield Feature(
                f"{period}_{wave}",
                value,
                unit=wave,
                formula=f"{wave} of the open time within {hours} hours",
                source="Andersen and Bollerslev (1997), J. Empirical Finance 4(2-3)",
                look_back=1,
                warm_up=1,
                bounds=(-1.0, 1.0),
            )
