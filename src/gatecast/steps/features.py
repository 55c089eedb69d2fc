"""The stage `features`: clean candles → feature rows with targets, proven to be free of the future."""

from dataclasses import asdict

import polars as pl

from gatecast.config import FeaturesConfig, ModelConfig, SplitConfig, ValidateConfig
from gatecast.errors import GateRefused
from gatecast.features.catalogue import build_features, feature_names
from gatecast.features.prover import prove
from gatecast.features.rules import feature_suites
from gatecast.features.targets import build_targets, known_before, target_name
from gatecast.market.expectations import report, warnings_of
from gatecast.market.gate import require_expected, require_validated
from gatecast.market.quality import check
from gatecast.market.snapshot import read_snapshot
from gatecast.steps.stage import run_stage, say
from gatecast.workspace import Workspace, file_sha256, write_atomically, write_json


def run(
    workspace: Workspace, *, spans: FeaturesConfig, model: ModelConfig, split: SplitConfig, limits: ValidateConfig
) -> None:
    """Build, prove, validate and write the feature rows.

    Reads data/clean/candles.parquet, reports/validation.json and data/raw/snapshot.json; writes
    data/features/development.parquet (what is known before split.development_end), data/features/all.parquet,
    reports/leakage.json, reports/feature_validation.json and reports/feature_docs.

    Raises:
        GateRefused: The candles have not passed validation, a column sees the future, or an expectation on the features
            does not hold.
    """
    require_validated(workspace.reports / "validation.json", workspace.clean)
    boundary, _ = split.resolved
    candles = pl.read_parquet(workspace.clean)

    def build(some: pl.DataFrame) -> pl.DataFrame:
        return build_features(some, spans).hstack(build_targets(some, model.horizons))

    rows = build(candles)
    breaches = prove(candles, build, model.horizons, spans.n_leak_cuts)
    columns = [*feature_names(spans), *(target_name(horizon) for horizon in model.horizons)]
    proof = {"n_cuts": spans.n_leak_cuts, "n_columns": len(columns), "columns": columns}
    write_json(workspace.reports / "leakage.json", {**proof, "breaches": [asdict(breach) for breach in breaches]})
    if breaches:
        raise GateRefused(f"{breaches[0]}; {len(breaches)} column(s) in all, see reports/leakage.json")
    findings = check(feature_suites(rows, spans, model.horizons, limits), workspace.feature_docs, "features")
    write_json(workspace.reports / "feature_validation.json", report(findings, file_sha256(workspace.clean)))
    for warning in warnings_of(findings):
        say(f"features: warning: {warning}")
    require_expected(findings, "features", workspace.relative(workspace.feature_docs / "index.html"))
    development = known_before(rows, model.horizons, read_snapshot(workspace.raw).grid.first_open(boundary))
    write_atomically(workspace.development_features, development.write_parquet)
    write_atomically(workspace.all_features, rows.write_parquet)
    say(f"features: {len(columns)} columns, {len(rows)} rows, no leak at {spans.n_leak_cuts} cuts")


if __name__ == "__main__":
    run_stage(run)
