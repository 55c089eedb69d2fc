"""The MLflow UI and the Prefect UI, served on loopback until they are interrupted."""

import os
import subprocess
import sys
from collections.abc import Callable

from gatecast.errors import GatecastError
from gatecast.workspace import Workspace

_PATIENCE_S = 10


def serve_uis(workspace: Workspace, mlflow_port: int, prefect_port: int, say: Callable[[str], None]) -> None:
    """Serve both until Ctrl-C, or until one of them ends.

    Raises:
        GatecastError: One of them ended by itself, as it does when its port is taken.
    """
    store = [
        "--backend-store-uri",
        os.environ["MLFLOW_TRACKING_URI"],
        "--default-artifact-root",
        (workspace.state / "artifacts").as_uri(),
    ]
    commands = {
        "MLflow": [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *store,
            "--host",
            "127.0.0.1",
            "--port",
            str(mlflow_port),
            "--workers",
            "1",
        ],
        "Prefect": [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(prefect_port),
        ],
    }
    ports = {"MLflow": mlflow_port, "Prefect": prefect_port}
    children = {
        name: subprocess.Popen(command, cwd=workspace.root, stdout=subprocess.DEVNULL)
        for name, command in commands.items()
    }
    for name, port in ports.items():
        say(f"{name:<8} http://127.0.0.1:{port}")
    say("Ctrl-C ends both")
    try:
        while True:
            for name, child in children.items():
                try:
                    child.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
                raise GatecastError(f"the {name} UI ended (status {child.returncode}); is port {ports[name]} taken?")
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            try:
                child.wait(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()
