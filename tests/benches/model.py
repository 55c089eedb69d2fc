"""What the model costs and what it is worth: against window-trained peers, a bare loop, and five baselines.

The jobs are in `model_jobs`, the peers in `model_peers`, in an environment of their own. `--small` runs each once, to
see that the bench works. Nothing else may run meanwhile: two threads that wait for a core take ten times as long.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.benches.feature_jobs import REPOSITORY
from tests.benches.features import Row, at_least, at_most, fresh, publish, row

SMALL: Final = "--small" in sys.argv
SEEDS: Final = (7,) if SMALL else (7, 8, 9, 10, 11)
N_TIMES: Final = 1 if SMALL else 5
CAP_S: Final = 5 if SMALL else 60
PEERS: Final = REPOSITORY / ".gatecast" / "bench" / "model-peers" / "bin" / "python"
PEER_NAMES: Final = ("neuralforecast", "darts", "loop")
RACE_REACH, OVERHEAD_REACH, REFIT_REACH_S = 1 / 20, 0.15, 60.0
ONE_REACH_MS, ONE_P99_REACH_MS, MANY_REACH_MS = 3.0, 10.0, 60.0
SKILL_REACH, P_REACH = 0.025, 0.01
Curve = list[tuple[float, float]]


def job(name: str, *arguments: object) -> dict[str, Any]:
    """A job of `model_jobs` in a process of its own."""
    return fresh(sys.executable, "-m", "tests.benches.model_jobs", name, *map(str, arguments))


def race_rows() -> list[Row]:
    """Seconds to the best loss of each peer, a seed each, ours over theirs."""
    if not PEERS.exists():
        raise SystemExit("the libraries to compare with are not there: run `make bench-model-peers`")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "market.npz"
        job("archive", archive)
        script = str(Path(__file__).with_name("model_peers.py"))
        ours = [job("race", CAP_S, seed) for seed in SEEDS]
        rows = [row("ours: best pinball at 24 bars, scaled", median(each["best"] for each in ours), "")]
        for peer in PEER_NAMES:
            theirs = [fresh(str(PEERS), script, str(archive), peer, str(CAP_S), str(seed)) for seed in SEEDS]
            best, seconds = median(each["best"] for each in theirs), median(each["seconds_to_best"] for each in theirs)
            reached = [first_at(each["curve"], best) for each in ours]
            ours_s = median(float("inf") if each is None else each for each in reached)
            rows += [
                row(f"{peer}: best", best, ""),
                row(f"{peer}: seconds to its best", seconds, "s"),
                row(f"ours: seconds to the best of {peer}", ours_s, "s"),
                at_most(f"ours over {peer}", ours_s / seconds, "", RACE_REACH),
            ]
        return rows


def first_at(curve: Curve, loss: float) -> float | None:
    """Seconds at which a curve first is at a loss; None if it never is."""
    return next((seconds for seconds, here in curve if here <= loss), None)


def cost_rows() -> list[Row]:
    """Lightning over a bare loop, five folds, and forecasts."""
    steps, folds = job("overhead", N_TIMES), [job("refit") for _ in range(min(N_TIMES, 3))]
    one, many = job("newest", 1), job("newest", 100)
    name = f"5 folds of {folds[0]['n_bars']} bars, {folds[0]['n_networks']} networks"
    return [
        row(f"{steps['n_steps']} steps by a bare loop", steps["bare"], "s"),
        at_most("Lightning with all callbacks over it", steps["ours"] / steps["bare"] - 1, "", OVERHEAD_REACH),
        at_most(f"{name}, hidden 64", median(each["seconds"] for each in folds), "s", REFIT_REACH_S),
        row(f"{name}: peak of the first process", max(each["peak_mb"] for each in folds), "MB"),
        at_most("forecast of one market", one["median"], "ms", ONE_REACH_MS),
        at_most("forecast of one market, 99th percentile", one["p99"], "ms", ONE_P99_REACH_MS),
        at_most("forecast of 100 markets", many["median"], "ms", MANY_REACH_MS),
    ]


def worth_rows() -> list[Row]:
    """Skill on two markets, and coverage on the sample."""
    worth, covered = job("skill"), job("coverage")
    rows = [
        at_least("skill at 24 bars against the best of five baselines", worth["skill"]["24"], "", SKILL_REACH),
        at_most("the same: Diebold-Mariano p, the largest", worth["p_value"]["24"], "", P_REACH),
        *(row(f"skill at {h} bars, best is {worth['best_baseline'][h]}", worth["skill"][h], "") for h in ("1", "6")),
        *(row(f"lower pinball at 24 bars than {name}", value, "") for name, value in worth["against"].items()),
    ]
    for name, (share, deviation) in ((key, value) for key, value in covered.items() if key != "peak_mb"):
        horizon, nominal = name.removesuffix(" %").split(", ")
        allowed = 2.0 if horizon == "1" else max(2.0, 2 * deviation)
        apart = abs(share - float(nominal))
        rows.append(at_most(f"coverage at {horizon} bars, {nominal} %: {share:.1f} %, apart", apart, "%", allowed))
    return rows


def median(values: Any) -> float:
    """The middle one."""
    return float(statistics.median(values))


def main() -> None:
    """Measure, print a table and write .gatecast/bench/model.json."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    publish("model", (each for measure in (race_rows, cost_rows, worth_rows) for each in measure()))


if __name__ == "__main__":
    main()
