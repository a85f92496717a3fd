"""What makes a folder an InfraX app (contract, section 1.1) and what moorage.toml may say of it."""

from pathlib import Path
from typing import Any

import pytest

from moorage.api.schemas import LimitsBody
from moorage.errors import BadApp, BadManifest
from moorage.model.apps import App
from moorage.model.limits import GIB, MIB
from moorage.model.states import AppState
from moorage.networks.base import PythonEnvironment, choose, installed_networks
from moorage.networks.infrax.manifest import Knobs, knobs_of
from moorage.networks.infrax.network import InfraX


def folder(tmp_path: Path, **files: str) -> Path:
    """Lay out an app; `main_py` stands for main.py."""
    app = tmp_path / "app"
    for name, text in {"main_py": "print(1)", **files}.items():
        path = app / name.replace("_py", ".py").replace("_toml", ".toml").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return app


def refusal(app: Path) -> BadManifest:
    with pytest.raises(BadManifest) as caught:
        InfraX().load(app)
    return caught.value


def test_a_folder_with_main_py_is_an_app_of_this_network(tmp_path: Path) -> None:
    app = folder(tmp_path)
    assert choose(installed_networks(), app, None).name == "infrax"
    manifest = InfraX().load(app)
    assert (manifest.network, manifest.name, manifest.warnings) == ("infrax", "app", ())
    assert manifest.environments["python"] == PythonEnvironment(version="3.11", requirements=None)


def test_requirements_txt_is_found(tmp_path: Path) -> None:
    manifest = InfraX().load(folder(tmp_path, requirements_txt="idna\n"))
    assert manifest.environments["python"] == PythonEnvironment(version="3.11", requirements="requirements.txt")


def test_another_requirements_file_can_be_named(tmp_path: Path) -> None:
    toml = 'network = "infrax"\npython = "deps.txt"'
    manifest = InfraX().load(folder(tmp_path, moorage_toml=toml, deps_txt="idna", requirements_txt="six"))
    assert manifest.environments["python"] == PythonEnvironment(requirements="deps.txt")


@pytest.mark.parametrize("name", ["gone.txt", "../outside.txt", "/etc/passwd"])
def test_a_requirements_file_must_be_a_file_of_the_app(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.txt").write_text("")
    assert name in refusal(folder(tmp_path, moorage_toml=f'network = "infrax"\npython = "{name}"')).message


def test_without_main_py_the_error_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("")
    assert not InfraX().recognizes(tmp_path)
    with pytest.raises(BadApp, match=r"main\.py"):
        InfraX().load(tmp_path)


def test_main_py_may_not_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "main.py").mkdir()
    assert InfraX().recognizes(tmp_path)
    with pytest.raises(BadApp, match="directory"):
        InfraX().load(tmp_path)


def test_a_file_is_no_app(tmp_path: Path) -> None:
    file = tmp_path / "main.py"
    file.write_text("")
    assert not InfraX().recognizes(file)


def test_what_the_node_makes_itself_is_left_out_with_one_warning_each(tmp_path: Path) -> None:
    """Section 1.1: input/, output/ and .venv/ in an archive are accepted and ignored."""
    app = folder(tmp_path)
    for name in ("input", "output", ".venv", "__pycache__"):
        (app / name).mkdir()
    manifest = InfraX().load(app)
    assert manifest.ignore == ("input", "output", ".venv", "__pycache__")
    assert [warning.split("/")[0] for warning in manifest.warnings] == ["input", "output", ".venv"]


def test_the_knobs_reach_the_app_as_it_is_stored(tmp_path: Path) -> None:
    toml = 'network = "infrax"\n[infrax]\nkwargs_via = "stdin"\nargv_style = "equals"\ninput_readonly = true'
    data = InfraX().load(folder(tmp_path, moorage_toml=toml)).data
    app = App(id="a", network="infrax", name="a", owner="", state=AppState.TESTING, digest="", size=0, files=0,
              manifest=data)  # fmt: skip
    assert knobs_of(app) == Knobs(kwargs_via="stdin", argv_style="equals", input_readonly=True)


