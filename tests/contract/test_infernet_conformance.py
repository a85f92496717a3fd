"""`moorage check` of Infernet containers: a good one passes, and each of many broken ones is told what is broken.

Item 6 of the acceptance list: containers broken in ten different ways have each defect named.
"""

import json
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from moorage.errors import ServiceUnavailable
from moorage.model.jobs import JSON
from moorage.networks.base import Endpoint, Finding
from moorage.networks.infernet import probe
from moorage.networks.infernet.calls import Calls, remote
from moorage.networks.infernet.config import Container, Extras
from moorage.networks.infernet.conformance import RULES, check
from tests.containers import Good, Refused, listening

pytestmark = pytest.mark.anyio

READY = "it becomes ready on port 3000"
ANSWERED = "a request is answered in full and in time"
EXISTS = "POST /service_output exists"
STATUS = "a success has a 2xx status"
AGAIN = "a connection can be used again"
TYPE = "an answer has a JSON media type"
VALID = "an answer is valid JSON"
ERROR = "an error has an error status"
ODD = "data that it cannot use is refused in JSON"
ONCHAIN = "input from the chain is taken"
EMPTY = "empty input from the chain is taken or refused in JSON"
FIRST = "input from the chain is taken by the first of several containers"
LAST = "output for the chain is given by the last of several containers"
DELEGATED = "output for the chain is given for delegated input"
OBJECT = "output for the chain is an object without an error code"
FIVE = "output for the chain lacks none of the five keys"
HEX = "the five keys hold hexadecimal without 0x"
PROOF = "a proof is there where one is required"
RESOURCES = "GET /service-resources gives JSON"
CROWD = "20 requests at once are answered"
STREAM = "a stream is given, without requires_proof in the request"

TRACEBACK = b"<!doctype html>\n<title>500 Internal Server Error</title>"

Findings = Mapping[str, Finding]


async def checked(
    broken: type[Good],
    *,
    data: Mapping[str, JSON] | None = None,
    timeout: float = 30.0,
    string_output: Any = "python_repr",
    generates_proofs: bool = False,
) -> Findings:
    extras = Extras(timeout=timeout, string_output=string_output)
    container = Container(id="shout", generates_proofs=generates_proofs, moorage=extras)
    with listening(broken) as url, Calls("shout", remote, url=url) as calls:
        return by_rule(await check(container, calls, data))


def by_rule(findings: tuple[Finding, ...]) -> Findings:
    found = {finding.rule: finding for finding in findings}
    assert list(found) == [rule.name for rule in RULES], "each rule is told of once"
    return found


def verdicts(findings: Findings, verdict: str) -> set[str]:
    return {rule for rule, finding in findings.items() if finding.verdict == verdict}


def assert_only(findings: Findings, rule: str, *, quotes: str, hint: str) -> None:
    """Assert that one rule failed, quoting what broke it, with advice; and that all that is said can be read."""
    failed = {each: findings[each].message for each in verdicts(findings, "failed")}
    assert list(failed) == [rule]
    assert quotes in failed[rule]
    assert hint in (findings[rule].hint or "")
    assert all(len(finding.message) < 600 for finding in findings.values())


def assert_left_alone(findings: Findings, *passed: str) -> None:
    """Assert that nothing was tried after the rule that failed."""
    assert verdicts(findings, "passed") == set(passed)
    rest = verdicts(findings, "not_applicable")
    assert len(rest) == len(RULES) - len(passed) - 1
    assert all(findings[rule].message for rule in rest)


# Good ones


async def test_a_good_container_passes_everything() -> None:
    findings = await checked(Good, generates_proofs=True)
    assert verdicts(findings, "passed") == {rule.name for rule in RULES}
    assert findings[READY].message == "GET / is answered with HTTP 404."
    assert findings[STREAM].message.startswith("5 bytes in ")


async def test_a_container_that_gives_no_proofs_need_not() -> None:
    findings = await checked(Good)
    assert verdicts(findings, "not_applicable") == {PROOF}
    assert verdicts(findings, "failed") == set()


