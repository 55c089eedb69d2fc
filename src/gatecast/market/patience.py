"""How a venue is asked again: exponential backoff with jitter, and silence for as long as it wants."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from gatecast.errors import NetworkFault

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
LONGEST_SILENCE_S: Final = 300.0  # a venue that wants to be left alone for longer is asked by the next run

Sleep = Callable[[float], Awaitable[None]]


class Patience:
    """The tries of all requests to one venue, which share one silence."""

    def __init__(self, n_retries: int, sleep: Sleep = asyncio.sleep) -> None:
        """Use inside one event loop.

        Args:
            n_retries: Further tries of a request that met a network fault.
            sleep: Waits so many seconds.
        """
        self._n_retries = n_retries
        self._sleep = sleep
        self._n_silences = 0
        self._may_speak = asyncio.Event()
        self._may_speak.set()

    @property
    def is_silent(self) -> bool:
        """Whether a silence is kept."""
        return not self._may_speak.is_set()

    async def turn(self) -> None:
        """Wait until no silence is kept."""
        await self._may_speak.wait()

    async def ask(self, question: Callable[[], Awaitable[Any]], silence_s: Callable[[], float]) -> Any:
        """The answer to a question, asked again while the fault may pass.

        Args:
            question: Sends one request.
            silence_s: Seconds for which the venue wanted to be left alone in its last answer; 0 where it did not say.

        Raises:
            NetworkFault: The last of the tries failed, or the venue wants too long a silence.
        """
        for n_failed in range(self._n_retries + 1):
            try:
                return await question()
            except NetworkFault as fault:
                silence = silence_s()
                if silence > LONGEST_SILENCE_S:
                    raise NetworkFault(f"{fault}; it wants {silence:.0f} s of silence: run again after that") from None
                if n_failed == self._n_retries:
                    if type(fault) is NetworkFault and n_failed:
                        raise NetworkFault(f"{fault}; asked {n_failed + 1} times, run again to go on") from None
                    raise
                wait = min(FIRST_WAIT_S * 2**n_failed, LONGEST_WAIT_S) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
                await (self._keep_silent(silence + wait) if silence else self._sleep(wait))
        raise AssertionError("the loop returns or raises")

    async def _keep_silent(self, seconds: float) -> None:
        self._n_silences += 1
        self._may_speak.clear()
        try:
            await self._sleep(seconds)
        finally:
            self._n_silences -= 1
            if self._n_silences == 0:
                self._may_speak.set()


def retry_after_s(value: str) -> float:
    """Seconds that a `Retry-After` header asks for, a count or a date (RFC 9110, 10.2.3); 0 where it is neither."""
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
