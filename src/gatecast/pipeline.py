"""The deterministic stages: the only place that talks to DVC, through its command line.

DVC runs in a process group of its own and writes to a file, not to a pipe of ours: if this process is killed outright,
DVC and its stage go on to their end, and the next run waits for them. While this process lives, none of theirs outlives
a call.
"""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gatecast.errors import ConfigurationError, GatecastError, StageFailed
from gatecast.workspace import Workspace

GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL
POLL_S: Final = 0.1
SAY_EVERY_S: Final = 10.0
HOLDER_LIMIT_S: Final = 24 * 3600.0
LOCK_BACKOFFS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # DVC itself has waited 3 s for each try
_LOCK_BUSY: Final = ("Unable to acquire lock", "is busy, it is being blocked by")


class Outcome(StrEnum):
    """What `dvc repro` did."""

    RAN = "ran"
    SKIPPED = "skipped"  # nothing had changed, or the outputs came from DVC's run cache


class _Ended(NamedTuple):
    """How a DVC process ended; a negative status is the signal that killed it."""

    status: int
    lines: list[str]

    @property
    def error(self) -> str:
        """DVC's last word on what went wrong."""
        errors = [line.removeprefix("ERROR:").strip() for line in self.lines if line.startswith("ERROR:")]
        spoken = [line.strip() for line in self.lines if line.strip()]
        return (errors or spoken or ["it said nothing"])[-1]

    @property
    def lock_busy(self) -> bool:
        return self.status > 0 and any(words in self.error for words in _LOCK_BUSY)


def stages(workspace: Workspace) -> tuple[str, ...]:
    """The stages of `dvc.yaml`, each after those it stands on, otherwise in the order of the file.

    Raises:
        ConfigurationError: `dvc.yaml` cannot be read, or its stages stand on each other in a circle.
    """
    return tuple(_upstream(workspace))


def reproduce(workspace: Workspace, stage: str, *, alone: bool, say: Callable[[str], None]) -> Outcome:
    """Bring a stage up to date; what DVC and the stage print goes to stderr, line by line.

    Args:
        workspace: Where.
        stage: A stage of `dvc.yaml`.
        alone: The stage by itself, or with all that it stands on.
        say: Told what is waited for.

    Raises:
        StageFailed: With the line and the exit status that the stage left, or with DVC's error and status 1.
        GatecastError: Another DVC process kept its lock for too long.
    """
    arguments = ["repro", *(["--single-item"] if alone else []), stage]
    ended = _dvc(workspace, arguments, log=_log(workspace, stage), say=say, relay=_to_stderr)
    if ended.status != 0:
        _raise_failure(workspace, stage, ended)
    return Outcome.RAN if any(line.startswith("Running stage '") for line in ended.lines) else Outcome.SKIPPED


def freeze(workspace: Workspace, path: Path) -> None:
    """Have DVC track a file or folder by hash (`dvc add`), without a word.

    Raises:
        GatecastError: DVC refused; the message is its reason.
    """
    name = workspace.relative(path)
    ended = _dvc(workspace, ["add", name], log=_log(workspace, "add"), say=_to_stderr, relay=None)
    if ended.status != 0:
        raise GatecastError(f"DVC could not add {name}: {ended.error}")


def fingerprint(workspace: Workspace, stage: str) -> str:
    """Hash of a stage's outputs as `dvc.lock` has them: equal if and only if paths and contents are.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        GatecastError: The stage has not run yet.
    """
    locked = _read_yaml(workspace.root / "dvc.lock").get("stages", {})
    if stage not in locked:
        raise GatecastError(f"dvc.lock has no outputs of stage {stage}: run `gatecast {stage}` first")
    outputs = sorted((out["path"], out["md5"]) for out in locked[stage].get("outs", []))
    return hashlib.sha256(json.dumps(outputs).encode()).hexdigest()


