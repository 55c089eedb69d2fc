"""What has arrived of a market: it goes into the store every few seconds, and its open times are known at once."""

import asyncio
import time
from typing import Final

import polars as pl

from gatecast.market.candles import TS, Market
from gatecast.market.store import Store, merge_candles, read_candles

_FLUSH_S: Final = 2.0  # a kill costs the answers of so many seconds; a merge rewrites whole months


class Intake:
    """Candles of one market on their way into the store.

    Attributes:
        n_new: Open times stored that were not stored before.
        n_revised: Candles that came in with other values than were stored.
    """

    def __init__(self, store: Store, market: Market) -> None:
        """Read what is stored."""
        self._store = store
        self._market = market
        self._stamps = [read_candles(store.candles, market)[TS].dt.epoch("ms")]
        self._waiting: list[pl.DataFrame] = []
        self._flushed_at = time.monotonic()
        self._merging: asyncio.Future[None] | None = None
        self.n_new = 0
        self.n_revised = 0

    @property
    def stamps(self) -> pl.Series:
        """Open times of what is stored or waiting, milliseconds, ascending, each once."""
        self._stamps = [pl.concat(self._stamps).unique().sort()]
        return self._stamps[0]

    async def take(self, candles: pl.DataFrame) -> None:
        """Take candles in, and store what is waiting when it is time to.

        Raises:
            GatecastError: The disk is full, or a stored file is damaged.
        """
        if not candles.is_empty():
            self._waiting.append(candles)
            self._stamps.append(candles[TS].dt.epoch("ms"))
        is_free = self._merging is None or self._merging.done()
        if is_free and time.monotonic() - self._flushed_at > _FLUSH_S:
            self._merging = asyncio.ensure_future(asyncio.to_thread(self._merge))  # requests go on meanwhile
            await asyncio.shield(self._merging)  # cancelled before a thread takes it up, it would never be done

    async def flush(self) -> None:
        """Store what is waiting.

        Raises:
            GatecastError: The disk is full, or a stored file is damaged.
        """
        if self._merging:
            await asyncio.wait([self._merging])  # in the order in which they came: the newest counts
        self._merge()

    def _merge(self) -> None:
        waiting = self._waiting[:]
        if waiting:
            together = pl.concat(waiting).unique(maintain_order=True)
            agree = together[TS].is_unique().all()
            for candles in [together] if agree else waiting:  # one by one, so that a revision is seen as one
                merged = merge_candles(self._store, self._market, candles)
                self.n_new += merged.n_new
                self.n_revised += merged.n_revised
        del self._waiting[: len(waiting)]  # not before: what could not be stored is still waiting
        self._flushed_at = time.monotonic()
