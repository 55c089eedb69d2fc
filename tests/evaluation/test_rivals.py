"""Every baseline in a fold, as `evaluate` runs it: proven, and shown no more columns than it reads."""

from typing import get_args

import polars as pl
import pytest

from gatecast.config import BaselineName
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.fold_proof import cut_within
from gatecast.evaluation.rivals import columns_for, prove_rival
from gatecast.evaluation.splits import Fold, Span
from gatecast.market.candles import SYMBOL, TS, iso
from tests.evaluation.small_market import FIRST_BAR, HORIZONS, small_market

STRIDE = 16
FOLD = Fold(1, Span(FIRST_BAR, FIRST_BAR + 1200 - max(HORIZONS)), Span(FIRST_BAR + 1200, FIRST_BAR + 1300))


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return small_market(1400)


def test_the_configuration_names_every_baseline_and_no_other() -> None:
    assert get_args(BaselineName) == tuple(BASELINES)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_is_proven_at_three_cuts_and_forecasts_each_bar_of_the_test(name: str, rows: pl.DataFrame) -> None:
    history = Span(FOLD.train.start, FOLD.test.end).rows(rows)
    forecasts, proofs = prove_rival(name, columns_for(name, history, HORIZONS), FOLD, HORIZONS, STRIDE)
    assert [proof.breaches for proof in proofs] == [(), (), ()]
    cuts = (FOLD.test.start + 1, cut_within(FOLD, STRIDE), FOLD.test.end - 1)
    assert [proof.cut for proof in proofs] == [iso(rows.filter(pl.col("bar") == cut)[TS][0]) for cut in cuts]
    assert all(proof.compared == (f"forecasts of {name}",) for proof in proofs)
    test = FOLD.test.rows(rows).drop_nulls("close")
    for horizon in HORIZONS:
        here = forecasts.filter(pl.col("horizon") == horizon)
        assert here.select(SYMBOL, TS).equals(test.select(SYMBOL, TS))


@pytest.mark.parametrize("name", list(BASELINES))
def test_the_columns_that_a_baseline_is_not_shown_would_change_nothing(name: str, rows: pl.DataFrame) -> None:
    history = Span(FOLD.train.start, FOLD.test.end).rows(rows)
    shown = columns_for(name, history, HORIZONS)
    said = [BASELINES[name](FOLD.train.rows(some), HORIZONS)(some, FOLD.test) for some in (history, shown)]
    assert said[0].equals(said[1])
