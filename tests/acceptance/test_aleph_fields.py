"""Every field of a program's message, seen from inside the program (contract, sections 2.3 to 2.5 and 2.8)."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.networks.aleph.messages.hashes import host_label
from tests.aleph import RUNTIME
from tests.aleph_node import RAW, AlephNode, aleph_node
from tests.aleph_probe import ASGI, EXECUTABLE, inside, packed, resources


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, aleph_layers: Path) -> Iterator[AlephNode]:
    with aleph_node(tmp_path_factory.mktemp("fields") / "data", layers=aleph_layers) as running:
        yield running


@pytest.fixture(scope="module")
def probe(node: AlephNode) -> str:
    """Give a program that declares nothing."""
    return node.deploy(ASGI)


# code


@pytest.mark.parametrize("encoding", ["zip", "squashfs", "tar.gzip"])
def test_an_application_comes_from_an_archive_of_each_encoding(node: AlephNode, encoding: str) -> None:
    files = {"web/main.py": ASGI, "web/__init__.py": "", "note": "here"}
    program = node.deploy(packed(files, encoding), encoding=encoding, entrypoint="web.main:app")
    place = "/opt" if encoding == "zip" else "/opt/code"
    code = "print(sys.path[0], os.getcwd(), __name__, open('/opt/code/note').read(), sys.flags.optimize)"
    assert inside(node, program, code) == f"{place} / web.main here 0"


@pytest.mark.parametrize("encoding", ["zip", "squashfs", "tar.gzip"])
def test_an_executable_comes_from_an_archive_of_each_encoding_and_need_not_be_marked(
    node: AlephNode, encoding: str
) -> None:
    program = node.deploy(packed({"run": EXECUTABLE, "note": "here"}, encoding), encoding=encoding, entrypoint="run")
    assert inside(node, program, "print(sys.argv, os.getcwd(), open('/opt/code/note').read())") == (
        "['/opt/code/run'] / here"
    )


def test_plain_code_is_a_module_with_its_own_imports_and_functions(node: AlephNode) -> None:
    program = node.deploy("import json\ndef helper():\n    return json.dumps([1])\n" + ASGI, entrypoint="web:app")
    assert inside(node, program, "print(helper(), __name__, __file__)") == "[1] web /opt/code/web.py"


def test_a_plain_executable_is_told_by_its_first_bytes(node: AlephNode) -> None:
    program = node.deploy(EXECUTABLE, entrypoint="server", more={"args": ["--fast", "a b"]})
    assert inside(node, program, "print(sys.argv)") == "['/opt/code/server', '--fast', 'a b']"


def test_code_args_are_the_arguments_of_an_application(node: AlephNode) -> None:
    program = node.deploy(ASGI, more={"args": ["--fast", "a b"]})
    assert inside(node, program, "print(sys.argv)") == "['main:app', '--fast', 'a b']"


def test_code_interface_overrules_what_the_code_looks_like(node: AlephNode) -> None:
    program = node.deploy(EXECUTABLE, entrypoint="odd:name", more={"interface": "executable"})
    assert inside(node, program, "print(sys.argv)") == "['/opt/code/odd:name']"
    application = node.deploy("#!/bin/sh\n" + ASGI, entrypoint="app", more={"interface": "asgi"})
    assert inside(node, application, "print(__name__)") == "main"


@pytest.mark.parametrize(
    ("entrypoint", "argv"),
    [("run --flag 'a b'", "['/opt/code/run', '--flag', 'a b', 'arg']"), ("python3 run x", "['run', 'x', 'arg']")],
)
def test_an_entrypoint_with_arguments_is_a_command(node: AlephNode, entrypoint: str, argv: str) -> None:
    program = node.deploy({"run": EXECUTABLE}, entrypoint=entrypoint, more={"args": ["arg"]})
    assert inside(node, program, "print(sys.argv, os.getcwd())") == f"{argv} /opt/code"


def test_two_executables_listen_on_the_same_port_at_once(node: AlephNode) -> None:
    programs = [node.deploy({"run": EXECUTABLE, "id": str(number)}, entrypoint="run") for number in range(2)]
    assert [inside(node, each, "print(open('/opt/code/id').read())") for each in programs] == ["0", "1"]


def test_packages_of_a_zip_and_of_a_volume_are_importable_and_beat_those_of_the_runtime(node: AlephNode) -> None:
    own = {"main.py": "import msgpack\n" + ASGI, "packages/msgpack.py": "ours = 'zip'", "packages/extra.py": "x = 1"}
    assert inside(node, node.deploy(own), "import extra; print(msgpack.ours, extra.x)") == "zip 1"
    volume = {"ref": node.file(packed({"msgpack.py": "ours = 'volume'"}, "squashfs")), "mount": "/opt/packages"}
    program = node.deploy("import msgpack\n" + ASGI, volumes=[volume])
    assert inside(node, program, "print(msgpack.ours, msgpack.__file__)") == "volume /opt/packages/msgpack.py"


def test_what_the_runtime_brings_is_importable(node: AlephNode, probe: str) -> None:
    code = "import fastapi, starlette, pydantic, aiohttp, msgpack, cytoolz, aleph_message, aleph.sdk; print('all')"
    assert inside(node, probe, code) == "all"


# data


@pytest.mark.parametrize("encoding", ["zip", "tar.gzip", "squashfs", "plain"])
@pytest.mark.parametrize("kind", ["asgi", "executable"])
def test_data_is_at_its_mount_and_at_data(node: AlephNode, encoding: str, kind: str) -> None:
    plain = encoding == "plain"
    ref = node.file(f"{kind} data".encode() if plain else packed({"a/b.txt": f"{kind} data"}, encoding))
    data = {"encoding": encoding, "mount": "/srv/in", "ref": ref, "use_latest": False}
    asgi = kind == "asgi"
    program = node.deploy(ASGI if asgi else EXECUTABLE, entrypoint="main:app" if asgi else "run", data=data)
    name = "data" if plain else "a/b.txt"
    code = f"print([open(f'{{place}}/{name}').read() for place in ('/srv/in', '/data')])"
    assert inside(node, program, code) == f"['{kind} data', '{kind} data']"


# use_latest


@pytest.mark.parametrize("latest", [True, False])
def test_references_follow_updates_where_they_say_so(node: AlephNode, latest: bool) -> None:
    data, volume = (node.file(b"old") for _ in range(2))
    program = node.deploy(
        f"VERSION = 'old'\n{ASGI}",
        more={"use_latest": latest},
        data={"encoding": "plain", "mount": "/data", "ref": data, "use_latest": latest},
        volumes=[{"ref": volume, "mount": "/volume", "use_latest": latest}],
    )
    look = "print(VERSION, open('/data/data').read(), open('/volume/data').read())"
    assert inside(node, program, look) == "old old old"
    for ref in (data, volume):
        node.file(b"new", ref=ref)
    node.file(f"VERSION = 'new'\n{ASGI}".encode(), ref=code_of(node, program))
    assert inside(node, program, look) == ("new new new" if latest else "old old old")


# on


def test_without_on_http_requests_are_refused(node: AlephNode) -> None:
    program = node.deploy(ASGI, on={"http": False})
    expected = {"error": f"Program {program} does not accept HTTP requests (on.http is false)"}
    by_host = node.client.get("/", headers={"host": f"{host_label(program)}.example.org"})
    for answer in (node.get(program), by_host):
        assert (answer.status_code, answer.json()) == (403, expected)


# environment


def test_a_program_finds_the_environment_of_the_network(node: AlephNode) -> None:
    program = node.deploy(ASGI)
    label = host_label(program)
    found = json.loads(inside(node, program, "print(json.dumps(dict(os.environ)))"))
    assert {name: value for name, value in found.items() if name.startswith("ALEPH_")} == {
        "ALEPH_INIT_VERSION": "2.0.0",
        "ALEPH_API_HOST": "http://localhost",
        "ALEPH_API_UNIX_SOCKET": "/tmp/socat-socket",
        "ALEPH_REMOTE_CRYPTO_HOST": "http://localhost",
        "ALEPH_REMOTE_CRYPTO_UNIX_SOCKET": "/tmp/socat-socket",
        "ALEPH_ADDRESS_TO_USE": label,
    }
    assert found["HOME"] == "/root"
    assert "PYTHONHASHSEED" not in found
    code = "print(socket.gethostname(), os.getuid(), os.access('/', os.W_OK), os.path.exists('/tmp/socat-socket'))"
    assert inside(node, program, code) == f"{label} 0 True True"
    assert base64.b32decode(label.upper() + "====").hex() == program


def test_the_root_file_system_is_private_and_lost_at_the_stop(node: AlephNode, probe: str) -> None:
    for code in ("print(open('/mark', 'w').write('x'))", "print(open('/opt/code/mark', 'w').write('x'))"):
        assert inside(node, probe, code) == "1"
    restart(node, probe)
    assert inside(node, probe, "print([os.path.exists(f'{at}/mark') for at in ('', '/opt/code')])") == "[False, False]"


def test_variables_are_set_before_the_import_and_win_over_those_of_the_runtime(node: AlephNode) -> None:
    variables = {"GREETING": "hello", "ALEPH_API_HOST": "http://elsewhere", "HOME": "/home"}
    program = node.deploy("import os\nEARLY = os.environ['GREETING']\n" + ASGI, variables=variables)
    assert inside(node, program, "print(EARLY, os.environ['ALEPH_API_HOST'], os.environ['HOME'])") == (
        "hello http://elsewhere /home"
    )


def test_a_reproducible_program_has_a_fixed_seed_time_zone_and_locale(node: AlephNode) -> None:
    environment = {"reproducible": True, "internet": True}
    program = node.deploy(ASGI, environment=environment)
    code = "print([os.environ[name] for name in ('PYTHONHASHSEED', 'TZ', 'LC_ALL')], hash('a'))"
    first = inside(node, program, code)
    assert first.startswith("['0', 'UTC', 'C.UTF-8']")
    restart(node, program)
    assert inside(node, program, code) == first
    assert "may differ from run to run" in said(node, program)


def test_aleph_api_opens_the_guest_api_and_without_it_only_the_cache_answers(node: AlephNode, probe: str) -> None:
    assert guest(node, probe, "/properties") == '403 {"error":"aleph_api is not enabled for this program"}'
    assert guest(node, probe, "/api/v0/version").startswith("403 ")
    assert guest(node, probe, "/cache/") == "200 []"
    program = node.deploy(ASGI, environment={"aleph_api": True})
    assert guest(node, program, "/properties").startswith('200 {"chain":"ETH","curve":"secp256k1"')
    assert guest(node, program, "/api/v0/version").startswith("200 ")


def test_a_shared_cache_is_that_of_the_owner(node: AlephNode) -> None:
    one, other = (node.deploy(ASGI, environment={"shared_cache": True}) for _ in range(2))
    alone = node.deploy(ASGI)
    assert guest(node, one, "/cache/key", "PUT", "common") == "200 true"
    assert guest(node, alone, "/cache/key", "PUT", "own") == "200 true"
    assert [guest(node, each, "/cache/key") for each in (one, other, alone)] == ["200 common", "200 common", "200 own"]


# resources


def test_a_program_that_takes_more_memory_than_its_own_dies_and_starts_again(node: AlephNode, probe: str) -> None:
    program = node.deploy(ASGI, resources=resources(memory=128))
    assert inside(node, program, "print(len(bytearray(20 << 20)))") == str(20 << 20)
    answer = node.client.post(f"/vm/{program}/", content="x = bytearray(500 << 20)")
    assert (answer.status_code, answer.text) == (502, "VM did not respond and was shut down")
    assert inside(node, program, "print('again')") == "again"
    assert inside(node, probe, "print('unaffected')") == "unaffected"


def test_a_program_has_the_cpus_that_it_asked_for(node: AlephNode) -> None:
    program = node.deploy(ASGI, resources=resources(vcpus=1))
    code = """