def up_to_date(workspace: Workspace) -> dict[str, bool]:
    """For each stage, in topological order, whether `dvc repro` would skip it and all that it stands on.

    Raises:
        GatecastError: DVC could not tell; the message is its reason.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=workspace.root,
        env=_environment(workspace),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise GatecastError(f"DVC could not tell its status: {_Ended(1, answer.stderr.splitlines()).error}")
    changed = json.loads(answer.stdout)
    current: dict[str, bool] = {}
    for stage, upstream in _upstream(workspace).items():
        current[stage] = stage not in changed and all(current[name] for name in upstream)
    return current


def _upstream(workspace: Workspace) -> dict[str, set[str]]:
    """The stages that each stage stands on directly; keys in topological order."""
    declared: dict[str, Any] = _read_yaml(workspace.root / "dvc.yaml").get("stages", {})
    outputs = {
        name: [path for kind in ("outs", "metrics", "plots") for path in _paths(stage.get(kind))]
        for name, stage in declared.items()
    }
    waiting = {
        name: {
            other
            for other in declared
            if any(_overlap(dep, out) for dep in _paths(stage.get("deps")) for out in outputs[other])
        }
        for name, stage in declared.items()
    }
    ordered: dict[str, set[str]] = {}
    while waiting:
        ready = next((name for name, upstream in waiting.items() if upstream <= ordered.keys()), None)
        if ready is None:
            raise ConfigurationError(f"dvc.yaml: the stages {', '.join(waiting)} stand on each other in a circle")
        ordered[ready] = waiting.pop(ready)
    return ordered


def _paths(entries: list[str | dict[str, Any]] | None) -> list[Path]:
    return [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries or []]


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return YAML(typ="safe", pure=True).load(path) or {}
    except FileNotFoundError:
        return {}
    except (YAMLError, OSError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from None


def _log(workspace: Workspace, name: str) -> Path:
    return workspace.state / "dvc" / f"{name}.log"


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _raise_failure(workspace: Workspace, stage: str, ended: _Ended) -> NoReturn:
    try:
        failure = json.loads(workspace.failure.read_text(encoding="utf-8"))
        raise StageFailed(str(failure["line"]), int(failure["status"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # no word, or half a word: the stage did not get to say why
    log = workspace.relative(_log(workspace, stage))
    if ended.status < 0:
        reason = f"DVC was killed (signal {-ended.status}) while it was at stage {stage}; run the command again"
    elif "failed to run:" in ended.error:
        reason = f"stage {stage} ended without a word (killed?): {ended.error}; its output is in {log}"
    else:
        reason = f"DVC could not bring stage {stage} up to date: {ended.error}"
    raise StageFailed(reason, 1)


def _environment(workspace: Workspace) -> dict[str, str]:
    source = [str(workspace.root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(source),  # a worktree runs its own code, not the installed one
        "PATH": os.pathsep.join(programs),  # `python` in dvc.yaml is this one
        "PYTHONUNBUFFERED": "1",  # else the stage's progress would come with its end
    }


def _dvc(
    workspace: Workspace,
    arguments: list[str],
    *,
    log: Path,
    say: Callable[[str], None],
    relay: Callable[[str], None] | None,
) -> _Ended:
    """Run DVC once the way is free, again while another process keeps its lock."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for backoff_s in (*LOCK_BACKOFFS_S, None):
        _await_others(workspace, say)
        workspace.failure.unlink(missing_ok=True)
        ended = _run_once(workspace, arguments, log, relay)
        if not ended.lock_busy or workspace.failure.exists():
            return ended
        if backoff_s is not None:
            say(f"another DVC process is at work in {workspace.root}; trying again in {backoff_s:g} s")
            time.sleep(backoff_s)
    raise GatecastError(f"another DVC process keeps its lock on {workspace.root}: {ended.error}; wait for it or end it")


def _run_once(workspace: Workspace, arguments: list[str], log: Path, relay: Callable[[str], None] | None) -> _Ended:
    with _sigterm_raises(), log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=workspace.root,
            env=_environment(workspace),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            lines = _follow(process, log, relay)
        finally:
            if process.poll() != 0:  # a stage whose DVC was killed lives on, as do the workers of a killed stage
                _end_group(process)
    return _Ended(process.returncode, lines)


