from datetime import timedelta

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatecast.config import Config
from gatecast.features.build import build_features
from gatecast.features.catalogue import feature_names
from gatecast.features.targets import build_targets
from gatecast.market.publications.table import FEAR_GREED, FUNDING, PUBLISHED_AT, VALUE, as_publications
from gatecast.model.training import BlockBatches
from gatecast.model.windows import blocks, build_panels, fit_scaler, n_inputs
from tests.conftest import clean_candles, feature_table, random_candles, small_recipe

STRIDE, BURN_IN = 16, 8


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
    scaler = fit_scaler(rows, names)
    (panel,) = build_panels(rows[start : start + length], names, (1, 6), scaler, STRIDE, BURN_IN)
    index = blocks(panel.rows, STRIDE, BURN_IN)
    for block in index:
        for position, row in enumerate(block.tolist()):
            if row >= 0:
                assert rows["bar"][start + row] % STRIDE == (position - BURN_IN) % STRIDE
    predicted = index[:, BURN_IN:].flatten()
    assert predicted[predicted >= 0].tolist() == list(range(length))


@pytest.mark.parametrize("n_bars", [20, 40, 130, 500])
def test_every_epoch_has_as_many_batches_as_it_says_and_shows_every_label_at_most_once(
    n_bars: int, rows: pl.DataFrame, names: tuple[str, ...], config: Config
) -> None:
    model = config.model.model_copy(update={"stride": STRIDE, "burn_in": BURN_IN, "batch_blocks": 3})
    other = rows[200:260].with_columns(symbol=pl.lit("ETH/USDT"))
    both = pl.concat([rows[:n_bars], other])
    panels = build_panels(both, names, (1, 6), fit_scaler(rows, names), STRIDE, BURN_IN)
    batches = BlockBatches(panels, model, seed=5)
    epochs = [list(batches) for _ in range(30)]
    assert {len(epoch) for epoch in epochs} == {len(batches)}
    assert len({float(epoch[0][0].sum()) for epoch in epochs}) > 20
    n_known = sum(int(panel.known.sum()) for panel in panels)
    for epoch in epochs:
        assert sum(int(known[:, BURN_IN:].sum()) for _, _, known in epoch) <= n_known
    anchored = BlockBatches(panels, model, seed=None)
    assert sum(int(known[:, BURN_IN:].sum()) for _, _, known in anchored) == n_known


def test_blocks_are_views_on_the_panel(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    (panel,) = build_panels(rows, names, (1,), fit_scaler(rows, names), STRIDE, BURN_IN)
    assert (
        blocks(panel.inputs, STRIDE, BURN_IN).untyped_storage().data_ptr() == panel.inputs.untyped_storage().data_ptr()
    )


def test_missing_bars_are_marked_for_the_network_and_never_labelled(rows: pl.DataFrame, names: tuple[str, ...]) -> None:
    (panel,) = build_panels(rows, names, (1, 6), fit_scaler(rows, names), STRIDE, BURN_IN)
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
    (panel,) = build_panels(rows, names, (1,), fit_scaler(rows, names), STRIDE, BURN_IN)
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
    (panel,) = build_panels(rows, names, (1,), scaler, 8, 8)
    speaking, of_index = panel.inputs[panel.rows >= 150][:, 1], panel.inputs[panel.rows >= 150][:, -1]
    assert (speaking == 0).all()
    assert (of_index == 1).all()
