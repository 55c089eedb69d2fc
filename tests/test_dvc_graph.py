"""dvc.yaml against the code: a stage names every parameter it is given and every module it runs."""

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
