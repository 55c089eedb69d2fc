"""The database that studies and the forecast ledger share: the one that the environment names, or SQLite files."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from gatecast.errors import ConfigurationError

DATABASE_VARIABLE: Final = "GATECAST_DATABASE_URL"
_DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}  # what the extra `postgres` installs


def database_url(state: Path, name: str) -> str:
    """Address of the database.

    Args:
        state: The workspace's folder of run-time state.
        name: File below it, where the environment names no database.

    Raises:
        ConfigurationError: The environment names something that is not SQLite or PostgreSQL, or its driver is absent.
    """
    given = os.environ.get(DATABASE_VARIABLE)
    if not given:
        return f"sqlite:///{state / name}"
    try:
        url = sa.make_url(given)
    except sa.exc.ArgumentError:
        raise ConfigurationError(
            f"{DATABASE_VARIABLE} is not an address such as postgresql://user@host/name"  # it may hold a password
        ) from None
    driver = _DRIVERS.get(url.drivername, url.drivername)
    if driver not in _DRIVERS.values():
        raise ConfigurationError(f"{DATABASE_VARIABLE} names {url.drivername}, which is neither sqlite nor postgresql")
    if driver != "sqlite" and find_spec("psycopg") is None:
        raise ConfigurationError(f"{DATABASE_VARIABLE} names PostgreSQL, which needs `pip install '.[postgres]'`")
    return url.set(drivername=driver).render_as_string(hide_password=False)
