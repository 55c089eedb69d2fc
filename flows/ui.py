"""The MLflow UI and the Prefect UI, served on loopback until they are interrupted."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from gatecast.errors import GatecastError
from gatecast.workspace import Workspace

_HOST = "127.0.0.1"
_START_LIMIT_S = 120
_END_LIMIT_S = 10
_POLL_S = 0.5


def serve_uis(workspace: Workspace, mlflow_port: int, prefect_port: int, say: Callable[[str], None]) -> None:
    """Serve both until Ctrl-C, or until one of them ends; what they print goes to log files in the state folder.

    Raises:
        GatecastError: One of them ended by itself, as it does when its port is taken, or did not come up.
    """
    artifacts = ["--default-artifact-root", (workspace.state / "artifacts").as_uri()]
    commands = {
        "mlflow": ["mlflow", "server", *artifacts, "--host", _HOST, "--port", str(mlflow_port), "--workers", "1"],
        "prefect": ["prefect", "server", "start", "--host", _HOST, "--port", str(prefect_port)],
    }
    ports = {"mlflow": mlflow_port, "prefect": prefect_port}
    logs = {name: workspace.state / f"ui-{name}.log" for name in commands}
    for name, variable in (("mlflow", "MLFLOW_TRACKING_URI"), ("prefect", "PREFECT_API_URL")):
        if os.environ.get(variable, "").startswith("http"):  # a server of the user's own
            say(f"ui: {name:<8} {re.sub('//[^/@]*@', '//', os.environ[variable])} ({variable})")
            del commands[name], ports[name]
    if not commands:
        return
    for name, port in ports.items():
        _require_free(name, port)
    say("ui: starting; this takes some seconds")
    with _children(commands, logs, workspace.root) as children:
        for name, port in ports.items():
            _await_answer(name, children[name], port, logs[name])
            say(f"ui: {name:<8} http://{_HOST}:{port}")
        say("ui: Ctrl-C ends both")
        while all(child.poll() is None for child in children.values()):
            time.sleep(_POLL_S)
        name = next(name for name, child in children.items() if child.poll() is not None)
        raise GatecastError(f"the {name} UI ended by itself; its last words are in {logs[name]}")


def _require_free(name: str, port: int) -> None:
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as error:
        raise GatecastError(
            f"port {port} is not free for the {name} UI ({error.strerror}): is another `gatecast ui` running? Otherwise"
            f" name one with --{name}-port"
        ) from None


@contextmanager
def _children(
    commands: Mapping[str, list[str]], logs: Mapping[str, Path], folder: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with logs[name].open("wb") as log:
                children[name] = subprocess.Popen(
                    [sys.executable, "-m", "flows.ui", str(os.getpid()), *command],
                    cwd=folder,
                    # an address may carry a password, which a command line would show
                    env={**os.environ, "MLFLOW_BACKEND_STORE_URI": os.environ["MLFLOW_TRACKING_URI"]},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        yield children
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            try:
                child.wait(timeout=_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _await_answer(name: str, child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise GatecastError(f"the {name} UI did not start: is port {port} taken? Its last words are in {log}")
        try:
            connection = HTTPConnection(_HOST, port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse()
            return
        except (OSError, HTTPException):
            time.sleep(_POLL_S)
    raise GatecastError(f"the {name} UI did not answer on port {port} within {_START_LIMIT_S} s; see {log}")


def _run_with_parent(parent: int, command: list[str]) -> None:
    """Run a server until it ends, is told to, or the parent is gone, whatever killed it; its workers end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)
    try:
        while server.poll() is None and os.getppid() == parent:  # polled: Linux alone can have the kernel tell
            time.sleep(_POLL_S)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(server.pid, number)
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=_END_LIMIT_S / 2)
    sys.exit(server.returncode)


if __name__ == "__main__":
    _run_with_parent(int(sys.argv[1]), sys.argv[2:])
