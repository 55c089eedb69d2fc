"""What requests weigh, how much of it a window of time allows, and the rate that a client used."""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Final

from tests.venue.faults import Fault

WEIGHTS: Final = {
    "klines": 2,
    "exchangeInfo": 20,
    "time": 1,
    "ping": 1,
    "fundingRate": 1,
}  # of Binance's spot interface
MINUTE_S: Final = 60.0
BINANCE_LIMIT: Final = 6000  # a minute
_N_WARNINGS: Final = 10  # requests refused with 429, one after the other, before the ban
_BAN_S: Final = 120.0


class Meter:
    """Weighs the requests of all clients, and refuses what goes beyond the limit.

    Attributes:
        limit: Weight that any `window_s` seconds allow; None for any. Binance starts anew with each minute of the
            clock, so this is the stricter reading.
        window_s: Length of the window.
        weighed: When each request came, by `time.monotonic()`, and its weight; refused ones included.
        n_refused: Requests that went beyond the limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.window_s = MINUTE_S
        self.weighed: list[tuple[float, int]] = []
        self.n_refused = 0
        self._n_ignored = 0  # refusals since the last request within the limit
        self._admitted: deque[tuple[float, int]] = deque()

    def used(self) -> int:
        """Weight of the requests answered within the window."""
        begin = time.monotonic() - self.window_s
        while self._admitted and self._admitted[0][0] <= begin:
            self._admitted.popleft()
        return sum(weight for _, weight in self._admitted)

    def weigh(self, weight: int) -> Fault | None:
        """Count a request.

        Returns:
            Where it goes beyond the limit, how it is refused: 429, and 418 for a client that goes on all the same.
            None where it may be answered.
        """
        at = time.monotonic()
        self.weighed.append((at, weight))
        if self.limit is None or self.used() + weight <= self.limit:
            self._admitted.append((at, weight))
            self._n_ignored = 0
            return None
        self.n_refused += 1
        self._n_ignored += 1
        if self._n_ignored > _N_WARNINGS:
            return Fault(418, retry_after=_BAN_S)
        oldest = self._admitted[0][0] if self._admitted else at
        return Fault(429, retry_after=ceil(oldest + self.window_s - at))


def peak_weight(weighed: Sequence[tuple[float, int]], window_s: float) -> int:
    """The most weight that came within any window of a length in seconds, its end included.

    Args:
        weighed: Stamps in seconds and weights, in order of time.
        window_s: Length of the window.
    """
    stamps = [at for at, _ in weighed]
    weights = [weight for _, weight in weighed]
    return max((sum(weights[i : bisect_right(stamps, at + window_s)]) for i, at in enumerate(stamps)), default=0)
