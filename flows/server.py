"""The embedded Prefect server: a child process on loopback for the time of a run, never longer.

Prefect's own ephemeral server outlives a parent that is killed and, once dead itself, leaves the flow retrying for
minutes. Run as `python -m flows.server PARENT SOCKET` this module is the server.
"""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import gatecast
from gatecast.errors import GatecastError

LOOPBACK: Final = "127.0.0.1"
START_LIMIT_S: Final = 90.0  # the first start of a workspace migrates the database: 6 s of one idle core
END_LIMIT_S: Final = 5.0
N_RESTARTS: Final = 3
N_CLIENT_RETRIES: Final = 3  # of one request, 2 + 4 + 8 s; Prefect's own 5 are a minute of silence

# The ephemeral mode leaves scheduler, late runs and the other loops out by itself. Reactive triggers start deployments,
# which nobody serves here; the recorder of task runs and the persister of events have to stay.
_SERVER_SETTINGS: Final = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


@contextmanager
def embedded_server(say: Callable[[str], None]) -> Iterator[str]:
    """A Prefect API for the flows of the block, whose address it yields.

    The user's own server is used where PREFECT_API_URL, or the Prefect profile in use, names one. Otherwise a server on
    loopback keeps its database in PREFECT_HOME, so that `prefect server start` later shows the runs; it is started anew
    if it dies, and ended with the block. Prefect is imported only after the server has started, so that a caller who
    imports its flows inside the block saves that time.

    Raises:
        GatecastError: The server ended at once, or did not answer within 90 s; the message carries its last line. Or
            the user's own does not answer.
    """
    if address := os.environ.get("PREFECT_API_URL"):
        _require_answer(address)
        yield address
        return
    server = _EmbeddedServer(say)
    try:
        server.launch()
        from prefect import settings

        if address := settings.PREFECT_API_URL.value():
            server.end()
            _require_answer(address)
            yield address
            return
        server.wait_until_healthy()
        server.supervise()
        client_settings = {
            settings.PREFECT_API_URL: server.api_url,
            # at the end of a flow its thread costs a second; it serves a persistent server that looks for dead runs
            settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            settings.PREFECT_CLIENT_MAX_RETRIES: N_CLIENT_RETRIES,
        }
        with _no_proxy_to_loopback(), settings.temporary_settings(client_settings):
            try:
                yield server.api_url
            finally:
                server.settle()
    finally:
        server.end()


def _require_answer(address: str) -> None:
    try:
        urlopen(f"{address.rstrip('/')}/health", timeout=END_LIMIT_S).close()  # noqa: S310 - the user's own address
    except HTTPError:
        pass  # an answer, if only that it wants a key, which Prefect's client has
    except (OSError, ValueError) as error:
        raise GatecastError(
            f"no Prefect server answers at PREFECT_API_URL ({error}): start it, or unset the variable to run with the"
            " embedded one"
        ) from None


@contextmanager
def _no_proxy_to_loopback() -> Iterator[None]:
    """Keep Prefect's client from asking the user's HTTP proxy, which exchanges may need, for the loopback address."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    hosts = ",".join(filter(None, [before["no_proxy"] or before["NO_PROXY"], LOOPBACK]))
    os.environ.update(dict.fromkeys(before, hosts))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _EmbeddedServer:
    """The server process and the socket it listens on.

    This process opens the socket and keeps it: the port is free and stays ours, and requests made while the server
    starts, or starts again, wait in its queue instead of failing.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._socket = socket.create_server((LOOPBACK, 0), backlog=256)
        self._port: int = self._socket.getsockname()[1]
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long-lived as the server, closed in `end`
        self._process: subprocess.Popen[bytes] | None = None
        self._process_lock = threading.Lock()
        self._ending = threading.Event()
        self._started_at = datetime.now(UTC)

    @property
    def api_url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}/api"

    def launch(self) -> None:
        descriptor = self._socket.fileno()
        sources = [str(Path(__file__).parents[1]), str(Path(gatecast.__file__).parents[1])]
        paths = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._process_lock:
            if self._ending.is_set():
                return
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(os.getpid()), str(descriptor)],
                env={**os.environ, **_SERVER_SETTINGS, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[descriptor],
                start_new_session=True,  # a Ctrl-C is the flow's: it has yet to record its last state here
            )

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self._ending.is_set():
            if self._process is None or self._process.poll() is not None:
                raise GatecastError(f"the embedded Prefect server ended at its start: {self._last_line()}")
            if time.monotonic() > deadline:
                raise GatecastError(
                    f"the embedded Prefect server did not answer within {START_LIMIT_S:.0f} s: {self._last_line()}; "
                    "try again on a less busy machine, or name a server in PREFECT_API_URL"
                )
            if self._request("GET", "/api/health", timeout_s=1.0) is not None:
                return

    def supervise(self) -> None:
        threading.Thread(target=self._restart_when_dead, name="prefect-server-supervisor", daemon=True).start()

    def _restart_when_dead(self) -> None:
        for _ in range(N_RESTARTS):
            if self._process is not None:
                self._process.wait()
            if self._ending.is_set():
                return
            self._say("the embedded Prefect server died; starting it again")
            self.launch()
        if self._process is not None:
            self._process.wait()
        if not self._ending.is_set():
            self._say(f"the embedded Prefect server died {N_RESTARTS + 1} times ({self._last_line()}); giving it up")
            self._socket.close()  # the flow's requests fail from now on instead of waiting

    def settle(self) -> None:
        """Wait, at most some seconds, until all that the flows sent lies in the database.

        Task runs travel as events: client queue, websocket, server queue, database.
        """
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        logging.getLogger(EventsWorker.__name__).setLevel(logging.ERROR)  # it warns of every item that is still queued
        EventsWorker.drain_all(timeout=END_LIMIT_S, at_exit=False)
        APILogWorker.drain_all(timeout=END_LIMIT_S, at_exit=False)
        unfinished = {
            "flow_runs": {"start_time": {"after_": self._started_at.isoformat()}},
            "task_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}},
        }
        deadline = time.monotonic() + END_LIMIT_S
        while time.monotonic() < deadline:
            if self._request("POST", "/api/task_runs/count", unfinished) in (None, 0):
                return
            time.sleep(0.05)

    def end(self) -> None:
        self._ending.set()
        with self._process_lock:
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._socket.close()
        self._output.close()

    def _request(self, method: str, path: str, body: object = None, *, timeout_s: float = END_LIMIT_S) -> object:
        """The answer to one request, None where there is none; straight to the port, whatever proxy is configured."""
        connection = HTTPConnection(LOOPBACK, self._port, timeout=timeout_s)
        content = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == 200 else None  # noqa: PLR2004 - HTTP's OK
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def _last_line(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        # uvicorn closes a traceback with a line that tells nothing
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        return (raised or lines or ["it said nothing"])[-1].strip()


def _end_with_parent(parent: int) -> None:
    """End this process within seconds of its parent's death, whatever killed the parent.

    Polled, because Linux alone can have the kernel tell.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_LIMIT_S)
    os._exit(1)


def _serve(parent: int, descriptor: int) -> None:
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    application = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(application, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
