"""The columns of a forecast, in the ledger and in what a promoted model answers."""

from gatecast.model.predictions import HORIZON

MARKET = "market"
ISSUED_AT = "issued_at"
TARGET_AT = "target_at"
LEVEL = "level"
LOG_RETURN = "log_return"
PRICE = "price"
MODEL_NAME = "model_name"
MODEL_VERSION = "model_version"
FORECAST_COLUMNS = (MARKET, ISSUED_AT, HORIZON, TARGET_AT, LEVEL, LOG_RETURN, PRICE)
