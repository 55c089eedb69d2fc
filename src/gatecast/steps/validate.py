"""The stage `validate`: Great Expectations over the clean candles → validation.json and Data Docs."""

import json

import polars as pl

from gatecast.config import ValidateConfig
from gatecast.market.expectations import report, warnings_of
from gatecast.market.gate import require_expected
from gatecast.market.quality import check
from gatecast.market.rules import candle_suites
from gatecast.steps.stage import run_stage, say
from gatecast.workspace import Workspace, file_sha256, write_json


def run(workspace: Workspace, *, limits: ValidateConfig) -> None:
    """Validate the clean candles of every market.

    Reads data/clean; writes reports/validation.json and reports/data_docs.

    Raises:
        GateRefused: An expectation does not hold; the message names it, the rows and the key of the limit.
    """
    counts = json.loads(workspace.clean_counts.read_text(encoding="utf-8"))["markets"]
    reference = pl.read_parquet(workspace.clean_reference) if workspace.clean_reference.is_file() else None
    suites = candle_suites(pl.read_parquet(workspace.clean), counts, limits, reference)
    findings = check(suites, workspace.data_docs, "candles")
    write_json(workspace.reports / "validation.json", report(findings, file_sha256(workspace.clean)))
    for warning in warnings_of(findings):
        say(f"validate: warning: {warning}")
    require_expected(findings, "validation", workspace.relative(workspace.data_docs / "index.html"))
    say(f"validate: {len(findings)} expectations, {len(warnings_of(findings))} of them with a warning, none failed")


if __name__ == "__main__":
    run_stage(run)