async def test_a_container_that_serves_nothing_but_plain_requests_breaks_no_rule() -> None:
    class Plain(Good):
        def serve(self, request: dict[str, Any]) -> None:
            if (request["source"], request["destination"]) != (1, 1):
                raise Refused("off-chain only")
            super().serve(request)

        def get(self) -> None:
            self.send(404, "text/html", b"<h1>Not found</h1>")

    findings = await checked(Plain, generates_proofs=True)
    assert verdicts(findings, "failed") == set()
    assert verdicts(findings, "not_applicable") == {
        ONCHAIN, FIRST, LAST, DELEGATED, OBJECT, FIVE, HEX, PROOF, RESOURCES, STREAM,
    }  # fmt: skip
    assert "off-chain only" in findings[ONCHAIN].message


class Picky(Good):
    def text_of(self, request: dict[str, Any]) -> str:
        if request["source"] == 1 and (not isinstance(request["data"], dict) or "prompt" not in request["data"]):
            raise Refused("prompt is missing")
        return "text"


async def test_a_refusal_of_the_sample_data_is_no_failure() -> None:
    findings = await checked(Picky)
    assert verdicts(findings, "failed") == set()
    assert {STATUS, TYPE, VALID} <= verdicts(findings, "not_applicable")
    assert "give real data with --data. HTTP 400" in findings[STATUS].message
    assert "prompt is missing" in findings[STATUS].message


async def test_real_data_takes_the_place_of_the_sample() -> None:
    findings = await checked(Picky, data={"prompt": "hi"})
    assert {STATUS, TYPE, VALID, ONCHAIN, DELEGATED} <= verdicts(findings, "passed")


async def test_a_refusal_of_real_data_is_a_failure() -> None:
    findings = await checked(Picky, data={"question": "hi"})
    assert_only(findings, STATUS, quotes="prompt is missing", hint="--data")


async def test_a_redirect_is_followed_and_remarked_on() -> None:
    class Slashed(Good):
        def post(self, body: bytes) -> None:
            if self.path == "/service_output":
                self.send_response(308)
                self.send_header("Location", "/service_output/")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.path = "/service_output"
            super().post(body)

    findings = await checked(Slashed)
    assert verdicts(findings, "failed") == set()
    assert findings[EXISTS].message.startswith("It redirects to /service_output/")


async def test_a_page_of_health_that_redirects_for_ever_is_a_sign_of_life() -> None:
    class Wandering(Good):
        def get(self) -> None:
            if self.path == "/":
                self.send_response(302)
                self.send_header("Location", "/")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().get()

    findings = await checked(Wandering)
    assert verdicts(findings, "failed") == set()
    assert findings[READY].message == "GET / is answered with HTTP 302."


async def test_a_container_that_keeps_no_connection_is_only_slower() -> None:
    class Old(Good):
        protocol_version = "HTTP/1.0"

        def stream(self, request: dict[str, Any], text: str) -> None:
            self.send(200, "text/plain", text.encode())

    findings = await checked(Old)
    assert verdicts(findings, "failed") == set()
    assert findings[AGAIN].message.startswith("It closes each connection")


@pytest.mark.parametrize(
    ("style", "text"), [("python_repr", "{'ok': True, 'code': '200'}"), ("json", '{"ok": true, "code": "200"}')]
)
async def test_an_object_for_the_chain_is_shown_as_the_string_it_becomes(style: str, text: str) -> None:
    class Free(Good):
        def for_chain(self, request: dict[str, Any], text: str) -> Any:
            return {"ok": True, "code": "200"}

    findings = await checked(Free, string_output=style)
    assert verdicts(findings, "failed") == set()
    assert text in findings[FIVE].message.replace("\\", "")
    assert findings[HEX].verdict == "not_applicable"


async def test_a_code_that_is_no_error_may_be_in_an_output_off_the_chain() -> None:
    class Coder(Good):
        def succeed(self, value: Any) -> None:
            super().succeed({"code": "print('hello')", "error": None} if "output" in value else value)

        def text_without_input(self, data: dict[str, Any]) -> str:
            return "text"

    assert verdicts(await checked(Coder), "failed") == set()


async def test_a_stream_without_end_is_left_after_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ticker(Good):
        def stream(self, request: dict[str, Any], text: str) -> None:
            self.start(200, "text/plain", chunked=True)
            while not self.stopping.wait(0.01):
                self.send_chunk(b"tick")

    monkeypatch.setattr(probe, "PATIENCE", 2)
    findings = await checked(Ticker)
    assert verdicts(findings, "failed") == set()
    assert " bytes in " in findings[STREAM].message


