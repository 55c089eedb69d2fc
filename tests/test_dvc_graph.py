"""dvc.yaml against the code: a stage names every parameter it is given and every module it runs."""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from gatecast.steps.stage import sections_of
from tests.conftest import REPOSITORY

GRAPH: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
# the configuration is a dependency by its values; the others carry no result
NOT_RESULTS = {
    "gatecast",
    "gatecast.config",
    "gatecast.config_ingest",
    "gatecast.config_parsing",
    "gatecast.config_types",
    "gatecast.database",
    "gatecast.params",
    "gatecast.errors",
    "gatecast.workspace",
}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("gatecast", cache_dir=None)


@pytest.mark.parametrize("stage", list(GRAPH))
def test_a_stage_reruns_when_a_section_that_it_reads_changes(stage: str) -> None:
    step = import_module(f"gatecast.steps.{stage}")
    (declared,) = (entry["conf/params.yaml"] for entry in GRAPH[stage]["params"])
    assert set(sections_of(step.run).values()) == {key.split(".")[0] for key in declared}


@pytest.mark.parametrize("stage", list(GRAPH))
def test_a_stage_reruns_when_code_that_it_runs_changes_and_names_nothing_else(
    stage: str, imports: grimp.ImportGraph
) -> None:
    step = f"gatecast.steps.{stage}"
    modules = {step, *imports.find_upstream_modules(step)} - NOT_RESULTS
    files = {_file(module) for module in modules}
    code = [Path(dep) for dep in GRAPH[stage]["deps"] if dep.startswith("src/")]
    for file in files:
        assert any(file == dep or file.is_relative_to(dep) for dep in code), f"{stage} runs {file} and does not name it"
    for dep in code:
        assert any(file == dep or file.is_relative_to(dep) for file in files), (
            f"{stage} names {dep} and does not run it"
        )


def _file(module: str) -> Path:
    path = Path("src", *module.split("."))
    return path / "__init__.py" if (REPOSITORY / path).is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("stage", list(GRAPH))
def test_stage_module_and_command_share_one_word(stage: str) -> None:
    from gatecast.cli import cli

    assert GRAPH[stage]["cmd"] == f"python -m gatecast.steps.{stage}"
    assert stage in cli.commands


def test_the_committed_lock_is_of_this_code() -> None:
    lock = YAML(typ="safe").load(REPOSITORY / "dvc.lock")
    deps = {dep["path"]: dep["md5"] for stage in lock["stages"].values() for dep in stage["deps"]}
    code = {path: md5 for path, md5 in deps.items() if path.startswith("src/")}
    assert len(code) > 10
    changed = [path for path, md5 in code.items() if _md5(REPOSITORY / path) != md5]
    assert changed == [], "dvc.lock is older than the code: `make run`, then commit it"


def _md5(path: Path) -> str:
    """The hash that DVC gives a file, or a folder: that of the list of its files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*.py"))
    listed = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    return hashlib.md5(json.dumps(sorted(listed, key=lambda each: each["relpath"])).encode()).hexdigest() + ".dir"
