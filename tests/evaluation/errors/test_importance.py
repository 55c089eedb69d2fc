import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import norm, ttest_1samp
from torch import Tensor, nn

from gatecast.evaluation.errors.importance import feature_groups, importance_rows, permutation_importance
from gatecast.evaluation.metrics import mean_pinball
from gatecast.evaluation.splits import Fold, Span
from gatecast.evaluation.walk_forward import lstm_forecasts
from gatecast.features.targets import build_targets
from gatecast.market.candles import TS_TYPE
from gatecast.model.fitted import FittedModel
from gatecast.model.networks import Architecture, Network
from gatecast.model.predictions import LEVELS, PREDICTION_KEYS, QUANTILES, realised
from gatecast.model.windows import Windows, fit_scaler

START = datetime(2024, 1, 1, tzinfo=UTC)
FIRST_BAR = 473_352
HORIZONS = (1, 3)
FEATURES = ("signal_1", "signal_6", "idle", "market", "day_sine", "day_cosine")
SCHEMA = ("fold", "feature", "horizon", "n", "loss", "shifted_loss")
STRIDE, BURN_IN = 16, 8
FOLD = Fold(2, Span(FIRST_BAR, FIRST_BAR + 297), Span(FIRST_BAR + 300, FIRST_BAR + 900))


class Reader(nn.Module):
    """Stands in for a network: the width of what it says follows from some channels of the bar."""

    def __init__(self, *channels: str) -> None:
        super().__init__()
        self.channels = [FEATURES.index(channel) for channel in channels]

    def forward(self, inputs: Tensor, _markets: Tensor) -> Tensor:
        """(B, T, H, Q)."""
        width = torch.exp(inputs[..., self.channels].sum(-1))  # (B, T)
        return width[..., None, None] * torch.tensor(norm.ppf(LEVELS), dtype=torch.float32).expand(2, -1)


def market(symbol: str, seed: int, holes: tuple[int, ...] = (), n_bars: int = 900) -> pl.DataFrame:
    """Bars whose next returns are as wide as the signal says, and a feature that only tells the market."""
    generator, place = np.random.default_rng(seed), np.arange(n_bars)
    signal = np.convolve(generator.standard_normal(n_bars + 9), np.ones(10) / np.sqrt(10), "valid")
    returns = np.concatenate([[0.0], 0.01 * np.exp(signal[:-1]) * generator.standard_normal(n_bars - 1)])
    rows = pl.DataFrame(
        {
            "symbol": symbol,
            "ts": pl.Series([START + timedelta(hours=int(hour)) for hour in place], dtype=TS_TYPE),
            "bar": FIRST_BAR + place,
            "close": 100 * np.exp(np.cumsum(returns)),
            "missing": np.isin(place, holes),
            "volatility": 0.01 + 0.001 * generator.random(n_bars),
            "signal_1": signal,
            "signal_6": generator.standard_normal(n_bars),
            "idle": generator.standard_normal(n_bars),
            "market": float(seed),
            "day_sine": np.sin(2 * np.pi * place / 24),
            "day_cosine": np.cos(2 * np.pi * place / 24),
        }
    )
    there = (pl.when(~pl.col("missing")).then(name).alias(name) for name in ("close", "volatility", *FEATURES))
    rows = rows.with_columns(there)
    return rows.hstack(build_targets(rows, HORIZONS))


def fitted(rows: pl.DataFrame, *networks: nn.Module) -> FittedModel:
    architecture = Architecture("lstm", "quantiles", "none", len(FEATURES) + 1, 2, 2, 4, 4, 1, 0.0, 5, 4)
    symbols = tuple(rows["symbol"].unique().sort())
    return FittedModel(
        symbols=symbols,
        features=FEATURES,
        horizons=HORIZONS,
        windows=Windows(STRIDE, BURN_IN),
        architecture=architecture,
        scaler=fit_scaler(rows, FEATURES),
        networks=networks,  # type: ignore[arg-type]  # stand-ins
        offsets=((-0.1, -0.05, 0.0, 0.0, 0.0, 0.05, 0.1),) * 2,
    )


@pytest.fixture(scope="module")
def one() -> pl.DataFrame:
    return market("BTC/USDT", 0, holes=(310, 311, 500))


