"""What tests of markets share: clients that do not dawdle."""

import ccxt.async_support as ccxt
import pytest


@pytest.fixture(autouse=True)
def prompt_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the quarter of a second that ccxt gives encrypted connections to close; those to a stand-in are plain."""
    monkeypatch.setattr(ccxt.Exchange, "timeout_on_exit", 0)
