"""The file `conf/params.yaml`: read it, and write profiles and settings into it with its comments kept."""

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from gatecast.config import Config
from gatecast.config_parsing import parse_config
from gatecast.errors import ConfigurationError
from gatecast.workspace import Workspace, write_atomically

_BASE_PROFILE = "sample"  # holds the shipped value of every key that any profile sets
# a change of any of them moves the split
_MARKET_KEYS = ("source", "exchange", "symbols", "timeframe", "calendar", "start")
_EMPTY_SPLIT: Final = {"split": {"development_end": None, "fold_bars": None}}
_ABSENT: Final = object()
_STAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_YAML_STR = "tag:yaml.org,2002:str"
_YAML_NULL = "tag:yaml.org,2002:null"  # written as a word: an empty value reads like a mistake
Tree = dict[str, Any]


def read_config(workspace: Workspace) -> Config:
    """The active configuration.

    Raises:
        ConfigurationError: Not YAML, or not a configuration.
    """
    return parse_config(_read(workspace.params), workspace.relative(workspace.params))


def configure(
    workspace: Workspace,
    profile: str | None,
    settings: Sequence[str],
    require: Callable[[Config], object] | None = None,
) -> dict[str, tuple[Any, Any]]:
    """Write a profile and then single settings into the active configuration, in one atomic step after validation.

    A change of market, timeframe, calendar or start empties the section `split`, for `ingest` to resolve anew; a
    profile given again, for the market that it already has, leaves the boundary where it was.

    Args:
        workspace: Whose configuration.
        profile: Name of a file in conf/profiles; it starts from the shipped values.
        settings: `section.key=value`, the value in YAML; deeper keys with further dots.
        require: Raises ConfigurationError for what only other packages can judge, such as names of features.

    Returns:
        The changed keys, each with its old and its new value; empty if nothing was to be written.

    Raises:
        ConfigurationError: An unknown profile, key or value; nothing is written.
    """
    document = _read(workspace.params)
    active: Tree = _plain(document)
    given = _settings(settings)
    overrides = [_profile(workspace, _BASE_PROFILE), _profile(workspace, profile)] if profile else []
    for override in [*overrides, given]:
        market = _market(document)
        _update(document, override)
        if _market(document) != market and "split" not in override:
            _update(document, _EMPTY_SPLIT)
    if _market(document) == _market(active) and "split" not in given and _is_empty(document):
        _update(document, {"split": active.get("split", {})})
    config = parse_config(_plain(document), _origin(profile, settings))
    before = dict(_leaves(active))
    changed = {key: (before.get(key), value) for key, value in _leaves(document) if before.get(key) != value}
    if changed:
        if require:
            require(config)
        _write(workspace.params, document)
    return changed


def freeze_split(workspace: Workspace, development_end: str, fold_bars: int) -> None:
    """Write the resolved split into the active configuration.

    Args:
        workspace: Whose configuration.
        development_end: First instant of the evaluation period, ISO 8601.
        fold_bars: Bars of a fold.
    """
    document = _read(workspace.params)
    document["split"].update(development_end=development_end, fold_bars=fold_bars)
    parse_config(_plain(document), "the resolved split")
    _write(workspace.params, document)


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        document = _yaml().load(text)
        YAML(typ="safe").load(text)  # as DVC does, whose reader is the stricter one
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is absent: `git checkout {path.parent.name}/{path.name}` brings it back"
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} is not YAML: {_one_line(error)} (a text with a colon in a list needs quotes)"
        ) from None
    if not isinstance(document, Mapping):
        raise ConfigurationError(
            f"{path} holds {type(document).__name__}, not sections with keys:"
            f" `git checkout {path.parent.name}/{path.name}` brings it back"
        )
    return document


def _write(path: Path, document: Any) -> None:
    text = StringIO()
    _yaml().dump(document, text)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


def _yaml() -> YAML:
    yaml = YAML()  # round trip: comments and order stay
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_YAML_NULL, "null"))
    yaml.representer.add_representer(str, _quoted_where_needed)
    return yaml


def _quoted_where_needed(dumper: Any, text: str) -> Any:
    """DVC's reader takes no colon in a list without quotes: neither that of an address nor that of BTC/USDT:USDT."""
    quotes = "'" if ":" in text and not _STAMP.match(text) else None
    return dumper.represent_scalar(_YAML_STR, text, style=quotes)


def _profile(workspace: Workspace, name: str) -> Tree:
    path = workspace.profiles / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in workspace.profiles.glob("*.yaml")))
        raise ConfigurationError(f"--profile {name} is not one of {known}")
    profile: Tree = _plain(_read(path))
    return profile


def _setting(text: str) -> Tree:
    key, separator, value = text.partition("=")
    if not separator or "." not in key:
        raise ConfigurationError(f"--set {text} is not section.key=value, such as tune.n_trials=20")
    try:
        tree: Any = _plain(YAML(typ="safe").load(value))
    except YAMLError as error:
        hint = """; a text with a colon needs quotes, as in '["BTC/USDT:USDT"]'""" if ":" in value else ""
        raise ConfigurationError(f"--set {text}: the value is not YAML ({_one_line(error)}){hint}") from None
    for part in reversed(key.split(".")):
        tree = {part: tree}
    result: Tree = tree
    return result


def _settings(texts: Sequence[str]) -> Tree:
    tree: Tree = {}
    for text in texts:
        _update(tree, _setting(text))
    return tree


def _market(document: Mapping[str, Any]) -> list[Any]:
    leaves = dict(_leaves(document))
    return [leaves.get(f"ingest.{key}") for key in _MARKET_KEYS]


def _is_empty(document: Mapping[str, Any]) -> bool:
    return dict(_leaves(document)).get("split.development_end") is None


def _update(document: Any, override: Mapping[str, Any]) -> None:
    for key, value in _leaves(override):
        *path, last = key.split(".")
        section = document
        for part in path:
            section = section.setdefault(part, {})  # an unknown key is added here, and refused by the validation
            if not isinstance(section, MutableMapping):
                raise ConfigurationError(f"{key} is not a key of the configuration: {part} holds a value, not keys")
        if section.get(last, _ABSENT) != value:  # what is equal keeps the way it was written
            section[last] = _in_one_line(value) if isinstance(value, list) else value


def _in_one_line(values: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    """Plain dicts and lists in place of the round-trip types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _origin(profile: str | None, settings: Sequence[str]) -> str:
    given = ([f"--profile {profile}"] if profile else []) + [f"--set {text}" for text in settings]
    return f"conf/params.yaml with {' '.join(given)}" if given else "conf/params.yaml"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
