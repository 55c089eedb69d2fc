"""Habits of other venues, which the stand-in exchange can take on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Habits:
    """How pages differ from those of Binance.

    Attributes:
        spans_only: An answer ends where as many bars as were asked for would end, whether they exist or not; a span
            without candles is answered with an empty page.
        max_rows: Most rows of an answer, whatever was asked for; None for as many as asked for.
        n_served: Only so many of the newest bars are served; None for all.
        echoes: An error repeats what the request has sent.
    """

    spans_only: bool = False
    max_rows: int | None = None
    n_served: int | None = None
    echoes: bool = False

    def applied(
        self, start: int | None, end: int | None, limit: int, length: int, now: int
    ) -> tuple[int | None, int | None, int]:
        """What is answered instead of what was asked for: first and last open time in milliseconds, and rows."""
        rows = min(limit, self.max_rows or limit)
        if self.spans_only and start is not None:
            last = start + rows * length - 1
            end = last if end is None else min(end, last)
        if self.n_served is not None:
            oldest = (now // length - self.n_served) * length
            start = oldest if start is None else max(start, oldest)
        return start, end, rows
