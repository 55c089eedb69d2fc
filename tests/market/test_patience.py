"""How a venue is asked again."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from gatecast.errors import NetworkFault
from gatecast.market.patience import FIRST_WAIT_S, LONGEST_WAIT_S, Patience, retry_after_s


class Asked:
    """A venue that fails so many times, and what was waited between."""

    def __init__(self, n_faults: int, silence_s: float = 0.0) -> None:
        self.n_faults, self.silence = n_faults, silence_s
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def question(self) -> str:
        self.n_faults -= 1
        if self.n_faults >= 0:
            raise NetworkFault("down")
        return "answer"

    def ask(self, n_retries: int) -> str:
        patience = Patience(n_retries, self.sleep)
        answer: str = asyncio.run(patience.ask(self.question, lambda: self.silence))
        return answer


def test_waits_grow_exponentially_with_jitter_up_to_a_bound() -> None:
    asked = Asked(12)
    assert asked.ask(12) == "answer"
    bounds = [min(FIRST_WAIT_S * 2**i, LONGEST_WAIT_S) for i in range(12)]
    assert all(0.5 * bound <= wait <= 1.5 * bound for wait, bound in zip(asked.waits, bounds, strict=True))
    again = Asked(12)
    again.ask(12)
    assert again.waits != asked.waits, "two clients that failed together do not come back together"


def test_after_the_last_try_the_fault_is_raised() -> None:
    asked = Asked(3)
    with pytest.raises(NetworkFault, match="down"):
        asked.ask(2)
    assert len(asked.waits) == 2


def test_silence_that_the_venue_wants_is_kept_in_full() -> None:
    asked = Asked(1, silence_s=7.0)
    asked.ask(1)
    assert asked.waits[0] >= 7.0


def test_all_requests_keep_the_silence_that_one_was_told() -> None:
    async def course() -> list[str]:
        said: list[str] = []
        woken = asyncio.Event()

        async def sleep(seconds: float) -> None:
            said.append(f"silent {seconds >= 5}")
            await woken.wait()

        patience = Patience(1, sleep)
        fails = iter([True, False])

        async def told() -> None:
            if next(fails):
                raise NetworkFault("429")
            said.append("told")

        async def other() -> None:
            await patience.turn()
            said.append("other")

        asking = asyncio.create_task(patience.ask(told, lambda: 5.0))
        await asyncio.sleep(0)
        others = asyncio.create_task(other())
        await asyncio.sleep(0.01)
        assert said == ["silent True"]
        woken.set()
        await asyncio.gather(asking, others)
        return said

    assert set(asyncio.run(course())[1:]) == {"told", "other"}


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0.5", 0.5), ("", 0.0), ("soon", 0.0), ("-3", 0.0)])
def test_retry_after_is_a_count_of_seconds(value: str, seconds: float) -> None:
    assert retry_after_s(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < retry_after_s(later) <= 90
