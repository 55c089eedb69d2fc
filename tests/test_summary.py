"""What a run ends with in the terminal."""

from io import StringIO

from rich.console import Console

from gatecast.summary import render_summary
from tests.evaluation.report.evaluated import make_metrics

ABSENT = dict.fromkeys(("data", "warnings", "best", "promotion"))


def test_the_losses_of_nine_baselines_fit_a_terminal_of_80_columns() -> None:
    metrics = make_metrics()
    names = ("drift", "seasonal_naive", "garch", "har", "linear", "lightgbm", "prophet")
    for name in names:
        metrics["models"][name] = metrics["models"]["naive"]
        for tests in metrics["diebold_mariano"].values():
            tests[name] = {"statistic": 0.1, "p_value": 0.46}
    for key in metrics["skill_over"]:  # the longest name there is
        metrics["skill_over"][key]["seasonal_naive"] = metrics["skill_over"][key]["ewma"]
    metrics["best_baseline"] = dict.fromkeys(metrics["best_baseline"], "seasonal_naive")
    console = Console(width=80, record=True, file=StringIO())
    console.print(render_summary({**ABSENT, "metrics": metrics, "forecasts": [], "report": "r", "data_docs": "d"}))
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for figure in (
        f"{metrics['models']['lstm']['24']['pinball']:.6f}",
        "seasonal_naive",
        "+1.29\N{NO-BREAK SPACE}%",
        "0.4 to 2.2",
        "0.0214",
        "2 of 9",
    ):
        assert figure in text
