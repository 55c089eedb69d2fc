"""The registry on a real MLflow store in SQLite."""

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import polars as pl
import pytest

from gatecast.config import Config
from gatecast.errors import GatecastError
from gatecast.forecasts.columns import FORECAST_COLUMNS
from gatecast.forecasts.issue import issue_forecast
from gatecast.model.folder import ModelCard, load_model, save_model
from gatecast.model.training import Hyperparameters
from gatecast.registry.models import champion, load_champion, register, set_champion
from gatecast.workspace import file_sha256
from tests.conftest import NO_PUBLICATIONS, clean_candles, feature_table, random_candles, small_recipe
from tests.model.fitting import fit_model

RAW = random_candles(600)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("mlflow")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    )
    yield
    mlflow.set_tracking_uri(before or "")


@pytest.fixture(scope="module")
def folder(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    recipe = small_recipe(config)
    rows = feature_table(clean_candles(RAW), recipe, config.model.horizons)
    small = config.model.model_copy(update={"stride": 32, "burn_in": 16, "n_seeds": 1})
    model = fit_model(rows, Hyperparameters(4, 0.01, 0.0, 0.01), 2, small)
    save_model(
        path,
        model,
        ModelCard(
            "binance",
            ("BTC/USDT",),
            "1h",
            None,
            {"BTC/USDT": "2024-01-01T00:00Z"},
            {"BTC/USDT": "2024-01-26T00:00Z"},
            recipe.spans,
            (),
        ),
        {},
    )
    return path


def test_no_champion_is_a_state_and_not_an_error() -> None:
    assert champion("nobody") is None
    assert load_champion("nobody") is None


def test_the_champion_takes_candles_and_gives_quantiles_without_a_pickle(folder: Path) -> None:
    digest = file_sha256(folder / "manifest.json")
    with mlflow.start_run() as run:
        registered = register("tests", folder, digest, run.info.run_id, "m", (1, 24))
        again = register("tests", folder, digest, run.info.run_id, "m", (1, 24))
    assert again == registered
    assert registered.version == 1
    assert champion("tests") is None
    set_champion("tests", registered.version)
    assert champion("tests") == registered
    loaded = mlflow.pyfunc.load_model("models:/tests@champion")
    answer = pl.from_pandas(loaded.predict(RAW.to_pandas()))
    as_text = RAW.with_columns(pl.col("ts").dt.to_string("iso:strict")).to_pandas()
    assert pl.from_pandas(loaded.predict(as_text)).equals(answer)
    model, card = load_model(folder)
    expected = issue_forecast(model, card, RAW.with_columns(symbol=pl.lit("BTC/USDT")), NO_PUBLICATIONS)
    assert tuple(answer.columns) == FORECAST_COLUMNS
    assert answer["log_return"].equals(expected["log_return"])
    assert answer["target_at"].dt.epoch("ms").equals(expected["target_at"].dt.epoch("ms"))
    files = [
        path
        for path in Path(mlflow.artifacts.download_artifacts("models:/tests@champion")).rglob("*")
        if path.is_file()
    ]
    assert {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth"} == set()
    assert "weights.safetensors" in {path.name for path in files}
    champion_model, champion_card, of = load_champion("tests") or pytest.fail("the champion is not loaded")
    assert (champion_card, of) == (card, registered)
    assert champion_model.scaler == model.scaler


def test_a_store_that_does_not_answer_is_one_line_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_registry_uri("http://someone:secret@127.0.0.1:9")
    try:
        with pytest.raises(GatecastError) as error:
            champion("tests")
    finally:
        mlflow.set_registry_uri("")
    assert "MLflow at http://127.0.0.1:9 failed" in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
