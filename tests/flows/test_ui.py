import os
import signal
import socket
import subprocess
import sys
import time


def serve(parent: int) -> tuple[subprocess.Popen[bytes], int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flows.ui", str(parent), "http.server", str(port), "--bind", "127.0.0.1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def within(seconds: float, port: int, *, wanted: bool) -> bool:
    deadline = time.monotonic() + seconds
    while answers(port) is not wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return answers(port) is wanted


def test_a_server_lives_while_its_parent_does_and_ends_when_told() -> None:
    watcher, port = serve(os.getpid())
    assert within(30, port, wanted=True)
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(30)
    assert within(10, port, wanted=False)


def test_a_server_whose_parent_is_gone_ends() -> None:
    watcher, port = serve(os.getpid() + 1)  # not the parent that it has
    watcher.wait(30)
    assert not answers(port)
