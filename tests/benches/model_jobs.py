"""The jobs of `model`, each in a process of its own: `python -m tests.benches.model_jobs NAME …` prints JSON.

Rows are those of real candles where `../shared/data` has them (BTC/USDT hourly, six years), else of the sample.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ProgressBar
from ruamel.yaml import YAML

from gatecast.config import Config, ModelConfig
from gatecast.config_parsing import parse_config
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.loss_panel import shared_forecasts
from gatecast.evaluation.metrics import RANGES
from gatecast.evaluation.score_table import naive_scales
from gatecast.evaluation.splits import Fold, Span, bars_of, resolve_split, walk_forward
from gatecast.evaluation.verdict import evaluate_predictions
from gatecast.evaluation.walk_forward import evaluate_folds, lstm_forecasts
from gatecast.features.build import build_features
from gatecast.features.catalogue import feature_names
from gatecast.features.feature import Recipe
from gatecast.features.targets import build_targets
from gatecast.market.candles import CLOSE, SYMBOL, TS, Market
from gatecast.market.cleaning import clean_grid
from gatecast.market.sample import read_sample
from gatecast.model import training
from gatecast.model.batches import BlockBatches, epoch_seed
from gatecast.model.fitted import FittedModel
from gatecast.model.networks import Network
from gatecast.model.predictions import (
    FOLD,
    HORIZON,
    LEVELS,
    LSTM,
    MODEL,
    PREDICTION_KEYS,
    QUANTILES,
    TARGET,
    realised,
)
from gatecast.model.procedure import TrainingInputs, training_inputs
from gatecast.model.threads import one_thread
from gatecast.model.training import Hyperparameters, train_network
from gatecast.model.windows import Panel, build_panel, fit_scaler
from tests.conftest import NO_PUBLICATIONS, REPOSITORY
from tests.model.fitting import fit_model

CANDLES: Final = REPOSITORY.parent / "shared" / "data" / "candles"
BTC: Final = Market("binance", "BTC/USDT", "1h")
SIX_YEARS: Final = 52_560  # hours
HORIZON_24: Final = 24
EVERY: Final = 4  # bars between two that are scored in the race
N_BOOTSTRAP: Final = 500
ALL_BASELINES: Final = ("naive", "ewma", "garch", "har", "lightgbm")
# of the race and the costs, as an earlier search on the sample left them, so that figures stay comparable
SETTINGS: Final = {"learning_rate": 0.004, "dropout": 0.2, "weight_decay": 0.0025}
# of what is to be worth something: as the search on the sample's development period leaves them
SEARCHED: Final = Hyperparameters(16, learning_rate=0.0052, dropout=0.3, weight_decay=0.028)
STEPS_A_BAR: Final = 341 / 17_508


def main() -> None:
    """Run the job that is named."""
    name, *arguments = sys.argv[1:]
    sys.stdout.write(json.dumps({**JOBS[name](*arguments), "peak_mb": _peak_mb()}) + "\n")


def archive(target: str) -> dict[str, Any]:
    """Write the race's task for the peers: one market, standardised by its train part."""
    task = _Task()
    np.savez(
        target,
        inputs=task.panel.inputs.numpy(),
        targets=task.panel.targets.numpy(),
        known=task.panel.known.numpy(),
        horizons=np.array(task.model.horizons),
        levels=np.array(LEVELS),
        n_train=task.n_train,
        scored=task.scored.numpy(),
    )
    return {"n_bars": len(task.panel.rows), "n_train": task.n_train, "n_scored": len(task.scored)}


class _Task:
    """One market whose last fifth is validated on; places are those of the padded panel."""

    def __init__(self) -> None:
        config, rows = _config(), _one_market()
        self.model = config.model.model_copy(update={"horizons": (1, 6, HORIZON_24)})
        names = feature_names(_recipe(config, ("BTC/USDT",)))
        cut = bars_of(rows).start + round(0.8 * len(rows))
        self.train = rows.filter(pl.col("bar") < cut - HORIZON_24)
        scaler = fit_scaler(self.train, names)
        windows = training_inputs(self.train, Hyperparameters(64, **SETTINGS), self.model).model.windows
        self.panel = build_panel(rows, names, self.model.horizons, scaler, ["BTC/USDT"], windows)
        self.train_panel = build_panel(self.train, names, self.model.horizons, scaler, ["BTC/USDT"], windows)
        self.n_train = int(((self.panel.rows >= 0) & (self.panel.rows < len(self.train))).nonzero().max()) + 1
        places = torch.arange(self.n_train + HORIZON_24, len(self.panel.rows), EVERY)
        self.scored = places[self.panel.known[places, -1] > 0]