async def test_a_large_stream_is_left_after_its_beginning() -> None:
    class Flood(Good):
        def stream(self, request: dict[str, Any], text: str) -> None:
            self.start(200, "application/octet-stream", chunked=True)
            while not self.stopping.is_set():
                self.send_chunk(bytes(65536))

    findings = await checked(Flood)
    assert verdicts(findings, "failed") == set()
    assert findings[STREAM].message.startswith("more than ")


# Not there


async def test_a_container_that_never_listens_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Calls("mute", remote, url=f"http://127.0.0.1:{port}") as calls:
        findings = by_rule(await check(Container(id="mute"), calls))
    assert_only(findings, READY, quotes=f"GET /: Cannot connect to host 127.0.0.1:{port}", hint="--bind=0.0.0.0:3000")
    assert_left_alone(findings)


async def test_a_container_that_does_not_start_is_told_what_it_said_last() -> None:
    @asynccontextmanager
    async def acquire() -> AsyncIterator[Endpoint]:
        raise ServiceUnavailable("Its process ended with status 1. It said last: No module named 'flask'")
        yield

    with Calls("lame", acquire) as calls:
        findings = by_rule(await check(Container(id="lame"), calls))
    assert_only(findings, READY, quotes="It said last: No module named 'flask'", hint="--bind=0.0.0.0:3000")
    assert_left_alone(findings)


async def test_a_container_that_takes_connections_and_says_nothing_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Calls("mute", remote, url=url) as calls:
            findings = by_rule(await check(Container(id="mute", moorage=Extras(timeout=0.2)), calls))
    assert_only(findings, READY, quotes="GET /: Timeout after 0.2 s", hint="answer GET / with any status")
    assert_left_alone(findings)


@pytest.mark.parametrize("status", [404, 405])
async def test_a_container_without_the_route_is_told_so(status: int) -> None:
    class Elsewhere(Good):
        def serve(self, request: dict[str, Any]) -> None:
            self.send(status, "text/html", b"<h1>No such thing</h1>")

    findings = await checked(Elsewhere)
    quotes = f"POST /service_output: HTTP {status} text/html: '<h1>No such thing</h1>'"
    assert_only(findings, EXISTS, quotes=quotes, hint='@app.post("/service_output")')
    assert_left_alone(findings, READY, ANSWERED)


# No whole answer


async def test_a_container_that_hangs_is_asked_only_once() -> None:
    asked = []

    class Hanging(Good):
        def serve(self, request: dict[str, Any]) -> None:
            asked.append(request)
            self.hang()

    findings = await checked(Hanging, timeout=0.2)
    assert_only(findings, ANSWERED, quotes="Timeout after 0.2 s", hint="Answer every request")
    assert_left_alone(findings, READY)
    assert findings[CROWD].message == "It did not answer before."
    assert len(asked) == 1


async def test_a_check_waits_ten_seconds_at_most_for_the_sample_and_as_configured_for_real_data() -> None:
    calls = Calls("any", remote)
    container = Container(id="any")
    assert probe.Probe(container, calls, None).patience == 10.0
    assert probe.Probe(container, calls, {}).patience == container.moorage.timeout == 180.0


async def test_half_a_body_and_then_silence_is_told_apart_from_no_answer() -> None:
    class Stuck(Good):
        def succeed(self, value: Any) -> None:
            self.send(200, "application/json", b'{"output": "HE', length=100)
            self.hang()

    findings = await checked(Stuck, timeout=0.3)
    quotes = """HTTP 200 application/json: '{"output": "HE', and then: Timeout after 0.3 s"""
    assert_only(findings, ANSWERED, quotes=quotes, hint="as many bytes as Content-Length says")
    assert_left_alone(findings, READY)


async def test_a_body_that_never_ends_is_cut_off() -> None:
    class Endless(Good):
        def succeed(self, value: Any) -> None:
            self.start(200, "application/json", chunked=True)
            self.send_chunk(b"[0")
            while not self.stopping.is_set():
                self.send_chunk(b",1" * 500_000)

    findings = await checked(Endless)
    assert_only(findings, ANSWERED, quotes="The answer is longer than 16 MiB", hint="End an answer")
    assert "HTTP 200 application/json: '[0,1,1" in findings[ANSWERED].message
    assert_left_alone(findings, READY)


