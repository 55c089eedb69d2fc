"""The workspace: a clone or worktree of the repository, its paths, its lock and the environment of the tools in it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from gatecast.errors import ConfigurationError, GatecastError

RELAYED_VARIABLE = "GATECAST_RELAYED"  # set where a caller shows the line of a failed stage itself
_FULL_BYTES = 2**20  # so little free counts as none


@dataclass(frozen=True)
class Workspace:
    """The paths of one workspace; `root` is absolute."""

    root: Path

    @property
    def params(self) -> Path:
        """The active configuration."""
        return self.root / "conf" / "params.yaml"

    @property
    def profiles(self) -> Path:
        """The ready-made overrides."""
        return self.root / "conf" / "profiles"

    @property
    def candles(self) -> Path:
        """The candle store."""
        return self.root / "data" / "candles"

    @property
    def ledger(self) -> Path:
        """What is known about the stored candles: gaps and revisions."""
        return self.root / "data" / "ledger"

    @property
    def publications(self) -> Path:
        """What feeds and venues have published: headlines and funding rates, as they were read."""
        return self.root / "data" / "publications"

    @property
    def raw(self) -> Path:
        """The frozen candles and publications of the run, tracked by DVC."""
        return self.root / "data" / "raw"

    @property
    def clean(self) -> Path:
        """The regular grid of candles."""
        return self.root / "data" / "clean" / "candles.parquet"

    @property
    def clean_counts(self) -> Path:
        """Row counts of `clean`, by market."""
        return self.root / "data" / "clean" / "counts.json"

    @property
    def clean_reference(self) -> Path:
        """The grid of the second venue, under the symbols of the own markets; absent where there is none."""
        return self.root / "data" / "clean" / "reference.parquet"

    @property
    def quarantine(self) -> Path:
        """Rows that cannot be, each with its reason."""
        return self.root / "data" / "quarantine" / "quarantine.parquet"

    @property
    def development_features(self) -> Path:
        """Feature rows and targets known before `split.development_end`."""
        return self.root / "data" / "features" / "development.parquet"

    @property
    def all_features(self) -> Path:
        """All feature rows and targets."""
        return self.root / "data" / "features" / "all.parquet"

    @property
    def reports(self) -> Path:
        """What the steps found: JSON, tables, pictures, the report."""
        return self.root / "reports"

    @property
    def data_docs(self) -> Path:
        """Data Docs of the candle suite."""
        return self.reports / "data_docs"

    @property
    def feature_docs(self) -> Path:
        """Data Docs of the feature suite."""
        return self.reports / "feature_docs"

    @property
    def model(self) -> Path:
        """The model folder that `fit` writes."""
        return self.root / "model"

    @property
    def state(self) -> Path:
        """Run-time state: databases, artifacts, locks."""
        return self.root / ".gatecast"

    def checkpoints(self, stage: str) -> Path:
        """Networks that a stage is training or has trained, until it is done."""
        return self.state / "training" / stage

    def forget_checkpoints(self, stage: str) -> None:
        """Delete them: what a stage is asked for again is computed again."""
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

    @property
    def failure(self) -> Path:
        """What a stage that ended in an error left for its caller: status and line."""
        return self.state / "failure.json"

    def relative(self, path: Path) -> str:
        """A path as the user types it from the root of the workspace."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    @contextmanager
    def lock(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the workspace for one pipeline at a time; a second one says so once and waits.

        The operating system drops the lock when its holder dies, so a kill leaves nothing to clear.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.state / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another gatecast process is at work in {self.root}; waiting for it to end")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def find_workspace(project: Path | None) -> Workspace:
    """The workspace that a path lies in.

    Args:
        project: A folder inside a clone or worktree; None for the current folder.

    Raises:
        ConfigurationError: Not in a git clone, or in one of another project.
    """
    folder = (project or Path.cwd()).absolute()
    if not folder.is_dir():
        raise ConfigurationError(f"--project {folder} is not a folder")
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ConfigurationError(
            "git is not installed; gatecast keeps its data and results by commit and needs it"
        ) from None
    if answer.returncode != 0:
        raise ConfigurationError(
            f"{folder} is not inside a git clone of gatecast: clone the repository, or name one with --project DIR"
        )
    workspace = Workspace(Path(answer.stdout.strip()))
    if not (workspace.params.is_file() and (workspace.root / "dvc.yaml").is_file()):
        raise ConfigurationError(
            f"{workspace.root} is a git clone but not of gatecast: it has no conf/params.yaml and dvc.yaml"
        )
    return workspace


def set_environment(workspace: Workspace) -> None:
    """Set what the tools read from the environment, where the user has not: call before importing them.

    With nothing set everything is embedded (SQLite and files under the state folder), quiet and offline.
    """
    state = workspace.state
    prefect_home = state / "prefect"
    prefect_home.mkdir(parents=True, exist_ok=True)  # Prefect does not create the parents of its home
    tool_paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PATH"] = tool_paths  # `mlflow` and `dvc` call programs of this virtual environment by name
    defaults = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow.db'}",
        "PREFECT_HOME": str(prefect_home),
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that is down is known after seconds, not after four minutes
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the steps speak for themselves; a refusal is one line, not a traceback
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MPLBACKEND": "Agg",
        # of semaphores that a stage leaves to the system when it ends with one line
        "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def raise_if_full(folder: Path) -> None:
    """Say that the disk is full, where a library failed for a reason that it may not have named.

    Raises:
        GatecastError: Less than 1 MiB is left on the disk that holds the folder.
    """
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        raise GatecastError(
            f"the disk that holds {folder} is full: free some space and run the command again"
        ) from None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Raises:
        GatecastError: The disk is full or not writable; what stood at `path` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise GatecastError(
            f"{path} could not be written ({error.strerror or error}); what stood there is as before"
        ) from error
    except Exception:  # polars has errors of its own for a full disk
        raise_if_full(path.parent)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON, atomically, keys in the order given, so that equal content gives equal bytes."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_sha256() -> str:
    """Hash of the package's own source, by relative path and content."""
    package = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