class _Clock(ProgressBar):
    """Scores the validation bars after every step, and stops the clock meanwhile; in place of the lines of progress."""

    def __init__(self, score: Callable[[], float], cap_s: float) -> None:
        super().__init__()
        self.score, self.cap_s = score, cap_s
        self.seconds, self.curve = 0.0, []  # type: float, list[tuple[float, float]]
        self.began = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002 - Lightning names it
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        self.seconds += time.perf_counter() - self.began
        pl_module.eval()
        self.curve.append((self.seconds, self.score()))
        pl_module.train()
        trainer.should_stop = self.seconds > self.cap_s
        self.began = time.perf_counter()


def race(cap_s: str, seed: str) -> dict[str, Any]:
    """Our training on the task of the peers, a network of the same size: its curve as theirs."""
    task = _Task()
    levels = torch.tensor(LEVELS)
    target = task.panel.targets[task.scored, -1]
    networks: list[Network] = []

    @torch.inference_mode()
    def score() -> float:
        panel, windows = task.panel, task.panel.windows
        said = torch.zeros(len(panel.rows), len(LEVELS))
        for starts, markets in zip(torch.split(panel.starts, 64), torch.split(panel.markets, 64), strict=True):
            quantiles = networks[0](panel.cut(panel.inputs, starts), markets)[:, windows.burn_in :, -1]
            said[starts[:, None] + torch.arange(windows.burn_in, windows.n_bars)] = quantiles
        error = target[:, None] - said[task.scored]
        return float(torch.maximum(levels * error, (levels - 1) * error).mean())

    clock = _Clock(score, float(cap_s))
    honest = training.DenseForecaster.on_train_epoch_start

    def watched(self: training.DenseForecaster) -> None:
        networks[:] = [self.network]
        honest(self)

    training.DenseForecaster.on_train_epoch_start = watched  # type: ignore[method-assign]  # to see the network
    vars(training)["ProgressLines"] = lambda _: clock  # in place of the lines of progress
    hyperparameters = Hyperparameters(64, **SETTINGS)
    architecture = training_inputs(task.train, hyperparameters, task.model).model.architecture
    config = task.model.model_copy(update={"schedule": "constant"})
    train_network(task.train_panel, architecture, hyperparameters, config, int(seed), n_steps=300)
    best = min(clock.curve, key=lambda point: point[1])
    return {"curve": clock.curve, "best": best[1], "seconds_to_best": best[0]}


def overhead(n_times: str) -> dict[str, Any]:
    """Seconds of the same optimiser steps by Lightning with all that we hang on it, and by a bare loop, in turn."""
    task, hyperparameters, n_steps = _Task(), Hyperparameters(64, **SETTINGS), 120
    architecture = training_inputs(task.train, hyperparameters, task.model).model.architecture
    folder = REPOSITORY / ".gatecast" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    config = task.model.model_copy(update={"schedule": "constant"})
    theirs, ours = [], []
    for _ in range(int(n_times)):
        theirs.append(_seconds(lambda: _bare(task.train_panel, architecture, hyperparameters, config, n_steps)))
        checkpoint = folder / "overhead.ckpt"
        checkpoint.unlink(missing_ok=True)
        ours.append(
            _seconds(
                lambda path=checkpoint: train_network(  # type: ignore[misc]  # mypy infers no type of a default
                    task.train_panel, architecture, hyperparameters, config, 1, n_steps=n_steps, checkpoint=path
                )
            )
        )
    return {"ours": float(np.median(ours)), "bare": float(np.median(theirs)), "n_steps": n_steps}


