from datetime import timedelta

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.errors import DataError
from gatecast.features.build import build_features
from gatecast.features.catalogue import feature_names
from gatecast.features.targets import build_targets
from gatecast.market.publications.table import FEAR_GREED, FUNDING, PUBLISHED_AT, VALUE, as_publications
from gatecast.model.batches import BlockBatches
from gatecast.model.windows import Panel, Windows, build_panel, fit_scaler, n_inputs
from tests.conftest import clean_candles, feature_table, random_candles, small_recipe

STRIDE, BURN_IN = 16, 8
WINDOWS = Windows(STRIDE, BURN_IN)


def panel_of(rows: pl.DataFrame, names: tuple[str, ...], horizons: tuple[int, ...] = (1, 6)) -> Panel:
    symbols = sorted(rows["symbol"].unique())
    return build_panel(rows, names, horizons, fit_scaler(rows, names), symbols, WINDOWS)


def anchored(panel: Panel) -> torch.Tensor:
    return panel.cut(panel.rows, panel.starts)


@pytest.fixture(scope="module")
def rows(config: Config) -> pl.DataFrame:
    candles = clean_candles(random_candles(500).filter(~pl.int_range(pl.len()).is_in([300, 301])))
    return feature_table(candles, small_recipe(config), (1, 6))


@pytest.fixture(scope="module")
def names(config: Config) -> tuple[str, ...]:
    return feature_names(small_recipe(config))


