"""The model folder: what is saved comes back, and what is damaged is refused in one line."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save

from gatecast.config import Config
from gatecast.errors import DataError
from gatecast.features.feature import VOLATILITY
from gatecast.market.candles import BAR, SYMBOL, TS
from gatecast.model.fitted import FittedModel
from gatecast.model.folder import ModelCard, load_model, save_model
from gatecast.model.heads import HeadName
from gatecast.model.networks import Architecture, Network, NetworkName
from gatecast.model.predictions import LEVELS
from gatecast.model.windows import Windows, fit_scaler, n_inputs
from gatecast.workspace import file_sha256
from tests.conftest import random_candles

SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
FEATURES = ("return_1", "log_volatility", "funding_rate")
HORIZONS = (1, 6)
Change = Callable[[dict[str, Any]], object]


def feature_rows() -> pl.DataFrame:
    """Three markets with features that need no building."""
    candles = random_candles(90)
    generator = torch.Generator().manual_seed(1)
    markets = []
    for symbol in SYMBOLS:
        drawn = pl.from_numpy(torch.randn(len(candles), len(FEATURES), generator=generator).numpy(), schema=FEATURES)
        keys = candles.select(TS, pl.lit(symbol).alias(SYMBOL), pl.int_range(pl.len()).alias(BAR))
        markets.append(keys.with_columns(pl.lit(0.01).alias(VOLATILITY)).hstack(drawn.cast(pl.Float64)))
    return pl.concat(markets)


ROWS = feature_rows()


def small_model(network: NetworkName = "lstm", head: HeadName = "quantiles", seed: int = 0) -> FittedModel:
    architecture = Architecture(
        network, head, "layer", n_inputs(FEATURES), len(HORIZONS), len(SYMBOLS), 2, 4, 2, 0.1, 3, 2
    )
    torch.manual_seed(seed)
    return FittedModel(
        symbols=SYMBOLS,
        features=FEATURES,
        horizons=HORIZONS,
        windows=Windows(stride=16, burn_in=8),
        architecture=architecture,
        scaler=fit_scaler(ROWS, FEATURES),
        networks=tuple(Network(architecture).eval() for _ in range(2)),
        offsets=tuple(tuple(torch.randn(len(LEVELS)).double().tolist()) for _ in HORIZONS),
    )


@pytest.fixture(scope="module")
def card(config: Config) -> ModelCard:
    return ModelCard(
        "binance",
        SYMBOLS,
        "1h",
        None,
        dict.fromkeys(SYMBOLS, "2024-01-01T00:00Z"),
        dict.fromkeys(SYMBOLS, "2024-02-01T00:00Z"),
        config.features,
        ("funding",),
    )


@pytest.fixture
def folder(card: ModelCard, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", small_model(), card, {"seed": 1})
    return tmp_path / "model"


def refusal(folder: Path) -> str:
    """The one line with which the folder is refused; it names the folder and says what to do."""
    with pytest.raises(DataError) as caught:
        load_model(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def change_manifest(folder: Path, change: Change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def replace_weights(folder: Path, content: bytes) -> None:
    """Other weights, and a manifest that was written for them."""
    weights = folder / "weights.safetensors"
    weights.write_bytes(content)
    change_manifest(folder, lambda manifest: manifest.update(weights_sha256=file_sha256(weights)))


@pytest.mark.parametrize("head", get_args(HeadName))
@pytest.mark.parametrize("network", get_args(NetworkName))
def test_a_model_comes_back_as_it_was_and_says_the_same(
    network: NetworkName, head: HeadName, card: ModelCard, tmp_path: Path
) -> None:
    model = small_model(network, head)
    save_model(tmp_path, model, card, {"seed": 1})
    loaded, loaded_card = load_model(tmp_path)
    assert loaded_card == card
    assert replace(loaded, networks=()) == replace(model, networks=())
    for one, other in zip(loaded.networks, model.networks, strict=True):
        assert not one.training
        assert one.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    predicted = model.predict(ROWS)
    assert len(predicted) == len(ROWS) * len(HORIZONS)
    assert loaded.predict(ROWS).equals(predicted)
    assert loaded.predict_newest(ROWS).equals(model.predict_newest(ROWS))


def test_equal_models_give_equal_bytes_and_a_loaded_one_is_saved_as_it_was(card: ModelCard, tmp_path: Path) -> None:
    save_model(tmp_path / "one", small_model(), card, {"seed": 1})
    save_model(tmp_path / "two", small_model(), card, {"seed": 1})
    save_model(tmp_path / "three", *load_model(tmp_path / "one"), {"seed": 1})
    save_model(tmp_path / "other", small_model(seed=1), card, {"seed": 1})
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"manifest.json", "weights.safetensors"}
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "two" / name).read_bytes() == content
        assert (tmp_path / "three" / name).read_bytes() == content
        assert (tmp_path / "other" / name).read_bytes() != content


def test_nothing_in_the_folder_is_a_pickle(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file, pytest.raises(Exception, match=r".") as caught:
            pickle.load(file)
        assert isinstance(caught.value, pickle.UnpicklingError | ValueError | EOFError | KeyError | IndexError)
    json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert len(load_file(folder / "weights.safetensors")) == sum(
        len(each.state_dict()) for each in small_model().networks
    )


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_folder_without_one_of_its_files_names_it(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder} is not a model folder: {name} is absent; run `gatecast fit`"


def test_what_is_no_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    assert "manifest.json is absent; run `gatecast fit`" in refusal(tmp_path / "absent")
    refusal(folder / "manifest.json")  # a file
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").mkdir()
    refusal(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "4",
        "[]",
        "[4]",
        "{}",
        '{"format": "4"}',
        '{"format": 4}',
        '{"format": 4.0}',
        '{"format": true}',
        '{"format": 1e400}',
        '{"format": 4, "format": [}',
        "[" * 100_000,
        '{"format": 4, "card":' + '{"a":' * 100_000,
        "\x00" * 100,
        "PK\x03\x04",
        "model:\n  format: 4\n",
    ],
)
def test_a_manifest_that_is_none_is_one_line(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    assert "is damaged or not a model folder (" in refusal(folder)


def test_a_manifest_that_was_cut_short_or_is_no_text_is_one_line(folder: Path) -> None:
    path = folder / "manifest.json"
    content = path.read_bytes()
    for length in range(0, len(content) - 2, 97):
        path.write_bytes(content[:length])
        refusal(folder)
    path.write_bytes(content[:500] + b"\xff\xfe" + content[502:])
    refusal(folder)


@pytest.mark.parametrize("written_as", [3, 5, 0, 10**30])
def test_a_folder_of_another_format_says_what_to_do(written_as: int, folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format": written_as, "hyperparameters": {}}), encoding="utf-8")
    assert refusal(folder) == (
        f"{path} is of format {written_as}, this gatecast reads 4:"
        " run `gatecast fit`; if it is a champion's, set another promote.model_name, or use the gatecast that wrote it"
    )


def putting(value: object, *path: str) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = value

    return change


IMPOSSIBLE: dict[str, list[object]] = {
    "weights_sha256": ["", None, 5, "0" * 64],
    "levels": [[], [0.5], [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.96], "0.5", None],
    "features": [[], ["return_1"], ["return_1", "return_1", "funding_rate"], "return_1", [1, 2, 3], {}],
    "horizons": [[], [1], [1, 6, 24], [6, 1], [1, 1], [0, 1], [-1, 6], [1.5, 6], ["1", "6"], [True, 6], [1, 10**30]],
    "symbols": [[], ["BTC/USDT"], ["BTC/USDT", "BTC/USDT", "XRP/USDT"], "BTC/USDT", [1, 2, 3]],
    "windows": [{}, [], None, {"stride": 16}, {"stride": 16, "burn_in": 8, "n_bars": 24}],
    "windows.stride": [0, -1, 10**9, 10**30, 1.5, "16", True, None],
    "windows.burn_in": [-1, 10**9, "8", False],
    "architecture": [{}, [], None, "lstm"],
    "architecture.network": ["transformer", "", None, 1, ["lstm"]],
    "architecture.head": ["gaussian", "student_t"],
    "architecture.normalisation": ["batch", None, "none"],
    "architecture.n_inputs": [0, -1, 4, 6, 10**9],
    "architecture.n_horizons": [0, 1, 3, 10**9],
    "architecture.n_markets": [0, 2, 4, 10**9],
    "architecture.embedding_size": [-1, 0, 3, 10**9],
    "architecture.hidden_size": [0, -4, 5, 8, 10**9, 10**30, "4", 4.5],
    "architecture.n_layers": [0, -1, 1, 3, 10**9],
    "architecture.dropout": [-0.1, 1.1, float("nan"), float("inf"), "0.1", True],
    "architecture.kernel_bars": [0, -1, 10**9],
    "architecture.n_attention_heads": [0, -1, 10**9],
    "architecture.bidirectional": [True],
    "n_networks": [0, -1, 1, 3, 10**9, 10**30, "2", "two", 2.0, True, None],
    "scaler": [{}, [], {"mean": [0.0]}],
    "scaler.mean": [[], [0.0], [0.0] * 4, ["0", "0", "0"], [float("nan"), 0.0, 0.0], [10**400, 0.0, 0.0]],
    "scaler.deviation": [[], [1.0], [1.0] * 4, [1.0, -1.0, 1.0], [float("inf"), 1.0, 1.0], [None, 1.0, 1.0]],
    "offsets": [
        [],
        [[0.0] * 7],
        [[0.0] * 7] * 3,
        [[0.0] * 7, [0.0] * 6],
        [[0.0] * 7, [float("nan")] * 7],
        [[0.0] * 7, ["0"] * 7],
        [0.0] * 7,
        None,
    ],
    "card": [{}, [], None],
    "card.symbols": ["BTC/USDT", [1], None],
    "card.train_starts": [[], {"BTC/USDT": 5}],
    "card.calendar": [5],
    "card.spans": [{}, [], None],
    "card.spans.rsi_bars": [0, "many", None],
    "card.colour": ["red"],
    "provenance": [[], None],
    "note": ["a key that gatecast does not write"],
    "a key\nof two lines": [1],
}


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_a_manifest_whose_values_cannot_be_is_one_line(place: str, folder: Path) -> None:
    whole = (folder / "manifest.json").read_bytes()
    for value in IMPOSSIBLE[place]:
        change_manifest(folder, putting(value, *place.split(".")))
        line = refusal(folder)
        assert "run `gatecast fit`" in line, value
        assert len(line) < 500, value
        (folder / "manifest.json").write_bytes(whole)
    load_model(folder)


def test_a_manifest_without_one_of_its_keys_names_it(folder: Path) -> None:
    whole = (folder / "manifest.json").read_bytes()
    for name in json.loads(whole):
        change_manifest(folder, lambda manifest, name=name: manifest.pop(name))  # type: ignore[misc]
        assert f"({name}: Field required)" in refusal(folder)
        (folder / "manifest.json").write_bytes(whole)


def test_attention_heads_that_do_not_divide_the_width_are_one_line(card: ModelCard, tmp_path: Path) -> None:
    save_model(tmp_path, small_model("attention_lstm"), card, {})
    change_manifest(tmp_path, putting(3, "architecture", "n_attention_heads"))
    assert "n_attention_heads" in refusal(tmp_path)


def test_weights_that_were_tampered_with_or_cut_short_are_one_line(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    changed = save({name: value * 1.01 for name, value in load_file(weights).items()})
    for other in (changed, content[:-1], content[: len(content) // 2], b"", content + b"\0"):
        weights.write_bytes(other)
        assert "is not the file that its manifest was written for" in refusal(folder)


def test_the_manifest_of_another_model_is_one_line(card: ModelCard, folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", small_model(seed=1), card, {"seed": 1})
    (tmp_path / "other" / "manifest.json").replace(folder / "manifest.json")
    assert "is not the file that its manifest was written for" in refusal(folder)


def with_one(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda tensors: tensors.update({"network_1.head.base": change(tensors["network_1.head.base"])})


def with_nan(value: torch.Tensor) -> torch.Tensor:
    changed = value.clone()
    changed[0, 0] = float("nan")
    return changed


@pytest.mark.parametrize(
    "change",
    [
        with_one(with_nan),
        with_one(lambda value: value / 0),
        with_one(lambda value: value.double()),
        with_one(lambda value: value.half()),
        with_one(lambda value: value.int()),
        with_one(lambda value: value[:1].contiguous()),
        with_one(lambda value: value.t().contiguous()),
        lambda tensors: tensors.pop("network_0.lstm.weight_hh_l0"),
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("network_1.")],
        lambda tensors: tensors.update({"network_2.head.base": torch.zeros(2, 7)}),
        lambda tensors: tensors.update({"network_0.extra": torch.zeros(1)}),
        lambda tensors: tensors.update({"network_00.head.base": torch.zeros(2, 7)}),
        lambda tensors: tensors.update({"extra": torch.zeros(1)}),
        lambda tensors: tensors.clear(),
    ],
)
def test_weights_that_are_not_those_of_the_architecture_are_one_line(change: Change, folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    replace_weights(folder, save(tensors))
    assert "is damaged or not a model folder (" in refusal(folder)


@pytest.mark.parametrize(("network", "head"), [("cnn_lstm", "quantiles"), ("lstm", "student_t")])
def test_weights_of_another_architecture_are_one_line(
    network: NetworkName, head: HeadName, card: ModelCard, folder: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "other", small_model(network, head), card, {})
    replace_weights(folder, (tmp_path / "other" / "weights.safetensors").read_bytes())
    assert "is damaged or not a model folder (" in refusal(folder)


class _Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def test_code_in_place_of_the_weights_or_the_manifest_is_not_run(folder: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    code = pickle.dumps(_Planted(planted))
    replace_weights(folder, code)
    refusal(folder)
    torch.save({"network_0.head.base": _Planted(planted)}, tmp_path / "weights.pt")
    replace_weights(folder, (tmp_path / "weights.pt").read_bytes())
    refusal(folder)
    (folder / "manifest.json").write_bytes(code)
    refusal(folder)
    assert not planted.exists()
    pickle.loads(code)
    assert planted.exists()  # the code would have done it


def test_weights_whose_header_lies_are_one_line(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    for other in (
        b"",
        b"\xff" * 8,
        (10**12).to_bytes(8, "little") + b"{}",
        content[:-4],
        content + b"\0" * 4,
        content.replace(b'"F32"', b'"F64"', 1),
        content.replace(b'"F32"', b'"C64"', 1),
        content.replace(b'"F32"', b'"X32"', 1),
    ):
        replace_weights(folder, other)
        refusal(folder)
