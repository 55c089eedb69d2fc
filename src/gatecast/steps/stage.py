"""How a DVC stage runs as a process of its own: find the workspace, read its sections, run, leave word of a failure."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import gatecast
from gatecast.config import Config
from gatecast.errors import ConfigurationError, GatecastError
from gatecast.params import read_config
from gatecast.workspace import RELAYED_VARIABLE, Workspace, find_workspace, set_environment, write_json


def sections_of(run: Callable[..., None]) -> dict[str, str]:
    """Which section of the configuration each keyword parameter of a step's `run` is, by its type.

    Returns:
        Parameter name to section name, as it stands in conf/params.yaml.
    """
    section_of_type = {field.annotation: field.alias or name for name, field in Config.model_fields.items()}
    parameters = inspect.signature(run).parameters.values()
    return {p.name: section_of_type[p.annotation] for p in parameters if p.annotation in section_of_type}


def run_stage(run: Callable[..., None]) -> None:
    """Run a step with its sections, in the workspace of the current folder, and end the process.

    A user's mistake ends in one line on stderr, its exit status, and both in `.gatecast/failure.json`, since DVC
    returns 255 for any failure.
    """
    stage = Path(inspect.getfile(run)).stem
    workspace = None
    try:
        workspace = find_workspace(None)
        _refuse_foreign_code(workspace)
        set_environment(workspace)
        with workspace.lock(f"stage-{stage}", say):  # an orphan of a killed run may still be writing the same outputs
            run(workspace, **section_arguments(run, read_config(workspace)))
    except GatecastError as error:
        if RELAYED_VARIABLE not in os.environ:
            say(f"{stage}: {error}")
        if workspace is not None:
            write_json(workspace.failure, {"stage": stage, "status": error.exit_status, "line": str(error)})
        sys.stderr.flush()
        os._exit(error.exit_status)  # the libraries' threads have nothing left to say
    except KeyboardInterrupt:
        os._exit(130)


def section_arguments(run: Callable[..., None], config: Config) -> dict[str, Any]:
    """The sections that a step's `run` takes, out of the whole configuration."""
    by_alias: dict[str, BaseModel] = {field.alias or n: getattr(config, n) for n, field in Config.model_fields.items()}
    return {name: by_alias[section] for name, section in sections_of(run).items()}


def say(line: str) -> None:
    """Progress, on stderr: stdout is for results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _refuse_foreign_code(workspace: Workspace) -> None:
    """DVC hashes the code of this workspace, so that code has to be the one that runs."""
    here = Path(gatecast.__file__).resolve().parent
    own = (workspace.root / "src" / "gatecast").resolve()
    if here != own:
        raise ConfigurationError(
            f"this stage would run the code in {here}, not that of the workspace, {own}: run it through `gatecast`, or"
            f" set PYTHONPATH={own.parent}"
        )