def _bare(panel: Panel, architecture: Any, settings: Hyperparameters, config: ModelConfig, n_steps: int) -> None:
    """The loop that a person would write who knows what the batches are."""
    torch.manual_seed(1)
    network = Network(architecture)
    network.head.start_at(training._train_quantiles(panel))
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    burn_in, done = config.burn_in, 0
    with one_thread():
        for epoch in range(n_steps):
            for inputs, targets, known, markets in BlockBatches(panel, config.batch_blocks, epoch_seed(1, epoch, 0)):
                optimizer.zero_grad()
                said = network.distribution(inputs, markets)[:, burn_in:]
                network.head.loss(targets[:, burn_in:], said, known[:, burn_in:]).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
                optimizer.step()
                done += 1
                if done == n_steps:
                    return


def refit() -> dict[str, Any]:
    """Five folds on six years, hidden 64, with the shipped ensemble, two baselines and the proofs."""
    config, rows = _config(), _one_market()
    folds = _folds(rows, config)
    hyperparameters = Hyperparameters(64, **SETTINGS)
    n_steps = round(STEPS_A_BAR * folds[0].train.n_bars)
    chosen = [(hyperparameters, n_steps)] * len(folds)
    seconds = _seconds(lambda: evaluate_folds(rows, folds, ("naive", "ewma"), chosen, config.model, lambda _: None))
    return {"seconds": seconds, "n_bars": len(rows), "n_steps": n_steps, "n_networks": 5 * config.model.n_seeds}


def newest(n_markets: str) -> dict[str, Any]:
    """Milliseconds of a forecast of many markets from their feature rows: hidden 64, shipped ensemble, one thread."""
    torch.set_num_threads(1)
    config, rows = _config(), _one_market()
    markets = [rows[-2000:].with_columns(pl.lit(f"M{n:03d}/USDT").alias(SYMBOL)) for n in range(int(n_markets))]
    model = _untrained(pl.concat(market[:500] for market in markets), config.model)
    times = []
    for number in range(220):
        end = 600 + 6 * number  # at every place within a block
        newest_rows = pl.concat(market[end - model.windows.n_bars : end] for market in markets)
        began = time.perf_counter()
        table = model.predict_newest(newest_rows)
        times.append(1000 * (time.perf_counter() - began))
        assert len(table) == int(n_markets) * len(config.model.horizons)
    settled = times[20:]
    return {"median": float(np.median(settled)), "p99": float(np.quantile(settled, 0.99))}


def skill() -> dict[str, Any]:
    """BTC and ETH together, walk-forward, against five baselines; and the coverage on the sample."""
    config = _config()
    rows = _two_markets()
    predictions = _predictions(rows, config, ALL_BASELINES)
    scales = naive_scales(rows, _folds(rows, config), config.model.horizons)
    figures = evaluate_predictions(predictions, scales, ALL_BASELINES, config.model.horizons, (HORIZON_24,), 0.05)
    return {
        "n_rows": len(rows),
        "skill": figures["skill"],
        "best_baseline": figures["best_baseline"],
        "p_value": figures["p_value"],
        "against": {
            name: 1 - figures["models"][LSTM]["24"]["pinball"] / figures["models"][name]["24"]["pinball"]
            for name in ALL_BASELINES
        },
    }


def coverage() -> dict[str, Any]:
    """Coverage of the sample's folds beside what a perfect model could promise: two block-bootstrap standard errors."""
    config = _config()
    table = shared_forecasts(_predictions(_rows({"BTC/USDT": read_sample(BTC)}, config), config, ("ewma",)))
    found: dict[str, Any] = {}
    for horizon in config.model.horizons:
        ours = table.filter((pl.col(MODEL) == LSTM) & (pl.col(HORIZON) == horizon)).sort(TS)
        for name, (low, high) in RANGES.items():
            inside = ours[TARGET].is_between(ours[f"q{low:g}"], ours[f"q{high:g}"]).to_numpy().astype(float)
            deviation = _block_bootstrap(inside, max(2 * horizon, round(math.sqrt(len(inside)))))
            found[f"{horizon}, {name} %"] = (100 * float(inside.mean()), 100 * deviation)
    return found


def _block_bootstrap(values: np.ndarray[Any, np.dtype[np.float64]], block: int) -> float:
    """Standard error of a mean, circular blocks (Politis and Romano 1992)."""
    generator, n = np.random.default_rng(1), len(values)
    starts = generator.integers(0, n, (N_BOOTSTRAP, math.ceil(n / block)))
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:block]]))])
    return float(((sums[starts + block] - sums[starts]).sum(axis=1) / (starts.shape[1] * block)).std())


