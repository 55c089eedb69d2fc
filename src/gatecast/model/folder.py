"""The model folder: weights in safetensors and a JSON manifest, nothing that could run code when it is read."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Final, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from gatecast.config import FeaturesConfig
from gatecast.config_types import Spans
from gatecast.errors import DataError
from gatecast.features.feature import Recipe
from gatecast.model.calibration import Offsets
from gatecast.model.fitted import FittedModel
from gatecast.model.networks import Architecture, Network, load_network
from gatecast.model.predictions import LEVELS
from gatecast.model.windows import Scaler, Windows, n_inputs
from gatecast.workspace import file_sha256, write_atomically, write_json

_FORMAT = 4
_WEIGHTS = "weights.safetensors"
_MANIFEST = "manifest.json"
_BOUNDS: Final = {  # a damaged number asks for no more time and memory than the configuration lets anyone ask for
    "hidden_size": (1, 4096),
    "n_layers": (1, 8),
    "embedding_size": (0, 256),
    "kernel_bars": (1, 256),
    "n_attention_heads": (1, 64),
    "dropout": (0, 1),
    "stride": (1, 1_000_000),
    "burn_in": (0, 1_000_000),
}


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
        "symbols": model.symbols,
        "windows": asdict(model.windows),
        "architecture": asdict(model.architecture),
        "n_networks": len(model.networks),
        "scaler": asdict(model.scaler),
        "offsets": model.offsets,
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
        text = (folder / _MANIFEST).read_bytes()
        written_as = _Header.model_validate_json(text).format
        if written_as != _FORMAT:
            raise DataError(
                f"{folder / _MANIFEST} is of format {written_as}, this gatecast reads {_FORMAT}: run `gatecast fit`; if"
                " it is a champion's, set another promote.model_name, or use the gatecast that wrote it"
            )
        manifest = _Manifest.model_validate_json(text)
        weights = (folder / _WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
            raise DataError(
                f"{folder / _WEIGHTS} is not the file that its manifest was written for; run `gatecast fit`"
            )
        return manifest.model(_networks(manifest, load(weights))), manifest.card
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a model folder: {Path(error.filename).name} is absent; run `gatecast fit`"
        ) from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read as a model folder: {error}") from error
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"{folder} is damaged or not a model folder ({_in_one_line(error)}); run `gatecast fit`"
        ) from error


class _Header(BaseModel):
    """What the manifests of all formats hold."""

    model_config = ConfigDict(strict=True)

    format: int


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a name is there twice")
    return names


_Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]


class _Manifest(_Header):
    """What a manifest of this format holds."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    weights_sha256: str
    levels: tuple[float, ...]
    features: _Names
    horizons: Spans
    symbols: _Names
    windows: Windows
    architecture: Architecture
    n_networks: int = Field(ge=1, le=64)
    scaler: Scaler
    offsets: Offsets
    card: ModelCard
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        built, scaler = self.architecture, self.scaler
        numbers = {**asdict(built), **asdict(self.windows)}
        for name, (least, most) in _BOUNDS.items():
            if not least <= numbers[name] <= most:
                raise ValueError(f"{name} is {numbers[name]}, not between {least} and {most}")
        sizes = (n_inputs(self.features), len(self.horizons), len(self.symbols))
        fits = {
            "levels": self.levels == LEVELS,
            "architecture": (built.n_inputs, built.n_horizons, built.n_markets) == sizes,
            "n_attention_heads": built.network != "attention_lstm" or built.hidden_size % built.n_attention_heads == 0,
            "scaler": len(scaler.mean) == len(scaler.deviation) == len(self.features) and min(scaler.deviation) >= 0,
            "offsets": [len(each) for each in self.offsets] == [len(LEVELS)] * len(self.horizons),
        }
        if amiss := [name for name, is_sound in fits.items() if not is_sound]:
            raise ValueError(f"{', '.join(amiss)}: not what the rest of the manifest, or this gatecast, goes with")
        return self

    def model(self, networks: tuple[Network, ...]) -> FittedModel:
        """The model with its networks."""
        return FittedModel(
            symbols=self.symbols,
            features=self.features,
            horizons=self.horizons,
            windows=self.windows,
            architecture=self.architecture,
            scaler=self.scaler,
            networks=networks,
            offsets=self.offsets,
        )


def _networks(manifest: _Manifest, tensors: dict[str, Tensor]) -> tuple[Network, ...]:
    """The networks of the ensemble.

    Raises:
        ValueError: Tensors of other networks, of another architecture, or not of finite 32-bit numbers.
    """
    weights: dict[str, dict[str, Tensor]] = {f"network_{number}": {} for number in range(manifest.n_networks)}
    for name, value in tensors.items():
        network, _, within = name.partition(".")
        if network not in weights:
            raise ValueError(f"{name} is of none of its {manifest.n_networks} networks")
        if value.dtype != torch.float32 or not torch.isfinite(value).all():
            raise ValueError(f"{name} holds something other than finite 32-bit numbers")
        weights[network][within] = value
    try:
        return tuple(load_network(manifest.architecture, each) for each in weights.values())
    except RuntimeError as error:
        raise ValueError("its weights are those of another architecture") from error


def _in_one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        text = f"{'.'.join(map(str, first['loc'])) or _MANIFEST}: {first['msg']}"
    return shorten(text, 300, placeholder=" ...")
