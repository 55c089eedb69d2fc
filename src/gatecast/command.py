"""What the commands share: the options, the workspace they hold, and progress on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

import gatecast
from gatecast.config import Config
from gatecast.errors import ConfigurationError, GatecastError
from gatecast.params import configure, read_config
from gatecast.workspace import Workspace, find_workspace, raise_if_full, set_environment

_OWN_CODE_VARIABLE = "GATECAST_OWN_CODE"


def say(line: str) -> None:
    """Progress, on stderr: stdout is for results."""
    click.echo(line, err=True)


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that works in a workspace."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Machine-readable result on stdout."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Write a value into conf/params.yaml first, such as tune.n_trials=20. Can be repeated.",
        ),
        click.option("--profile", metavar="NAME", help="Write a profile of conf/profiles into conf/params.yaml first."),
        click.option(
            "--project",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="The workspace, a clone or worktree; default: the one around the current folder.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def held_workspace(
    project: Path | None, profile: str | None, settings: tuple[str, ...], *, alone: bool = True
) -> Iterator[tuple[Workspace, Config]]:
    """The workspace with its configuration as the options want it; held for this process unless it only looks."""
    workspace = find_workspace(project)
    _run_its_own_code(workspace)
    set_environment(workspace)
    with workspace.lock("workspace", say) if alone or profile or settings else nullcontext():
        for key, (old, new) in configure(workspace, profile, settings, _require_features).items():
            say(f"conf/params.yaml: {key}: {_shown(old)} -> {_shown(new)}")
        try:
            yield workspace, read_config(workspace)
        except (GatecastError, click.ClickException):
            raise
        except Exception:  # of a library; there is one cause that it is not its business to name
            raise_if_full(workspace.root)
            raise


def _require_features(config: Config) -> None:
    from gatecast.feature_listing import recipe_of
    from gatecast.features.catalogue import catalogue

    catalogue(recipe_of(config))


def _run_its_own_code(workspace: Workspace) -> None:
    """Start again with the code of the workspace where another clone's is installed: results name its commit."""
    own = workspace.root / "src"
    if Path(gatecast.__file__).resolve().is_relative_to(own.resolve()):
        return
    if os.environ.get(_OWN_CODE_VARIABLE) == str(own):
        raise ConfigurationError(f"the code below {own} cannot be imported: is {workspace.root} a clone of gatecast?")
    path = os.pathsep.join([str(own), str(workspace.root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, _OWN_CODE_VARIABLE: str(own)}
    os.execve(sys.executable, [sys.executable, "-m", "gatecast.cli", *sys.argv[1:]], environment)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
