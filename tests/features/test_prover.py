from collections.abc import Callable

import polars as pl
import pytest

from gatecast.config import Config
from gatecast.features.catalogue import build_features
from gatecast.features.prover import prove
from gatecast.features.targets import build_targets
from tests.conftest import clean_candles, random_candles

CANDLES = clean_candles(random_candles(300).filter(~pl.int_range(pl.len()).is_in([100, 101, 222])))
HORIZONS = (1, 6)
Expression = pl.Expr


def with_feature(expression: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def build(candles: pl.DataFrame) -> pl.DataFrame:
        keys = candles.select("symbol", "ts", "bar")
        return keys.hstack(candles.select(planted=expression)).hstack(build_targets(candles, HORIZONS))

    return build


@pytest.mark.parametrize(
    ("leak", "expression"),
    [
        ("shift(-1)", pl.col("close").shift(-1)),
        ("centred window", pl.col("close").rolling_mean(5, center=True)),
        ("global mean", pl.col("close") - pl.col("close").mean()),
        ("backward fill", pl.col("close").backward_fill()),
        ("scaler fitted on everything", (pl.col("close") - pl.col("close").min()) / pl.col("close").max()),
        ("rank over everything", pl.col("volume").rank()),
    ],
)
def test_a_planted_leak_is_caught_with_its_row_and_both_values(leak: str, expression: pl.Expr) -> None:
    breaches = prove(CANDLES, with_feature(expression), HORIZONS, n_cuts=60)
    assert [breach.column for breach in breaches] == ["planted"], leak
    assert "planted of BTC/USDT at 2024-01-" in str(breaches[0])
    assert breaches[0].known != breaches[0].after


def test_a_target_that_reaches_further_than_it_says_is_caught() -> None:
    def build(candles: pl.DataFrame) -> pl.DataFrame:
        reaching = build_targets(candles, (7,)).rename({"target_7": "target_6"})
        return candles.select("symbol", "ts", "bar").hstack(build_targets(candles, (1,))).hstack(reaching)

    assert [breach.column for breach in prove(CANDLES, build, HORIZONS, n_cuts=10)] == ["target_6"]


def test_the_catalogue_and_the_targets_are_free_of_the_future(config: Config) -> None:
    spans = config.features.model_copy(update={"scale_half_life": 8, "volume_bars": 12})

    def build(candles: pl.DataFrame) -> pl.DataFrame:
        return build_features(candles, spans).hstack(build_targets(candles, HORIZONS))

    assert prove(CANDLES, build, HORIZONS, n_cuts=20) == []
