"""The command line: `gatecast <step>`, `gatecast run` and what helps to look at the results."""

import json
import signal
import sys
import webbrowser
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from gatecast.command import held_workspace, say, shared_options
from gatecast.config import Config
from gatecast.errors import GatecastError, GateRefused
from gatecast.workspace import Workspace

STEPS = {
    "ingest": "Bring candles into the store, freeze those of this run for DVC, resolve the split once.",
    "clean": "Raw candles to a regular grid; impossible rows to quarantine, each with a reason.",
    "validate": "Check the clean candles with Great Expectations; exit 3 if they do not pass.",
    "features": "Build features and targets, and prove that none of them sees the future.",
    "tune": "Search hyperparameters on the development period with Optuna; goes on where it was interrupted.",
    "evaluate": "Refit fold by fold over the evaluation period and compare with the baselines.",
    "fit": "Fit the evaluated procedure on all bars up to now.",
    "promote": "Let the gate judge the fitted model; exit 3 if it is refused.",
    "forecast": "Forecast from the newest closed candle with the champion.",
}
_INTERRUPTED = 130
_STATUS_COLUMNS = 104  # of the terminal


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gatecast")
def cli() -> None:
    """Exchange candles in; a proven, reproducible probabilistic forecaster out.

    \b
    gatecast run                               the whole chain on the active configuration
    gatecast run --profile btc-hourly          the same on fresh candles of an exchange
    gatecast evaluate --set model.n_seeds=5    one step and what it stands on
    gatecast status                            where the workspace stands

    Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 a gate refused.
    """  # noqa: D301 - \b keeps click from filling the examples


def _step_command(name: str, description: str) -> click.Command:
    @shared_options
    def command(
        project: Path | None,
        profile: str | None,
        settings: tuple[str, ...],
        as_json: bool,
        refetch: tuple[datetime, ...] = (),
        list_only: bool = False,
    ) -> None:
        if list_only:
            _list_features(project, profile, settings, as_json=as_json)
            return
        with held_workspace(project, profile, settings) as (workspace, config):
            result = _run_step(name, workspace, config, refetch)
        if as_json:
            click.echo(json.dumps({"step": name, **result}, indent=2))
        elif name == "forecast":
            from gatecast.summary import render_forecast

            Console().print(*map(render_forecast, result["forecasts"]))

    if name == "ingest":
        command = click.option(
            "--refetch",
            type=click.DateTime(["%Y-%m-%d"]),
            multiple=True,
            metavar="DAY",
            help="Ask the exchange again for a day (UTC), such as 2021-02-11, whatever is stored of it: what differs is"
            " kept as a revision, and a hole gets another chance. Can be repeated.",
        )(command)
    if name == "features":
        command = click.option(
            "--list",
            "list_only",
            is_flag=True,
            help="Print the catalogue for this configuration and do nothing else: every feature with formula, unit,"
            " look-back, warm-up and, with --json, its source. Those that features.use leaves out are marked.",
        )(command)
    return click.command(name, help=description)(command)


