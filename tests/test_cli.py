import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def other_clone(tmp_path: Path) -> Path:
    """A workspace whose command line only tells that it is the one that runs."""
    package = tmp_path / "src" / "gatecast"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\nprint('its own code', *sys.argv[1:])\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "params.yaml").touch()
    (tmp_path / "dvc.yaml").touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gatecast.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_workspace_named_from_another_clone_runs_its_own_code(other_clone: Path) -> None:
    ended = run("status", "--project", str(other_clone), "--json")
    assert ended.stdout == f"its own code status --project {other_clone} --json\n", ended.stderr


def test_a_workspace_without_code_is_one_line_and_no_endless_loop(other_clone: Path) -> None:
    (other_clone / "src" / "gatecast" / "cli.py").unlink()
    (other_clone / "src" / "gatecast" / "__init__.py").unlink()
    (other_clone / "src" / "gatecast").rmdir()
    ended = run("status", "--project", str(other_clone))
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot be imported" in ended.stderr
