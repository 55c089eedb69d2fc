"""Where a result came from: commit and diff, data and lock hashes, seeds, library versions, hardware."""

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import psutil

from gatecast.workspace import Workspace, file_sha256

_LIBRARIES = (
    "ccxt",
    "dvc",
    "great-expectations",
    "mlflow",
    "numpy",
    "optuna",
    "polars",
    "prefect",
    "pytorch-lightning",
    "scipy",
    "torch",
)


def provenance(workspace: Workspace) -> dict[str, Any]:
    """Plain facts about the state of a workspace.

    Returns:
        commit (empty before the first), dirty, dvc_lock and data (SHA-256 of dvc.lock and data/raw.dvc), versions,
        python, platform, n_cores and memory_gb.
    """
    return {
        "commit": _git(workspace, "rev-parse", "--verify", "-q", "HEAD").strip(),
        "dirty": bool(_git(workspace, "status", "--porcelain").strip()),
        "dvc_lock": _hash(workspace, "dvc.lock"),
        "data": _hash(workspace, "data/raw.dvc"),
        "versions": {name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "n_cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }


def uncommitted(workspace: Workspace) -> str:
    """What differs from the commit, files that git does not track yet included, as a patch; empty when nothing does."""
    untracked = _git(workspace, "ls-files", "-o", "--exclude-standard", "-z").split("\0")
    added = [_git(workspace, "diff", "--no-index", "--", os.devnull, name) for name in filter(None, untracked)]
    return "".join([_git(workspace, "diff", "HEAD"), *added])


def _git(workspace: Workspace, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=workspace.root, capture_output=True, text=True, errors="replace", check=False
    )
    differs = arguments[:2] == ("diff", "--no-index") and answer.returncode == 1
    return answer.stdout if answer.returncode == 0 or differs else ""


def _hash(workspace: Workspace, path: str) -> str:
    file = workspace.root / path
    return file_sha256(file) if file.is_file() else ""