async def test_a_connection_that_closes_within_the_body_is_named() -> None:
    class Torn(Good):
        def succeed(self, value: Any) -> None:
            self.send(200, "application/json", b'{"output": "HE', length=100)
            self.close_connection = True

    findings = await checked(Torn)
    quotes = """HTTP 200 application/json: '{"output": "HE', and then: The connection broke: """
    assert_only(findings, ANSWERED, quotes=quotes, hint="as many bytes as Content-Length says")
    assert_left_alone(findings, READY)


async def test_a_connection_that_only_serves_once_is_named() -> None:
    class Once(Good):
        def post(self, body: bytes) -> None:
            if getattr(self, "used", False):
                self.close_connection = True
                return
            self.used = True
            super().post(body)

    findings = await checked(Once)
    assert_only(findings, AGAIN, quotes="A request after the first: The connection broke", hint="`Connection: close`")


async def test_a_container_that_cannot_serve_many_at_once_is_told_how_many_failed() -> None:
    lock = threading.Lock()

    class Alone(Good):
        def serve(self, request: dict[str, Any]) -> None:
            if not lock.acquire(blocking=False):
                self.send(500, "text/html", b"database is locked")
                return
            self.stopping.wait(0.1)
            lock.release()
            super().serve(request)

    findings = await checked(Alone)
    quotes = "of 20 were not answered as one alone was: HTTP 500 text/html: 'database is locked'"
    assert_only(findings, CROWD, quotes=quotes, hint="workers or threads")


# Not what it should be


async def test_a_traceback_page_is_an_error_not_an_answer() -> None:
    class Failing(Good):
        def serve(self, request: dict[str, Any]) -> None:
            self.send(500, "text/html; charset=utf-8", TRACEBACK)

    findings = await checked(Failing)
    quotes = "HTTP 500 text/html; charset=utf-8: '<!doctype html> <title>500 Internal Server Error</title>'"
    assert_only(findings, STATUS, quotes=quotes, hint="See its log")
    assert_left_alone(findings, READY, ANSWERED, EXISTS)


async def test_a_container_that_wants_a_token_is_told_where_that_goes() -> None:
    class Closed(Good):
        def serve(self, request: dict[str, Any]) -> None:
            self.send_json(401, {"code": "401"})

    assert_only(await checked(Closed), STATUS, quotes="HTTP 401", hint="`bearer`")


async def test_json_sent_as_text_is_named() -> None:
    class Text(Good):
        def succeed(self, value: Any) -> None:
            self.send(200, "text/plain; charset=utf-8", json.dumps(value).encode())

    findings = await checked(Text)
    assert_only(findings, TYPE, quotes="""HTTP 200 text/plain; charset=utf-8: '{"output": "HELLO"}'""", hint="jsonify")
    assert findings[ONCHAIN].message == "Its answers are no JSON, as reported above."


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{'output': 'HELLO'}", "is not JSON: Expecting property name"),
        (b'{"score": NaN}', "holds a number that is not finite"),
        (b'{"score": Infinity}', "holds a number that is not finite"),
        (b'"\xff"', "is not UTF-8"),
    ],
)
async def test_what_only_looks_like_json_is_named(body: bytes, why: str) -> None:
    class Invalid(Good):
        def succeed(self, value: Any) -> None:
            self.send(200, "application/json", body)

    findings = await checked(Invalid)
    assert_only(findings, VALID, quotes=why, hint="NaN and Infinity are no JSON")
    assert "HTTP 200 application/json: " in findings[VALID].message


@pytest.mark.parametrize("error", [{"code": "400", "name": "Bad Request"}, {"code": 500}, {"error": "input?"}])
async def test_an_error_with_the_status_of_a_success_is_named(error: dict[str, Any]) -> None:
    class Pretending(Good):
        def refuse(self, why: str) -> None:
            self.send_json(200, error)

    findings = await checked(Pretending)
    assert_only(findings, ERROR, quotes=f"data '{{}}': HTTP 200 application/json: '{json.dumps(error)}'", hint=", 400")


