"""The stand-in exchange as a program, for gatecast to be tried against without the internet."""

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import polars as pl

from gatecast.errors import ConfigurationError
from gatecast.market.candles import TS, as_candles, iso, timeframe_ms
from gatecast.market.sample import SAMPLE_MARKET, read_sample
from tests.venue.faults import NAMES, STATUSES, Fault, chaos
from tests.venue.klines import derived_markets
from tests.venue.server import StandInExchange

TICK_S = 1.0
EPILOG = f"""
\b
Faults, one a request for candles, in the order given:
  statuses  {" ".join(map(str, STATUSES))}
  others    {" ".join(NAMES[:6])}
            {" ".join(NAMES[6:])}

\b
Examples, from the root of the repository:
  python -m tests.venue --verbose
  python -m tests.venue --fault 429 --fault ok --fault reset
  python -m tests.venue --chaos 7 --latency 0.05
  python -m tests.venue --now 2023-06-01T12:30 --speed 600
"""


def _read(path: Path) -> pl.DataFrame:
    frame = pl.read_csv(path, try_parse_dates=True) if path.suffix == ".csv" else pl.read_parquet(path)
    return as_candles(frame, str(path))


def _instant(text: str | None, otherwise: datetime) -> datetime:
    if text is None:
        return otherwise
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text} is not an ISO instant such as 2023-06-01T12:30", param_hint="--now") from None
    return instant.replace(tzinfo=instant.tzinfo or UTC).astimezone(UTC)


def _schedule(faults: tuple[str, ...], seed: int | None) -> list[Fault]:
    try:
        return [Fault.of(fault) for fault in faults] + (chaos(seed) if seed is not None else [])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None


@click.command(epilog=EPILOG, context_settings={"max_content_width": 100})
@click.option("--port", default=8765, show_default=True, help="Port on 127.0.0.1; 0 for any that is free.")
@click.option(
    "--candles",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parquet or CSV file with ts, open, high, low, close, volume.  [default: the embedded sample]",
)
@click.option("--symbol", default=SAMPLE_MARKET.symbol, show_default=True, help="Symbol of the candles.")
@click.option("--timeframe", default=SAMPLE_MARKET.timeframe, show_default=True, help="Timeframe of the candles.")
@click.option("--now", help="What time it is there, ISO, UTC.  [default: end of the candles + 90 minutes]")
@click.option("--speed", default=0.0, show_default=True, help="Seconds that pass there in each second; 0 stands still.")
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help="May be given again; see below.")
@click.option(
    "--chaos", "seed", type=int, metavar="SEED", help="A random fault every few requests, the same each time."
)
@click.option("--latency", "latency_s", default=0.0, show_default=True, help="Seconds before candles are answered.")
@click.option("--weight-limit", type=int, help="Requests for candles that a minute allows.  [default: any number]")
@click.option("--verbose", is_flag=True, help="One line on standard error for each request.")
def main(
    port: int,
    candles: Path | None,
    symbol: str,
    timeframe: str,
    now: str | None,
    speed: float,
    faults: tuple[str, ...],
    seed: int | None,
    latency_s: float,
    weight_limit: int | None,
    verbose: bool,
) -> None:
    """Serve candles on this machine as Binance would, until Ctrl-C.

    Besides the candles themselves there is an ETH/USDT that moves like them, and both in 4h and 1d. Run gatecast with
    the line that is printed, and with ingest.source set to exchange.
    """
    try:
        timeframe_ms(timeframe)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--timeframe") from None
    frame = read_sample(SAMPLE_MARKET) if candles is None else _read(candles)
    markets = derived_markets(frame, symbol, timeframe)
    first_half = timedelta(milliseconds=timeframe_ms(timeframe), minutes=30)
    instant = _instant(now, frame[TS].sort()[-1] + first_half)
    exchange = StandInExchange(markets, instant, _schedule(faults, seed), latency_s, weight_limit, port=port)
    if verbose:
        exchange.log = lambda line: click.echo(f"{datetime.now():%H:%M:%S} {line}", err=True)
    try:
        with exchange:
            click.echo(f"export GATECAST_EXCHANGE_URL={exchange.url}")
            served = ", ".join(f"{name} {length}" for name, length in sorted(markets))
            click.echo(f"serving {served}; it is {iso(exchange.now)} there; Ctrl-C stops", err=True)
            while True:
                time.sleep(TICK_S)
                exchange.advance(exchange.now + timedelta(seconds=speed * TICK_S))
    except OSError as error:
        sys.exit(f"cannot serve on port {port}: {error.strerror}; name another with --port")
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main(prog_name="python -m tests.venue")
