"""What validation found, as Prefect shows it and as it is said again."""

from pathlib import Path
from typing import Any

import pytest

from flows import quality
from gatecast.summary import quality_warnings
from gatecast.workspace import Workspace, write_json

HOLE = "the longest hole, in bars, is 33, above the limit 24"
FOUND = {
    "success": True,
    "counts": {"expectations": 2, "passed": 1, "warned": 1, "failed": 0},
    "warnings": [HOLE],
    "expectations": [
        {"rule": "keys_unique", "name": "a market has one row a bar", "severity": "fail", "success": True,
         "observed": 0.0, "limit": None},
        {"rule": "hole_bars.warn", "name": "the longest hole, in bars,", "severity": "warn", "success": False,
         "observed": 33.0, "limit": 24.0},
    ],
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_json(workspace.reports / "validation.json", FOUND)
    workspace.data_docs.mkdir()
    (workspace.data_docs / "index.html").write_text("docs")
    return workspace


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The artifacts that are made, in place of a server's."""
    artifacts: list[dict[str, Any]] = []
    monkeypatch.setattr(
        quality, "create_table_artifact", lambda table, **rest: artifacts.append({"table": table, **rest})
    )
    monkeypatch.setattr(quality, "create_link_artifact", lambda link, **rest: artifacts.append({"link": link, **rest}))
    return artifacts


def test_every_expectation_and_a_link_to_the_data_docs_become_artifacts(
    workspace: Workspace, made: list[dict[str, Any]]
) -> None:
    quality.publish_quality(workspace, "validate")
    table, link = made
    assert [row["outcome"] for row in table["table"]] == ["passed", "warning"]
    assert HOLE in table["description"]
    assert link["link"] == (workspace.data_docs / "index.html").as_uri()


def test_a_stage_that_validates_nothing_or_did_not_get_that_far_makes_none(
    workspace: Workspace, made: list[dict[str, Any]]
) -> None:
    quality.publish_quality(workspace, "tune")
    quality.publish_quality(workspace, "features")
    assert made == []


def test_a_warning_is_said_again_where_the_stage_is_skipped(workspace: Workspace) -> None:
    assert quality_warnings(workspace, "validate") == [f"validate: warning: {HOLE}"]
    assert quality_warnings(workspace, "features") == []
    assert quality_warnings(workspace, "tune") == []
