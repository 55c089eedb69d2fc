"""What the evaluation costs, how often its verdict is wrong, and what it can see.

The whole evaluation is the stage, on the sample, in a copy of this workspace. For the verdict markets are simulated, in
`evaluation_markets`; it is taken as `evaluate_predictions` takes it, without the
bootstraps, which it does not ask. `--small` shrinks everything, to see that the bench works.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import psutil

from gatecast.evaluation.loss_panel import LossPanel
from gatecast.evaluation.resampling import (
    block_length,
    chunk_means,
    chunk_starts,
    interval_block,
    skill_intervals,
    skills,
)
from gatecast.evaluation.score_table import score_table
from gatecast.evaluation.verdict import against_baselines, evaluate_predictions
from gatecast.market.candles import TS_TYPE
from gatecast.model.predictions import LSTM, QUANTILES
from tests.benches.evaluation_markets import (
    HORIZONS,
    error_of_skill,
    ewma_walks,
    exchangeable_panels,
    null_panels,
    random_walks,
)
from tests.benches.features import Row, at_most, publish, row
from tests.benches.run import copy_workspace, tree_memory_mb

SMALL: Final = "--small" in sys.argv
N_TIMES: Final = 1 if SMALL else 5
N_SERIES: Final = 4 if SMALL else 200
N_MODELS: Final = 10
N_LONG, N_SAMPLE = (2000, 1000) if SMALL else (50_000, 17_500)
ALPHA: Final = 0.05
NAMED: Final = 24  # the horizon that is judged
WHOLE_REACH_S, WHOLE_REACH_MB = 90.0, 3072.0
STATISTICS_REACH_S, SAMPLE_REACH_S = 5.0, 3.0
FALSE_ALARMS_REACH: Final = 0.075  # 15 of 200: 5 %, and what chance adds
SKILLS: Final = (0.0025, 0.005, 0.01, 0.02)


def whole_rows() -> list[Row]:
    """Seconds and peak memory of the stage on the sample, every shipped baseline in it, after the search."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder).resolve()
        copy_workspace(workspace)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(workspace / "src"), str(workspace)])}
        smaller = ["--set", "tune.n_trials=1", "--set", "model.n_seeds=1"] if SMALL else []
        for step in (["ingest", *smaller], ["tune"]):
            subprocess.run([sys.executable, "-m", "gatecast.cli", *step], cwd=workspace, env=environment, check=True)
        began, peak = time.monotonic(), 0.0
        stage = psutil.Popen([sys.executable, "-m", "gatecast.steps.evaluate"], cwd=workspace, env=environment)
        while stage.poll() is None:
            peak = max(peak, tree_memory_mb(stage))
            time.sleep(0.1)  # ten readings of the memory a second
        if stage.returncode != 0:
            raise SystemExit(f"the stage evaluate ended with status {stage.returncode}")
    return [
        at_most("the whole evaluation of the sample", time.monotonic() - began, "s", WHOLE_REACH_S),
        at_most("its peak memory", peak, "MB", WHOLE_REACH_MB),
    ]


def cost_rows() -> list[Row]:
    """Seconds of all figures: of one long horizon, and of three as long as the sample's."""
    rows = []
    for name, n_bars, horizons, reach in (
        (f"{N_MODELS} models, {N_LONG:,} forecasts", N_LONG, (24,), STATISTICS_REACH_S),
        (f"{N_MODELS} models, 3 horizons of {N_SAMPLE:,}", N_SAMPLE, (1, 6, 24), SAMPLE_REACH_S),
    ):
        predictions = pl.concat([_predictions(n_bars, horizon) for horizon in horizons])
        scales = predictions.select("symbol", "horizon", "fold").unique(maintain_order=True)
        scales = scales.with_columns(return_scale=pl.lit(0.01), price_scale=pl.lit(1.0))
        baselines = [name for name in predictions["model"].unique().sort() if name != LSTM]

        def judge(
            table: pl.DataFrame = predictions,
            scales: pl.DataFrame = scales,
            baselines: list[str] = baselines,
            horizons: tuple[int, ...] = horizons,
        ) -> object:
            return evaluate_predictions(table, scales, baselines, horizons, (NAMED,), ALPHA)

        def tabulate(table: pl.DataFrame = predictions, scales: pl.DataFrame = scales) -> object:
            return score_table(table, scales)

        first = seconds(judge)
        rows += [
            at_most(f"{name}: all figures, first call", first, "s", reach),
            row(f"{name}: all figures, later", float(np.median([seconds(judge) for _ in range(N_TIMES)])), "s"),
            row(
                f"{name}: table by market and fold", float(np.median([seconds(tabulate) for _ in range(N_TIMES)])), "s"
            ),
        ]
    return rows


