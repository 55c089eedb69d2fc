import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from gatecast.errors import DataError
from gatecast.evaluation.errors.analysis import error_analysis
from gatecast.evaluation.errors.context import all_buckets, context, regimes
from gatecast.evaluation.errors.skill_noise import Losses, noise, p_of_difference, relative_losses
from gatecast.evaluation.metrics import pinball
from gatecast.market.candles import TS_TYPE
from gatecast.model.predictions import LEVELS, QUANTILES, TARGET

START = datetime(2022, 1, 1, tzinfo=UTC)
FIRST_BAR = 455_832
NORMAL = norm.ppf(LEVELS)
FIGURES = ("loss", "baseline_loss", "skill", "coverage_90", "bias")
CLAIMS = ("is higher", "is lower", "differ from the rest by", "it falls")  # what a sentence says that found something


def slow_noise(generator: np.random.Generator, n: int, half_life: float = 168) -> np.ndarray:
    kept = 0.5 ** (1 / half_life)
    noise = lfilter([1], [1, -kept], generator.standard_normal(n)) * np.sqrt(1 - kept**2)
    return np.asarray(noise, dtype=float)


class Market:
    """A market of hourly or daily bars whose volatility comes in waves, with holes, and forecasts of its later part."""

    def __init__(
        self,
        seed: int,
        n_bars: int = 4000,
        horizon: int = 6,
        symbol: str = "BTC/USDT",
        hours: int = 1,
        holes: Sequence[int] = (),
        scale: float = 0.005,
    ) -> None:
        self.generator = np.random.default_rng(seed)
        self.n_bars, self.horizon, self.symbol = n_bars, horizon, symbol
        volatility = scale * np.exp(0.5 * slow_noise(self.generator, n_bars + horizon, 100))
        close = 100 * np.exp(np.cumsum(volatility * self.generator.standard_t(5, n_bars + horizon) / np.sqrt(5 / 3)))
        self.place = np.arange(n_bars)
        self.ts = pl.Series([START + timedelta(hours=hours * place) for place in range(n_bars)], dtype=TS_TYPE)
        self.missing = np.isin(self.place, holes)
        self.volatility = volatility[:n_bars]
        self.target = np.log(close[horizon:] / close[:n_bars])
        rows = {"symbol": symbol, "ts": self.ts, "bar": FIRST_BAR + self.place, "close": close[:n_bars]}
        self.rows = pl.DataFrame(rows | {"missing": self.missing, "volatility": self.volatility}).with_columns(
            pl.when(~pl.col("missing")).then("close").alias("close")
        )
        self.test = n_bars // 4  # its first bar

    def forecasts(self, model: str, widths: np.ndarray | float = 1.0, n_folds: int = 5) -> pl.DataFrame:
        """A normal distribution of the known volatility times some width."""
        fold = np.clip((self.place - self.test) * n_folds // (self.n_bars - self.test), 0, n_folds - 1)
        keys = {"symbol": self.symbol, "ts": self.ts, "horizon": self.horizon, "model": model, "fold": fold}
        spread = self.volatility * np.sqrt(self.horizon) * widths
        quantiles = {name: spread * level for name, level in zip(QUANTILES, NORMAL, strict=True)}
        table = pl.DataFrame({**keys, TARGET: self.target, **quantiles}, schema_overrides={"horizon": pl.Int64})
        return table.filter(pl.Series(~self.missing & (self.place >= self.test)))

    def wobbly(self, persistent: float = 0.15) -> np.ndarray:
        """Widths that are wrong without any pattern, for a while each time."""
        slow = persistent * slow_noise(self.generator, self.n_bars)
        widths: np.ndarray = np.exp(slow + 0.1 * self.generator.standard_normal(self.n_bars))
        return widths


def analysis(*markets: Market, **models: np.ndarray | float) -> dict[str, Any]:
    """Of one horizon; models by name, of all markets alike."""
    tables = [market.forecasts(name, widths) for market in markets for name, widths in models.items()]
    horizon = markets[0].horizon
    rows = pl.concat([market.rows for market in markets])
    found: dict[str, Any] = error_analysis(pl.concat(tables), rows, {horizon: "ewma"}, (horizon,), None)[str(horizon)]
    return found


def table_of(found: dict[str, Any], name: str) -> dict[str, Any]:
    table: dict[str, Any] = next(each for each in found["tables"] if each["name"] == name)
    return table


def claims(sentence: str) -> bool:
    return any(each in sentence for each in CLAIMS)


def test_a_forecaster_that_fails_at_one_hour_is_found_out_and_the_hour_named() -> None:
    market = Market(0, horizon=1)
    at_seven = (market.ts.dt.hour() == 7).to_numpy()
    found = analysis(market, lstm=np.where(at_seven, 2.2, 1.0) * market.wobbly(), ewma=market.wobbly())
    table = table_of(found, "hour")
    assert "is lower at 07:00" in table["sentence"]
    assert "higher" not in table["sentence"]
    worst = min(table["rows"], key=lambda row: row["skill"])
    assert worst["bucket"] == "07"
    assert worst["coverage_90"] > 0.95  # its range is far too wide
    assert not claims(table_of(found, "weekday")["sentence"])


@pytest.mark.parametrize("horizon", [1, 24])
def test_noise_is_not_called_a_finding(horizon: int) -> None:
    n_claims: dict[str, int] = {}
    for seed in range(40):
        market = Market(seed, horizon=horizon, holes=(1500, 2200, 2201, 3100))
        for table in analysis(market, lstm=market.wobbly(), ewma=market.wobbly())["tables"]:
            n_claims[table["name"]] = n_claims.get(table["name"], 0) + claims(table["sentence"])
    assert len(n_claims) == 8
    assert max(n_claims.values()) <= 4  # 5 % of 40 are 2


def outcomes(table: pl.DataFrame) -> dict[str, list[tuple[float, bool, float]]]:
    """Loss, whether the 90 % range held, and error of the median, by weekday, forecast by forecast."""
    found: dict[str, list[tuple[float, bool, float]]] = {}
    for row in table.iter_rows(named=True):
        errors = [(row["target"] - row[each], level) for each, level in zip(QUANTILES, LEVELS, strict=True)]
        loss = sum(max(level * error, (level - 1) * error) for error, level in errors) / len(LEVELS)
        held = row["q0.05"] <= row["target"] <= row["q0.95"]
        found.setdefault(row["ts"].strftime("%A"), []).append((loss, held, row["target"] - row["q0.5"]))
    return found


def test_every_figure_is_that_of_its_bucket() -> None:
    market = Market(3, holes=(2000, 2001, 3000))
    widths = market.wobbly()
    ours, theirs = (outcomes(market.forecasts(name, width)) for name, width in (("lstm", widths), ("ewma", 1.3)))
    for row in table_of(analysis(market, lstm=widths, ewma=1.3), "weekday")["rows"]:
        loss, held, error = np.mean(ours[row["bucket"]], axis=0)
        baseline_loss = np.mean(theirs[row["bucket"]], axis=0)[0]
        assert row["n"] == len(ours[row["bucket"]])
        expected = [loss, baseline_loss, 1 - loss / baseline_loss, held, error]
        assert np.allclose([row[name] for name in FIGURES], expected)


def test_a_model_that_goes_stale_is_told_from_one_that_does_not() -> None:
    market = Market(4, horizon=1)
    n_bars = (market.n_bars - market.test) / 5
    age = np.where(market.place >= market.test, (market.place - market.test) % n_bars / n_bars, 0)
    stale = table_of(analysis(market, lstm=np.exp(age), ewma=1.0), "age")
    assert "it falls with the age" in stale["sentence"]
    assert "refitting more often pays" in stale["sentence"]
    skill = [row["skill"] for row in stale["rows"]]
    assert skill == sorted(skill, reverse=True)
    fresher = table_of(analysis(market, lstm=np.exp(1 - age), ewma=1.0), "age")  # the other way round is no reason
    assert "no fall with the age of the model is proven" in fresher["sentence"]


def test_the_best_and_the_worst_month_are_named() -> None:
    market = Market(5, n_bars=6000, horizon=1)
    in_may = (market.ts.dt.month() == 5).to_numpy()
    table = table_of(analysis(market, lstm=np.where(in_may, 2.0, 1.0), ewma=1.2), "month")
    assert "worst in 2022-05" in table["sentence"]
    shown = [row["skill"] for row in table["rows"] if row["skill"] is not None]
    assert f"positive in {sum(skill > 0 for skill in shown)} of {len(shown)} months" in table["sentence"]
    assert "2022-05 differs from the rest" in table["sentence"]


def test_a_bucket_of_few_forecasts_is_counted_and_not_spoken_of() -> None:
    market = Market(6, holes=(2000,), horizon=1)
    soon = (market.place > 2000) & (market.place <= 2024)
    table = table_of(analysis(market, lstm=np.where(soon, 9.0, 1.0), ewma=1.1), "gap")
    row = table["rows"][0]
    assert (row["bucket"], row["n"]) == ("within 24", 24)
    assert all(row[name] is None for name in FIGURES)
    assert "within 24 bars" not in table["sentence"]


def test_a_forecaster_that_fails_after_gaps_is_found_out() -> None:
    holes = tuple(range(1100, 4000, 300))
    market = Market(7, holes=holes, horizon=1)
    soon = np.zeros(market.n_bars, dtype=bool)
    for hole in holes:
        soon[hole + 1 : hole + 25] = True
    table = table_of(analysis(market, lstm=np.where(soon, 2.5, 1.0) * market.wobbly(), ewma=market.wobbly()), "gap")
    assert table["rows"][0]["n"] == soon[market.test :].sum()
    assert "lower within 24 bars of a missing bar" in table["sentence"]


def test_outliers_are_returns_beyond_six_volatilities() -> None:
    market = Market(8, n_bars=200)
    jumped = market.rows.with_columns(
        pl.when(pl.col("bar") >= FIRST_BAR + 120).then(pl.col("close") * 2).otherwise("close")
    )
    since = context(market.rows.with_columns(close=jumped["close"]))["bars_since_outlier"].to_list()
    assert since[119] is None
    assert since[120:123] == [0, 1, 2]


def test_nothing_that_comes_later_moves_a_forecast_to_another_bucket() -> None:
    market = Market(9, holes=(1700,))
    cut = 2500
    changed = market.rows.with_columns(
        pl.when(pl.col("bar") > FIRST_BAR + cut).then(pl.col(name) * 3).otherwise(name).alias(name)
        for name in ("close", "volatility")
    ).with_columns(missing=pl.col("missing") | (pl.col("bar") > FIRST_BAR + cut))
    groups = []
    for rows in (market.rows, changed):
        known = context(rows)
        folds = pl.DataFrame(
            {"fold": [0, 1], "start": [FIRST_BAR + 1000, FIRST_BAR + 2000], "end": [FIRST_BAR + 2000, FIRST_BAR + 4000]}
        )
        frame = known.with_columns(fold=(pl.col("bar") >= FIRST_BAR + 2000).cast(pl.Int64)).filter(
            pl.col("bar") >= FIRST_BAR + 1000
        )
        frame = frame.join(folds, on="fold", maintain_order="left").join(
            regimes(known, folds), on=["symbol", "fold"], how="left", maintain_order="left"
        )
        groups.append([each.groups[: cut - 999] for each in all_buckets(frame, 6)])
    assert len(groups[0]) == 8
    assert all(np.array_equal(before, after) for before, after in zip(*groups, strict=True))
    assert all(each.max() > 0 for each in groups[0])


def test_a_trend_is_called_what_it_was() -> None:
    market = Market(12, n_bars=200)
    slope = {"falling": -1.0, "flat": 0.0, "rising": 1.0}
    for name, sign in slope.items():
        step = sign * pl.col("volatility") * (pl.col("bar") - FIRST_BAR)
        known = context(market.rows.with_columns(volatility=0.01).with_columns(close=(step).exp()))
        frame = known.tail(20).with_columns(fold=0, start=FIRST_BAR + 100, end=FIRST_BAR + 400, bounds=pl.lit(None))
        trend = next(
            each
            for each in all_buckets(frame.with_columns(bounds=pl.lit([0.1, 0.2, 0.3, 0.4])), 6)
            if each.name == "trend"
        )
        assert {trend.labels[group] for group in trend.groups.tolist()} == {name}


def test_the_regimes_are_fifths_of_what_came_before_the_fold() -> None:
    market = Market(10)
    known = context(market.rows)
    bounds = regimes(known, pl.DataFrame({"fold": [0, 1], "start": [FIRST_BAR + 1000, FIRST_BAR + 2500]}))
    for start, found in zip((1000, 2500), bounds["bounds"].to_list(), strict=True):
        n_below = [(market.volatility[:start] <= bound).sum() for bound in found]
        assert np.allclose(n_below, [0.2 * start, 0.4 * start, 0.6 * start, 0.8 * start], atol=2)


def test_markets_of_unlike_volatility_count_alike() -> None:
    calm, wild = (Market(seed, symbol=symbol) for seed, symbol in ((11, "BTC/USDT"), (12, "DOGE/USDT")))
    wilder = Market(12, symbol="DOGE/USDT", scale=0.5)
    pairs = [analysis(calm, other, lstm=1.1, ewma=1.4) for other in (wild, wilder)]
    for name in ("hour", "weekday", "month", "age", "trend"):
        before, after = (table_of(found, name) for found in pairs)
        assert [row["n"] for row in before["rows"]] == [row["n"] for row in after["rows"]]
        assert np.allclose([row["skill"] or 0 for row in before["rows"]], [row["skill"] or 0 for row in after["rows"]])
        assert before["sentence"] == after["sentence"]
    assert {row["symbol"] for row in pairs[0]["worst"]["rows"]} == {"BTC/USDT", "DOGE/USDT"}


def test_a_second_market_that_says_the_same_is_no_further_evidence() -> None:
    ours, theirs, bars = losses_of(Market(13, horizon=1))
    one = relative_losses(ours, theirs, bars, np.zeros(3000, dtype=np.int64), 1)
    ours, theirs, bars = (np.tile(each, 2) for each in (ours, theirs, bars))
    two = relative_losses(ours, theirs, bars, np.repeat([0, 1], 3000), 1)
    groups = np.arange(3000) // 600
    alone = p_of_difference(one, noise(one, groups), groups == 2, groups != 2)
    twice = np.tile(groups, 2)
    assert np.isclose(p_of_difference(two, noise(two, twice), twice == 2, twice != 2), alone)


def losses_of(market: Market) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tables = [market.forecasts("a", market.wobbly()), market.forecasts("b", market.wobbly())]
    ours, theirs = (pinball(each[TARGET].to_numpy(), each.select(QUANTILES).to_numpy()) for each in tables)
    return ours, theirs, np.arange(3000)


def test_the_noise_of_a_sum_is_its_definition() -> None:
    generator = np.random.default_rng(14)
    bars = np.concatenate([np.arange(60), np.delete(np.arange(10, 60), [7, 20])])
    markets = np.repeat([0, 1], [60, 48])
    common = np.convolve(generator.standard_normal(62), np.ones(3), "valid")
    losses = Losses(1 + 0.1 * common[bars] + 0.05 * generator.standard_normal(108), np.ones(108), bars, markets, 4)
    groups = np.where(bars < 25, 0, 1)
    weights = generator.standard_normal(108)
    gains = losses.gains
    assert np.isclose(gains.sum(), 0)
    scale = np.where(groups == 0, *(np.sqrt((gains[groups == group] ** 2).mean()) for group in (0, 1)))
    scaled = gains / scale
    scaled -= scaled.mean()
    sums = {True: np.zeros(8), False: np.zeros(8)}
    pairs = [(i, j, abs(bars[i] - bars[j])) for i in range(108) for j in range(108)]
    for i, j, lag in pairs:
        if lag < 8:  # two horizons
            sums[markets[i] == markets[j]][lag] += scaled[i] * scaled[j] / (1 if lag == 0 else 2)
    n_pairs = sum(lag == 0 and markets[i] != markets[j] for i, j, lag in pairs)
    covariance = {True: sums[True] / 108, False: sums[False] / n_pairs}
    variance = 0.0
    for i, j, lag in pairs:
        if lag < 8:
            common_part = (1 - lag / 8) * covariance[markets[i] == markets[j]][lag]
            variance += weights[i] * scale[i] * weights[j] * scale[j] * common_part
    assert np.isclose(noise(losses, groups).deviation(weights), np.sqrt(variance))


def test_equal_forecasts_differ_nowhere() -> None:
    market = Market(15)
    for table in analysis(market, lstm=1.0, ewma=1.0)["tables"]:
        assert not claims(table["sentence"])


def test_daily_bars_have_no_hours_and_are_told_by_quarter() -> None:
    market = Market(16, n_bars=1200, horizon=5, hours=24)
    found = analysis(market, lstm=market.wobbly(), ewma=market.wobbly())
    assert [table["name"] for table in found["tables"]] == [
        "weekday", "volatility", "trend", "gap", "outlier", "month", "age",
    ]  # fmt: skip
    assert table_of(found, "month")["rows"][1]["bucket"] == "2023 Q1"
    assert "quarters" in table_of(found, "month")["sentence"]


def test_the_worst_forecasts_are_apart_and_those_of_largest_loss_for_their_time() -> None:
    market = Market(17, holes=(2000,))
    widths = market.wobbly()
    found = analysis(market, lstm=widths, ewma=1.0)["worst"]
    table = market.forecasts("lstm", widths)
    loss = pinball(table[TARGET].to_numpy(), table.select(QUANTILES).to_numpy())
    relative = loss / market.volatility[~market.missing & (market.place >= market.test)]
    places: list[int] = []
    bars = market.place[~market.missing & (market.place >= market.test)]
    for place in np.argsort(-relative):
        if all(abs(bars[place] - bars[other]) >= market.horizon for other in places):
            places.append(int(place))
    assert [row["ts"] for row in found["rows"]] == [f"{table['ts'][place]:%Y-%m-%dT%H:%MZ}" for place in places[:20]]
    first = found["rows"][0]
    assert np.isclose(first["loss"], loss[places[0]])
    assert set(first) == {
        "symbol", "ts", "fold", "target", "median", "low", "high",
        "loss", "return_before", "volatility", "bars_since_gap",
    }  # fmt: skip
    above = sum(row["target"] > row["high"] for row in found["rows"])
    assert f"in {above} the price ended above" in found["sentence"]


def test_worst_forecasts_of_one_week_are_told() -> None:
    market = Market(18, horizon=1)
    market.target[np.isin(market.place, range(3000, 3150, 10))] = -1.0  # fifteen within a week
    found = analysis(market, lstm=1.0, ewma=1.0)["worst"]
    stamps = [datetime.fromisoformat(row["ts"]) for row in found["rows"]]
    most = max(sum(first <= each < first + timedelta(days=7) for each in stamps) for first in stamps)
    assert most >= 15
    assert f"{most} fall within one week, from 2022-05-" in found["sentence"]


@pytest.mark.parametrize("n_bars", [120, 500, 4000])
def test_what_is_written_is_json_and_no_sentence_holds_a_nan(n_bars: int) -> None:
    markets = [Market(19, n_bars, 6, holes=(n_bars // 2,)), Market(20, n_bars, 6, "ETH/USDT")]
    found = analysis(*markets, lstm=1.1, ewma=1.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for part in (*found["tables"], found["worst"], found["importance"]):
        assert part["sentence"].endswith(".")
        assert "nan" not in part["sentence"].lower()
        assert "None" not in part["sentence"]
    assert found["importance"]["rows"] == []
    for table in found["tables"]:
        assert table["columns"][1:] == ["n", *FIGURES]
        assert all(set(row) == {"bucket", "n", *FIGURES} for row in table["rows"])


def test_a_horizon_without_a_forecast_is_refused() -> None:
    market = Market(21)
    predictions = pl.concat([market.forecasts(name) for name in ("lstm", "ewma")])
    with pytest.raises(DataError, match="no forecast 24 bars ahead"):
        error_analysis(predictions, market.rows, {24: "ewma"}, (24,), None)
