"""The registered model, as MLflow runs it: candles in, quantiles out. MLflow keeps this file as the model's code."""

from pathlib import Path
from typing import Any

import mlflow.models
import pandas as pd
import polars as pl
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gatecast.forecasts.issue import issue_forecast
from gatecast.market.candles import SYMBOL, TS, as_candles
from gatecast.market.publications.table import PUBLICATION_SCHEMA
from gatecast.model.folder import load_model

ARTIFACT = "model"


class ChampionModel(PythonModel):
    """Forecasts from the newest candle of each market."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model folder: safetensors and JSON, no pickle."""
        self.model, self.card = load_model(Path(context.artifacts[ARTIFACT]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow passes it
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002 - MLflow passes it
    ) -> pd.DataFrame:
        """Forecast.

        Args:
            context: MLflow's.
            model_input: Closed candles: symbol, ts (open time, UTC; ISO 8601 if text), open, high, low, close, volume.
                The column symbol may be absent where the model has one market.
            params: None are known.

        Returns:
            market, issued_at, horizon, target_at, level, log_return and price, a row a quantile.
        """
        frame = pl.from_pandas(model_input)
        if SYMBOL not in frame.columns:
            frame = frame.with_columns(pl.lit(self.card.symbols[0]).alias(SYMBOL))
        if frame.schema[TS] == pl.String:  # a served model gets its stamps through JSON
            frame = frame.with_columns(pl.col(TS).str.to_datetime(time_unit="ms", time_zone="UTC"))
        candles = as_candles(frame, "model_input").with_columns(frame[SYMBOL])
        return issue_forecast(self.model, self.card, candles, pl.DataFrame(schema=PUBLICATION_SCHEMA)).to_pandas()


mlflow.models.set_model(ChampionModel())
