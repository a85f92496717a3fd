"""What a served node goes by: flags, its own file, the network's file, the defaults, in this order."""

import json
from pathlib import Path

import pytest

from moorage.cli.settings import settings
from moorage.errors import BadManifest, SourceNotFound


@pytest.fixture
def infernet(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"server": {"host": "::1", "port": 4001}}))
    return file


@pytest.mark.parametrize(
    ("own", "flags", "listens"),
    [
        ("", {}, ("::1", 4001)),
        ("port = 4002", {}, ("::1", 4002)),
        ('host = "localhost"', {"port": 4003}, ("localhost", 4003)),
        ("port = 4002", {"host": "127.0.0.2", "port": 4003}, ("127.0.0.2", 4003)),
    ],
)
def test_what_is_stronger_wins(
    own: str, flags: dict[str, object], listens: tuple[str, int], infernet: Path, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(own)
    found = settings(config, infernet, **{"host": None, "port": None, "data_dir": tmp_path, **flags})
    assert (found.node.host, found.node.port) == listens
    assert found.node.networks == {"infernet": {"config": str(infernet)}}
    assert found.log is None


def test_the_nodes_own_file_may_name_it_too_and_the_flag_wins(infernet: Path, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[networks.infernet]\nconfig = "{infernet}"\n[networks.infrax]\nsurface = true\n')
    assert settings(config, None).node.port == 4001
    other = tmp_path / "other.json"
    other.write_text("{}")
    node = settings(config, other).node
    assert node.port == 4000
    assert node.networks == {"infernet": {"config": str(other)}, "infrax": {"surface": True}}


def test_a_relative_path_counts_from_the_working_directory(
    infernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(None, Path("config.json")).node.networks["infernet"]["config"] == str(infernet)


def test_without_one_nothing_is_served() -> None:
    assert settings(None, None).node.networks == {}


def test_a_table_without_a_path_is_told(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[networks.infernet]\nconfg = "config.json"\n')
    with pytest.raises(BadManifest, match=r"`networks\.infernet\.config` must be the path"):
        settings(config, None)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no configuration file"):
        settings(None, tmp_path / "nowhere.json")


def test_the_log_lies_beside_the_config_and_rotates(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"log": {"path": "logs.txt", "max_file_size": 1000, "backup_count": 3}}))
    log = settings(None, file).log
    assert log is not None
    assert vars(log)["baseFilename"] == str(tmp_path / "logs.txt")
    assert (vars(log)["maxBytes"], vars(log)["backupCount"]) == (1000, 3)
    log.close()