def _list_features(project: Path | None, profile: str | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    with held_workspace(project, profile, settings, alone=False) as (_, config):
        from gatecast.feature_listing import in_words, listing, recipe_of

        entries = listing(recipe_of(config))
    click.echo(json.dumps(entries, indent=2) if as_json else "\n".join(in_words(entries)))


def _run_step(name: str, workspace: Workspace, config: Config, refetch: tuple[datetime, ...]) -> dict[str, Any]:
    from gatecast import pipeline
    from gatecast.market.snapshot import require_snapshot

    if name not in ("ingest", "forecast"):
        require_snapshot(workspace.raw, config.ingest)  # DVC would work on the candles of another market, or on none
        pipeline.require_frozen(workspace, workspace.raw)  # or on candles that nobody can restore
    if name == "ingest":
        from gatecast.steps import ingest

        ingest.run(workspace, config, say, refetch)
    elif name == "forecast":
        from gatecast.steps import forecast
        from gatecast.summary import read_forecasts

        forecast.run(workspace, config, say)
        return {"status": "done", "forecasts": read_forecasts(workspace)}
    elif name == "promote":
        from gatecast.steps import promote

        for stage in pipeline.stages(workspace):
            pipeline.reproduce(workspace, stage, alone=True, say=say)
        decision = promote.run(workspace, config, say)
        if decision.decision == "refused":
            raise GateRefused(f"{config.promote.model_name} is not promoted: {decision.reason}")
        return decision.as_dict()
    else:
        from gatecast.summary import quality_warnings

        skipped = pipeline.reproduce(workspace, name, alone=False, say=say) is pipeline.Outcome.SKIPPED
        for warning in quality_warnings(workspace, name) if skipped else ():
            say(warning)
    return {"status": "done"}


for _name, _description in STEPS.items():
    cli.add_command(_step_command(_name, _description))


@cli.command()
@shared_options
def run(project: Path | None, profile: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Run the whole chain as the Prefect flow `train`, without any server set up.

    What has not changed since the last run is skipped. A model that is refused leaves the champion as it was: that is a
    result, and exit status 0; refused with no champion yet there is nothing to forecast with, and the status is 3.
    """
    with held_workspace(project, profile, settings) as (workspace, config):
        from flows.server import embedded_server

        say("run: starting the Prefect API that records this run")
        with embedded_server(say):
            from flows.train import train

            decision = train(workspace.root)
        from gatecast.summary import read_summary, render_summary

        summary = read_summary(workspace)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        Console().print(render_summary(summary))
    if decision.champion_version is None:
        name = config.promote.model_name
        raise GateRefused(f"{name} is not promoted, and there is no champion to forecast with: {decision.reason}")


@cli.command()
@shared_options
@click.option(
    "--schema", is_flag=True, help="Print the JSON Schema of conf/params.yaml, for editors, and do nothing else."
)
def configure(
    project: Path | None, profile: str | None, settings: tuple[str, ...], as_json: bool, schema: bool
) -> None:
    """Write a profile and single values into conf/params.yaml, after checking all of it."""
    if schema:
        click.echo(json.dumps(Config.model_json_schema(by_alias=True), indent=2))
        return
    with held_workspace(project, profile, settings) as (_, config):
        if as_json:
            click.echo(config.model_dump_json(by_alias=True, indent=2))
        else:
            say("conf/params.yaml is valid")


@cli.command()
@shared_options
@click.option(
    "--compare",
    nargs=2,
    metavar="RUN RUN",
    help="Set two pipeline runs side by side instead, in reports/comparison.html: what each loses on the bars that both"
    " forecast, whether the difference is more than chance, and how their configurations differ. A RUN is the id of an"
    " MLflow run or its first six characters or more, `latest` or `champion`.",
)
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
def report(
    project: Path | None,
    profile: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    compare: tuple[str, str] | None,
    open_it: bool,
) -> None:
    """Write reports/report.html anew from the results that are there, and print its path.

    \b
    gatecast report --open                       read it
    gatecast report --compare champion latest    has the newest run become better?
    gatecast report --compare 3f9c21 b07d55      two runs by their ids, as `gatecast ui` shows them
    """  # noqa: D301 - \b keeps click from filling the examples
    with held_workspace(project, profile, settings, alone=False) as (workspace, config):
        if compare:
            path, result = _compare(workspace, config, compare, as_json=as_json)
        else:
            from gatecast.evaluation.report.document import write_report

            path, result = write_report(workspace), {}
    click.echo(json.dumps({"comparison" if compare else "report": str(path), **result}) if as_json else str(path))
    if open_it:
        webbrowser.open(path.as_uri())


def _compare(
    workspace: Workspace, config: Config, names: tuple[str, str], *, as_json: bool
) -> tuple[Path, dict[str, Any]]:
    from gatecast.evaluation.report.comparison_page import comparison_table, write_comparison
    from gatecast.logged_runs import results_of

    first, second = (results_of(name, config.promote.model_name) for name in names)
    path, found = write_comparison(workspace, first, second)
    if not as_json:
        Console().print(comparison_table(found))
    return path, found


@cli.command()
@shared_options
def status(project: Path | None, profile: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Show the data, which stages are up to date, the champion and the last forecast."""
    with held_workspace(project, profile, settings, alone=False) as (workspace, config):
        from gatecast.status import read_status, render_status

        found = read_status(workspace, config)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        console = Console()
        console.width = max(console.width, _STATUS_COLUMNS)  # a market a line, even where the terminal breaks it
        console.print(render_status(found))


@cli.command()
@shared_options
@click.option("--mlflow-port", default=5000, show_default=True, help="Port of the MLflow UI.")
@click.option("--prefect-port", default=4200, show_default=True, help="Port of the Prefect UI.")
def ui(
    project: Path | None,
    profile: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    mlflow_port: int,
    prefect_port: int,
) -> None:
    """Serve the MLflow UI and the Prefect UI on this machine until Ctrl-C."""
    with held_workspace(project, profile, settings, alone=False) as (workspace, _):
        pass  # the configuration is written, and the workspace free for runs
    from flows.ui import serve_uis

    if as_json:
        addresses = {"mlflow": f"http://127.0.0.1:{mlflow_port}", "prefect": f"http://127.0.0.1:{prefect_port}"}
        click.echo(json.dumps(addresses))
    serve_uis(workspace, mlflow_port, prefect_port, say)


def main() -> None:
    """Run the command line and end the process with its exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        cli(standalone_mode=False)
    except GatecastError as error:
        say(f"gatecast: {error}")
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("gatecast: interrupted; the same command goes on from here")
        sys.exit(_INTERRUPTED)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module passes them
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
