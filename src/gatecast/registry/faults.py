"""What goes wrong between us and MLflow's store, server or SQLite, as one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from gatecast.errors import GatecastError

_MAX_REASON = 300  # characters


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn failures of MLflow's store into a line that names it; also a decorator.

    Raises:
        GatecastError: The store did not answer, refused, or is damaged.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        where = os.environ.get("MLFLOW_TRACKING_URI", "its default place")
        reason = getattr(error, "orig", None) or error
        line = " ".join(f"MLflow at {where} failed: {reason}".split())
        if where.startswith("sqlite") and "not a database" in line:
            line += "; move the file away to start anew without its runs and its champion, or bring back a copy"
        public = re.sub(r"//[^/@\s]*@", "//", line)  # an address may carry a password
        raise GatecastError(public if len(public) <= _MAX_REASON else public[:_MAX_REASON] + "…") from error
