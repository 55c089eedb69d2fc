"""That a feature follows from its look-back alone is searched for breaches, and a look-back too short is caught."""

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.features import catalogue as catalogue_module
from gatecast.features.build import build_features, newest_features
from gatecast.features.catalogue import catalogue, look_back
from gatecast.features.feature import LOG_RETURN, Feature, Recipe, decay, ewm
from gatecast.features.parity import TOLERANCE, Parity, check_parity
from gatecast.market.candles import CLOSE
from gatecast.market.sample import SAMPLE_MARKET, read_sample
from tests.conftest import NO_PUBLICATIONS, clean_candles
from tests.features.markets import SYMBOLS, everything, market, random_publications, rough_candles, three_markets

SHORTEST: dict[str, Any] = {  # so that a look-back is much shorter than the history
    "volatility_half_lives": (2, 3),
    "volume_half_lives": (1, 2),
    "macd_bars": (2, 3, 2),
    "rsi_bars": 3,
    "atr_bars": 3,
    "scale_half_life": 3,
    "published_half_life": 3,
}
ONE = SYMBOLS[:1]
N_HYPOTHESIS_BARS = 280


def plant(monkeypatch: pytest.MonkeyPatch, expression: pl.Expr, look_back: int, **kinds: str) -> None:
    """Enter one more feature into the catalogue."""
    entry = Feature("planted", expression, "unit", "planted", "this test", look_back, 1, **kinds)  # type: ignore[arg-type]  # rows alone
    monkeypatch.setattr(catalogue_module, "_KINDS", (*catalogue_module._KINDS, lambda _: iter([entry])))


def checked(candles: pl.DataFrame, publications: pl.DataFrame, recipe: Recipe, n_bars: int) -> Parity:
    rows = build_features(candles, publications, recipe)
    return check_parity(candles.lazy(), rows.lazy(), publications, recipe, n_bars)


def test_real_candles_hold_across_their_gaps(config: Config) -> None:
    candles = clean_candles(read_sample(SAMPLE_MARKET)[8000:20_000])
    assert candles["missing"].sum() > 5
    shipped = Recipe(config.features.model_copy(update={"use": ("*",)}), (SAMPLE_MARKET.symbol,), "1h")
    found = checked(candles, NO_PUBLICATIONS, shipped, 3)
    assert found.breaches == ()
    assert found.n_bars > 3, "bars after gaps are compared, too"
    assert found.worst is not None
    assert found.worst.deviations is not None
    assert found.worst.deviations < TOLERANCE / 10
    assert found.as_dict()["worst"]["column"] == found.worst.column


def test_many_markets_and_what_is_published_hold(config: Config) -> None:
    recipe = everything(config, **SHORTEST)
    found = checked(three_markets(400), random_publications(400), recipe, 6)
    assert found.breaches == ()
    assert found.n_bars > 12


@pytest.mark.parametrize(
    ("name", "expression", "declared", "suffices"),
    [
        ("an exponential average", ewm(pl.col(LOG_RETURN) ** 2, 5), decay(5) + 1, 10 * 5),
        ("a window", pl.col(CLOSE).rolling_mean(20), 20, 19),
        ("a step", pl.col(CLOSE) / pl.col(CLOSE).shift(30), 31, 30),
        ("a sum that never ends", pl.col(CLOSE).cum_sum(), 10**6, 200),
    ],
)
def test_a_look_back_that_is_too_short_is_caught_with_both_values(
    name: str, expression: pl.Expr, declared: int, suffices: int, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    candles = three_markets(400)
    with monkeypatch.context() as patch:
        plant(patch, expression, declared)
        recipe = everything(config, sources=(), use=("planted",))
        assert checked(candles, NO_PUBLICATIONS, recipe, 6).breaches == (), name
    plant(monkeypatch, expression, suffices)
    found = checked(candles, NO_PUBLICATIONS, everything(config, sources=()), 6)
    assert [breach.column for breach in found.breaches] == ["planted"], name
    breach = found.breaches[0]
    assert breach.batch is not None
    assert breach.batch != breach.alone
    assert f"planted of {breach.symbol} at {breach.ts} is {breach.batch} in the batch and {breach.alone}" in str(breach)


def test_a_window_on_the_grid_that_counts_bars_as_candles_is_sound(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, pl.col(CLOSE).shift(30), 31, rows="grid")
    assert checked(three_markets(400), NO_PUBLICATIONS, everything(config, sources=()), 20).breaches == ()


def test_a_value_that_only_one_of_them_has_is_a_breach_without_a_distance(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, pl.col(CLOSE).rolling_mean(20), 19)
    found = checked(three_markets(400), NO_PUBLICATIONS, everything(config, sources=(), use=("planted",)), 6)
    assert [(breach.alone, breach.deviations) for breach in found.breaches] == [(None, None)]
    assert found.worst is not None
    assert found.worst.column == "volatility"  # the planted one has no distance


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    holes=st.sets(st.integers(1, N_HYPOTHESIS_BARS - 2), max_size=60),
    run=st.tuples(st.integers(1, N_HYPOTHESIS_BARS - 32), st.integers(0, 30)),
)
def test_the_last_bar_follows_from_its_look_back_whatever_is_missing(
    config: Config, seed: int, holes: set[int], run: tuple[int, int]
) -> None:
    recipe = everything(config, SYMBOLS[:2], **SHORTEST)
    holes |= set(range(run[0], sum(run)))
    candles = pl.concat(
        [
            market(SYMBOLS[0], rough_candles(N_HYPOTHESIS_BARS, seed), holes),
            market(SYMBOLS[1], rough_candles(N_HYPOTHESIS_BARS, seed + 1), {hole // 2 + 1 for hole in holes}),
        ]
    )
    publications = random_publications(N_HYPOTHESIS_BARS, seed)
    assert look_back(recipe) < N_HYPOTHESIS_BARS / 2
    batch = build_features(candles, publications, recipe)
    newest = newest_features(candles, publications, recipe, 1, exactly=True)
    for row in newest.iter_rows(named=True):
        own = batch.filter(pl.col("symbol") == row["symbol"])
        for entry in catalogue(recipe):
            whole, alone = own[entry.name][-1], row[entry.name]
            assert (whole is None) == (alone is None), f"{entry.name}: {whole} in the batch, {alone} alone"
            if whole is not None:
                spread = own[entry.name].std()
                assert isinstance(spread, float)
                assert math.isclose(whole, alone, rel_tol=0, abs_tol=TOLERANCE * spread), entry.name


@pytest.mark.parametrize("end", [500, 540, 600])
def test_the_strength_of_a_market_that_only_falls_or_stands_still_follows_from_its_look_back(
    config: Config, end: int
) -> None:
    recipe = everything(config, ONE, (), use=("rsi",))
    steps = pl.int_range(pl.len()) // 3  # it stands still for two candles of three
    fallen = pl.when(pl.int_range(pl.len()) >= 100).then(100 * 0.999 ** steps.cast(pl.Float64))
    prices = pl.col("open", "high", "low", "close")
    candles = market(ONE[0], rough_candles(600, 1).with_columns(fallen.otherwise(prices).name.keep()))[:end]
    batch = build_features(candles, NO_PUBLICATIONS, recipe)["rsi"][-1]
    alone = newest_features(candles, NO_PUBLICATIONS, recipe, 1, exactly=True)["rsi"][-1]
    assert batch == pytest.approx(-0.5, abs=1e-6)
    assert alone == pytest.approx(batch, abs=1e-7)
