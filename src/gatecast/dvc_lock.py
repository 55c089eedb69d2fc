"""Who else is at work with DVC in a workspace: living ones are waited for, what dead ones left is cleared away."""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from gatecast.errors import GatecastError
from gatecast.workspace import Workspace

GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL
_POLL_S: Final = 0.5
_SAY_EVERY_S: Final = 10.0
_HOLDER_LIMIT_S: Final = 24 * 3600.0


def await_others(workspace: Workspace, say: Callable[[str], None]) -> None:
    """Wait for live DVC processes that hold paths of the workspace, then clear away what dead ones left.

    DVC clears entries of absent processes itself, but takes a zombie, or a stranger with a recycled number, for the
    holder, and gives up on a file that a kill cut short.
    """
    start = time.monotonic()
    say_at = start
    while holders := _live_holders(workspace):
        if time.monotonic() - start > _HOLDER_LIMIT_S:
            raise GatecastError(f"{holders[0]} has held {workspace.root} for a day; end it and run the command again")
        if time.monotonic() >= say_at:
            say(f"{holders[0]} is at work in {workspace.root}; waiting for it to end")
            say_at += _SAY_EVERY_S
        time.sleep(_POLL_S)
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
        if any("from multiprocessing." in word for word in process.cmdline()):
            return False  # workers of a stage, and what they were forked from, end with it by themselves
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return process.pid not in ours and not any(_is_dvc(parent) for parent in process.parents())
    except (psutil.Error, OSError):
        return False
