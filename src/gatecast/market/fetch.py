"""All configured markets from their venues at once: each on its own, so that one that fails lets the others go on."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gatecast.config_ingest import IngestConfig
from gatecast.errors import DataError, GatecastError, NetworkFault
from gatecast.market.backfill import Backfill
from gatecast.market.candles import Market, from_ms, iso, timeframe_ms
from gatecast.market.exchange import Venue
from gatecast.market.gaps import Hole
from gatecast.market.patience import Sleep
from gatecast.market.store import Store

Say = Callable[[str], None]
_SAY_EVERY_S: Final = 5.0


def fetch(
    config: IngestConfig,
    markets: Sequence[Market],
    store: Store,
    say: Say,
    again: Sequence[Hole] = (),
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Bring markets up to date from their exchanges.

    Args:
        config: Span, page size, parallel requests and tries.
        markets: What to fetch, of any number of venues and timeframes.
        store: Where candles and gaps go.
        say: Takes lines of progress.
        again: Spans to ask for again, whatever is stored of them.
        sleep: Waits so many seconds between tries.

    Raises:
        GatecastError: A market failed; the others are complete, and of it is stored what came.
    """
    faults = asyncio.run(_fetch(config, markets, store, say, again, sleep))
    if len(faults) == 1 and len(markets) == 1:
        raise faults[0][1]
    if faults:
        each = "; ".join(f"{market.symbol} {market.timeframe}: {fault}" for market, fault in faults)
        done = len(markets) - len(faults)
        may_pass = all(isinstance(fault, NetworkFault) for _, fault in faults)
        raise (NetworkFault if may_pass else DataError)(
            f"{len(faults)} of {len(markets)} markets failed, {done} are stored and complete: {each}"
        )


async def _fetch(
    config: IngestConfig, markets: Sequence[Market], store: Store, say: Say, again: Sequence[Hole], sleep: Sleep
) -> list[tuple[Market, GatecastError]]:
    progress = _Progress(say)
    by_venue = {name: [market for market in markets if market.exchange == name] for name in _exchanges(markets)}

    async def of_venue(exchange: str, own: list[Market]) -> list[tuple[Market, GatecastError]]:
        async with Venue(exchange, config, sleep) as venue:
            found = await asyncio.gather(*(of_market(venue, market) for market in own))
        return [(market, fault) for market, fault in zip(own, found, strict=True) if fault]

    async def of_market(venue: Venue, market: Market) -> GatecastError | None:
        try:
            backfill = Backfill(venue, market, store, progress)
            await backfill.run(config.start, config.end, again)
        except GatecastError as fault:
            say(f"ingest: {market} failed: {fault}")
            return fault
        intake = backfill.intake
        revised = f", {intake.n_revised} revised" if intake.n_revised or again else ""
        if backfill.n_unshown:
            say(f"ingest: {market}: {backfill.n_unshown} stored candles were not shown again; they stay as they are")
        closed_at = iso(from_ms(intake.stamps[-1] + timeframe_ms(market.timeframe)))
        say(f"ingest: {market}: {intake.n_new} new candles{revised}, the last one closed at {closed_at}")
        return None

    found = await asyncio.gather(*(of_venue(exchange, own) for exchange, own in by_venue.items()))
    return [fault for faults in found for fault in faults]


def _exchanges(markets: Sequence[Market]) -> list[str]:
    return list(dict.fromkeys(market.exchange for market in markets))


@dataclass
class _Progress:
    """Says every few seconds how many requests are done, at which rate, and how long the rest takes."""

    say: Say

    def __post_init__(self) -> None:
        self._n_asked = self._n_planned = 0
        self._began_at = self._said_at = time.monotonic()

    def plan(self, n_requests: int) -> None:
        self._n_planned = max(self._n_planned, self._n_asked) + n_requests

    def asked(self, market: Market, reached: int) -> None:
        self._n_asked += 1
        now = time.monotonic()
        if now - self._said_at < _SAY_EVERY_S:
            return
        self._said_at = now
        rate = self._n_asked / (now - self._began_at)
        left = max(self._n_planned - self._n_asked, 0)
        ahead = f", about {left} to go, {left / rate:.0f} s left" if left else ""
        self.say(
            f"ingest: {self._n_asked} requests done, {rate:.1f} a second{ahead}; {market} at {iso(from_ms(reached))}"
        )