@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 200), length=st.integers(30, 250))
def test_the_block_of_a_bar_depends_on_the_epoch_and_not_on_where_the_data_begins(
    start: int, length: int, rows: pl.DataFrame, names: tuple[str, ...]
) -> None:
    panel = panel_of(rows[start : start + length], names)
    index = anchored(panel)
    assert panel.anchors.tolist() == list(
        range(rows["bar"][start] // STRIDE, rows["bar"][start] // STRIDE + len(index))
    )
    for block in index:
        for position, row in enumerate(block.tolist()):
            if row >= 0:
                assert rows["bar"][start + row] % STRIDE == (position - BURN_IN) % STRIDE
    predicted = index[:, BURN_IN:].flatten()
    assert predicted[predicted >= 0].tolist() == list(range(length))


@pytest.mark.parametrize("n_bars", [20, 40, 130, 500])
def test_every_epoch_has_as_many_batches_and_shows_every_label_at_most_once(
    n_bars: int, rows: pl.DataFrame, names: tuple[str, ...]
) -> None:
    other = rows[200:260].with_columns(symbol=pl.lit("ETH/USDT"))
    panel = panel_of(pl.concat([rows[:n_bars], other]), names)
    epochs = [BlockBatches(panel, 3, seed=seed) for seed in range(30)]
    assert {len(list(epoch)) for epoch in epochs} == {len(epochs[0])}
    assert len({float(next(iter(epoch)).inputs.sum()) for epoch in epochs}) > 20
    n_known = int(panel.known.sum())
    for epoch in epochs:
        assert sum(int(batch.known[:, BURN_IN:].sum()) for batch in epoch) <= n_known
        assert [batch.inputs.sum() for batch in epoch] == [batch.inputs.sum() for batch in epoch]
    whole = BlockBatches(panel, 3, seed=None)
    assert sum(int(batch.known[:, BURN_IN:].sum()) for batch in whole) == n_known


def test_a_shifted_block_holds_bars_of_one_market_alone(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    marked = [rows[:n].with_columns(symbol=pl.lit(symbol)) for symbol, n in (("A", 130), ("B", 20), ("C", 300))]
    panel = panel_of(pl.concat(marked), names)
    owner = torch.repeat_interleave(torch.tensor([0, 1, 2]), torch.tensor([130, 20, 300]))
    numbered = Panel(
        **{**panel.tensors(), "inputs": torch.where(panel.rows >= 0, owner[panel.rows], -1)[:, None]}, windows=WINDOWS
    )
    for seed in range(20):
        for batch in BlockBatches(numbered, 3, seed=seed):
            for block, market in zip(batch.inputs[..., 0], batch.markets, strict=True):
                assert set(block.tolist()) <= {-1, int(market)}


def test_ranks_share_each_batch_and_make_as_many_steps(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    panel = panel_of(rows[:330], names)
    whole = list(BlockBatches(panel, 4, seed=1))
    ranks = [list(BlockBatches(panel, 4, seed=1, rank=rank, n_ranks=2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(whole)
    for one, other, together in zip(*ranks, whole, strict=True):
        if len(together.markets) > 1:  # a last batch of one block is taken by both
            shared = torch.cat([one.inputs, other.inputs]).sum((1, 2)).sort().values
            torch.testing.assert_close(shared, together.inputs.sum((1, 2)).sort().values)


def test_the_inputs_of_a_market_are_its_standardised_features_and_no_other_s(
    rows: pl.DataFrame, names: tuple[str, ...]
) -> None:
    both = pl.concat([rows[:130], rows[100:300].with_columns(symbol=pl.lit("ETH/USDT"))])
    scaler = fit_scaler(both, names)
    panel = panel_of(both, names)
    for place, row in enumerate(panel.rows.tolist()):
        for column, name in enumerate(names):
            value = both[name][row] if row >= 0 else None
            scaled = 0.0 if value is None else (value - scaler.mean[column]) / scaler.deviation[column]
            assert float(panel.inputs[place, column]) == pytest.approx(min(max(scaled, -6), 6), abs=1e-5)


def test_a_market_that_the_model_was_not_fitted_on_is_refused(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"fitted on ETH/USDT, and knows nothing of BTC/USDT"):
        build_panel(rows, names, (1,), fit_scaler(rows, names), ["ETH/USDT"], WINDOWS)


def test_missing_bars_are_marked_for_the_network_and_never_labelled(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    panel = panel_of(rows, names)
    gone = rows["missing"].to_list()
    for position, row in enumerate(panel.rows.tolist()):
        if row >= 0 and gone[row]:
            assert panel.inputs[position, -1] == 1
            assert panel.inputs[position, :-1].abs().sum() == 0
            assert panel.known[position].sum() == 0
    assert torch.isfinite(panel.inputs).all()
    assert torch.isfinite(panel.targets).all()


def test_a_source_that_is_silent_is_marked_by_itself_and_hides_no_candle(config: Config) -> None:
    candles = clean_candles(random_candles(200).filter(pl.int_range(pl.len()) != 150))
    recipe = small_recipe(config, sources=(FEAR_GREED, FUNDING))
    names = feature_names(recipe)
    start = candles["ts"][0]
    index = pl.DataFrame(
        {PUBLISHED_AT: [start + timedelta(days=n) for n in range(-8, 5)], VALUE: map(float, range(13))}
    )
    rows = build_features(candles, as_publications(index, FEAR_GREED), recipe).hstack(build_targets(candles, (1,)))
    panel = panel_of(rows, names, (1,))
    assert panel.inputs.shape[1] == n_inputs(names) == len(names) + 3  # candles, index, funding
    kept = panel.rows >= 0
    own, daily, funding = panel.inputs[kept][:, len(names) :].T.tolist()
    n_candle = sum(not name.startswith(("fear_greed", "funding_rate")) for name in names)
    for row, here in enumerate(rows.select(names).iter_rows()):
        assert own[row] == (None in here[:n_candle])
        assert daily[row] == (None in here[n_candle : n_candle + 2])
    assert set(funding) == {1.0}  # nothing was ever settled
    assert own[150] == daily[150] == 1
    assert own[-1] == 0 < daily[-1]  # a bar of a day after the last index still has its candle
    assert torch.isfinite(panel.inputs).all()


def test_the_scaler_is_a_function_of_the_rows_it_is_given(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    changed = pl.concat([rows[:400], rows[400:].with_columns(pl.col(name) * 100 for name in names)])
    assert fit_scaler(rows[:400], names) == fit_scaler(changed[:400], names)
    assert fit_scaler(rows, names) != fit_scaler(changed, names)


def test_a_feature_without_a_value_in_training_is_absent_ever_after(config: Config) -> None:
    names = ["rsi", "fear_greed"]
    candles = clean_candles(random_candles(200))
    rows = feature_table(candles, small_recipe(config), (1,)).with_columns(
        fear_greed=pl.when(pl.int_range(pl.len()) >= 150).then(0.4)
    )
    scaler = fit_scaler(rows[:150], names)
    panel = build_panel(rows, names, (1,), scaler, ["BTC/USDT"], Windows(8, 8))
    speaking, of_index = panel.inputs[panel.rows >= 150][:, 1], panel.inputs[panel.rows >= 150][:, -1]
    assert (speaking == 0).all()
    assert (of_index == 1).all()
