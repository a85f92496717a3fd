"""Reading an Infernet node's config.json: keys and defaults (contract, section 3.1), every error at once (2.1)."""

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import AddressUnavailable, BadManifest, MoorageError, SourceNotFound
from moorage.model.limits import GIB, MIB
from moorage.networks.infernet.config import Config, Docker, Extras, Log, RateLimit, Results, read
from moorage.networks.infernet.ports import assign_ports

KEY = "59C6995E998F97A5A0044966F0945389DC9E86DAE88C7A8412F4603B6B78690D"
BEARER = "tell-nobody-this"
ADDRESS = "0xAbCdEf0123456789aBcDeF0123456789AbCdEf01"
ZERO = "0x" + "0" * 40

FULL = {
    "log": {"path": "node.log", "max_file_size": 1024, "backup_count": 4},
    "manage_containers": True,
    "startup_wait": 1.5,
    "chain": {
        "enabled": True,
        "trail_head_blocks": 0,
        "rpc_url": "http://localhost:8545",
        "registry_address": ADDRESS,
        "wallet": {
            "max_gas_limit": 4_000_000,
            "private_key": f"0x{KEY}",
            "payment_address": ADDRESS,
            "allowed_sim_errors": ["not enough balance"],
        },
        "snapshot_sync": {"sleep": 0.5, "batch_size": 100, "starting_sub_id": 7, "sync_period": 2},
    },
    "docker": {"username": "me", "password": "also secret"},
    "server": {
        "port": 4100,
        "host": "::1",
        "rate_limit": {"num_requests": 100, "period": 10},
        "max_body": "1MiB",
        "max_batch": 5,
        "max_queue": 9,
    },
    "results": {"ttl": 60, "max": 10},
    "status_sources": ["10.0.0.0/8"],
    "containers": [
        {
            "id": "hello-world",
            "image": "org/image:tag",
            "port": 3010,
            "external": False,
            "gpu": True,
            "accepted_payments": {ADDRESS: 10**30, ZERO: 0},
            "allowed_ips": ["192.168.1.7/24", "::1"],
            "allowed_addresses": [ADDRESS],
            "allowed_delegate_addresses": [ZERO],
            "description": "says hello",
            "command": "--bind=0.0.0.0:3000 --name='a b'",
            "env": {"NAME": "x", "N": 5, "FLAG": True, "NONE": None, "LIST": [1]},
            "volumes": ["/data:/data:ro"],
            "generates_proofs": True,
            "moorage": {
                "timeout": 5,
                "stream_idle_timeout": 6,
                "stream_timeout": 7,
                "start_timeout": 8,
                "health_path": "/ready",
                "concurrency": 2,
                "memory": "512MiB",
                "cpus": 1.5,
                "pids": 99,
                "string_output": "json",
                "accept_error_status": True,
                "isolation": "docker",
                "network": "internet",
            },
        }
    ],
}
NUMBERS = [
    ("startup_wait",),
    ("chain", "trail_head_blocks"),
    ("chain", "wallet", "max_gas_limit"),
    *(("chain", "snapshot_sync", key) for key in ("sleep", "batch_size", "starting_sub_id", "sync_period")),
    ("log", "max_file_size"),
    ("log", "backup_count"),
    *(("server", key) for key in ("port", "max_batch", "max_queue")),
    ("server", "rate_limit", "num_requests"),
    ("server", "rate_limit", "period"),
    ("results", "ttl"),
    ("results", "max"),
    ("containers", 0, "port"),
    ("containers", 0, "accepted_payments", ADDRESS),
    *(("containers", 0, "moorage", key) for key in ("timeout", "start_timeout", "concurrency", "cpus", "pids")),
]