import multiprocessing, resource
def spin():
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
begun = time.monotonic()
spinning = [multiprocessing.get_context("fork").Process(target=spin) for _ in range(4)]
for each in spinning: each.start()
for each in spinning: each.join()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print((used.ru_utime + used.ru_stime) / (time.monotonic() - begun) < 1.3)
"""
    assert inside(node, program, code) == "True"


def test_an_endless_loop_is_ended_after_its_seconds_and_disturbs_no_other_program(node: AlephNode, probe: str) -> None:
    program = node.deploy(ASGI, resources=resources(seconds=1))
    answer = node.client.post(f"/vm/{program}/", content="while True: pass")
    assert (answer.status_code, answer.text) == (504, "Program did not respond within `resource.seconds`")
    assert inside(node, probe, "print('unaffected')") == "unaffected"
    assert inside(node, program, "print('again')") == "again"


# the rest


def test_authorized_keys_are_those_of_the_guests_root(node: AlephNode) -> None:
    program = node.deploy(ASGI, authorized_keys=["ssh-ed25519 AAAA one", "ssh-rsa BBBB two"])
    code = "print(open('/root/.ssh/authorized_keys').read())"
    assert inside(node, program, code) == "ssh-ed25519 AAAA one\nssh-rsa BBBB two"


def test_payment_and_metadata_are_kept_and_given_back(node: AlephNode) -> None:
    declared = {"payment": {"chain": "ETH", "type": "hold"}, "metadata": {"name": "mine", "tags": ["a"]}}
    program = node.deploy(RAW, **declared)
    content = node.client.get(f"/api/v0/messages/{program}").json()["message"]["content"]
    assert {key: content[key] for key in declared} == declared
    assert node.get(program).text == "hello"


# drafts


def bare(node: AlephNode, document: dict[str, Any]) -> str:
    """Take in a document without an envelope, as the operator's own."""

    async def adopt() -> str:
        adopted = await node.surface.publisher.adopt(json.dumps(document).encode(), {})
        assert not adopted.missing
        return str(adopted.item_hash)

    return node.served.portal.call(adopt)


