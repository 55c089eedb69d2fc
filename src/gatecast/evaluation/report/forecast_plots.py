"""Pictures of forecasts: ranges against what came, and the fan of a live forecast."""

from typing import Any, Final

import polars as pl

from gatecast.evaluation.notation import bars_ahead
from gatecast.evaluation.report.plots import (
    ACCENT,
    INK,
    MIDDLE,
    NARROW,
    WIDE,
    Choice,
    Json,
    Plot,
    band,
    plain,
    rounded,
    stamps,
)
from gatecast.market.candles import CLOSE, SYMBOL, TS
from gatecast.model.predictions import HORIZON, LSTM, MODEL, QUANTILES, TARGET

_HISTORY_BARS: Final = 504  # three weeks of hours
_NESTED: Final = (
    ("q0.05", "q0.95", "90 %", WIDE),
    ("q0.1", "q0.9", "80 %", MIDDLE),
    ("q0.25", "q0.75", "50 %", NARROW),
)
_LEVELS: Final = ((0.05, 0.95, "90 %", WIDE), (0.1, 0.9, "80 %", MIDDLE), (0.25, 0.75, "50 %", NARROW))
_SAME_PRICE: Final = 1e-6  # relative; the close that a target leads to and the close that came


def ranges(predictions: pl.DataFrame, *, symbol: str, horizon: int) -> Plot | None:
    """The end of the evaluation: what came against the ranges of the LSTM at one horizon.

    The price is drawn at the bar where it came, against the range forecast so many bars before; the log return at the
    bar that it was forecast from. Without closes there are returns alone.

    Args:
        predictions: The table of predictions, see `gatecast.model.predictions`; targets in log return, null if unknown;
            `close` where it is known.
        symbol: Market to draw.
        horizon: Bars ahead.

    Returns:
        The picture; None if the LSTM forecast nothing there.
    """
    of_series = (pl.col(MODEL) == LSTM) & (pl.col(SYMBOL) == symbol) & (pl.col(HORIZON) == horizon)
    rows = predictions.filter(of_series).unique(TS, keep="last").sort(TS)
    if rows.is_empty():
        return None
    views = [
        ("Price", _priced(rows, horizon).tail(_HISTORY_BARS), ",.6~r", ""),
        ("Log return", rows.tail(_HISTORY_BARS), ".2%", ".3~%"),
    ]
    if CLOSE not in rows.columns or views[0][1][QUANTILES[0]].null_count() == len(views[0][1]):
        views = views[1:]
    traces: list[Json] = []
    choices = []
    for name, view, shown, ticks in views:
        first = len(traces)
        traces += _realised_in_ranges(view, shown)
        layout = (("yaxis.title.text", plain(symbol) + ("" if name == "Price" else ", log return")),)
        choices.append(Choice(name, tuple(range(first, len(traces))), (*layout, ("yaxis.tickformat", ticks))))
    return Plot(
        f"{symbol} against the ranges forecast {bars_ahead(horizon)}",
        traces,
        {"xaxis": {"type": "date", "title": {"text": "UTC"}}, "legend": {"traceorder": "normal"}},
        height=440,
        zoom=True,
        choices=tuple(choices),
    )


def _priced(rows: pl.DataFrame, horizon: int) -> pl.DataFrame:
    """Closes and, at the bar where each was due, the prices forecast for it; null where that bar is not in the rows."""
    if CLOSE not in rows.columns:
        return rows.clear()
    prices = rows.select(
        TS,
        pl.col(CLOSE).alias(TARGET),
        ((pl.col(CLOSE) * pl.col(TARGET).exp()).shift(horizon) / pl.col(CLOSE) - 1).abs().alias("miss"),
        *((pl.col(CLOSE) * pl.col(name).exp()).shift(horizon).alias(name) for name in QUANTILES),
    )
    due = pl.col("miss") < _SAME_PRICE
    return prices.with_columns(pl.when(due).then(pl.col(name)).alias(name) for name in QUANTILES)


def _realised_in_ranges(rows: pl.DataFrame, shown: str) -> list[Json]:
    x = stamps(rows[TS])
    values = {name: rounded(rows[name]) for name in (*QUANTILES, TARGET)}
    traces = [band(x, values[low], values[high], f"{label} range", fill) for low, high, label, fill in _NESTED]
    target, low, high = (rows[name].cast(pl.Float64) for name in (TARGET, "q0.05", "q0.95"))
    outside = ((target < low) | (target > high)).fill_null(False).to_list()
    line: Json = {"type": "scatter", "x": x, "mode": "lines", "connectgaps": False}
    return [
        *traces,
        {**line, "y": values["q0.95"], "name": "95 % level", "line": {"width": 0}, "showlegend": False,
         "hovertemplate": f"%{{y:{shown}}}"},
        {**line, "y": values["q0.5"], "name": "median", "line": {"color": ACCENT, "width": 1},
         "hovertemplate": f"%{{y:{shown}}}"},
        {**line, "y": values["q0.05"], "name": "5 % level", "line": {"width": 0}, "showlegend": False,
         "hovertemplate": f"%{{y:{shown}}}"},
        {**line, "y": values[TARGET], "name": "what came", "line": {"color": INK, "width": 1.3},
         "hovertemplate": f"%{{y:{shown}}}"},
        {"type": "scatter", "mode": "markers", "name": "outside 90 %", "marker": {"color": INK, "size": 5},
         "x": [at for at, is_out in zip(x, outside, strict=True) if is_out],
         "y": [y for y, is_out in zip(values[TARGET], outside, strict=True) if is_out], "hoverinfo": "skip"},
    ]  # fmt: skip


def fan(history: pl.DataFrame, forecast: pl.DataFrame) -> Plot:
    """Past closes and a live forecast as ranges of 50, 80 and 90 % around the median.

    Args:
        history: ts (open time, UTC) and close, sorted, one row or more; each close is drawn at the end of its candle.
        forecast: Rows of the forecast ledger for one market and one issue: issued_at and target_at (UTC), horizon,
            level, price.
    """
    candle = ((forecast["target_at"] - forecast["issued_at"]) / forecast[HORIZON])[0]
    closed_at = stamps((history[TS] + candle).to_list())
    last_close = float(history[CLOSE][-1])
    paths: dict[Any, list[float | None]] = {
        round(level, 4): rounded([last_close, *rows.sort("target_at")["price"]])
        for (level,), rows in forecast.partition_by("level", as_dict=True).items()
    }
    targets = [closed_at[-1], *stamps(forecast["target_at"].unique().sort())]
    line: Json = {"type": "scatter", "hovertemplate": "%{y:,.6~r}"}
    traces = [
        *(band(targets, paths[low], paths[high], f"{label} range", fill) for low, high, label, fill in _LEVELS),
        {**line, "x": closed_at, "y": rounded(history[CLOSE]), "name": "close", "mode": "lines",
         "line": {"color": INK, "width": 1.5}},
        {**line, "x": targets, "y": paths[0.5], "name": "median", "mode": "lines+markers",
         "line": {"color": ACCENT, "width": 2}, "marker": {"size": 5}},
    ]  # fmt: skip
    now = {"type": "line", "x0": closed_at[-1], "x1": closed_at[-1], "yref": "paper", "y0": 0, "y1": 1}
    layout = {
        "xaxis": {"type": "date", "title": {"text": "UTC"}},
        "yaxis": {"tickformat": ",.6~r"},
        "shapes": [{**now, "line": {"color": "var(--muted)", "width": 1, "dash": "dot"}}],
    }
    return Plot("Last forecast", traces, layout, height=340)
