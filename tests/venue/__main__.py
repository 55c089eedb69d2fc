"""The stand-in exchange as a program, for gatecast to be tried against without the internet."""

import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import polars as pl

from gatecast.errors import GatecastError
from gatecast.market.candles import CANDLE_SCHEMA, TS, as_candles, iso, timeframe_ms
from gatecast.market.sample import SAMPLE_MARKET, read_sample
from tests.venue.faults import NAMES, STATUSES, Fault, chaos
from tests.venue.funding import contracts_for, derived_rates
from tests.venue.klines import derived_markets
from tests.venue.server import StandInExchange
from tests.venue.weights import BINANCE_LIMIT

Frames = dict[tuple[str, str], pl.DataFrame]
TICK_S = 0.25
_MARKET = re.compile(r"(?:^|[-_])([A-Za-z0-9]+)-([A-Za-z0-9]+)-(\d+[smhd])$")
EPILOG = f"""
\b
Faults, one a request for candles, in the order given:
  statuses  {" ".join(map(str, STATUSES))}
  others    {" ".join(NAMES[:7])}
            {" ".join(NAMES[7:])}

\b
Examples, from the root of the repository:
  python -m tests.venue --verbose
  python -m tests.venue archive/BTC-USDT-1h.parquet archive/ETH-USDT-1h.parquet
  python -m tests.venue --fault 429 --fault ok --fault reset
  python -m tests.venue --chaos 7 --latency 0.05
  python -m tests.venue --now 2023-06-01T12:30 --speed 600
"""


def _read(path: Path) -> tuple[tuple[str, str], pl.DataFrame]:
    """Symbol and timeframe, which the name of a file tells, and its candles."""
    found = _MARKET.search(path.stem)
    if found is None:
        raise click.BadParameter(f"{path} is not named after its market, such as BTC-USDT-1h{path.suffix}")
    base, quote, timeframe = found.groups()
    timeframe_ms(timeframe)
    try:
        frame = pl.read_csv(path, try_parse_dates=True) if path.suffix == ".csv" else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise click.BadParameter(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    candles = as_candles(frame, str(path)).select(*CANDLE_SCHEMA)
    return (f"{base}/{quote}".upper(), timeframe), candles


def _served(files: tuple[Path, ...]) -> Frames:
    if not files:
        return derived_markets(read_sample(SAMPLE_MARKET), SAMPLE_MARKET.symbol, SAMPLE_MARKET.timeframe)
    return dict(map(_read, files))


def _instant(text: str | None, markets: Frames) -> datetime:
    """What time it is there at first: half a bar, the shortest, before the end of the candles."""
    if text is None:
        ends = [
            frame[TS].sort()[-1] + timedelta(milliseconds=timeframe_ms(each)) for (_, each), frame in markets.items()
        ]
        half = min(timeframe_ms(each) for _, each in markets) / 2
        end: datetime = max(ends)
        return end - timedelta(milliseconds=half)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"--now {text} is not an ISO instant such as 2023-06-01T12:30") from None
    return instant.replace(tzinfo=instant.tzinfo or UTC).astimezone(UTC)


def _schedule(faults: tuple[str, ...], seed: int | None) -> list[Fault]:
    try:
        return [Fault.of(fault) for fault in faults] + (chaos(seed) if seed is not None else [])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _funding(markets: Frames) -> dict[str, pl.DataFrame]:
    """Made-up rates of a perpetual contract of each symbol, from its shortest candles."""
    by_length = sorted(markets.items(), key=lambda market: -timeframe_ms(market[0][1]))
    shortest = {symbol: frame for (symbol, _), frame in by_length}
    return {contract: derived_rates(shortest[symbol]) for symbol, contract in contracts_for(shortest).items()}


@click.command(epilog=EPILOG, context_settings={"max_content_width": 100})
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--port", default=8765, show_default=True, help="Port on 127.0.0.1; 0 for any that is free.")
@click.option("--now", help="What time it is there, ISO, UTC.  [default: half a bar before the end of the candles]")
@click.option("--speed", default=0.0, show_default=True, help="Seconds that pass there in each second; 0 stands still.")
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help="May be given again; see below.")
@click.option(
    "--chaos", "seed", type=int, metavar="SEED", help="A random fault every few requests, the same each time."
)
@click.option("--latency", "latency_s", default=0.0, show_default=True, help="Seconds before each answer.")
@click.option("--weight-limit", default=BINANCE_LIMIT, show_default=True, help="Weight that a minute allows.")
@click.option("--verbose", is_flag=True, help="One line on standard error for each request.")
def serve(
    files: tuple[Path, ...],
    port: int,
    now: str | None,
    speed: float,
    faults: tuple[str, ...],
    seed: int | None,
    latency_s: float,
    weight_limit: int,
    verbose: bool,
) -> None:
    """Serve candle files on this machine as Binance would, until Ctrl-C.

    A FILE is Parquet or CSV with ts (open time, UTC), open, high, low, close and volume, and is named after its market:
    BTC-USDT-1h.parquet, or anything that ends so. Without one, the embedded sample is served, an ETH/USDT that moves
    like it, and both in 4h and 1d. Each symbol has a perpetual contract, such as BTC/USDT:USDT of binanceusdm, with
    made-up funding rates.
    """
    markets = _served(files)
    at, schedule = _instant(now, markets), _schedule(faults, seed)
    exchange = StandInExchange(markets, at, schedule, latency_s, weight_limit, port=port, funding=_funding(markets))
    if verbose:
        exchange.log = lambda line: click.echo(f"{datetime.now():%H:%M:%S} {line}", err=True)
    try:
        with exchange:
            _greet(exchange, markets)
            while True:
                time.sleep(TICK_S)
                exchange.advance(exchange.now + timedelta(seconds=speed * TICK_S))
    except OSError as error:
        raise click.UsageError(f"cannot serve on port {port} ({error.strerror}); name another with --port") from None


def _greet(exchange: StandInExchange, markets: Frames) -> None:
    symbol, timeframe = min(markets, key=lambda market: (timeframe_ms(market[1]), market[0]))
    for line in (
        f"serving {', '.join(f'{name} {each}' for name, each in sorted(markets))}; it is {iso(exchange.now)} there",
        "in another terminal, run the line that begins with export and then, for instance:",
        f"  gatecast ingest --set ingest.source=exchange --set 'ingest.symbols=[{symbol}]'"
        f" --set ingest.timeframe={timeframe}",
        "Ctrl-C stops",
    ):
        click.echo(line, err=True)
    click.echo(f"export GATECAST_EXCHANGE_URL={exchange.url}")  # last: whoever reads it may interrupt at once


def main() -> None:
    """Run the program; what is wrong with its arguments is one line, and exit status 2."""
    try:
        serve(prog_name="python -m tests.venue", standalone_mode=False)
    except (click.ClickException, GatecastError) as error:
        said = error.format_message() if isinstance(error, click.ClickException) else error
        click.echo(f"tests.venue: {said}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        return


if __name__ == "__main__":
    main()
