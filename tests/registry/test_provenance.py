import subprocess
from pathlib import Path

from gatecast.registry.provenance import provenance, uncommitted
from gatecast.workspace import Workspace


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e@e"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_patch_holds_changed_and_new_files_and_rebuilds_the_tree(tmp_path: Path) -> None:
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    origin.mkdir()
    git(origin, "init", "-q")
    (origin / "old.py").write_text("one\n")
    (origin / ".gitignore").write_text("ignored\n")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "first")
    git(tmp_path, "clone", "-q", str(origin), str(copy))
    workspace = Workspace(origin)
    assert uncommitted(workspace) == ""
    assert provenance(workspace)["dirty"] is False
    (origin / "old.py").write_text("two\n")
    (origin / "new.py").write_text("new\n")
    (origin / "ignored").write_text("not ours\n")
    assert provenance(workspace)["dirty"] is True
    (copy / "patch").write_text(uncommitted(workspace))
    git(copy, "apply", "patch")
    assert (copy / "old.py").read_text() == "two\n"
    assert (copy / "new.py").read_text() == "new\n"
    assert not (copy / "ignored").exists()
