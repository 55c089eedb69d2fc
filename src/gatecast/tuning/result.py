"""What `tune` leaves for the stages after it."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gatecast.errors import DataError
from gatecast.model.training import Hyperparameters


def read_best(path: Path) -> tuple[Hyperparameters, int]:
    """Hyperparameters and optimiser steps of best.yaml.

    Raises:
        DataError: Absent or damaged.
    """
    try:
        best = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        names = Hyperparameters.__dataclass_fields__
        return Hyperparameters(**{name: best[name] for name in names}), _at_least_one(int(best["n_steps"]))
    except FileNotFoundError:
        raise DataError(f"{path} is absent: run `gatecast tune`") from None
    except (YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): run `gatecast tune`") from error


def _at_least_one(n_steps: int) -> int:
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}")
    return n_steps
