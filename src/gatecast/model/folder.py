"""The model folder: weights in safetensors and a JSON manifest, nothing that could run code when it is read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gatecast.config import FeaturesConfig
from gatecast.errors import DataError
from gatecast.features.feature import Recipe
from gatecast.model.networks import QuantileLSTM
from gatecast.model.predictions import LEVELS
from gatecast.model.procedure import FittedModel
from gatecast.model.training import Hyperparameters
from gatecast.model.windows import Scaler, n_inputs
from gatecast.workspace import file_sha256, write_atomically, write_json

_FORMAT = 3
_WEIGHTS = "weights.safetensors"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ModelCard:
    """What the model was fitted on, and how its features are built from candles.

    Attributes:
        exchange: Venue of the candles.
        symbols: Markets of the fit.
        timeframe: Length of a bar.
        calendar: Code of the calendar of its sessions; None where the venue is never closed.
        train_starts: Open time of the first train bar of each market, ISO 8601, by symbol.
        train_ends: Instant at which the last train target of each market was known, ISO 8601, by symbol.
        spans: Spans of the features.
        sources: Published sources whose features it needs.
    """

    exchange: str
    symbols: tuple[str, ...]
    timeframe: str
    calendar: str | None
    train_starts: dict[str, str]
    train_ends: dict[str, str]
    spans: FeaturesConfig
    sources: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """How its features are built."""
        return Recipe(self.spans, self.symbols, self.timeframe, self.sources)


def save_model(folder: Path, model: FittedModel, card: ModelCard, provenance: dict[str, Any]) -> None:
    """Write the folder; equal models give equal bytes.

    Args:
        folder: Where to; created if absent.
        model: The fitted model.
        card: What it was fitted on.
        provenance: Further plain facts for the manifest, such as the configuration and the hashes of the inputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"network_{number}.{name}": value.contiguous()
        for number, network in enumerate(model.networks)
        for name, value in network.state_dict().items()
    }
    write_atomically(folder / _WEIGHTS, lambda path: save_file(tensors, path))
    manifest = {
        "format": _FORMAT,
        "weights_sha256": file_sha256(folder / _WEIGHTS),
        "levels": LEVELS,
        "features": model.features,
        "horizons": model.horizons,
        "stride": model.stride,
        "burn_in": model.burn_in,
        "n_layers": model.n_layers,
        "n_networks": len(model.networks),
        "hyperparameters": asdict(model.hyperparameters),
        "scaler": asdict(model.scaler),
        "card": {**asdict(card), "spans": card.spans.model_dump(mode="json")},
        "provenance": provenance,
    }
    write_json(folder / _MANIFEST, manifest)


def load_model(folder: Path) -> tuple[FittedModel, ModelCard]:
    """Read a model folder.

    Raises:
        DataError: Absent, foreign, damaged, or weights other than those that the manifest was written for.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or tuple(manifest["levels"]) != LEVELS:
            raise DataError(f"{folder / _MANIFEST} is of format {manifest['format']}, this gatecast reads {_FORMAT}")
        if file_sha256(folder / _WEIGHTS) != manifest["weights_sha256"]:
            raise DataError(
                f"{folder / _WEIGHTS} is not the file that its manifest was written for; run `gatecast fit`"
            )
        tensors = load_file(folder / _WEIGHTS)
        model = _model(manifest, tensors)
        card = manifest["card"]
        spans = FeaturesConfig.model_validate(card["spans"])
        return model, ModelCard(**{**card, **{key: tuple(card[key]) for key in ("symbols", "sources")}, "spans": spans})
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a model folder: {Path(error.filename).name} is absent; run `gatecast fit`"
        ) from None
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} is damaged or not a model folder ({error}); run `gatecast fit`") from error


def _model(manifest: dict[str, Any], tensors: dict[str, Any]) -> FittedModel:
    hyperparameters = Hyperparameters(**manifest["hyperparameters"])
    scaler = Scaler(tuple(manifest["scaler"]["mean"]), tuple(manifest["scaler"]["deviation"]))
    networks = []
    for number in range(manifest["n_networks"]):
        network = QuantileLSTM(
            n_inputs(manifest["features"]),
            len(manifest["horizons"]),
            hyperparameters.hidden_size,
            manifest["n_layers"],
            hyperparameters.dropout,
        )
        prefix = f"network_{number}."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        networks.append(network.eval())
    return FittedModel(
        features=tuple(manifest["features"]),
        horizons=tuple(manifest["horizons"]),
        stride=manifest["stride"],
        burn_in=manifest["burn_in"],
        n_layers=manifest["n_layers"],
        hyperparameters=hyperparameters,
        scaler=scaler,
        networks=tuple(networks),
    )
