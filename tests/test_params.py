import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gatecast.config import Config
from gatecast.errors import ConfigurationError
from gatecast.params import configure, freeze_split, read_config
from gatecast.workspace import Workspace
from tests.conftest import REPOSITORY

PROFILES = sorted(path.stem for path in (REPOSITORY / "conf" / "profiles").glob("*.yaml"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    return Workspace(tmp_path)


def test_a_setting_is_written_with_the_comments_kept(workspace: Workspace) -> None:
    before = workspace.params.read_text()
    changed = configure(workspace, None, ["tune.n_trials=3"])
    after = workspace.params.read_text()
    assert changed == {"tune.n_trials": (read_original().tune.n_trials, 3)}
    assert read_config(workspace).tune.n_trials == 3
    lines = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(lines) == 1
    assert lines[0][1].strip() == "n_trials: 3"


@pytest.mark.parametrize(
    "setting",
    [
        "tune.n_trials=-1",
        "tune.nonsense=1",
        "nonsense.key=1",
        "tune.n_trials.deep=1",
        "tune",
        "tune.n_trials=[",
        "x=1",
        "tune.seed={}",
    ],
)
def test_a_bad_setting_is_one_line_and_writes_nothing(workspace: Workspace, setting: str) -> None:
    before = workspace.params.read_bytes()
    with pytest.raises(ConfigurationError) as error:
        configure(workspace, None, ["tune.n_trials=3", setting])
    assert workspace.params.read_bytes() == before
    assert "\n" not in str(error.value)


def test_an_unknown_profile_names_those_that_there_are(workspace: Workspace) -> None:
    with pytest.raises(ConfigurationError, match=r"--profile nope is not one of .*sample"):
        configure(workspace, "nope", [])


def test_a_change_of_market_empties_the_split_and_a_change_of_trials_does_not(workspace: Workspace) -> None:
    freeze_split(workspace, "2022-01-01T00:00Z", 100)
    configure(workspace, None, ["tune.n_trials=3"])
    assert read_config(workspace).split.fold_bars == 100
    configure(workspace, None, ["ingest.symbols=[ETH/USDT]"])
    assert read_config(workspace).split.development_end is None


def test_a_profile_given_again_leaves_the_boundary_where_it_was(workspace: Workspace) -> None:
    configure(workspace, "btc-hourly", [])
    assert read_config(workspace).split.development_end is None
    freeze_split(workspace, "2022-01-01T00:00Z", 100)
    configure(workspace, "btc-hourly", ["tune.n_trials=3"])
    assert read_config(workspace).split.fold_bars == 100
    configure(workspace, "btc-hourly", ["split.development_end=null", "split.fold_bars=null"])
    assert read_config(workspace).split.development_end is None


def test_a_setting_that_moves_the_market_of_a_profile_empties_its_split(workspace: Workspace) -> None:
    configure(workspace, "sample", ["ingest.start=2023-01-01"])
    assert read_config(workspace).split.development_end is None


def test_another_calendar_numbers_the_bars_anew_and_empties_the_split(workspace: Workspace) -> None:
    configure(workspace, None, ["ingest.timeframe=1d"])
    freeze_split(workspace, "2022-01-01T00:00Z", 100)
    configure(workspace, None, ["ingest.calendar=XNYS"])
    assert read_config(workspace).split.development_end is None


def test_a_split_named_together_with_a_market_is_kept(workspace: Workspace) -> None:
    settings = ["ingest.timeframe=4h", "split.development_end=2022-01-01", "split.fold_bars=500"]
    configure(workspace, None, settings)
    assert read_config(workspace).split.fold_bars == 500


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_sample_leads_back_to_the_shipped_values(workspace: Workspace, profile: str) -> None:
    original = read_config(workspace)
    configure(workspace, profile, [])
    configure(workspace, "sample", [])
    assert read_config(workspace) == original
    # the document is written as it was: to go somewhere and back leaves no trace
    assert workspace.params.read_bytes() == (REPOSITORY / "conf" / "params.yaml").read_bytes()


def test_a_damaged_file_is_one_line(workspace: Workspace) -> None:
    workspace.params.write_text("ingest: [")
    with pytest.raises(ConfigurationError, match=r"params\.yaml is not YAML"):
        read_config(workspace)
    workspace.params.write_text("just words")
    with pytest.raises(ConfigurationError, match="not sections"):
        read_config(workspace)


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("ingest.feeds=['https://a.org/rss?x=1', 'http://127.0.0.1:8000/b']", "feeds"),
        ("ingest.symbols=['BTC/USDT:USDT', 'X/USD1:USD1']", "symbols"),
    ],
)
def test_what_is_written_can_be_read_by_dvc_as_well(workspace: Workspace, setting: str, read: str) -> None:
    configure(workspace, None, [setting])
    wanted = list(getattr(read_config(workspace).ingest, read))
    for _ in range(2):
        assert YAML(typ="safe").load(workspace.params)["ingest"][read] == wanted  # as DVC reads it
        configure(workspace, None, ["tune.n_trials=3"])  # what is not changed is written anew
    assert list(getattr(read_config(workspace).ingest, read)) == wanted
    text = workspace.params.read_text()
    assert "  start: null " in text
    assert "development_end: null" in text or "development_end: 2021-12-31T12:00Z" in text


def test_a_list_that_dvc_could_not_read_is_one_line_that_tells_what_to_do(workspace: Workspace) -> None:
    text = workspace.params.read_text().replace("  feeds: []", "  feeds: [https://example.org/rss]")
    workspace.params.write_text(text)
    with pytest.raises(ConfigurationError, match=r"params\.yaml is not YAML: .*a colon in a list needs quotes"):
        read_config(workspace)


def read_original() -> Config:
    return read_config(Workspace(REPOSITORY))


def test_no_key_is_a_yaml_alias_or_a_tag() -> None:
    # the file is for people and for `dvc exp run -S`: plain scalars and lists only
    text = (REPOSITORY / "conf" / "params.yaml").read_text()
    assert not any(mark in text for mark in ("&", "!!", "<<"))
    assert YAML(typ="safe").load(text)
