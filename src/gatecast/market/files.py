"""Candles from files, found through a path template and recognised by what is in them.

Packing is told by the first bytes: Parquet, or CSV text, plain, in gzip or as the one file in a zip. Which columns hold
the candles is told by their names (`gatecast.market.dialects`). Rows are handed on untouched and in the order of the
files, duplicates and bad values included: judging them is the business of `clean`.

Whether the last bar of a file was still open when it was downloaded cannot be told from the file: it looks like any
other, with a close and a volume that are not final. Where that may be, set `ingest.end` to the last bar that is known
to be complete. What is not closed by the clock of the run is in the future, and goes to quarantine.
"""

import gzip
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from string import Formatter
from typing import Final

import polars as pl

from gatecast.errors import ConfigurationError, DataError
from gatecast.market.candles import Market, as_candles
from gatecast.market.dialects import candles_in, table_of_text
from gatecast.market.tables import Table, table_of_frame

FILES_KEY: Final = "ingest.files"
_PLACEHOLDERS: Final = ("exchange", "symbol", "pair", "timeframe")
_PARQUET, _GZIP, _ZIP = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
_ARCHIVE_NAME: Final = re.compile(r"([A-Z0-9]+)-\d+[a-z]+-\d{4}-\d{2}")  # ETHUSDT-1h-2021-05.zip
_FAULTS: Final = (  # of the packing; a zip with a password is a RuntimeError
    pl.exceptions.PolarsError,
    OSError,
    EOFError,
    zlib.error,
    UnicodeDecodeError,
    zipfile.BadZipFile,
    RuntimeError,
)


def read_files(template: str, root: Path, market: Market) -> pl.DataFrame:
    """The candles of one market, of all its files in sorted order.

    Args:
        template: Path with {exchange}, {symbol} (as BTC-USDT), {pair} (as BTCUSDT), {timeframe} and * for any text;
            relative paths start at `root`.
        root: The workspace.
        market: Whose files.

    Raises:
        ConfigurationError: A placeholder that is not known.
        DataError: A file is absent, empty, truncated, of another kind, or lacks a column; the message names the path,
            and the line where there is one.
    """
    return pl.concat(_read(path, market) for path in files_of(template, root, market))


def files_of(template: str, root: Path, market: Market | None, key: str = FILES_KEY) -> list[Path]:
    """The files that a path template names, sorted.

    Args:
        template: As for `read_files`.
        root: The workspace.
        market: Whose files; None where they concern every market, and the path has no placeholders.
        key: Of the configuration, that holds the template.

    Raises:
        ConfigurationError: A placeholder that is not known.
        DataError: There is none.
    """
    path = root / (_fill(template, market, key) if market else template)
    starred = next((number for number, part in enumerate(path.parts) if "*" in part), None)
    if starred is None:
        found = [path] if path.exists() else []
    else:
        literal = "/".join(path.parts[starred:]).translate({ord("["): "[[]", ord("?"): "[?]"})
        found = sorted(Path(*path.parts[:starred]).glob(literal))
    if not found:
        wanted = f", {market} was asked for" if market else ""
        raise DataError(f"{path} does not exist: {key} is {template!r}{wanted}")
    return found


def require_own_files(template: str, root: Path, markets: Sequence[Market], key: str = FILES_KEY) -> None:
    """Make sure that no two markets are read from the same file: a market held against itself always agrees.

    Raises:
        DataError: Two are; the message names both.
    """
    owners: dict[Path, Market] = {}
    for market in markets:
        for path in files_of(template, root, market, key):
            owner = owners.setdefault(path.resolve(), market)
            if owner != market:
                raise DataError(
                    f"{key} = {template!r} gives {path} for {owner} and for {market}: one file cannot be both;"
                    " put {exchange} and {symbol} into the template"
                )


def _read(path: Path, market: Market) -> pl.DataFrame:
    if (named := _ARCHIVE_NAME.match(path.name)) and named[1] != _names(market)["pair"]:
        raise DataError(f"{path} is named after {named[1]}, and {market} was asked for; nothing of it was stored")
    with readable(path):
        return as_candles(candles_in(table_of_file(path), market), str(path))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong with the packing of a file, as one line that names it.

    Raises:
        DataError: Something did.
    """
    try:
        yield
    except _FAULTS as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise DataError(f"{path} cannot be read: {reason}; nothing of it was stored") from None


def table_of_file(path: Path, of_text: Callable[[str, str], Table] = table_of_text) -> Table:
    """The cells of a Parquet file or of a CSV, which may be packed.

    Args:
        path: The file.
        of_text: Reads the text of a CSV; is given the path as well.

    Raises:
        DataError: It holds no table. Faults of the packing are those that `readable` names.
    """
    with path.open("rb") as file:
        start = file.read(len(_PARQUET))
    if start == _PARQUET:
        return table_of_frame(pl.read_parquet(path), str(path))
    return of_text(_unpacked(path, start).decode("utf-8-sig"), str(path))


def _unpacked(path: Path, start: bytes) -> bytes:
    content = path.read_bytes()
    if start[:2] == _GZIP:
        return gzip.decompress(content)
    if start != _ZIP:
        return content
    with zipfile.ZipFile(BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise DataError(f"{path} holds {len(names)} files, where one CSV is needed; nothing of it was stored")
        return archive.read(names[0])  # checks the sum that the archive carries


def _fill(template: str, market: Market, key: str) -> str:
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigurationError(f"{key} = {template!r} is not a path template: {error}") from None
    if unknown := names - set(_PLACEHOLDERS):
        known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
        raise ConfigurationError(f"{key} = {template!r} has {{{sorted(unknown)[0]}}}, which is not one of {known}")
    try:
        return template.format(**_names(market))
    except (ValueError, IndexError) as error:
        raise ConfigurationError(f"{key} = {template!r} is not a path template: {error}") from None


def _names(market: Market) -> Mapping[str, str]:
    pair = market.symbol.split(":")[0].replace("/", "")
    return {"exchange": market.exchange, "symbol": market.slug, "pair": pair, "timeframe": market.timeframe}