INLINE = "async def application(scope, receive, send):\n    await send({'output': 'hola!'})\n"


def test_all_four_generations_answer_alike(node: AlephNode) -> None:
    ref = node.file(INLINE.encode())
    common: dict[str, Any] = {"address": node.wallet.address, "type": "vm-function"}
    draft: dict[str, Any] = {"on": {"http": True}, "resources": {"seconds": 20}, "runtime": {"ref": RUNTIME}}
    inline = {"encoding": "plain", "entrypoint": "application", "content": INLINE}
    referred = {"encoding": "plain", "entrypoint": "application", "ref": ref}
    programs = [
        bare(
            node, {**common, "time": node.now(), "content": {**draft, "code": inline, "runtime": {"address": RUNTIME}}}
        ),
        bare(node, {**common, "time": node.now(), "content": {**draft, "code": {**referred, "latest_amend": True}}}),
        node.deploy(INLINE, entrypoint="application"),
        node.deploy(INLINE, entrypoint="main:application", on={"http": True, "aleph": [{"type": "POST"}]}),
    ]
    for program in programs:
        answer = node.get(program)
        assert (answer.status_code, answer.text) == (200, "hola!"), node.log(program)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


# tools of this file


def code_of(node: AlephNode, program: str) -> str:
    """Give the reference of a program's code."""
    content = node.client.get(f"/api/v0/messages/{program}").json()["message"]["content"]
    return str(content["code"]["ref"])


def restart(node: AlephNode, program: str) -> None:
    """Stop a program, which starts again when it is asked."""
    instance = node.instance(program)
    assert node.served.portal.call(node.surface.services.stop, instance.spec.key)


def said(node: AlephNode, program: str) -> str:
    """Give what the node says of a program in its log."""
    return "\n".join(line.text for line in node.log(program) if line.source == "system")


GUEST = """
import http.client
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/tmp/socat-socket")
connection.request({method!r}, {path!r}, {body!r})
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


def guest(node: AlephNode, program: str, path: str, method: str = "GET", body: str = "") -> str:
    """Ask the guest API from inside a program."""
    return inside(node, program, GUEST.format(method=method, path=path, body=body))