async def test_a_traceback_for_data_of_the_container_before_is_named() -> None:
    class Trusting(Good):
        def refuse(self, why: str) -> None:
            self.send(500, "text/html", TRACEBACK)

        def text_without_input(self, data: dict[str, Any]) -> str:
            return "text"

        def text_of(self, request: dict[str, Any]) -> str:
            return "" if request["data"] == "" else super().text_of(request)

    findings = await checked(Trusting)
    assert_only(findings, ODD, quotes="""data "text": HTTP 500 text/html: '<!doctype""", hint="isinstance(data, dict)")


async def test_a_crash_for_data_of_the_container_before_is_named_and_the_rest_still_tried() -> None:
    class Crashing(Good):
        def text_of(self, request: dict[str, Any]) -> str:
            if request["data"] == [1]:
                raise ConnectionAbortedError
            return super().text_of(request)

    findings = await checked(Crashing)
    assert_only(findings, ODD, quotes="The connection broke", hint="the process ended")
    assert len(verdicts(findings, "passed")) == len(RULES) - 2, "all but this and that on proofs"


async def test_a_container_that_does_not_come_back_ends_the_check_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    class Dying(Good):
        def text_of(self, request: dict[str, Any]) -> str:
            if request["data"] is None:
                gone.set()
                raise ConnectionAbortedError
            return super().text_of(request)

    @asynccontextmanager
    async def acquire() -> AsyncIterator[Endpoint]:
        if gone.is_set():
            raise ServiceUnavailable("Its process ended with status 137.")
        async with remote() as endpoint:
            yield endpoint

    monkeypatch.setattr(probe, "RETURNS", (0.0, 0.0))
    with listening(Dying) as url, Calls("dying", acquire, url=url) as calls:
        findings = by_rule(await check(Container(id="dying"), calls))
    assert_only(findings, ERROR, quotes="The connection broke", hint="the process ended")
    assert_left_alone(findings, READY, ANSWERED, EXISTS, STATUS, AGAIN, TYPE, VALID)
    assert findings[CROWD].message == "It did not come back after a connection broke."


async def test_a_hang_on_the_way_ends_the_check_there() -> None:
    class Stalling(Good):
        def text_of(self, request: dict[str, Any]) -> str:
            if request["data"] is None:
                self.hang()
            return super().text_of(request)

    findings = await checked(Stalling, timeout=0.3)
    assert_only(findings, ERROR, quotes="Timeout after 0.3 s", hint="Answer every request")
    assert_left_alone(findings, READY, ANSWERED, EXISTS, STATUS, AGAIN, TYPE, VALID)


# The chain


async def test_a_container_that_takes_hexadecimal_for_an_object_is_told_so() -> None:
    class Unaware(Good):
        def text_of(self, request: dict[str, Any]) -> str:
            if request["source"] == 0 and request["data"]:
                raise TypeError  # its framework would answer:
            return super().text_of(request)

        def serve(self, request: dict[str, Any]) -> None:
            try:
                super().serve(request)
            except TypeError:
                self.send(500, "text/html", TRACEBACK)

    findings = await checked(Unaware)
    assert verdicts(findings, "failed") == {ONCHAIN, FIRST}
    assert "HTTP 500 text/html: '<!doctype" in findings[ONCHAIN].message
    assert "bytes.fromhex(data)" in (findings[ONCHAIN].hint or "")


async def test_a_crash_for_empty_input_is_named() -> None:
    class Hungry(Good):
        def text_of(self, request: dict[str, Any]) -> str:
            if request["data"] == "" and request["source"] == 0:
                raise ConnectionAbortedError
            return super().text_of(request)

    assert_only(await checked(Hungry), EMPTY, quotes="The connection broke", hint="answer status 400")


class ForChain(Good):
    change: Mapping[str, Any] = {}

    def for_chain(self, request: dict[str, Any], text: str) -> Any:
        return {**super().for_chain(request, text), **self.change}


async def test_a_0x_before_hexadecimal_is_named() -> None:
    class Prefixed(ForChain):
        change = {"raw_output": "0x48454c"}  # noqa: RUF012

    quotes = "input from the chain: raw_output begins with 0x, which the network's own node refuses: '0x48454c'"
    assert_only(await checked(Prefixed), HEX, quotes=quotes, hint='.removeprefix("0x")')


