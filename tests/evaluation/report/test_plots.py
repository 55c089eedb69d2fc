"""The pictures: what they draw is what the figures say, in little data, checked by plotly."""

import json
import math
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatecast.evaluation.notation import DASH, interval, p_equals, price_text, signed
from gatecast.evaluation.report.analysis_plots import equity, importance, skill_by_bucket
from gatecast.evaluation.report.forecast_plots import ranges
from gatecast.evaluation.report.merit import fold_skill
from gatecast.evaluation.report.plots import Choice, Plot, band, figure, markup, plain, rounded, thinned
from gatecast.evaluation.report.score_plots import calibration, levels_histogram, search_history, skill_by_fold
from gatecast.model.predictions import LEVELS
from tests.evaluation.report.evaluated import (
    HOSTILE,
    make_equity,
    make_errors,
    make_metrics,
    make_predictions,
    make_trials,
)

PREDICTIONS = make_predictions()


def _with_closes(predictions: pl.DataFrame, horizon: int) -> pl.DataFrame:
    """Closes of a market whose targets are those of the LSTM's rows, as `evaluate` writes them."""
    rows = predictions.filter(pl.col("model") == "lstm").sort("ts")
    closes = list(100 * np.exp(np.linspace(0, 0.1, horizon)))
    for place, target in enumerate(rows["target"].to_list()[: len(rows) - horizon]):
        closes.append(closes[place] * math.exp(target))
    known = rows.select("symbol", "ts", pl.Series("close", closes))
    return predictions.join(known, on=["symbol", "ts"], how="left")


def _named(plot: Plot, name: str) -> list[dict[str, object]]:
    return [trace for trace in plot.traces if trace["name"] == name]


@pytest.mark.parametrize(
    "plot",
    [
        skill_by_fold(make_metrics()),
        calibration(make_metrics()),
        levels_histogram(make_metrics()),
        search_history(make_trials()),
        skill_by_bucket(make_errors()["24"]["tables"][0]),
        importance(make_errors()["24"]["importance"]["rows"]),
        equity(make_equity(), make_metrics()),
        ranges(PREDICTIONS, symbol="BTC/USDT", horizon=24),
    ],
    ids=lambda plot: plot.label,
)
def test_plotly_knows_every_property_and_equal_plots_give_equal_text(plot: Plot) -> None:
    assert figure(plot)["data"]
    assert markup("a", plot) == markup("a", plot)


def test_a_property_that_plotly_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        figure(Plot("a", [{"type": "scatter", "x": [1], "y": [1], "colour": "red"}], {}))


def test_text_of_a_user_neither_ends_the_data_nor_becomes_markup_of_a_label() -> None:
    plot = Plot(HOSTILE, [{"type": "scatter", "name": plain(HOSTILE)}], {}, choices=(Choice(HOSTILE, (0,)),))
    text = str(markup("a", plot))
    assert re.findall(r"</?(\w+)", text) == ["div", "div", "script", "script"]
    data = json.loads(text[text.index(">{") + 1 : text.rindex("</script>")])
    assert data["choices"][0]["label"] == HOSTILE, "the page sets it as text"
    assert data["data"][0]["name"].startswith("&lt;script&gt;")


def test_price_ranges_stand_at_the_bar_where_they_were_due_and_hold_the_close_of_that_bar() -> None:
    rows = _with_closes(PREDICTIONS, 24)
    plot = ranges(rows, symbol="BTC/USDT", horizon=24)
    assert plot is not None
    assert [choice.label for choice in plot.choices] == ["Price", "Log return"]
    ours = rows.filter(pl.col("model") == "lstm").sort("ts")
    issued, due = ours.row(300, named=True), ours.row(324, named=True)
    came, low = _named(plot, "what came")[0], _named(plot, "5 % level")[0]
    place = list(came["x"]).index(due["ts"].strftime("%Y-%m-%d %H:%M"))  # type: ignore[call-overload]  # a list
    assert came["y"][place] == pytest.approx(due["close"], rel=1e-5)  # type: ignore[index]  # a list
    expected = issued["close"] * math.exp(issued["q0.05"])
    assert low["y"][place] == pytest.approx(expected, rel=1e-5)  # type: ignore[index]  # a list


def test_a_range_whose_bar_is_not_there_is_a_gap_and_never_stands_at_another_bar() -> None:
    rows = _with_closes(PREDICTIONS, 24)
    hole = sorted(rows["ts"].unique())[400]
    plot = ranges(rows.filter(pl.col("ts") != hole), symbol="BTC/USDT", horizon=24)
    assert plot is not None
    low = _named(plot, "5 % level")[0]["y"]
    assert isinstance(low, list)
    assert sum(value is None for value in low) >= 24
    assert None in _named(plot, "90 % range")[0]["x"], "the shape is cut there"  # type: ignore[operator]  # a list