def test_the_knobs_have_the_defaults_of_the_contract(tmp_path: Path) -> None:
    assert InfraX().load(folder(tmp_path)).data == {
        "kwargs_via": "both", "argv_style": "auto", "input_readonly": False, "limits": {}
    }  # fmt: skip


def test_limits_are_read_with_units(tmp_path: Path) -> None:
    toml = 'network = "infrax"\n[limits]\ncpus = 0.5\nmemory = "512MiB"\ndisk = 1000\ntimeout = 90'
    data = InfraX().load(folder(tmp_path, moorage_toml=toml)).data
    assert data["limits"] == {"cpus": 0.5, "memory": 512 * MIB, "disk": 1000, "timeout": 90.0}


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("2KiB", 2048), ("1.5 GiB", 3 * GIB // 2), ("7MB", 7_000_000)])
def test_a_size_has_a_number_and_a_unit_that_mean_what_they_mean_in_the_api(
    tmp_path: Path, text: str, size: int
) -> None:
    toml = f'network = "infrax"\n[limits]\nmemory = "{text}"'
    assert InfraX().load(folder(tmp_path, moorage_toml=toml)).data["limits"] == {"memory": size}
    assert LimitsBody(memory=text).memory == size


@pytest.mark.parametrize(
    ("line", "key", "nearest"),
    [
        ("comand = []", "comand", "command"),
        ("[limits]\nmemry = 1", "limits.memry", "memory"),
        ("[network-acess]", "network-acess", "network-access"),
        ("network_access = {}", "network_access", "network-access"),
        ('[network-access]\npolcy = "none"', "network-access.polcy", "policy"),
        ('[infrax]\nkwarg_via = "both"', "infrax.kwarg_via", "kwargs_via"),
        ("[infra]", "infra", "network"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest_known_one(
    tmp_path: Path, line: str, key: str, nearest: str
) -> None:
    error = refusal(folder(tmp_path, moorage_toml=f'network = "infrax"\n{line}'))
    assert f"moorage.toml: unknown key `{key}`; did you mean `{nearest}`?" in error.message


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[limits]\ncpus = 1", "`network` is missing"),
        ('network = "infrax"\n[limits]\nmemory = "much"', "`limits.memory`"),
        ('network = "infrax"\n[limits]\npids = 0', "`limits.pids`"),
        ('network = "infrax"\ninfrax = 5', "`infrax`"),
        ('network = "infrax"\n[infrax]\nkwargs_via = "fax"', "`infrax.kwargs_via`"),
        ('network = "infrax"\n[infrax]\ninput_readonly = "maybe"', "`infrax.input_readonly`"),
        ('network = "infrax"\ncommand = ["python", "other.py"]', "`command`"),
        ('network = "golem"', "`network`"),
        ("network = ", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(tmp_path: Path, toml: str, named: str) -> None:
    assert named in refusal(folder(tmp_path, moorage_toml=toml)).message


def test_a_manifest_that_is_not_utf_8_or_no_file_is_an_error(tmp_path: Path) -> None:
    app = folder(tmp_path)
    (app / "moorage.toml").write_bytes(b"\xff")
    assert "cannot be read" in refusal(app).message
    (app / "moorage.toml").unlink()
    (app / "moorage.toml").mkdir()
    assert "Is a directory" in refusal(app).message


def test_an_app_that_says_it_is_of_another_network_is_not_ours(tmp_path: Path) -> None:
    app = folder(tmp_path, moorage_toml='network = "golem"')
    assert not InfraX().recognizes(app)


def test_a_broken_manifest_next_to_main_py_is_ours_to_explain(tmp_path: Path) -> None:
    app = folder(tmp_path, moorage_toml="network = ")
    assert InfraX().recognizes(app)


def test_an_app_that_asks_for_network_access_is_told_that_there_is_none(tmp_path: Path) -> None:
    toml = 'network = "infrax"\n[network-access]\npolicy = "internet"'
    warnings: Any = InfraX().load(folder(tmp_path, moorage_toml=toml)).warnings
    assert any("network access" in warning for warning in warnings)