@pytest.fixture(scope="module")
def two(one: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([one, market("ETH/USDT", 1)])


def increase(table: pl.DataFrame, horizon: int = 1) -> dict[str, float]:
    chosen = table.filter(pl.col("horizon") == horizon)
    return dict(zip(chosen["feature"], chosen["shifted_loss"] / chosen["loss"] - 1, strict=True))


def test_features_that_differ_in_their_span_or_phase_are_one_group() -> None:
    names = ("return_1", "return_24", "log_volatility", "volatility_ratio_3", "day_sine", "day_cosine", "week_sine")
    assert feature_groups(names) == {
        "return": [0, 1], "log_volatility": [2], "volatility_ratio": [3], "day": [4, 5], "week": [6],
    }  # fmt: skip


def test_what_the_network_reads_is_at_the_top_and_what_it_does_not_read_is_worth_nothing(two: pl.DataFrame) -> None:
    table = permutation_importance(two, FOLD, fitted(two, Reader("signal_1")), HORIZONS, 7)
    assert tuple(table.columns) == SCHEMA
    worth = increase(table)
    assert worth["signal"] > 0.1
    assert all(abs(worth[name]) < 1e-12 for name in ("idle", "market", "day"))
    rows = importance_rows(table.filter(pl.col("horizon") == 1))["rows"]
    assert rows[0]["feature"] == "signal"


def test_a_network_that_reads_noise_gains_nothing_from_it(one: pl.DataFrame) -> None:
    worth = increase(permutation_importance(one, FOLD, fitted(one, Reader("idle")), HORIZONS, 7))
    assert abs(worth["idle"]) < 0.05  # it does as badly with other noise
    assert worth["signal"] == 0


def test_a_pair_of_sine_and_cosine_is_moved_together(one: pl.DataFrame) -> None:
    worth = increase(permutation_importance(one, FOLD, fitted(one, Reader("day_sine", "day_cosine")), HORIZONS, 7))
    assert set(worth) == {"signal", "idle", "market", "day"}
    assert worth["day"] != 0


def test_the_values_of_a_market_stay_its_own() -> None:
    # the feature is one number in each market: moved within the markets it stays as it is
    rows = pl.concat([market("BTC/USDT", 0), market("ETH/USDT", 1)])
    worth = increase(permutation_importance(rows, FOLD, fitted(rows, Reader("market", "signal_1")), HORIZONS, 7))
    assert abs(worth["market"]) < 1e-12
    assert worth["signal"] > 0.1


class Watcher(Reader):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__("idle")
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor, _markets: Tensor) -> Tensor:
        """(B, T, H, Q)."""
        self.seen.append(inputs.clone())
        return super().forward(inputs, _markets)


def test_a_group_is_moved_by_a_block_or_more_and_all_else_stays(one: pl.DataFrame) -> None:
    watcher = Watcher()
    places = one.with_columns(idle=pl.col("bar").cast(pl.Float64) - FIRST_BAR, market=pl.lit(0.0))
    model = fitted(places, watcher)
    permutation_importance(places, FOLD, model, HORIZONS, 7)
    seen = torch.cat(watcher.seen)
    n_blocks = (FOLD.test.end - 1) // STRIDE - FOLD.test.start // STRIDE + 1  # those that forecast a bar of the test
    by_shift = seen.view(-1, n_blocks, STRIDE + BURN_IN, len(FEATURES) + 1)
    as_it_is, column = by_shift[0], FEATURES.index("idle")
    mean, deviation = model.scaler.mean[column], model.scaler.deviation[column]
    n_bars = STRIDE + BURN_IN + 600
    moved = 0
    for shifted in by_shift[1:]:
        changed = torch.nonzero((as_it_is != shifted).any(0).any(0))[:, 0].tolist()
        if changed != [column]:
            assert column not in changed
            assert len(changed) <= 2
            continue
        moved += 1
        there = (as_it_is[..., -1] == 0) & (shifted[..., column] != 0)
        before, after = ((each[..., column][there] * deviation + mean).round() for each in (as_it_is, shifted))
        ahead = (before - after) % n_bars
        assert len(torch.unique(ahead)) == 1
        assert STRIDE + BURN_IN <= ahead[0] <= n_bars - STRIDE - BURN_IN
    assert moved >= 3


def test_the_loss_as_it_is_is_that_of_the_forecasts_that_are_evaluated(two: pl.DataFrame) -> None:
    model = fitted(two, Reader("signal_1"), Reader("idle"))
    table = permutation_importance(two, FOLD, model, HORIZONS, 7)
    forecasts = lstm_forecasts(two, FOLD, model).join(realised(two, HORIZONS), on=PREDICTION_KEYS).drop_nulls("target")
    for horizon in HORIZONS:
        chosen = forecasts.filter(pl.col("horizon") == horizon)
        row = table.filter(pl.col("horizon") == horizon).row(0, named=True)
        loss = mean_pinball(chosen["target"].to_numpy(), chosen.select(QUANTILES).to_numpy())
        assert row["n"] == len(chosen)
        assert np.isclose(row["loss"], loss, rtol=1e-5)