Write = Callable[[Any], Path]
NO_HOST = "must have the name or address of a host, and a port from 1 to 65535 if any."


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a document to config.json; bytes as they are."""

    def written(document: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return path

    return written


def refusal(path: Path) -> list[str]:
    """Give the lines of the error, each without the file's name."""
    with pytest.raises(BadManifest) as caught:
        read(path)
    lines = caught.value.message.splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def one_container(**keys: Any) -> dict[str, Any]:
    return {"containers": [{"id": "a", "image": "i", **keys}]}


def changed(where: tuple[str | int, ...], value: Any) -> Any:
    """Give the full document with another value in one place."""
    document = json.loads(json.dumps(FULL))
    inner = document
    for part in where[:-1]:
        inner = inner[part]
    inner[where[-1]] = value
    return document


def value_at(config: Any, where: tuple[Any, ...]) -> Any:
    for part in where:
        if isinstance(config, tuple):
            config = config[part]
        elif isinstance(config, dict):
            config = config[part.lower()]
        else:
            config = getattr(config, str(part))
    return config


def test_an_empty_file_has_the_defaults_of_the_contract(write: Write) -> None:
    config = read(write({}))
    assert config == Config()
    assert (config.containers, config.manage_containers, config.startup_wait, config.docker) == ((), True, 5.0, None)
    assert (config.chain.enabled, config.chain.rpc_url, config.chain.registry_address) == (False, None, None)
    assert config.chain.trail_head_blocks == 1
    wallet = config.chain.wallet
    assert (wallet.private_key, wallet.payment_address, wallet.allowed_sim_errors) == (None, None, ())
    assert wallet.max_gas_limit == 5_000_000
    sync = config.chain.snapshot_sync
    assert (sync.sleep, sync.batch_size, sync.starting_sub_id, sync.sync_period) == (1.0, 500, 0, 0.5)
    assert (config.server.host, config.server.port, config.server.max_body) == ("127.0.0.1", 4000, 16 * MIB)
    assert config.server.rate_limit == RateLimit(num_requests=60, period=60)
    sources = ("127.0.0.1", "::1", "172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "192.168.0.0/16")
    assert config.status_sources == tuple(map(ip_network, sources))
    assert config.warnings == ()


def test_a_container_that_says_no_more_than_it_must_has_the_defaults_of_the_contract(write: Write) -> None:
    (container,) = read(write(one_container())).containers
    assert (container.id, container.image, container.url, container.bearer) == ("a", "i", "", "")
    assert (container.port, container.external, container.gpu, container.generates_proofs) == (3000, True, False, False)
    assert (container.accepted_payments, container.env) == ({}, {})
    assert container.allowed_ips == container.allowed_addresses == container.allowed_delegate_addresses == ()
    assert (container.description, container.command, container.volumes) == ("", (), ())
    ours = container.moorage
    assert (ours.timeout, ours.stream_idle_timeout, ours.stream_timeout) == (180, 60, 3600)
    assert (ours.string_output, ours.accept_error_status, ours.health_path) == ("python_repr", False, "/")
    assert (ours.network, ours.isolation, ours.directory) == (None, None, None)


def test_a_log_file_that_is_asked_for_has_the_defaults_of_the_contract(write: Write) -> None:
    assert read(write({})).log is None
    assert read(write({"log": {}})).log == Log(path="infernet_node.log", backup_count=2)
    assert Log().max_file_size == GIB


def test_every_key_is_read(write: Write) -> None:
    config = read(write(FULL))
    assert config.warnings == ()
    assert (config.startup_wait, config.manage_containers) == (1.5, True)
    assert (config.log and (config.log.path, config.log.max_file_size)) == ("node.log", 1024)
    assert config.docker == Docker(username="me", password="also secret")
    chain = config.chain
    assert (chain.enabled, chain.rpc_url, chain.trail_head_blocks) == (True, "http://localhost:8545", 0)
    assert (chain.registry_address, chain.wallet.payment_address) == (ADDRESS.lower(), ADDRESS.lower())
    assert chain.wallet.private_key == f"0x{KEY.lower()}"
    assert chain.wallet.allowed_sim_errors == ("not enough balance",)
    assert (chain.snapshot_sync.starting_sub_id, chain.snapshot_sync.sync_period) == (7, 2.0)
    assert (config.server.host, config.server.max_body, config.server.max_batch) == ("::1", MIB, 5)
    assert config.results == Results(ttl=60, max=10)
    assert config.status_sources == (ip_network("10.0.0.0/8"),)
    (container,) = config.containers
    assert (container.port, container.external, container.gpu) == (3010, False, True)
    assert container.accepted_payments == {ADDRESS.lower(): 10**30, ZERO: 0}
    assert container.allowed_ips == (ip_network("192.168.1.0/24"), ip_network("::1"))
    assert (container.allowed_addresses, container.allowed_delegate_addresses) == ((ADDRESS.lower(),), (ZERO,))
    assert container.command == ("--bind=0.0.0.0:3000", "--name=a b")
    assert container.env == {"NAME": "x", "N": "5", "FLAG": "True", "LIST": "[1]"}
    assert container.volumes == ("/data:/data:ro",)
    assert container.moorage == Extras(
        timeout=5, stream_idle_timeout=6, stream_timeout=7, start_timeout=8, health_path="/ready", concurrency=2,
        memory=512 * MIB, cpus=1.5, pids=99, string_output="json", accept_error_status=True, isolation="docker",  # type: ignore[arg-type]
        network="internet",
    )  # fmt: skip


@pytest.mark.parametrize("where", NUMBERS, ids=lambda where: ".".join(map(str, where)))
def test_a_number_may_be_written_as_a_string_and_a_switch_is_none(write: Write, where: tuple[str | int, ...]) -> None:
    assert value_at(read(write(changed(where, "3"))), where) == 3
    for wrong in (True, "three", [3], None, -1):
        if wrong is None and where[-1] in {"cpus", "pids"}:
            continue
        (line,) = refusal(write(changed(where, wrong)))
        assert line.startswith(f"`{'.'.join(map(str, where)).replace('.0.', '[0].')}`: ")


def test_our_keys_may_stand_flat_and_those_of_the_moorage_table_win(write: Write) -> None:
    flat = {"timeout": "9", "memory": "1GiB", "pids": 5, "health_path": "/up", "string_output": "json"}
    config = read(write(one_container(**flat, moorage={"memory": 1000})))
    assert config.warnings == ()
    ours = config.containers[0].moorage
    assert (ours.timeout, ours.memory, ours.pids, ours.health_path) == (9, 1000, 5, "/up")
    assert ours.string_output == "json"


def test_a_bad_value_is_reported_where_it_stands(write: Write) -> None:
    bad = {"containers": [{"id": "a", "image": "i", "memory": "much", "moorage": {"cpus": 0}}]}
    assert [line.partition(": ")[0] for line in refusal(write(bad))] == [
        "`containers[0].memory`", "`containers[0].moorage.cpus`"
    ]  # fmt: skip


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="nowhere"):
        read(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1 column 0"),
        (b'{\n  "containers": [],\n}', "line 3 column 1"),
        (b'{"a": "\xff"}', "line 1 column"),
        (b'{"startup_wait": NaN}', "line 1 column"),
        (b"[" * 100_000, "recursion limit"),
        (b"1" * 100_000, "number out of range"),
    ],
)
def test_what_is_not_json_is_refused_with_the_position(write: Write, content: bytes, said: str) -> None:
    path = write(content)
    with pytest.raises(BadManifest, match="is not valid JSON") as caught:
        read(path)
    assert said in caught.value.message


