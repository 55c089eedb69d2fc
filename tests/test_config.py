from typing import Any

import pytest
from annotated_types import Ge
from ruamel.yaml import YAML

from gatecast.config import Config
from gatecast.config_parsing import parse_config
from gatecast.errors import ConfigurationError
from tests.conftest import REPOSITORY


def shipped() -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "conf" / "params.yaml")
    return values


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("tune", "n_trials", -3, ("tune.n_trials = -3", "greater than or equal to 1")),
        ("tune", "n_trials", True, ("n_trials is true", "yes or no")),
        ("model", "horizons", 24, ("model.horizons = 24", "list")),
        ("tune", "n_trials", "many", ("tune.n_trials = 'many'", "integer")),
        ("tune", "n_trails", 3, ("tune.n_trails is not a key", "n_trials")),
        ("ingest", "source", "web", ("ingest.source = 'web'", "'sample', 'exchange' or 'files'")),
        ("ingest", "timeframe", "1x", ("ingest.timeframe = '1x'", "1h")),
        ("ingest", "start", "soon", ("ingest.start = 'soon'",)),
        ("model", "horizons", [24, 1], ("model.horizons", "ascending")),
        ("promote", "horizons", [5], ("promote.horizons names [5]", "model.horizons")),
        ("split", "fold_bars", 100, ("split", "both set or both null")),
        ("evaluate", "baselines", ["naive"], ("evaluate", "lacks ewma", "has to beat")),
        ("evaluate", "baselines", ["naive", "ewma", "har", "har"], ("evaluate", "har more than once")),
        ("evaluate", "baselines", ["naive", "ewma", "arima"], ("evaluate.baselines.2 = 'arima'", "prophet")),
        ("evaluate", "search", "nested", ("evaluate.search = 'nested'", "every_fold")),
        ("model", "train_bars", 10, ("model.train_bars = 10", "500")),
        ("model", "warm_start", 0.0, ("model.warm_start = 0.0", "greater than 0")),
        ("strategy", "fee_bps", -1.0, ("strategy.fee_bps = -1.0", "0")),
        ("ingest", "timeframe", "1w", ("ingest.timeframe = '1w'", "s, m, h or d")),
        ("evaluate", "n_folds", 3, ("evaluate.n_folds = 3", "4")),
        ("clean", "outlier_deviations", float("nan"), ("clean.outlier_deviations = nan", "finite")),
    ],
)
def test_an_impossible_value_is_one_line_that_names_key_value_and_what_is_allowed(
    section: str, key: str, value: object, words: tuple[str, ...]
) -> None:
    values = shipped()
    values[section][key] = value
    if key == "fold_bars":
        values[section]["development_end"] = None
    with pytest.raises(ConfigurationError) as error:
        parse_config(values, "conf/params.yaml")
    line = str(error.value)
    assert all(word in line for word in words), line
    assert "\n" not in line
    assert error.value.exit_status == 2


def test_every_key_has_to_stand_in_the_file() -> None:
    values = shipped()
    del values["model"]["seed"]
    with pytest.raises(ConfigurationError, match=r"model\.seed is missing"):
        parse_config(values, "conf/params.yaml")


def test_a_section_that_is_not_a_mapping_is_one_line() -> None:
    values = shipped()
    values["model"] = 3
    with pytest.raises(ConfigurationError, match="model = 3"):
        parse_config(values, "conf/params.yaml")


SECTIONS = {field.alias or name: field.annotation for name, field in Config.model_fields.items()}
LEAST = {
    (section, key): int(bound.ge)  # type: ignore[call-overload]  # typed as whatever compares
    for section, model in SECTIONS.items()
    for key, field in getattr(model, "model_fields", {}).items()
    for bound in field.metadata
    if isinstance(bound, Ge) and field.annotation is int
}


@pytest.mark.parametrize(("section", "key"), LEAST)
def test_a_value_below_its_least_is_refused(section: str, key: str, config: Config) -> None:
    tree = config.model_dump(mode="json", by_alias=True)
    tree[section][key] = LEAST[section, key] - 1
    with pytest.raises(ConfigurationError, match=key):
        parse_config(tree, "test")


def test_no_key_has_two_lower_bounds_of_which_one_would_be_lost() -> None:
    for section, model in SECTIONS.items():
        for key, field in getattr(model, "model_fields", {}).items():
            assert sum(isinstance(bound, Ge) for bound in field.metadata) < 2, f"{section}.{key}"
    assert LEAST["features", "rsi_bars"] == 2