@pytest.mark.parametrize("value", ["hello", "abc", 5, ["00"]])
async def test_what_is_no_hexadecimal_is_named(value: Any) -> None:
    class Unhexed(ForChain):
        change = {"processed_output": value}  # noqa: RUF012

    findings = await checked(Unhexed)
    assert_only(findings, HEX, quotes="input from the chain: Invalid hex in processed_output: ", hint="value.hex()")
    assert repr(value) in findings[HEX].message.replace('"', "'")


async def test_four_of_the_five_keys_are_told_the_fifth() -> None:
    class Four(Good):
        def for_chain(self, request: dict[str, Any], text: str) -> Any:
            five = super().for_chain(request, text)
            return {key: five[key] for key in five if key != "processed_input"}

    findings = await checked(Four)
    quotes = "without processed_input, input from the chain: goes on chain as the string"
    assert_only(findings, FIVE, quotes=quotes, hint="Return all of raw_input, processed_input")
    assert "{'raw_input': '68656c6c6f'" in findings[FIVE].message


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (["00"], "Container output is not an object: "),
        ("00", "Container output is not an object: '00'"),
        ({"code": "500", "name": "x"}, "Container error: "),
    ],
)
async def test_what_cannot_be_delivered_is_named(output: Any, why: str) -> None:
    class Wrong(Good):
        def for_chain(self, request: dict[str, Any], text: str) -> Any:
            return output

    findings = await checked(Wrong)
    assert_only(findings, OBJECT, quotes=f"input from the chain: {why}", hint="return an object")
    assert findings[FIVE].message == "It gives no object for the chain."


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ({"proof": ""}, "proof is '': HTTP 200 application/json: "),
        ({"proof": None}, "proof is None: HTTP 200 application/json: "),
    ],
)
async def test_a_missing_proof_is_named(output: Any, why: str) -> None:
    class Unproven(ForChain):
        change = output

    findings = await checked(Unproven, generates_proofs=True)
    assert_only(findings, PROOF, quotes=why, hint='"generates_proofs": false')


async def test_an_answer_without_a_place_for_the_proof_is_named() -> None:
    class Free(Good):
        def for_chain(self, request: dict[str, Any], text: str) -> Any:
            return {"answer": text}

    findings = await checked(Free, generates_proofs=True)
    quotes = """Not the five keys: HTTP 200 application/json: '{"answer": "hello"}'"""
    assert_only(findings, PROOF, quotes=quotes, hint="return the five keys")


# Streams and resources


@pytest.mark.parametrize(("status", "media_type"), [(500, "text/html"), (500, "application/json"), (400, "text/html")])
async def test_a_container_that_cannot_do_without_requires_proof_is_told_so(status: int, media_type: str) -> None:
    class Eager(Good):
        def stream(self, request: dict[str, Any], text: str) -> None:
            try:
                super().stream({"proof": request["requires_proof"]}, text)
            except KeyError as error:
                self.send(status, media_type, json.dumps(f"KeyError: {error}").encode())

    findings = await checked(Eager)
    quotes = f"""HTTP {status} {media_type}: '"KeyError: \\'requires_proof\\'"'"""
    assert_only(findings, STREAM, quotes=quotes, hint='.get("requires_proof", False)')


async def test_a_stream_that_is_empty_is_named() -> None:
    class Empty(Good):
        def stream(self, request: dict[str, Any], text: str) -> None:
            self.send(200, "text/plain", b"")

    assert_only(await checked(Empty), STREAM, quotes="HTTP 200 text/plain: an empty body", hint="If it does not stream")


async def test_a_stream_that_breaks_is_named() -> None:
    class Broken(Good):
        def stream(self, request: dict[str, Any], text: str) -> None:
            self.start(200, "text/plain", chunked=True)
            self.send_chunk(b"HEL")
            self.close_connection = True

    findings = await checked(Broken)
    assert_only(
        findings, STREAM, quotes="HTTP 200 text/plain: 'HEL', and then: The connection broke", hint="last chunk"
    )


@pytest.mark.parametrize(("status", "body"), [(200, b"<h1>Welcome</h1>"), (500, b"{}")])
async def test_resources_that_are_no_json_are_named(status: int, body: bytes) -> None:
    class Welcoming(Good):
        def get(self) -> None:
            self.send(status, "text/html", body)

    quotes = f"GET /service-resources: HTTP {status} text/html: '{body.decode()}'"
    assert_only(await checked(Welcoming), RESOURCES, quotes=quotes, hint="have no such route")
