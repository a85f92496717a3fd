"""What a build learns of the node's environment: the operator's package index settings, and no secret."""

from pathlib import Path

from moorage.layers.indexes import index_environment, index_mounts
from moorage.sandbox.base import ReadOnly


def test_nothing_but_index_settings_is_passed_on() -> None:
    settings = {
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_INDEX_INTERNAL_PASSWORD": "p",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca.crt",
        "https_proxy": "http://proxy.example",
        "UV_HTTP_TIMEOUT": "99",
    }
    secrets = {
        "MOORAGE_TOKEN": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "UV_PUBLISH_TOKEN": "x",
        "UV_CACHE_DIR": "/c",
        "PATH": "/p",
    }
    assert index_environment({**settings, **secrets}) == {**settings, "UV_NO_CONFIG": "1"}


def test_settings_of_pip_stand_in_for_those_of_uv() -> None:
    pip = {"PIP_INDEX_URL": "https://a.example", "PIP_EXTRA_INDEX_URL": "https://b.example"}
    passed = index_environment(pip)
    assert passed["UV_DEFAULT_INDEX"] == "https://a.example"
    assert passed["UV_EXTRA_INDEX_URL"] == "https://b.example"
    assert (
        index_environment({**pip, "UV_DEFAULT_INDEX": "https://c.example"})["UV_DEFAULT_INDEX"] == "https://c.example"
    )
    assert "UV_DEFAULT_INDEX" not in index_environment({**pip, "UV_INDEX_URL": "https://c.example"})


def test_the_operators_uv_toml_is_shown_and_named(tmp_path: Path) -> None:
    config = tmp_path / "uv" / "uv.toml"
    config.parent.mkdir()
    config.write_text("")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    (mount,) = index_mounts(environ)
    assert mount.source == config
    assert index_environment(environ) == {"UV_CONFIG_FILE": mount.target}


def test_certificates_are_shown_where_the_settings_say(tmp_path: Path) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.write_text("")
    assert index_mounts({"SSL_CERT_FILE": str(certificates)}) == (
        ReadOnly(source=certificates, target=str(certificates)),
    )
    assert index_mounts({"SSL_CERT_FILE": "/etc/ssl/certs/any.pem", "SSL_CERT_DIR": "/nonexistent"}) == ()
