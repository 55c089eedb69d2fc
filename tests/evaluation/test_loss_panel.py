import numpy as np
import polars as pl
import pytest

from gatecast.errors import DataError
from gatecast.evaluation.loss_panel import loss_panel, scorable, shared_forecasts, with_loss
from gatecast.evaluation.resampling import chunk_starts
from tests.evaluation.forecast_tables import forecasts, volatile_market

MODELS = ("lstm", "naive")


def predictions(horizon: int = 1) -> pl.DataFrame:
    target, scale = volatile_market(0)
    return pl.concat(
        [forecasts("lstm", target, scale, horizon=horizon), forecasts("naive", target, scale * 2, horizon=horizon)]
    )


def two_markets() -> pl.DataFrame:
    """The second one has a hole, of bars that the first one forecasts."""
    tables = []
    for seed, symbol in enumerate(("BTC/USDT", "ETH/USDT")):
        target, scale = volatile_market(seed)
        for model, factor in (("naive", 2.0), ("lstm", 1.0), ("ewma", 1.1)):
            table = forecasts(model, target, scale * factor, symbol=symbol)
            tables.append(table if seed == 0 else pl.concat([table[:300], table[340:]]))
    return with_loss(pl.concat(tables))


def test_models_are_compared_only_where_all_of_them_forecast_and_the_outcome_is_known() -> None:
    target, scale = volatile_market(3)
    target[-5:] = np.nan
    table = pl.concat([forecasts("lstm", target, scale), forecasts("naive", target, scale)[100:]])
    assert shared_forecasts(table).group_by("model").len()["len"].to_list() == [1395, 1395]


def test_losses_stand_side_by_side_at_the_same_market_and_bar() -> None:
    scored = two_markets()
    panel = loss_panel(scored.sample(fraction=1.0, shuffle=True, seed=0), ("naive", "ewma"), 1)
    assert panel.models == ("lstm", "naive", "ewma")
    assert panel.n_bars == 1500
    assert panel.losses.shape == (2960, 3)
    for place, model in enumerate(panel.models):
        own = scored.filter(pl.col("model") == model).sort("ts", "symbol")
        np.testing.assert_array_equal(panel.losses[:, place], own["loss"].to_numpy())
        means = own.group_by("ts", maintain_order=True).agg(pl.col("loss").mean())["loss"].to_numpy()
        np.testing.assert_allclose(panel.by_bar()[:, place], means, rtol=1e-13)


def test_totals_of_chunks_and_markets_add_up() -> None:
    scored = two_markets()
    panel = loss_panel(scored, ("naive", "ewma"), 1)
    starts = chunk_starts(1500, 24)
    totals = panel.totals(starts)
    assert totals.shape == (len(starts), 2, 3)
    stamps = scored["ts"].unique().sort()
    for chunk in (0, 7, len(starts) - 1):
        inside = stamps[starts[chunk] : starts[chunk + 1] if chunk + 1 < len(starts) else None].implode()
        for market, symbol in enumerate(("BTC/USDT", "ETH/USDT")):
            for place, model in enumerate(panel.models):
                own = (pl.col("symbol") == symbol) & (pl.col("model") == model) & pl.col("ts").is_in(inside)
                assert totals[chunk, market, place] == pytest.approx(scored.filter(own)["loss"].sum())


def test_a_model_that_loses_nothing_is_refused_with_its_market() -> None:
    still = pl.concat(
        [forecasts("lstm", np.zeros(300), np.ones(300)), forecasts("naive", np.zeros(300), np.zeros(300))]
    )
    with pytest.raises(DataError, match="naive loses nothing in BTC/USDT at 1 bar: its close does not move"):
        loss_panel(with_loss(still), ("naive",), 1)


def test_a_model_that_made_no_forecast_is_named() -> None:
    with pytest.raises(DataError, match=r"garch made no forecast in any fold: .* take garch out of evaluate.baselines"):
        scorable(predictions(), (*MODELS, "garch"), (1,), (0, 1, 2, 3))


def test_a_fold_without_a_forecast_of_some_model_is_named_with_model_horizon_and_span() -> None:
    silent = (pl.col("model") == "naive") & (pl.col("fold") == 2)
    line = (
        r"fold 3 \(2024-02-01T06:00Z to 2024-02-16T20:00Z\) cannot be scored at 1 bar: naive made no forecast there"
        r".*take naive out of evaluate.baselines"
    )
    with pytest.raises(DataError, match=line):
        scorable(predictions().filter(~silent), MODELS, (1,), (0, 1, 2, 3))


def test_a_fold_whose_outcomes_are_not_known_is_named() -> None:
    last = pl.when(pl.col("fold") < 3).then(pl.col("target")).alias("target")
    line = "fold 4 .* cannot be scored at 1 bar: the outcome of none of the 375 forecasts of lstm is known"
    with pytest.raises(DataError, match=line):
        scorable(predictions().with_columns(last), MODELS, (1,), (0, 1, 2, 3))


def test_a_fold_that_no_model_forecast_is_missed() -> None:
    with pytest.raises(DataError, match="fold 5 cannot be scored at 1 bar: lstm, naive made no forecast there"):
        scorable(predictions(), MODELS, (1,), (0, 1, 2, 3, 4))


def test_a_horizon_at_which_the_models_share_no_bar_is_named() -> None:
    table = predictions(24).with_row_index()
    apart = (pl.col("index") % 2 == 0) == (pl.col("model") == "lstm")  # 1500 rows a model: even ones and odd ones
    line = r"fold 1 .* cannot be scored at 24 bars: no bar was forecast by all models, the fewest \(187\) by naive"
    with pytest.raises(DataError, match=line):
        scorable(table.filter(apart).drop("index"), MODELS, (24,), (0, 1, 2, 3))


def test_an_evaluation_without_any_known_outcome_is_refused() -> None:
    unknown = predictions().with_columns(target=pl.lit(None, pl.Float64))
    with pytest.raises(DataError, match="no forecast of the evaluation period has a known target"):
        scorable(unknown, MODELS, (1,), (0, 1, 2, 3))