@pytest.mark.parametrize("document", [[], None, 5, "x"])
def test_a_file_holds_an_object(write: Write, document: Any) -> None:
    with pytest.raises(BadManifest, match="must hold a JSON object"):
        read(write(document))


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"containers": {}}, "`containers`: must be a list."),
        ({"containers": ["a"]}, "`containers[0]`: must be an object."),
        ({"chain": []}, "`chain`: must be an object."),
        ({"server": {"rate_limit": 5}}, "`server.rate_limit`: must be an object."),
        ({"manage_containers": "perhaps"}, "`manage_containers`: Input should be a valid boolean, unable to"),
        ({"startup_wait": [1]}, "`startup_wait`: Input should be a valid number."),
        (b'{"startup_wait": 1e999}', "`startup_wait`: Input should be a finite number."),
        ({"server": {"port": 65536}}, "`server.port`: Input should be less than or equal to 65535."),
        ({"server": {"max_body": "1 furlong"}}, "`server.max_body`: could not interpret byte unit: furlong."),
        ({"status_sources": ["10.0.0.0/33"]}, "`status_sources[0]`: must be an IP address or a range"),
        ({"docker": {"username": "me"}}, "`docker.password`: is missing."),
        ({"docker": {"password": "x"}}, "`docker.username`: is missing."),
        ({"chain": {"rpc_url": "localhost:8545"}}, "`chain.rpc_url`: must start with http(s):// or ws(s)://"),
        ({"chain": {"registry_address": "0x12"}}, "`chain.registry_address`: must be 20 bytes in hex"),
        ({"chain": {"wallet": {"payment_address": 0}}}, "`chain.wallet.payment_address`: Input should be a valid str"),
        ({"chain": {"wallet": {"private_key": "0x12"}}}, "`chain.wallet.private_key`: must be 32 bytes in hex"),
        ({"chain": {"wallet": {"private_key": "0" * 64}}}, "`chain.wallet.private_key`: is no valid private key."),
        ({"chain": {"wallet": {"private_key": "f" * 64}}}, "`chain.wallet.private_key`: is no valid private key."),
        ({"chain": {"snapshot_sync": {"batch_size": 0}}}, "`chain.snapshot_sync.batch_size`: Input should be greater"),
        ({"containers": [{"image": "i"}]}, "`containers[0].id`: is missing."),
        (one_container(id="a,b"), "`containers[0].id`: must have at least one character, and no comma or blank."),
        (one_container(id="a b"), "`containers[0].id`: must have at least one character, and no comma or blank."),
        (one_container(id=""), "`containers[0].id`: must have at least one character, and no comma or blank."),
        (one_container(id="a\0"), "`containers[0].id`: must have at least one character, and no comma or blank."),
        (one_container(id=5), "`containers[0].id`: Input should be a valid string."),
        (one_container(port=0), "`containers[0].port`: Input should be greater than or equal to 1."),
        (one_container(url="ftp://x"), "`containers[0].url`: must be http:// or https://, a host and at most a path."),
        *(
            (one_container(url=url), f"`containers[0].url`: {NO_HOST}")
            for url in ("http://x:65536", "http://x:y", "http://x:0", "http://:80", "http://[::1", "http://a..b")
        ),
        (one_container(bearer="a\nb"), "`containers[0].bearer`: must be visible ASCII"),
        (one_container(allowed_ips=["10.0.0.300"]), "`containers[0].allowed_ips[0]`: must be an IP address or a range"),
        (one_container(allowed_ips=[5]), "`containers[0].allowed_ips[0]`: must be an IP address or a range"),
        (one_container(allowed_addresses=["0xzz"]), "`containers[0].allowed_addresses[0]`: must be 20 bytes in hex"),
        (one_container(accepted_payments={"ETH": 1}), "`containers[0].accepted_payments.ETH`: must be 20 bytes in hex"),
        (one_container(accepted_payments={ZERO: 1.5}), f"`containers[0].accepted_payments.{ZERO}`: Input should be"),
        (one_container(accepted_payments=[]), "`containers[0].accepted_payments`: must be an object."),
        (one_container(command="say 'hello"), "`containers[0].command`: No closing quotation."),
        (one_container(command=["a"]), "`containers[0].command`: must be a string"),
        (one_container(env=["A=1"]), "`containers[0].env`: must be an object."),
        (one_container(env={"A=1": ""}), "`containers[0].env`: a name is empty or holds `=`"),
        (one_container(env={"A": "\0"}), "`containers[0].env`: a name is empty or holds `=`"),
        (one_container(volumes="/a:/b"), "`containers[0].volumes`: must be a list."),
        (one_container(moorage=True), "`containers[0].moorage`: must be an object."),
        (one_container(health_path="up"), "`containers[0].health_path`: must start with `/`"),
        (one_container(memory=2**63), "`containers[0].memory`: Input should be less than"),
        (one_container(memory="9" * 300 + "PB"), "`containers[0].memory`: could not parse"),
        (one_container(string_output="xml"), "`containers[0].string_output`: Input should be 'python_repr' or 'json'."),
        (one_container(moorage={"network": "host"}), "`containers[0].moorage.network`: Input should be 'none' or 'int"),
        (one_container(moorage={"directory": "gone"}, command="x"), "`containers[0].moorage.directory`: must be a"),
        (one_container(moorage={"directory": "x" * 5000}, command="x"), "`containers[0].moorage.directory`: must be"),
        (one_container(accepted_payments={"\n": 1}), "`containers[0].accepted_payments.'\\n'`: must be 20 bytes"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_key_and_the_reason(write: Write, document: Any, line: str) -> None:
    (said,) = refusal(write(document))
    assert said.startswith(line)
    assert said.endswith(".")


def test_a_managed_container_needs_an_image(write: Write) -> None:
    said = "image must be defined when manage_containers is set to true."
    document = {"containers": [{"id": "a"}, {"id": "b", "image": "i"}, {"id": "c", "image": "", "url": "http://c"}]}
    assert refusal(write(document)) == [f"`containers[0].image`: {said}", f"`containers[2].image`: {said}"]
    assert len(read(write({**document, "manage_containers": False})).containers) == 3
    assert len(read(write({**document, "manage_containers": "false"})).containers) == 3


def test_a_folder_stands_in_for_the_image_and_counts_from_where_the_file_is(write: Write, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    document = {"containers": [{"id": "a", "command": "python main.py", "moorage": {"directory": "app"}}]}
    (container,) = read(write(document)).containers
    assert (container.moorage.directory, container.command) == (tmp_path / "app", ("python", "main.py"))
    del document["containers"][0]["command"]
    said = "command must be defined when moorage.directory is set."
    assert refusal(write(document)) == [f"`containers[0].command`: {said}"]


@pytest.mark.parametrize(
    ("chain", "keys"),
    [
        ({}, ["rpc_url", "registry_address", "wallet", "wallet.private_key"]),
        ({"wallet": {"max_gas_limit": 1}}, ["rpc_url", "registry_address", "wallet.private_key"]),
        (
            {"rpc_url": "", "registry_address": "", "wallet": {"private_key": ""}},
            ["rpc_url", "registry_address", "wallet.private_key"],
        ),
        ({"rpc_url": None, "registry_address": ADDRESS, "wallet": {"private_key": KEY}}, ["rpc_url"]),
        ({"rpc_url": "ws://x", "registry_address": ADDRESS, "wallet": None}, ["wallet", "wallet.private_key"]),
    ],
)
def test_a_chain_that_is_enabled_needs_its_keys(write: Write, chain: Any, keys: list[str]) -> None:
    lines = [f"`chain.{key}`: {key} must be defined when chain is enabled." for key in keys]
    assert refusal(write({"chain": {"enabled": True, **chain}})) == lines
    assert not read(write({"chain": {"enabled": False, **chain}})).chain.enabled


def test_two_containers_of_one_name_are_refused(write: Write) -> None:
    document = {"containers": [{"id": name, "image": "i"} for name in ("a", "b", "a", "a")]}
    assert refusal(write(document)) == [
        f"`containers[{index}].id`: 'a' is the id of containers[0] already." for index in (2, 3)
    ]


def test_every_bad_key_is_reported_at_once(write: Write) -> None:
    """Contract, sections 2.1 and 8 (8): whichever check finds it."""
    document = {
        "startup_wait": "soon",
        "chain": {"enabled": True, "rpc_url": "x", "trail_head_blocks": -1},
        "docker": {"username": "me"},
        "server": {"port": "http"},
        "containers": [{"id": "a,b", "port": True}, {"id": "b", "image": 5}, {"image": "i"}, 7],
    }
    assert {line.split("`")[1] for line in refusal(write(document))} == {
        "startup_wait", "chain.rpc_url", "chain.trail_head_blocks", "chain.registry_address", "chain.wallet",
        "chain.wallet.private_key", "docker.password", "server.port", "containers[0].id", "containers[0].port",
        "containers[0].image", "containers[1].image", "containers[2].id", "containers[3]",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "key", "nearest"),
    [
        ({"server": {}, "chian": {}}, "chian", "chain"),
        ({"warnings": ["mine"]}, "warnings", "redis"),
        ({"chain": {"rcp_url": "http://x"}}, "chain.rcp_url", "rpc_url"),
        ({"chain": {"wallet": {"private_ky": KEY}}}, "chain.wallet.private_ky", "private_key"),
        ({"server": {"rate_limit": {"requests": 5}}}, "server.rate_limit.requests", "num_requests"),
        (one_container(imge="x"), "containers[0].imge", "image"),
        (one_container(timeot=5), "containers[0].timeot", "timeout"),
        (one_container(network="internet"), "containers[0].network", "memory"),
        (one_container(moorage={"memry": 5}), "containers[0].moorage.memry", "memory"),
        (one_container(**{"a\nb": 5}), "containers[0].'a\\nb'", "command"),
    ],
)
def test_an_unknown_key_is_ignored_with_a_warning_that_names_the_nearest(
    write: Write, document: Any, key: str, nearest: str
) -> None:
    path = write(document)
    (warning,) = read(path).warnings
    assert warning.startswith(f"{path}: unknown key `{key}`; did you mean `{nearest}`? Known: ")
    assert KEY not in warning


def test_keys_without_meaning_here_are_named_once_with_what_replaces_them(write: Write) -> None:
    (warning,) = read(write({"redis": {"host": "x"}, "forward_stats": True, "log_path": "x"})).warnings
    assert all(f"`{key}`" in warning for key in ("redis", "forward_stats", "log_path"))
    assert "the node's own store" in warning


def test_the_url_of_a_container_that_the_node_runs_itself_is_ignored_with_a_warning(write: Write) -> None:
    path = write(one_container(url="http://remote", bearer=BEARER))
    (warning,) = read(path).warnings
    assert "`containers[0].url` and `containers[0].bearer` are ignored" in warning
    assert (
        read(write({**one_container(url="http://remote/", bearer=BEARER), "manage_containers": False})).warnings == ()
    )
    assert read(write(one_container(url="", bearer=""))).warnings == ()


def test_the_slash_at_the_end_of_a_url_is_left_off(write: Write) -> None:
    document = {**one_container(url="http://remote:1/base/"), "manage_containers": False}
    assert read(write(document)).containers[0].url == "http://remote:1/base"


def test_registry_credentials_without_a_password_are_none(write: Write) -> None:
    """The network's own samples have `"password": ""`."""
    config = read(write({"docker": {"username": "your-username", "password": ""}}))
    assert config.docker is None
    assert "without credentials" in config.warnings[0]
    assert read(write({"docker": {"username": "", "password": ""}})).warnings == ()


def test_an_ipv4_range_in_ipv6_is_the_ipv4_range(write: Write) -> None:
    document = one_container(allowed_ips=["::ffff:10.1.2.3", "::ffff:10.0.0.0/104", "::/0"])
    found = read(write(document)).containers[0].allowed_ips
    assert found == tuple(map(ip_network, ("10.1.2.3/32", "10.0.0.0/8", "::/0")))
    assert ip_address("10.9.9.9") in found[1]


SECRETS = (KEY, KEY.lower(), BEARER, "also secret", "API-KEY", "value of env")


def _secretive(**wallet: Any) -> dict[str, Any]:
    return {
        "docker": {"username": "me", "password": "also secret"},
        "chain": {"rpc_url": "https://rpc.example/API-KEY", "wallet": {"private_key": KEY, **wallet}},
        **one_container(bearer=BEARER, url="http://x", env={"KEY": "value of env"}),
    }


def test_no_secret_is_in_a_repr_or_warning(write: Write) -> None:
    config = read(write(_secretive(unknown=KEY)))
    said = repr(config) + "".join(config.warnings)
    assert "unknown" in said
    assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize(
    "document",
    [
        _secretive(private_key=f"{KEY}00"),
        _secretive(private_key=f"{KEY} "),
        _secretive(private_key=[KEY]),
        {"chain": {"wallet": KEY}},
        {"chain": {"enabled": True, "rpc_url": "rpc.example/API-KEY", "wallet": {"private_key": KEY}}},
        one_container(bearer=f"{BEARER}\n"),
        one_container(bearer={"token": BEARER}),
        one_container(env="value of env"),
        {"docker": {"username": "me", "password": ["also secret"]}},
    ],
)
def test_no_secret_is_in_an_error(write: Write, document: Any) -> None:
    with pytest.raises(BadManifest) as caught:
        read(write(document))
    error = caught.value
    said = "".join(traceback.format_exception(error)) + repr((error, error.message, error.hint, error.detail))
    assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize(
    ("wanted", "taken", "assigned"),
    [
        ([], set(), ()),
        ([3000], set(), (3000,)),
        ([3000, 3000, 3000], set(), (3000, 3999, 3998)),
        ([3000, 3001], {3000, 3999}, (3998, 3001)),
        ([3000, 3000, 3999], set(), (3000, 3999, 3998)),
        ([3999, 3000, 3000], set(), (3999, 3000, 3998)),
    ],
)
def test_a_host_port_that_is_taken_gives_way_to_the_first_free_one_from_3999_down(
    wanted: list[int], taken: set[int], assigned: tuple[int, ...]
) -> None:
    assert assign_ports(wanted, taken.__contains__) == assigned


def test_a_machine_without_a_free_port_is_an_error() -> None:
    with pytest.raises(AddressUnavailable, match="3000"):
        assign_ports([3000], lambda port: True)


def test_thirty_containers_load_at_once(write: Write) -> None:
    """Contract, sections 6 (10) and 8 (13)."""
    path = write({"containers": [{**FULL["containers"][0], "id": f"c{index}"} for index in range(30)]})  # type: ignore[index]
    start = time.perf_counter()
    config = read(path)
    ports = assign_ports([container.port for container in config.containers], lambda port: False)
    assert time.perf_counter() - start < 0.5
    assert len(set(ports)) == 30


def _known(table: Any) -> Iterator[str]:
    for key, value in table.items():
        yield key
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _known(inner)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**310)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(
        ["", "1GB", "9" * 300 + "PB", "1" * 5000, "a,b", "'", KEY, ADDRESS, "::1/200", "http://x", "/", "\0"]
    )
)
KEYS = st.sampled_from(sorted({*_known(FULL), "directory", "redis"})) | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))
WRONG_SOMEWHERE = st.builds(changed, st.sampled_from([*NUMBERS, *((key,) for key in FULL)]), VALUES)
ENTRIES = st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(_known(FULL["containers"][0])), VALUES))  # type: ignore[index]


@settings(max_examples=150, deadline=None)
@given(document=VALUES | WRONG_SOMEWHERE | st.builds(lambda entry: {"containers": [entry]}, ENTRIES))
def test_no_document_makes_the_reader_raise_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, document: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document))
    with contextlib.suppress(MoorageError):
        assert isinstance(read(path), Config)
