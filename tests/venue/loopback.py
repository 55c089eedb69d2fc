"""A web application on a port of loopback, in a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Loopback:
    """Gives every GET to one handler; `with` starts and stops it, a second `with` on the same port.

    Attributes:
        port: 0 before the first start where any free one will do.
    """

    def __init__(self, handler: Handler, before_stop: Callable[[], None], port: int) -> None:
        self._handler = handler
        self._before_stop = before_stop
        self.port = port
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._stop: asyncio.Event

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True, name="venue")
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop.set)
        self._thread.join()

    def call(self, action: Callable[[], None]) -> None:
        """Let the loop do something, and wait until it is done."""
        done: Future[None] = Future()

        def act() -> None:
            try:
                action()
                done.set_result(None)
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
                done.set_exception(error)

        self._loop.call_soon_threadsafe(act)
        done.result()

    async def _serve(self, started: "Future[None]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application()
        application.router.add_get("/{path:.*}", self._handler)
        # a request that is never answered ends with its client, or with the server
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.port = runner.addresses[0][1]
        except OSError as error:
            await runner.cleanup()
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stop.wait()
        self._before_stop()
        await runner.cleanup()
