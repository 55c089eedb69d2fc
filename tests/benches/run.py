"""What the main job costs and gives: time, peak memory and skill, measured on a fresh copy of this workspace.

Runs `gatecast run` cold (nothing computed yet) and warm (nothing changed since), each in a copy of the committed and
uncommitted files, and sums the memory of all processes of the run ten times a second.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
N_WARM = 3
REFUSED = 3
REACH = {"cold run": 180.0, "warm run": 40.0, "peak memory": 2048.0}


def copy_workspace(target: Path) -> None:
    """The files that git tracks or would track, in a repository of their own."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=target, check=True)


def tree_memory_mb(root: psutil.Process) -> float:
    """Memory of a process and all that it started: proportional set size where there is one, resident otherwise."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except psutil.Error:
            continue
    return total / 2**20


def measured_run(workspace: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds, peak megabytes and summary of one `gatecast run`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(workspace / "src"), str(workspace)])}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "gatecast.cli", "run", "--json"], cwd=workspace, env=environment, stdout=output
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_memory_mb(process))
            time.sleep(0.1)
        seconds = time.monotonic() - start
        output.seek(0)
        if process.returncode not in (0, REFUSED):  # a model that is not proven better ends with 3, and is a result
            raise SystemExit(f"gatecast run ended with status {process.returncode}")
        return seconds, peak, json.load(output)


def main() -> None:
    """Measure, print a table and write .gatecast/bench/run.json."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        copy_workspace(workspace)
        cold, peak, summary = measured_run(workspace)
        warm = statistics.median(measured_run(workspace)[0] for _ in range(N_WARM))
    rows: list[dict[str, Any]] = [
        {"name": "cold run", "value": round(cold, 1), "unit": "s"},
        {"name": "warm run", "value": round(warm, 1), "unit": "s"},
        {"name": "peak memory", "value": round(peak), "unit": "MB"},
    ]
    for row in rows:
        row |= {"reach": REACH[row["name"]], "ok": row["value"] <= REACH[row["name"]]}
    metrics = summary["metrics"]
    for horizon, models in metrics["diebold_mariano"].items():
        for baseline in models:
            ours, theirs = (metrics["models"][name][horizon]["pinball"] for name in ("lstm", baseline))
            named = horizon in metrics["beats_baselines"]
            row = {"name": f"skill against {baseline}, {horizon} bars", "value": round(100 * (1 - ours / theirs), 2)}
            rows.append({**row, "unit": "%", "reach": 0.0 if named else None, "ok": ours < theirs if named else None})
    for row in rows:
        sys.stdout.write(f"{row['name']:<32} {row['value']:>9} {row['unit']:<3} reach {row['reach']} ok {row['ok']}\n")
    target = REPOSITORY / ".gatecast" / "bench" / "run.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
