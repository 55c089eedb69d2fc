"""Types of the keys of the configuration: instants, timeframes, names, addresses, spans, ranges and levels."""

from datetime import UTC, datetime
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _instant(value: object) -> object:
    """YAML reads a bare 2020-01-01 as a date and an offset as a datetime; all instants here are UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif type(value).__name__ == "date":
        value = datetime.fromisoformat(str(value))
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return value


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("values must be ascending, each named once")
    return values


def _timeframe(value: str) -> str:
    timeframe_s(value)
    return value


def _feed(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or len(address.split()) != 1:
        raise ValueError("a feed is an http or https address, such as https://example.org/rss")
    if "@" in parts.netloc:
        raise ValueError("an address with a user or a password in it would be kept where everyone reads it")
    return address


_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # weeks begin on Mondays, the epoch on a Thursday


def timeframe_s(timeframe: str) -> int:
    """Length of a timeframe such as `5m`, `1h` or `1d`, in seconds.

    Raises:
        ValueError: Not a whole positive number followed by one of s, m, h, d.
    """
    count, unit = timeframe[:-1], timeframe[-1:]
    if not (count.isascii() and count.isdigit() and int(count) > 0 and unit in _UNIT_S):
        raise ValueError("a timeframe is a count with a unit of s, m, h or d, such as 1h")
    return int(count) * _UNIT_S[unit]


Instant = Annotated[datetime, BeforeValidator(_instant)]
Bars = Annotated[int, Field(ge=1, le=1_000_000)]
BarsFrom = Annotated[int, Field(le=1_000_000)]  # the field gives the least: of two lower bounds pydantic keeps one
Spans = Annotated[tuple[Bars, ...], Field(min_length=1), AfterValidator(_ascending)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Timeframe = Annotated[str, AfterValidator(_timeframe)]
Symbol = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\s{}]*$")]
Feed = Annotated[str, AfterValidator(_feed)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Section(BaseModel):
    """A section of the configuration: frozen, unknown keys refused, every key required."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, values: object) -> object:
        """No key is a matter of yes or no, and pydantic would take `true` for 1."""
        for key, value in values.items() if isinstance(values, dict) else ():
            if any(isinstance(each, bool) for each in (value if isinstance(value, list) else [value])):
                raise ValueError(
                    f"{key} is {str(value).lower()}, and no key of the configuration is a matter of yes or no"
                )
        return values


class Limits(Section):
    """Two levels of one measure: beyond `warn` it is reported, beyond `fail` the pipeline stops."""

    warn: float | None = Field(ge=0, description="largest value that is not worth a warning; null: never a warning")
    fail: float | None = Field(ge=0, description="largest value that is let through; null: never a failure")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.warn is not None and self.fail is not None and self.warn > self.fail:
            raise ValueError(f"warn {self.warn:g} is above fail {self.fail:g}")
        return self


class Range(Section):
    """A range that is searched on a logarithmic scale."""

    low: float = Field(gt=0, description="lower end")
    high: float = Field(gt=0, description="upper end")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self
