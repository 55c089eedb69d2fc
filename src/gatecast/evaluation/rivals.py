"""What each baseline forecasts in a fold, and the proof that it saw nothing of what it forecasts."""

from collections.abc import Sequence
from typing import Final

import polars as pl
from threadpoolctl import threadpool_limits

from gatecast.errors import DataError, GatecastError
from gatecast.evaluation.baselines import BASELINES
from gatecast.evaluation.fold_proof import CutProof, Tables, cut_within, prove_forecasts
from gatecast.evaluation.splits import Fold
from gatecast.features.feature import KEYS
from gatecast.features.targets import known_before, target_name

_ON_FEATURES: Final = frozenset({"linear", "lightgbm"})

Rival = tuple[pl.DataFrame, tuple[CutProof, ...]]  # forecasts of the test bars, and the proofs at three cuts


def columns_for(name: str, rows: pl.DataFrame, horizons: Sequence[int]) -> pl.DataFrame:
    """What a baseline gets to see of rows: features only where it reads them.

    Args:
        name: Of the baseline.
        rows: Feature rows with targets.
        horizons: Bars ahead.
    """
    if name in _ON_FEATURES:
        return rows
    return rows.select(*KEYS, *(target_name(horizon) for horizon in horizons))


def prove_rival(name: str, history: pl.DataFrame, fold: Fold, horizons: Sequence[int], stride: int) -> Rival:
    """Fit a baseline to the train span of a fold, forecast the test span, and prove the forecasts.

    Args:
        name: Of the baseline.
        history: From `columns_for`, from the first train bar up to the end of the test span.
        fold: The train and test spans.
        horizons: Bars ahead.
        stride: Bars of a block, as for `cut_within`.

    Returns:
        symbol, ts, horizon and a column a level, in log returns; the proofs after the first test bar, where a baseline
        that is fitted on any later one already gives itself away, at a bar within the test and before the last one.

    Raises:
        DataError: It cannot be fitted; the line names fold, market and remedy.
        GatecastError: The library that it stands on failed.
    """
    known = fold.train.rows(history)
    try:
        with threadpool_limits(1):  # or results could depend on the number of cores
            first = BASELINES[name](known, horizons)

            def forecast(some: pl.DataFrame) -> Tables:
                # a fit follows from the train rows, so it is made anew only where they differ: a purge that lets a
                # later bar in still shows
                train = fold.train.rows(some)
                fitted = first if train.equals(known) else BASELINES[name](train, horizons)
                return {name: fitted(some, fold.test)}

            # asked first of what was known then: a forecaster that keeps what it is first shown has seen no test bar
            first(known_before(history, horizons, fold.test.start + 1), fold.test)
            found = forecast(history)
            cuts = sorted({fold.test.start + 1, cut_within(fold, stride), fold.test.end - 1})
            proofs = tuple(prove_forecasts(cut, history, fold, horizons, found, forecast) for cut in cuts)
    except GatecastError as error:
        raise type(error)(f"fold {fold.number + 1}: {error}") from error
    except (ArithmeticError, ValueError, RuntimeError) as error:  # of a library: its line, and where it happened
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"fold {fold.number + 1}: baseline {name} failed ({line}); take {name} out of evaluate.baselines, before"
            " looking at what the others say"
        ) from error
    return found[name], proofs
