"""The stage `validate`: Great Expectations over the clean candles → validation.json and Data Docs."""

import json

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.errors import GateRefused
from gatecast.market.quality import check_candles, report
from gatecast.steps.stage import run_stage, say
from gatecast.workspace import Workspace, file_sha256, write_json


def run(workspace: Workspace, *, limits: ValidateConfig) -> None:
    """Validate the clean candles of every market.

    Reads data/clean; writes reports/validation.json and reports/data_docs.

    Raises:
        GateRefused: An expectation does not hold; the message names it, the rows and the key of the limit.
    """
    counts = json.loads(workspace.clean_counts.read_text(encoding="utf-8"))["markets"]
    data_docs = workspace.reports / "data_docs"
    findings = check_candles(pl.read_parquet(workspace.clean), counts, limits, data_docs)
    write_json(workspace.reports / "validation.json", report(findings, file_sha256(workspace.clean)))
    broken = [finding for finding in findings if not finding.success]
    if broken:
        more = f"; {len(broken) - 1} more expectation(s) failed" if len(broken) > 1 else ""
        raise GateRefused(f"validation: {broken[0]}{more}; see {workspace.relative(data_docs / 'index.html')}")
    say(f"validate: {len(findings)} expectations hold")


if __name__ == "__main__":
    run_stage(run)
