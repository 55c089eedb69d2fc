"""The only place that talks to MLflow's model registry."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

from gatecast.errors import DataError
from gatecast.registry.faults import mlflow_errors

if TYPE_CHECKING:
    from gatecast.model.fitted import FittedModel
    from gatecast.model.folder import ModelCard

CHAMPION = "champion"
_DIGEST = "gatecast.model_sha256"
_MARKET = "market"
_PROVEN = "proven_horizons"
_CODE = Path(__file__).with_name("champion_model.py")


@dataclass(frozen=True)
class Registered:
    """A version of the registered model.

    Attributes:
        version: Its number.
        run_id: The MLflow run of the pipeline that made it.
        digest: Hash of its manifest, which names the hash of its weights.
        market: Exchange, symbols and timeframe, as one text.
        proven_horizons: Bars ahead at which it was proven better; none of a version older than the tag.
    """

    version: int
    run_id: str
    digest: str
    market: str
    proven_horizons: tuple[int, ...]


@mlflow_errors()
def champion(name: str) -> Registered | None:
    """The version that carries the alias champion; None if there is none."""
    try:
        return _registered(MlflowClient().get_model_version_by_alias(name, CHAMPION))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


@mlflow_errors()
def register(
    name: str, folder: Path, digest: str, run_id: str, market: str, proven_horizons: Sequence[int]
) -> Registered:
    """Register a model folder as a version; the same model again is the version that there is.

    Args:
        name: Registered name.
        folder: Model folder.
        digest: Hash of its manifest.
        run_id: The MLflow run that is open.
        market: Exchange, symbols and timeframe.
        proven_horizons: Bars ahead at which the gate has proven it better.
    """
    client = MlflowClient()
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.tags.get(_DIGEST) == digest:  # a run that was killed before it could set the alias
            return _registered(known)
    # the signature says what an example would; an example would be 4,000 candles of text
    warnings.filterwarnings("ignore", message=".*An input example was not provided", module="mlflow")
    logged = mlflow.pyfunc.log_model(
        name="model",
        python_model=_CODE,
        artifacts={"model": str(folder)},
        signature=_SIGNATURE,
        pip_requirements=[f"gatecast=={version('gatecast')}"],  # inferring them would take ten seconds
    )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    tags = {_DIGEST: digest, _MARKET: market, _PROVEN: " ".join(map(str, proven_horizons))}
    return _registered(client.create_model_version(name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id))


@mlflow_errors()
def set_champion(name: str, number: int) -> None:
    """Give a version the alias champion, and take it from any other, in one step of the registry."""
    MlflowClient().set_registered_model_alias(name, CHAMPION, str(number))


@mlflow_errors()
def load_champion(name: str) -> "tuple[FittedModel, ModelCard, Registered] | None":
    """The champion, read from the registry; None if there is none.

    Raises:
        DataError: Its files are damaged or gone.
    """
    from gatecast.model.folder import load_model  # loads PyTorch, which `status` has no use for

    registered = champion(name)
    if registered is None:
        return None
    try:
        files = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}@{CHAMPION}"))
        (manifest,) = files.glob("artifacts/*/manifest.json")
    except ValueError:
        raise DataError(f"the files of {name} version {registered.version} hold no model folder") from None
    except (MlflowException, OSError) as error:
        raise DataError(f"the files of {name} version {registered.version} cannot be read: {error}") from error
    model, card = load_model(manifest.parent)
    return model, card, registered


def _registered(entry: ModelVersion) -> Registered:
    digest, market, proven = (entry.tags.get(tag, "") for tag in (_DIGEST, _MARKET, _PROVEN))
    return Registered(int(entry.version), entry.run_id or "", digest, market, tuple(map(int, proven.split())))


def _columns(**types: DataType) -> Any:
    return Schema([ColSpec(kind, name) for name, kind in types.items()])


_SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "symbol", required=False),
            ColSpec(AnyType(), "ts"),  # type: ignore[no-untyped-call]  # MLflow's datetime refuses stamps that name their zone
            *(ColSpec(DataType.double, name) for name in ("open", "high", "low", "close", "volume")),
        ]
    ),
    outputs=_columns(
        market=DataType.string,
        issued_at=DataType.datetime,
        horizon=DataType.long,
        target_at=DataType.datetime,
        level=DataType.double,
        log_return=DataType.double,
        price=DataType.double,
    ),
)