def test_without_closes_there_are_returns_alone() -> None:
    plot = ranges(PREDICTIONS, symbol="BTC/USDT", horizon=24)
    assert plot is not None
    assert [choice.label for choice in plot.choices] == ["Log return"]
    assert ranges(PREDICTIONS, symbol="ETH/USDT", horizon=24) is None


def test_dots_mark_exactly_what_fell_outside_the_widest_range() -> None:
    plot = ranges(PREDICTIONS, symbol="BTC/USDT", horizon=24)
    assert plot is not None
    rows = PREDICTIONS.filter(pl.col("model") == "lstm").sort("ts").tail(504)
    outside = [row["target"] for row in rows.iter_rows(named=True) if row["target"] is not None
               and not row["q0.05"] <= row["target"] <= row["q0.95"]]  # fmt: skip
    assert _named(plot, "outside 90 %")[0]["y"] == rounded(outside)


def test_calibration_is_the_running_sum_of_the_shares_less_the_level() -> None:
    metrics = make_metrics()
    (line,) = _named(Plot("", calibration(metrics).traces[:3], {}), "LSTM")
    shares, total, expected = metrics["pit"]["lstm"]["24"], 0.0, []
    for share, level in zip(shares, LEVELS, strict=False):
        total += share
        expected.append(total - level)
    assert line["y"] == pytest.approx(expected, abs=1e-6)


def test_histogram_of_nominal_shares_is_flat_at_one() -> None:
    metrics = make_metrics()
    nominal = [0.05, 0.05, 0.15, 0.25, 0.25, 0.15, 0.05, 0.05]
    metrics["pit"] = {"lstm": {"24": nominal}}
    (bars,) = levels_histogram(metrics).traces
    assert bars["y"] == pytest.approx([1.0] * 8)
    assert sum(bars["width"]) == pytest.approx(1.0)


def test_fold_skill_is_that_over_the_best_baseline_or_the_chosen_one() -> None:
    metrics = make_metrics()
    for baseline, chosen in (("ewma", ""), ("naive", "naive")):
        assert fold_skill(metrics, 24, chosen) == metrics["fold_skill"][baseline]["24"]


def test_unknown_fold_skills_leave_a_gap_instead_of_an_error() -> None:
    metrics = make_metrics()
    metrics["fold_skill"]["ewma"]["24"][1] = None
    metrics["fold_skill"]["ewma"]["24"][2] = math.inf
    skill = fold_skill(metrics, 24)
    assert [math.isnan(value) for value in skill] == [False, True, True, False, False]
    assert "NaN" not in markup("a", skill_by_fold(metrics))


def test_each_choice_shows_each_trace_once() -> None:
    for plot in (skill_by_fold(make_metrics()), equity(make_equity(), make_metrics())):
        shown = [place for choice in plot.choices for place in choice.traces]
        assert shown == list(range(len(plot.traces)))


@given(n=st.integers(1, 5000), most=st.integers(2, 900))
def test_thinning_keeps_both_ends_and_never_more_than_asked(n: int, most: int) -> None:
    places = thinned(n, most)
    assert places[0] == 0 and places[-1] == n - 1
    assert len(places) == min(n, most) == len(set(places))
    assert places == sorted(places)


def test_a_band_is_one_closed_shape_for_each_known_stretch() -> None:
    shape = band(["a", "b", "c", "d"], [1, None, 2, 3], [4, 5, 6, 7], "90 %", "red")
    assert shape["x"] == ["a", "a", None, "c", "d", "d", "c"]
    assert shape["y"] == [4, 1, None, 6, 7, 3, 2]


def test_prices_keep_five_significant_digits_at_any_size() -> None:
    assert [price_text(p) for p in (63_240.4, 1.08342, 0.000123456)] == ["63,240", "1.0834", "0.00012346"]
    assert price_text(math.nan) == price_text(math.inf) == DASH


def test_numbers_read_as_people_write_them() -> None:
    assert interval({"low": -0.0041, "high": 0.0218}) == "\N{MINUS SIGN}0.4 to 2.2\N{NO-BREAK SPACE}%"
    assert interval({"low": None, "high": 0.1}) == interval(None) == DASH
    assert (p_equals(0.0444), p_equals(0.00001)) == ("p = 0.0444", "p < 0.0001")
    assert signed(-0.00001) == "0.00\N{NO-BREAK SPACE}%"


def test_stamps_of_an_axis_are_those_of_the_bars() -> None:
    first = datetime(2024, 3, 1, tzinfo=UTC)
    plot = ranges(PREDICTIONS, symbol="BTC/USDT", horizon=24)
    assert plot is not None
    xs = _named(plot, "what came")[0]["x"]
    assert isinstance(xs, list)
    assert xs[-1] == (first + timedelta(hours=699)).strftime("%Y-%m-%d %H:%M")
    assert len(xs) == 504
