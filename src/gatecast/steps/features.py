"""The stage `features`: clean candles → feature rows with targets, proven to be free of the future."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl

from gatecast.config import FeaturesConfig, ModelConfig, SplitConfig, ValidateConfig
from gatecast.errors import GateRefused
from gatecast.features.build import build_features, feature_rows
from gatecast.features.catalogue import warm_up
from gatecast.features.feature import Recipe
from gatecast.features.parity import check_parity
from gatecast.features.prover import STRETCH_WARM_UPS, prove
from gatecast.features.rules import Facts, feature_facts, feature_suites
from gatecast.features.sentiment import scored
from gatecast.features.table import feature_schema, market_reader, write_rows
from gatecast.features.targets import build_targets, known_before
from gatecast.market.candles import timeframe_ms
from gatecast.market.expectations import report, warnings_of
from gatecast.market.gate import require_expected, require_validated
from gatecast.market.publications.table import read_publications
from gatecast.market.quality import check
from gatecast.market.snapshot import read_snapshot
from gatecast.steps.stage import run_stage, say
from gatecast.workspace import Workspace, file_sha256, write_atomically, write_json


@dataclass(frozen=True)
class _Job:
    """What the stage works on."""

    workspace: Workspace
    recipe: Recipe
    horizons: tuple[int, ...]
    publications: pl.DataFrame


def run(
    workspace: Workspace, *, spans: FeaturesConfig, model: ModelConfig, split: SplitConfig, limits: ValidateConfig
) -> None:
    """Build, prove, validate and write the feature rows.

    Reads data/clean/candles.parquet, reports/validation.json, data/raw/snapshot.json and data/raw/publications.parquet;
    writes data/features/development.parquet (what is known before split.development_end), data/features/all.parquet,
    reports/leakage.json, reports/feature_validation.json and reports/feature_docs.

    Raises:
        GateRefused: The candles have not passed validation, a column sees the future, a feature does not follow from
            its look-back, or an expectation on the features does not hold; no feature row is left behind.
        ConfigurationError: `features.use` names no feature.
    """
    shutil.rmtree(workspace.all_features.parent, ignore_errors=True)  # a refusal leaves no row of an earlier run either
    require_validated(workspace.reports / "validation.json", workspace.clean)
    boundary, _ = split.resolved
    snapshot = read_snapshot(workspace.raw)
    recipe = Recipe(spans, snapshot.symbols, snapshot.timeframe, snapshot.sources)
    job = _Job(workspace, recipe, model.horizons, scored(read_publications(workspace.raw)))

    def write(path: Path) -> None:
        facts = _build(job, path)
        _prove(job, path, spans.n_leak_cuts)
        _validate(job, facts, limits)

    write_atomically(workspace.all_features, write)
    development = known_before(
        pl.scan_parquet(workspace.all_features), model.horizons, snapshot.grid.first_open(boundary)
    )
    write_atomically(workspace.development_features, development.sink_parquet)


def _build(job: _Job, path: Path) -> list[Facts]:
    facts: list[Facts] = []
    schema = feature_schema(job.recipe, job.horizons)
    symbols = sorted(job.recipe.symbols)

    def markets() -> Iterator[pl.DataFrame]:
        read = market_reader(job.workspace.clean)
        for symbol, rows in zip(symbols, feature_rows(read, symbols, job.publications, job.recipe), strict=True):
            built = rows.hstack(build_targets(rows, job.horizons))
            facts.append(feature_facts(built, job.recipe, job.horizons))
            say(f"features: {symbol} built, {len(built)} rows, market {len(facts)} of {len(symbols)}")
            if not facts[-1].keys.is_empty():  # else the suite says what is wrong with its columns
                yield built.select(schema.names())

    write_rows(path, markets, schema)
    return facts


def _prove(job: _Job, path: Path, n_cuts: int) -> None:
    """Prove what has been built, write what was proven, and refuse it if anything was not."""

    def build(candles: pl.DataFrame, publications: pl.DataFrame) -> pl.DataFrame:
        rows = build_features(candles, publications, job.recipe)
        return rows.hstack(build_targets(rows, job.horizons))

    candles, rows = pl.scan_parquet(job.workspace.clean), pl.scan_parquet(path)
    say(f"features: proving at {n_cuts} even bars, ends of holes and publications each that nothing sees the future")
    length = timedelta(milliseconds=timeframe_ms(job.recipe.timeframe))
    proof = prove(
        candles, job.publications, build, job.horizons, length, n_cuts, STRETCH_WARM_UPS * warm_up(job.recipe)
    )
    parity = check_parity(candles, rows, job.publications, job.recipe, n_cuts)
    write_json(job.workspace.reports / "leakage.json", {**proof.as_dict(), "parity": parity.as_dict()})
    if found := (*proof.breaches, *parity.breaches):
        n_columns = len({each.column for each in proof.breaches} | {each.column for each in parity.breaches})
        raise GateRefused(f"{found[0]}; {n_columns} column(s) in all, see reports/leakage.json")
    say(
        f"features: {len(proof.columns)} columns, no leak at {proof.n_cuts} cuts, and as from their look-back alone at"
        f" {parity.n_bars} bars"
    )


def _validate(job: _Job, facts: list[Facts], limits: ValidateConfig) -> None:
    workspace = job.workspace
    findings = check(feature_suites(facts, job.recipe, job.horizons, limits), workspace.feature_docs, "features")
    write_json(workspace.reports / "feature_validation.json", report(findings, file_sha256(workspace.clean)))
    for warning in warnings_of(findings):
        say(f"features: warning: {warning}")
    require_expected(findings, "features", workspace.relative(workspace.feature_docs / "index.html"))


if __name__ == "__main__":
    run_stage(run)
