"""Names and numbers as people read them; a dash stands for what has no value."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from gatecast.evaluation.strategy import BUY_AND_HOLD
from gatecast.model.predictions import LSTM

DASH: Final = "\N{EN DASH}"
MODEL_NAMES: Final = {
    LSTM: "LSTM",
    "naive": "Random walk",
    "drift": "Random walk with drift",
    "seasonal_naive": "Seasonal naive",
    "ewma": "EWMA volatility",
    "garch": "GARCH(1,1)-t",
    "har": "log-HAR",
    "linear": "Ridge regression",
    "lightgbm": "LightGBM",
    "prophet": "Prophet",
    BUY_AND_HOLD: "Buy and hold",
}

_SMALL_P: Final = 0.0001


def finite(value: object) -> float:
    """A number as it is; NaN for None, for text and for what is not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def model_name(model: str) -> str:
    """A model as readers know it."""
    return MODEL_NAMES.get(model, model)


def bars(horizon: int) -> str:
    """A number of bars in words."""
    return f"{horizon} bar{'' if horizon == 1 else 's'}"


def bars_ahead(horizon: int) -> str:
    """A horizon in words."""
    return f"{bars(horizon)} ahead"


def price_text(price: float) -> str:
    """A price to five significant digits, whole above ten thousand; an en dash if it is not finite."""
    if not math.isfinite(price):
        return DASH
    magnitude = math.floor(math.log10(abs(price))) if price else 0
    return f"{price:,.{max(0, 4 - magnitude)}f}"


def number(value: object, decimals: int = 5) -> str:
    """A number with so many decimals; a dash where there is none."""
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def percent(value: object, decimals: int = 1) -> str:
    """A share in percent."""
    number = finite(value)
    rounded = round(100 * number, decimals) + 0.0  # no minus before a zero
    return DASH if math.isnan(number) else f"{rounded:.{decimals}f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def signed(value: object, decimals: int = 2) -> str:
    """A share in percent with its sign."""
    number = finite(value)
    sign = "" if round(100 * number, decimals) == 0 else "+" if number > 0 else "\N{MINUS SIGN}"
    return DASH if math.isnan(number) else sign + percent(abs(number), decimals)


def interval(values: Mapping[str, Any] | None, decimals: int = 1) -> str:
    """An interval of shares in percent, from its `low` to its `high`."""
    low, high = (finite((values or {}).get(end)) for end in ("low", "high"))
    if math.isnan(low) or math.isnan(high):
        return DASH
    return f"{percent(low, decimals)[:-2]} to {percent(high, decimals)}"


def count(value: object) -> str:
    """A whole number with thousands set apart."""
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:,.0f}"


def p_value(value: object) -> str:
    """A p-value, the smallest ones as a bound."""
    number = finite(value)
    return DASH if math.isnan(number) else "< 0.0001" if number < _SMALL_P else f"{number:.4f}"


def p_equals(value: object) -> str:
    """A p-value within a sentence."""
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def when(value: str | None) -> str:
    """An ISO instant in UTC, to the minute."""
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if value else DASH


def day(value: str | None) -> str:
    """The day of an ISO instant, UTC."""
    return when(value)[:10]


def words(value: object) -> str:
    """Any observed value or breach on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(each)}" for key, each in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or DASH
    if isinstance(value, bool | str):
        return str(value)
    number = finite(value)
    return DASH if math.isnan(number) else f"{number:.6g}" if isinstance(value, float) else f"{number:,.0f}"


def listed(words: Sequence[str]) -> str:
    """Words in a row, the last two joined by `and`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