def _follow(process: subprocess.Popen[bytes], log: Path, relay: Callable[[str], None] | None) -> list[str]:
    """The lines of the log, each relayed as soon as it is complete, until the process has ended."""
    lines: list[str] = []
    partial = b""
    with log.open("rb") as reader:
        ended = False
        while not ended:
            try:
                process.wait(POLL_S)
                ended = True  # what it wrote last is read below
            except subprocess.TimeoutExpired:
                pass
            *complete, partial = (partial + reader.read()).split(b"\n")
            for line in [*complete, *([partial] if ended and partial else [])]:
                lines.append(line.decode(errors="replace").rstrip("\r"))
                if relay:
                    relay(lines[-1])
    return lines


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that DVC is ended too, unless someone (a Prefect flow) handles it already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def exit_by_signal(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, exit_by_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End all that is left of a process group, whose leader `process` is."""
    try:
        _signal_group(process, signal.SIGTERM)
        _await_group(process)
    finally:  # a second Ctrl-C goes straight to here
        _signal_group(process, signal.SIGKILL)
        _await_group(process)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the group; False if nothing of it is left."""
    process.poll()  # a leader that is not reaped counts as a member
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS: all that is left are zombies
        return False
    return True


def _await_group(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + GRACE_S
    while _signal_group(process, 0) and time.monotonic() < deadline:
        time.sleep(0.02)


def _await_others(workspace: Workspace, say: Callable[[str], None]) -> None:
    """Wait for live DVC processes that hold paths of the workspace, then clear away what dead ones left.

    DVC clears entries of absent processes itself, but takes a zombie, or a stranger with a recycled number, for the
    holder, and gives up on a file that a kill cut short.
    """
    start = time.monotonic()
    say_at = start
    while holders := _live_holders(workspace):
        if time.monotonic() - start > HOLDER_LIMIT_S:
            raise GatecastError(f"{holders[0]} has held {workspace.root} for a day; end it and run the command again")
        if time.monotonic() >= say_at:
            say(f"{holders[0]} is at work in {workspace.root}; waiting for it to end")
            say_at += SAY_EVERY_S
        time.sleep(5 * POLL_S)
    _end_orphans(workspace, say)


def _live_holders(workspace: Workspace) -> list[str]:
    """Who lives of those that DVC's `rwlock` names; when none does, the file is removed."""
    rwlock = workspace.root / ".dvc" / "tmp" / "rwlock"
    if not rwlock.exists():
        return []
    with rwlock.with_name("rwlock.lock").open("a") as guard:  # DVC holds it while it edits the file
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ["a DVC process that is taking or dropping its lock"]
        holders = [f"DVC process {pid} ({cmd})" for pid, cmd in sorted(_entries(rwlock)) if _is_alive(pid, cmd)]
        if not holders:
            rwlock.unlink(missing_ok=True)
        return holders


def _entries(rwlock: Path) -> set[tuple[int, str]]:
    try:
        content = json.loads(rwlock.read_text(encoding="utf-8"))
        readers = [entry for entries in content.get("read", {}).values() for entry in entries]
        writers = [entry for entry in content.get("write", {}).values() if entry]
        return {(int(entry["pid"]), str(entry["cmd"])) for entry in [*readers, *writers]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # cut short by a kill: DVC refuses to work with it, too


def _is_alive(pid: int, command: str) -> bool:
    """Whether the process that took the lock still lives: numbers are recycled, so its command line has to fit."""
    try:
        process = psutil.Process(pid)
        return pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and _is_dvc(process, command)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _is_dvc(process: psutil.Process, command: str | None = None) -> bool:
    words = process.cmdline()
    return any(Path(word).name == "dvc" for word in words) or (bool(command) and " ".join(words).endswith(str(command)))


def _end_orphans(workspace: Workspace, say: Callable[[str], None]) -> None:
    """End stages whose DVC is dead: nobody will take up their outputs, and the stage about to run writes the same."""
    orphans = [process for process in psutil.process_iter() if _is_orphan(process, workspace.root)]
    for process in orphans:
        say(f"ending process {process.pid}, a stage that a killed DVC left behind")
        process.terminate()
    for process in psutil.wait_procs(orphans, timeout=GRACE_S)[1]:
        process.kill()


def _is_orphan(process: psutil.Process, root: Path) -> bool:
    try:
        environment = process.environ()
        if "DVC_STAGE" not in environment or Path(environment.get("DVC_ROOT", "")).resolve() != root.resolve():
            return False
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return process.pid not in ours and not any(_is_dvc(parent) for parent in process.parents())
    except (psutil.Error, OSError):
        return False
