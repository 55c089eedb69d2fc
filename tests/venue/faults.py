"""What can go wrong with a request for candles, and what Binance says when it does."""

import json
import random
from dataclasses import dataclass
from typing import Final

OK: Final = "ok"  # no fault: places those that follow later in a schedule

# the connection
RESET: Final = "reset"  # closed in the middle of the answer
TIMEOUT: Final = "timeout"  # no answer until the client gives up

# answers with status 200 that are not what they claim to be
TRUNCATED: Final = "truncated"  # JSON cut in half
PAGE: Final = "page"  # HTML
EMPTY: Final = "empty"  # no candle
DUPLICATES: Final = "duplicates"  # some rows twice
SHUFFLED: Final = "shuffled"  # rows in no order
OVERLAP: Final = "overlap"  # also rows before startTime
STALE: Final = "stale"  # as it was some bars ago, the last row half-built as it was then
GARBAGE: Final = "garbage"  # a null in one row, text for a number in the next
FUTURE: Final = "future"  # also a row that opens years from now

# the end of a symbol, from this request on
BREAK: Final = "break"  # trades no more: status BREAK, no candle after the present one
DELISTED: Final = "delisted"  # gone, and its history with it

_SPOILT: Final = (TRUNCATED, PAGE, EMPTY, DUPLICATES, SHUFFLED, OVERLAP, STALE, GARBAGE, FUTURE)
NAMES: Final = (OK, RESET, TIMEOUT, *_SPOILT, BREAK, DELISTED)
STATUSES: Final = (429, 418, 500, 502, 503, 451, 403, 401)
REFUSALS: Final = (451, 403, 401)  # asking again does not help
TRANSIENT: Final = (*(status for status in STATUSES if status not in REFUSALS), RESET, TIMEOUT, *_SPOILT)

HTML: Final = "<html><body><h1>maintenance</h1></body></html>"
_WORDS: Final = {
    401: {"code": -2014, "msg": "API-key format invalid."},
    418: {
        "code": -1003,
        "msg": "Way too much request weight used; IP banned until 1659146400000. Please use WebSocket Streams for live "
        "updates to avoid bans.",
    },
    429: {
        "code": -1003,
        "msg": "Too much request weight used; current limit is 6000 request weight per 1 MINUTE. Please use WebSocket "
        "Streams for live updates to avoid polling the API.",
    },
    451: {"code": 0, "msg": "Service unavailable from a restricted location according to 'b. Eligibility'."},
    503: {
        "code": -1008,
        "msg": "Server is currently overloaded with other requests. Please try again in a few minutes.",
    },
}


@dataclass(frozen=True)
class Fault:
    """One fault of a schedule.

    Attributes:
        kind: An HTTP status or one of `NAMES`.
        retry_after: Seconds that 429 and 418 tell in their header `Retry-After`.
        n_bars: How many bars a stale answer is old, or an overlapping one begins early.
    """

    kind: int | str
    retry_after: float = 1.0
    n_bars: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.kind, int) and self.kind not in NAMES:
            raise ValueError(f"fault {self.kind!r} is neither an HTTP status nor one of {', '.join(NAMES)}")

    @classmethod
    def of(cls, fault: "Fault | int | str") -> "Fault":
        """A fault from its short form: a status such as 429 or "429", or a name such as "reset"."""
        if isinstance(fault, Fault):
            return fault
        return cls(int(fault) if isinstance(fault, str) and fault.isdigit() else fault)


def refusal(fault: Fault) -> tuple[str, str, dict[str, str]]:
    """Body, content type and headers of an answer with a status that is not 200."""
    headers = {"Retry-After": f"{fault.retry_after:g}"} if fault.kind in (429, 418) else {}
    if fault.kind in (403, 502):  # from what stands before the exchange, which does not speak JSON
        return HTML, "text/html", headers
    words = _WORDS.get(int(fault.kind), {"code": -1000, "msg": "An unknown error occurred while processing."})
    return json.dumps(words), "application/json", headers


def chaos(seed: int, n_requests: int = 10_000) -> list[Fault]:
    """A schedule in which one of two to five requests meets a fault, drawn from those that pass by themselves."""
    generator = random.Random(seed)
    schedule: list[Fault] = []
    while len(schedule) < n_requests:
        schedule += [Fault(OK)] * generator.randint(1, 4) + [Fault(generator.choice(TRANSIENT))]
    return schedule[:n_requests]