def test_a_real_network_gives_finite_figures_that_the_seed_alone_decides(one: pl.DataFrame) -> None:
    torch.manual_seed(0)
    model = fitted(one, Network(fitted(one).architecture).eval())
    first, again, other = (permutation_importance(one, FOLD, model, (3,), seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    assert first["shifted_loss"].is_finite().all()
    assert first["horizon"].unique().to_list() == [3]


def test_of_many_markets_a_sample_of_blocks_is_enough() -> None:
    rows = pl.concat([market(f"M{number:02d}", number) for number in range(10)])
    table = permutation_importance(rows, FOLD, fitted(rows, Reader("signal_1")), HORIZONS, 7)
    assert 0.8 * 256 * STRIDE < table["n"].max() <= 256 * STRIDE  # type: ignore[operator]  # a number
    assert increase(table)["signal"] > 0.1


def test_a_horizon_without_a_known_target_has_no_row(one: pl.DataFrame) -> None:
    unknown = one.with_columns(pl.lit(None, dtype=pl.Float64).alias("target_3"))
    table = permutation_importance(unknown, FOLD, fitted(one, Reader("signal_1")), HORIZONS, 7)
    assert table["horizon"].unique().to_list() == [1]


def test_a_market_that_the_networks_do_not_know_counts_for_nothing(one: pl.DataFrame, two: pl.DataFrame) -> None:
    found = [permutation_importance(rows, FOLD, fitted(one, Reader("idle")), HORIZONS, 7) for rows in (one, two)]
    assert found[0].equals(found[1])


def folds(**increases: list[float]) -> pl.DataFrame:
    keys = {"horizon": 1, "n": 100, "loss": 0.02}
    tables = [
        pl.DataFrame({"fold": number, "feature": name, **keys, "shifted_loss": 0.02 * (1 + rise)})
        for name, rises in increases.items()
        for number, rise in enumerate(rises)
    ]
    return pl.concat(tables)


def test_features_are_sorted_by_their_worth_with_its_interval_over_the_folds() -> None:
    rises = [0.01, 0.013, 0.008, 0.012, 0.011]
    idle = [0.001, -0.002, 0.001, 0.0, -0.001]
    found = importance_rows(folds(idle=idle, signal=rises))
    assert [row["feature"] for row in found["rows"]] == ["signal", "idle"]
    interval = ttest_1samp(rises, 0).confidence_interval(0.95)
    assert np.allclose([found["rows"][0][name] for name in ("low", "high")], [interval.low, interval.high])
    assert np.isclose(found["rows"][0]["loss_increase"], np.mean(rises))
    assert "Shifted in time, signal (+1.08" in found["sentence"]
    assert "raises the loss by more than chance explains" in found["sentence"]
    assert [row["p_value"] for row in found["rows"]] == pytest.approx(
        [2 * ttest_1samp(rises, 0, alternative="greater").pvalue, ttest_1samp(idle, 0, alternative="greater").pvalue]
    )
    assert "for idle no rise can be told from chance" in found["sentence"]


@pytest.mark.parametrize("n_features", [1, 15])
def test_noise_is_not_said_to_be_needed_however_many_features_there_are(n_features: int) -> None:
    generator = np.random.default_rng(0)
    rises = 0.01 * generator.standard_normal((200, n_features, 5))
    tables = (folds(**{f"idle{n}": each.tolist() for n, each in enumerate(of_table)}) for of_table in rises)
    named = sum("the loss by more than chance explains;" in importance_rows(table)["sentence"] for table in tables)
    assert named <= 19  # 5 %, and three binomial deviations


def test_what_was_measured_on_one_fold_or_not_at_all_says_so() -> None:
    single = importance_rows(folds(signal=[0.02], idle=[0.0]))
    assert single["rows"][0] == {
        "feature": "signal",
        "loss_increase": pytest.approx(0.02),
        **dict.fromkeys(("low", "high", "p_value")),
    }
    assert "one fold cannot tell" in single["sentence"]
    for nothing in (None, folds(signal=[0.02]).clear()):
        assert importance_rows(nothing) == {"rows": [], "sentence": "What each feature is worth was not measured."}


def test_what_is_written_is_json_without_a_nan(two: pl.DataFrame) -> None:
    table = permutation_importance(two, FOLD, fitted(two, Reader("signal_1")), HORIZONS, 7)
    both = pl.concat([table, table.with_columns(pl.lit(3, dtype=pl.Int64).alias("fold"))])
    for horizon in HORIZONS:
        found = importance_rows(both.filter(pl.col("horizon") == horizon))
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert "nan" not in found["sentence"]
