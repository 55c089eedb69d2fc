"""What the suites found, as Prefect artifacts: a table of all expectations and a link to the Data Docs."""

import json

from prefect.artifacts import create_link_artifact, create_table_artifact

from gatecast.summary import VALIDATIONS
from gatecast.workspace import Workspace


def publish_quality(workspace: Workspace, stage: str) -> None:
    """Show what a stage that validates found, whether it passed or not; other stages are passed over."""
    if stage not in VALIDATIONS:
        return
    report, folder = VALIDATIONS[stage]
    path, docs = workspace.reports / report, workspace.reports / folder / "index.html"
    if not path.is_file():
        return  # it did not get that far
    found = json.loads(path.read_text(encoding="utf-8"))
    outcomes = {"fail": "failed", "warn": "warning"}
    table = [
        {
            "rule": each["rule"],
            "outcome": "passed" if each["success"] else outcomes[each["severity"]],
            "observed": each["observed"],
            "limit": each["limit"],
            "expected": each["name"],
        }
        for each in found["expectations"]
    ]
    counts = ", ".join(f"{value} {key}" for key, value in found["counts"].items())
    words = "; ".join([counts, *found["warnings"]])
    create_table_artifact(table, key=f"{stage}-expectations", description=words)
    if docs.is_file():  # not there where DVC brought the stage's outputs from its cache
        create_link_artifact(docs.as_uri(), key=f"{stage}-data-docs", link_text="Data Docs", description=words)
