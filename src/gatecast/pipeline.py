"""The deterministic stages: the only place that asks DVC, through its command line."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gatecast.dvc_process import Ended, environment, run_dvc
from gatecast.errors import ConfigurationError, GatecastError, StageFailed
from gatecast.workspace import Workspace

_CHATTER: Final = (
    "\t",
    "> python",
    "Data and pipelines are up to date",
    "ERROR: failed to reproduce",
    "Generating lock file",
    "To enable auto staging",
    "To track the changes",
    "Updating lock file",
    "Use `dvc push`",
)


_FIRST_SIGNAL_STATUS: Final = 128  # a shell adds the number of the signal that killed its command


class Outcome(StrEnum):
    """What `dvc repro` did."""

    RAN = "ran"
    SKIPPED = "skipped"  # nothing had changed, or the outputs came from DVC's run cache


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
    ended = run_dvc(workspace, arguments, log=_log(workspace, stage), say=say, relay=_relay)
    if ended.status != 0:
        _raise_failure(workspace, stage, ended)
    return Outcome.RAN if any(line.startswith("Running stage '") for line in ended.lines) else Outcome.SKIPPED


def freeze(workspace: Workspace, path: Path) -> None:
    """Have DVC track a file or folder by hash (`dvc add`), without a word.

    Raises:
        GatecastError: DVC refused; the message is its reason.
    """
    name = workspace.relative(path)
    ended = run_dvc(workspace, ["add", name], log=_log(workspace, "add"), say=_to_stderr, relay=None)
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


def require_frozen(workspace: Workspace, path: Path) -> None:
    """Make sure that a folder is what DVC has of it by hash: a step on anything else could not be rebuilt.

    Raises:
        GatecastError: It has been changed since, or DVC could not tell; the message is its reason.
    """
    tracked = workspace.relative(path.with_name(f"{path.name}.dvc"))
    quiet = ["status", "--quiet", tracked]  # status 1, and no word, where it has changed
    ended = run_dvc(workspace, quiet, log=_log(workspace, "status"), say=_to_stderr, relay=None)
    if ended.status == 1 and not ended.lines:
        raise GatecastError(
            f"{workspace.relative(path)} is not what was frozen there (see `dvc status {tracked}`): run `gatecast"
            f" ingest`, or `dvc checkout {tracked}`"
        )
    if ended.status != 0:
        raise GatecastError(f"DVC could not tell whether {workspace.relative(path)} is as it was frozen: {ended.error}")


def up_to_date(workspace: Workspace) -> dict[str, bool] | None:
    """For each stage, in topological order, whether `dvc repro` would skip it and all that it stands on.

    None while another process is at work on them: DVC does not tell then.

    Raises:
        GatecastError: DVC could not tell; the message is its reason.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=workspace.root,
        env=environment(workspace),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        ended = Ended(answer.returncode, answer.stderr.splitlines())
        if ended.lock_busy:
            return None
        raise GatecastError(
            f"DVC could not tell its status: {ended.error}; `git checkout dvc.lock` brings the lock back"
        )
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


def _relay(line: str) -> None:
    """Show what a stage says and which stage it is, without DVC's advice on git and its account of a failure."""
    if line.strip() and not line.startswith(_CHATTER):
        _to_stderr(line)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _raise_failure(workspace: Workspace, stage: str, ended: Ended) -> NoReturn:
    try:
        failure = json.loads(workspace.failure.read_text(encoding="utf-8"))
        raise StageFailed(str(failure["line"]), int(failure["status"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # no word, or half a word: the stage did not get to say why
    log = workspace.relative(_log(workspace, stage))
    if ended.status < 0:
        reason = f"DVC was killed (signal {-ended.status}) while it was at stage {stage}; run the command again"
    elif exited := re.search(r"failed to run: .* exited with (-?\d+)", ended.error):
        how = "was killed" if not 0 < int(exited[1]) < _FIRST_SIGNAL_STATUS else "failed with an error of its own"
        reason = f"stage {stage} {how} (status {exited[1]}); what it said is in {log}"
    else:
        reason = f"DVC could not bring stage {stage} up to date: {ended.error}"
    raise StageFailed(reason, 1)
