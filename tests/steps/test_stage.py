import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatecast.config import FeaturesConfig, ModelConfig, SplitConfig
from gatecast.steps.stage import sections_of
from gatecast.workspace import Workspace
from tests.conftest import REPOSITORY

STAGE = """
from gatecast.config import TuneConfig
from gatecast.errors import GateRefused
from gatecast.steps import stage
stage._refuse_foreign_code = lambda workspace: None
def run(workspace, *, search: TuneConfig):
    raise GateRefused(f"{search.n_trials} trials are not enough")
stage.run_stage(run)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    return tmp_path


def stage(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    (root / "tune.py").write_text(code)
    return subprocess.run([sys.executable, "tune.py"], cwd=root, capture_output=True, text=True, check=False)


def test_a_step_is_given_the_sections_that_its_parameters_name_by_type() -> None:
    def run(workspace: Workspace, *, spans: FeaturesConfig, model: ModelConfig, split: SplitConfig) -> None:
        del workspace, spans, model, split

    assert sections_of(run) == {"spans": "features", "model": "model", "split": "split"}


def test_a_refusal_is_one_line_its_status_and_a_word_for_the_caller(root: Path) -> None:
    ended = stage(root, STAGE)
    assert ended.returncode == 3
    assert ended.stderr == "tune: 10 trials are not enough\n"
    failure = json.loads((root / ".gatecast" / "failure.json").read_text())
    assert failure == {"stage": "tune", "status": 3, "line": "10 trials are not enough"}


def test_code_of_another_clone_is_refused(root: Path) -> None:
    ended = stage(root, STAGE.replace("stage._refuse_foreign_code = lambda workspace: None", ""))
    assert ended.returncode == 2
    assert "not that of the workspace" in ended.stderr