def _predictions(rows: pl.DataFrame, config: Config, baselines: tuple[str, ...]) -> pl.DataFrame:
    """Every forecast of every fold, without the proofs."""
    tables = []
    folds = _folds(rows, config)
    n_markets = rows[SYMBOL].n_unique()
    for fold in folds:
        n_steps = round(STEPS_A_BAR * folds[0].train.n_bars * n_markets)
        fitted = fit_model(fold.train.rows(rows), SEARCHED, n_steps, config.model)
        train, history = fold.train.rows(rows), Span(fold.train.start, fold.test.end).rows(rows)
        forecasts = {name: BASELINES[name](train, config.model.horizons)(history, fold.test) for name in baselines}
        test = fold.test.rows(rows)
        closes = test.select(SYMBOL, TS, CLOSE)
        outcome = realised(test, config.model.horizons).join(closes, on=[SYMBOL, TS], how="left")
        for name, table in {LSTM: lstm_forecasts(rows, fold, fitted), **forecasts}.items():
            named = table.with_columns(pl.lit(name).alias(MODEL), pl.lit(fold.number, dtype=pl.Int64).alias(FOLD))
            tables.append(named.join(outcome, on=PREDICTION_KEYS, how="left"))
    return pl.concat(table.select(*PREDICTION_KEYS, MODEL, FOLD, TARGET, *QUANTILES, CLOSE) for table in tables)


def _folds(rows: pl.DataFrame, config: Config) -> tuple[Fold, ...]:
    boundary, fold_bars = resolve_split(bars_of(rows), config.evaluate.n_folds)
    return walk_forward(bars_of(rows), boundary, fold_bars, max(config.model.horizons))


def _untrained(rows: pl.DataFrame, config: ModelConfig) -> FittedModel:
    inputs: TrainingInputs = training_inputs(rows, Hyperparameters(64, **SETTINGS), config)
    networks = tuple(Network(inputs.model.architecture).eval() for _ in range(config.n_seeds))
    return replace(inputs.model, networks=networks)


def _config() -> Config:
    return parse_config(YAML(typ="safe").load(REPOSITORY / "conf" / "params.yaml"), "conf/params.yaml")


def _recipe(config: Config, symbols: tuple[str, ...]) -> Recipe:
    return Recipe(config.features, symbols, "1h")


def _one_market() -> pl.DataFrame:
    path = CANDLES / "binance-BTC-USDT-1h.parquet"
    candles = pl.read_parquet(path).tail(SIX_YEARS) if path.exists() else read_sample(BTC)
    return _rows({"BTC/USDT": candles}, _config())


def _two_markets() -> pl.DataFrame:
    paths = {f"{name}/USDT": CANDLES / f"binance-{name}-USDT-1h.parquet" for name in ("BTC", "ETH")}
    if not all(path.exists() for path in paths.values()):
        return _rows({"BTC/USDT": read_sample(BTC)}, _config())
    read = {symbol: pl.read_parquet(path) for symbol, path in paths.items()}
    start, end = max(each[TS].min() for each in read.values()), min(each[TS].max() for each in read.values())  # type: ignore[type-var]
    both = {symbol: each.filter(pl.col(TS).is_between(start, end)) for symbol, each in read.items()}
    return _rows(both, _config())


def _rows(candles: dict[str, pl.DataFrame], config: Config) -> pl.DataFrame:
    grids = []
    for symbol, raw in candles.items():
        market = Market("binance", symbol, "1h")
        grid, _, _ = clean_grid(raw, market, raw[TS].sort()[-1] + timedelta(hours=1))
        grids.append(grid.with_columns(outlier=pl.lit(value=False)))
    rows = build_features(pl.concat(grids), NO_PUBLICATIONS, _recipe(config, tuple(candles)))
    return rows.hstack(build_targets(rows, config.model.horizons))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


JOBS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "archive": archive,
    "race": race,
    "overhead": overhead,
    "refit": refit,
    "newest": newest,
    "skill": skill,
    "coverage": coverage,
}

if __name__ == "__main__":
    main()
