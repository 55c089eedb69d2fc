"""What a report tells: the files of a workspace, read once."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gatecast.errors import DataError
from gatecast.market.candles import CLOSE, TS, Market, timeframe_ms
from gatecast.market.store import read_candles
from gatecast.workspace import Workspace, file_sha256

Json = dict[str, Any]

_MIN_HISTORY: Final = 48  # closes drawn before a forecast


@dataclass(frozen=True)
class Forecast:
    """A forecast and what was known when it was issued.

    Attributes:
        content: market, issued_at, last_close, model_version and quantiles, rows of the forecast ledger.
        history: ts (open time, UTC) and close up to last_close, sorted.
    """

    content: Json
    history: pl.DataFrame


@dataclass(frozen=True)
class ReportContents:
    """What a report tells: the files of a workspace as they stand.

    Attributes:
        metrics: Figures of merit and the verdict.
        predictions: Quantiles and realised log returns of the evaluation period.
        trials: The search, a row a trial.
        best: Its best hyperparameters.
        validation: Outcome of the expectations on the clean candles.
        feature_validation: Outcome of the expectations on the features.
        leakage: Outcome of the leak prover on the features, and their parity.
        fold_leakage: Outcome of the leak prover on the folds of the evaluation.
        counts: What `clean` counted, by market.
        promotion: Decision of the gate about these metrics, or None before it.
        forecasts: The last forecast of each market, with what came before it; none while there is no champion.
        provenance: Commit, hashes and versions, or None if not recorded.
        errors: Where the model errs, by horizon, or None if not recorded.
        equity: date, horizon, model, return and equity of the strategy, or None if not recorded.
    """

    metrics: Json
    predictions: pl.DataFrame
    trials: pl.DataFrame
    best: Json
    validation: Json
    feature_validation: Json
    leakage: Json
    fold_leakage: Json
    counts: Json
    promotion: Json | None = None
    forecasts: tuple[Forecast, ...] = ()
    provenance: Json | None = None
    errors: Json | None = None
    equity: pl.DataFrame | None = None


def read_contents(workspace: Workspace) -> ReportContents:
    """Everything that the report shows, from the files of a workspace.

    Raises:
        DataError: A file that `gatecast run` writes is absent or cannot be read.
    """
    reports = workspace.reports
    metrics = _read(workspace, reports / "metrics.json", _json)
    promotion = _read_optional(workspace, reports / "promotion.json")
    if promotion is not None and promotion.get("metrics_sha256") != file_sha256(reports / "metrics.json"):
        promotion = None  # a decision about another evaluation
    equity = reports / "equity.csv"
    has_champion = promotion is not None and promotion["champion_version"] is not None
    return ReportContents(
        metrics=metrics,
        predictions=_read(workspace, reports / "predictions.parquet", pl.read_parquet),
        trials=_read(workspace, reports / "trials.csv", pl.read_csv),
        best=_read(workspace, reports / "best.yaml", YAML(typ="safe").load),
        validation=_read(workspace, reports / "validation.json", _json),
        feature_validation=_read(workspace, reports / "feature_validation.json", _json),
        leakage=_read(workspace, reports / "leakage.json", _json),
        fold_leakage=_read(workspace, reports / "fold_leakage.json", _json),
        counts=_read(workspace, workspace.clean_counts, _json),
        promotion=promotion,
        forecasts=_forecasts(workspace, metrics) if has_champion else (),
        provenance=_read_optional(workspace, reports / "provenance.json"),
        errors=_read_optional(workspace, reports / "error_analysis.json"),
        equity=_read(workspace, equity, pl.read_csv) if equity.is_file() else None,
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(workspace: Workspace, path: Path, read: Callable[[Path], Any]) -> Any:
    name = workspace.relative(path)
    if not path.is_file():
        raise DataError(f"{name} is absent, so there is nothing to report: run `gatecast run` first")
    try:
        return read(path)
    except (ValueError, OSError, YAMLError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{name} cannot be read ({str(error).splitlines()[0]}): run `gatecast run` again") from None


def _read_optional(workspace: Workspace, path: Path) -> Json | None:
    return _read(workspace, path, _json) if path.exists() else None


def _forecasts(workspace: Workspace, metrics: Json) -> tuple[Forecast, ...]:
    """The newest forecast of each market that the metrics speak of."""
    newest: dict[str, Json] = {}
    for path in sorted(workspace.reports.glob("forecast*.json")):
        content = _read(workspace, path, _json)
        _, symbol, _ = content["market"].split(" ")
        if symbol in metrics["by_market"] and content["issued_at"] >= newest.get(symbol, content)["issued_at"]:
            newest[symbol] = content
    return tuple(
        Forecast(content, _history(workspace, content, max(metrics["horizons"]))) for content in newest.values()
    )


def _history(workspace: Workspace, forecast: Json, longest: int) -> pl.DataFrame:
    """Closes known when the forecast was issued; the last is the one that it starts from."""
    market = Market(*forecast["market"].split(" "))
    candle = timedelta(milliseconds=timeframe_ms(market.timeframe))
    last_ts = datetime.fromisoformat(forecast["issued_at"]).astimezone(UTC) - candle
    n_bars = max(5 * longest, _MIN_HISTORY)
    start = last_ts - candle * 2 * n_bars  # sessions are no more than five days in seven
    stored = read_candles(workspace.candles, market, start, last_ts).select(TS, CLOSE)
    last = pl.DataFrame({TS: [last_ts], CLOSE: [forecast["last_close"]]}, schema=stored.schema)
    return pl.concat([stored.unique(TS, keep="last", maintain_order=True).tail(n_bars), last])
