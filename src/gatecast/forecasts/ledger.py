"""The forecast ledger: every quantile ever issued, written once, read by whoever trades or watches."""

from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gatecast.errors import ConfigurationError, GatecastError
from gatecast.forecasts.columns import ISSUED_AT, LEVEL, LOG_RETURN, MARKET, MODEL_NAME, MODEL_VERSION, PRICE, TARGET_AT
from gatecast.model.predictions import HORIZON

_ISSUE = (MARKET, ISSUED_AT, MODEL_NAME, MODEL_VERSION)

_METADATA = sa.MetaData()
_FORECASTS = sa.Table(
    "forecasts",
    _METADATA,
    sa.Column(MARKET, sa.String, primary_key=True),
    sa.Column(ISSUED_AT, sa.DateTime(timezone=True), primary_key=True),
    sa.Column(HORIZON, sa.Integer, primary_key=True),
    sa.Column(LEVEL, sa.Float, primary_key=True),
    sa.Column(MODEL_NAME, sa.String, primary_key=True),
    sa.Column(MODEL_VERSION, sa.String, primary_key=True),
    sa.Column(TARGET_AT, sa.DateTime(timezone=True), nullable=False),
    sa.Column(LOG_RETURN, sa.Float, nullable=False),
    sa.Column(PRICE, sa.Float, nullable=False),
)


def append_forecast(url: str, forecast: pl.DataFrame) -> tuple[int, pl.DataFrame]:
    """Write a forecast in one transaction; what has been issued before is not touched.

    Args:
        url: Database address.
        forecast: market, issued_at, horizon, target_at, level, log_return, price, model_name, model_version.

    Returns:
        How many rows were new, and the forecast as the ledger has it: the first that was issued counts.

    Raises:
        ConfigurationError: A database that the ledger cannot use.
        GatecastError: The database failed.
    """
    statement = _insert_new(sa.make_url(url).get_backend_name())
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            _METADATA.create_all(connection)
            before = connection.scalar(sa.select(sa.func.count()).select_from(_FORECASTS)) or 0
            connection.execute(statement, forecast.to_dicts())
            n_new = (connection.scalar(sa.select(sa.func.count()).select_from(_FORECASTS)) or 0) - before
            same = [sa.and_(*(_FORECASTS.c[name] == row[name] for name in _ISSUE)) for row in _issues(forecast)]
            rows = connection.execute(sa.select(_FORECASTS).where(sa.or_(*same))).mappings().all()
            kept = pl.DataFrame([dict(row) for row in rows]).sort(MARKET, HORIZON, LEVEL)
            return n_new, kept.with_columns(_as_utc(kept, name) for name in (ISSUED_AT, TARGET_AT))
    except sa.exc.SQLAlchemyError as error:
        raise GatecastError(_fault(url, "written", error)) from error
    finally:
        engine.dispose()


def _fault(url: str, deed: str, error: sa.exc.SQLAlchemyError) -> str:
    where = sa.make_url(url).render_as_string(hide_password=True)
    line = f"the forecast ledger {where} could not be {deed}: {str(error).splitlines()[0]}"
    return f"{line}; move the file away to begin a new one" if "not a database" in line else line


def _issues(forecast: pl.DataFrame) -> list[dict[str, Any]]:
    return forecast.select(_ISSUE).unique(maintain_order=True).to_dicts()


def _as_utc(rows: pl.DataFrame, name: str) -> pl.Expr:
    """SQLite hands back stamps without their zone, which is UTC."""
    kind, stamps = rows.schema[name], pl.col(name)
    if isinstance(kind, pl.Datetime) and kind.time_zone is None:
        stamps = stamps.dt.replace_time_zone("UTC")
    return stamps.dt.convert_time_zone("UTC").dt.cast_time_unit("ms")


def _insert_new(dialect: str) -> sa.Insert:
    if dialect == "sqlite":
        return sqlite.insert(_FORECASTS).on_conflict_do_nothing()
    if dialect == "postgresql":
        return postgresql.insert(_FORECASTS).on_conflict_do_nothing()
    raise ConfigurationError(f"the forecast ledger is kept in SQLite or PostgreSQL, not in {dialect}")


def latest_forecast(url: str) -> pl.DataFrame:
    """The rows of the most recently issued forecast of every market; empty if there is none.

    Raises:
        GatecastError: The database failed.
    """
    engine = sa.create_engine(url)
    try:
        if not sa.inspect(engine).has_table(_FORECASTS.name):
            return pl.DataFrame()
        newest = sa.select(_FORECASTS.c.market, sa.func.max(_FORECASTS.c.issued_at).label(ISSUED_AT))
        newest_at = newest.group_by(_FORECASTS.c.market).subquery()
        same = (_FORECASTS.c.market == newest_at.c.market) & (_FORECASTS.c.issued_at == newest_at.c.issued_at)
        with engine.connect() as connection:
            rows = connection.execute(sa.select(_FORECASTS).join(newest_at, same)).mappings().all()
        return pl.DataFrame([dict(row) for row in rows])
    except sa.exc.SQLAlchemyError as error:
        raise GatecastError(_fault(url, "read", error)) from error
    finally:
        engine.dispose()