def alarm_rows() -> list[Row]:
    """Share of series on which a candidate that is no better is said to beat every baseline."""
    rows = []
    for name, panels in (
        ("random walk, against its last year", null_panels(random_walks(1, N_SERIES), "last_year")),
        ("EWMA volatility, against another half-life", null_panels(ewma_walks(2, N_SERIES), "other_half_life")),
        ("two exchangeable forecasters", exchangeable_panels(3, N_SERIES)),
    ):
        found, skill = verdicts(panels)
        rows += [
            at_most(f"{name}: false alarms, {NAMED} bars", found[NAMED], "", FALSE_ALARMS_REACH),
            row(f"{name}: false alarms, 1 bar", found[1], ""),
            row(f"{name}: mean skill, {NAMED} bars", skill[NAMED], ""),
        ]
    return rows


def power_rows() -> list[Row]:
    """Share of series on which a planted skill is found."""
    rows = []
    for planted in SKILLS:
        found, skill = verdicts(exchangeable_panels(4, N_SERIES, error_of_skill(planted)))
        rows += [
            row(f"skill {skill[horizon]:.2%} at {horizon} bar(s): found", found[horizon], "") for horizon in HORIZONS
        ]
    return rows


def interval_rows() -> list[Row]:
    """Share of the 95 % intervals of skill that hold the true one."""
    held: dict[int, list[bool]] = {horizon: [] for horizon in HORIZONS}
    for panels in exchangeable_panels(5, N_SERIES):
        for horizon, panel in panels.items():
            chunks = chunk_means(panel.by_bar(), horizon)
            totals = panel.totals(chunk_starts(panel.n_bars, horizon))
            block = interval_block(block_length(chunks[:, 1:] - chunks[:, :1]), len(chunks))
            low, high = skill_intervals(totals, block)
            held[horizon].append(bool(low[0] <= 0 <= high[0]))
    return [
        row(f"95 % intervals of skill at {horizon} bar(s) that hold it", float(np.mean(held[horizon])), "")
        for horizon in held
    ]


def verdicts(panels: Iterable[dict[int, LossPanel]]) -> tuple[dict[int, float], dict[int, float]]:
    """How often each horizon, named alone, is said to beat every baseline; and the mean skill over the best of them."""
    beats: dict[int, list[bool]] = {horizon: [] for horizon in HORIZONS}
    means: dict[int, list[float]] = {horizon: [] for horizon in HORIZONS}
    for of_series in panels:
        for horizon, panel in of_series.items():
            p_value = max(test.p_value for test in against_baselines(panel).values())
            skill = float(skills(panel.losses.mean(axis=0)[None, :]).min())
            beats[horizon].append(p_value <= ALPHA and skill > 0)
            means[horizon].append(skill)
    found, skilled = ({horizon: float(np.mean(of[horizon])) for horizon in HORIZONS} for of in (beats, means))
    return found, skilled


def seconds(work: Callable[[], object]) -> float:
    """That one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _predictions(n_bars: int, horizon: int) -> pl.DataFrame:
    """Forecasts of one market by the LSTM and by baselines that are all a little worse, in five folds."""
    generator = np.random.default_rng(horizon)
    target = np.convolve(generator.standard_normal(n_bars + horizon - 1), np.ones(horizon), "valid") * 0.01
    normal = np.array([-1.645, -1.282, -0.674, 0.0, 0.674, 1.282, 1.645]) * 0.01 * np.sqrt(horizon)
    tables = []
    for place in range(N_MODELS):
        centre = 0.002 * generator.standard_normal(n_bars)
        scale = np.exp((0.05 + 0.03 * place) * generator.standard_normal(n_bars))
        tables.append(
            pl.DataFrame(
                {
                    "symbol": pl.repeat("A/B", n_bars, eager=True),
                    "ts": (pl.int_range(n_bars, eager=True) * 3_600_000).cast(TS_TYPE),
                    "horizon": pl.repeat(horizon, n_bars, eager=True, dtype=pl.Int64),
                    "model": pl.repeat(LSTM if place == 0 else f"model {place}", n_bars, eager=True),
                    "fold": pl.int_range(n_bars, eager=True) * 5 // n_bars,
                    "target": target,
                    **{name: centre + scale * level for name, level in zip(QUANTILES, normal, strict=True)},
                    "close": 100 * np.exp(target),
                }
            )
        )
    return pl.concat(tables)


def main() -> None:
    """Measure, print a table and write .gatecast/bench/evaluation.json."""
    publish("evaluation", _measured())


def _measured() -> Iterator[Row]:
    yield from whole_rows()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # the rest is work of one core
    for measure in (cost_rows, alarm_rows, power_rows, interval_rows):
        yield from measure()


if __name__ == "__main__":
    main()
