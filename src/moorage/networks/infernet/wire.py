"""The network's JSON: request bodies are read and answers written here (contract, sections 4.4 to 4.8 and 5.1)."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from moorage.model.jobs import JSON

MAX_DEPTH = 100
"""Levels of lists and objects within each other; whatever is read here can be written within other JSON again."""

MAX_CHAIN = 64
"""Containers that one job may ask, one after the other."""
MAX_ID = 255
"""Characters of the id of a job that a container reports."""
WHITESPACE = " \t\n\r"
"""What may stand around JSON."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[\]{},]', re.DOTALL)
"""A string, even one that does not end, or what may begin, end or part the items of a list."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

State = Literal["running", "success", "failed"]


class BadBody(ValueError):
    """A body that is not what the contract asks for (section 5.1); its text goes to the client."""

    def __init__(self, text: str, *, status: int = 400) -> None:
        super().__init__(text)
        self.text, self.status = text, status


# Reading JSON


def load(body: bytes | str) -> JSON:
    """Read strict JSON: integers stay exact, the last of equal keys wins, the order of keys is kept.

    NaN, infinities and what a double cannot hold are refused, for no answer could carry them. A lone surrogate passes:
    it can be written as it was read.
    Raises BadBody.
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8-sig")
        document = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise BadBody("body: is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadBody(f"body: is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise BadBody("body: holds a number that is not finite or has too many digits") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _deep(document):
        raise _too_deep()
    return document


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _too_deep() -> BadBody:
    return BadBody(f"body: is nested deeper than {MAX_DEPTH} levels")


def _deep(document: JSON) -> bool:
    """Look level by level, since a recursive search would meet the very limit that is guarded here."""
    level: list[dict[str, JSON] | list[JSON]] = [[document]]
    for _ in range(MAX_DEPTH + 1):
        parts = (node.values() if isinstance(node, dict) else node for node in level)
        level = [part for part in chain.from_iterable(parts) if isinstance(part, dict | list)]
    return bool(level)


# Requests


def _speakable(text: str) -> str:
    if _LONE_SURROGATE.search(text):
        raise PydanticCustomError("lone_surrogate", "Input should not hold a lone surrogate")
    return text


def _hexadecimal(size: int) -> AfterValidator:
    """Take so many bytes with or without `0x`, in any case, and give them in the one form that can be compared."""
    pattern = re.compile(rf"(?:0[xX])?([0-9a-fA-F]{{{2 * size}}})")

    def normal(text: str) -> str:
        if (found := pattern.fullmatch(text)) is None:
            raise PydanticCustomError("hexadecimal", "Input should be {size} bytes in hexadecimal", {"size": size})
        return f"0x{found[1].lower()}"

    return AfterValidator(normal)


Text = Annotated[str, AfterValidator(_speakable)]
Flag = Annotated[bool, Strict()]
OptionalFlag = Annotated[Flag, BeforeValidator(lambda value: False if value is None else value)]
Uint8 = Annotated[int, Strict(), Field(ge=0, lt=2**8)]
Uint16 = Annotated[int, Strict(), Field(ge=0, lt=2**16)]
Uint32 = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
Uint256 = Annotated[int, Strict(), Field(ge=0, lt=2**256)]
Address = Annotated[str, _hexadecimal(20)]
Hash = Annotated[str, _hexadecimal(32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OffchainRequest:
    """A job whose result is fetched from this node; `containers` are the names of a chain, in order."""

    containers: Annotated[tuple[Text, ...], Field(max_length=MAX_CHAIN)]
    data: dict[Any, JSON]
    requires_proof: OptionalFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """An owner's EIP-712 signature of a subscription (section 3.6)."""

    nonce: Uint32
    expiry: Uint32
    """Block time at which it is no longer valid."""
    v: Uint8
    r: Uint256
    s: Uint256


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What was signed; addresses and the hash are lower case after `0x`, however they came."""

    owner: Address
    active_at: Uint32
    period: Uint32
    frequency: Uint32
    redundancy: Uint16
    containers: Hash
    lazy: Flag
    verifier: Address
    payment_amount: Uint256
    payment_token: Address
    wallet: Address

    @property
    def needs_proof(self) -> bool:
        """Tell whether there is a verifier, which alone decides for chain work (section 2.5.6)."""
        return int(self.verifier, 16) != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegatedRequest:
    """A subscription that was signed off the chain and that our delivery creates on it."""

    signature: Signature
    subscription: Subscription
    data: dict[Any, JSON]
    requires_proof: OptionalFlag = False
    """Means nothing here: see `Subscription.needs_proof`."""
    posted: Mapping[str, JSON]
    """`subscription` and `signature` as they came, which refusals show (section 5.2)."""


Request = OffchainRequest | DelegatedRequest

_OFFCHAIN: TypeAdapter[Request] = TypeAdapter(OffchainRequest)
_DELEGATED: TypeAdapter[Request] = TypeAdapter(DelegatedRequest)


def parse(body: bytes) -> Request:
    """Read the body of a request; its shape tells which kind it is (section 4.4).

    Raises BadBody.
    """
    return _request(load(body))


def parse_batch(body: bytes, *, limit: int | None = None) -> list[Request | BadBody]:
    """Read a list of requests, in which an item that is no request harms no other (section 4.5).

    Raises BadBody if it is no list or, with status 413, one of more than `limit` items.
    """
    items = list(islice(_items(body), None if limit is None else limit + 1))
    if limit is not None and len(items) > limit:
        raise BadBody(f"body: holds more than {limit} items", status=413)
    return [_request_or_failure(item) for item in items]


def _request_or_failure(item: str) -> Request | BadBody:
    try:
        return _request(load(item))
    except BadBody as failure:
        return failure


def _items(body: bytes) -> Iterator[str]:
    """Cut a list at the commas of its first level, since JSON as a whole fails with a single bad item."""
    try:
        text = body.decode("utf-8-sig").strip(WHITESPACE)
    except UnicodeDecodeError:
        raise BadBody("body: is not UTF-8") from None
    if not text.startswith("["):
        load(text)
        raise BadBody("Expected a list")
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case "," if depth == 1:
                yield text[start : token.start()]
                start = token.end()
        if depth == 0:
            break
    if depth or token[0] != "]" or token.end() != len(text):
        raise BadBody("body: is not JSON: the list does not end where the body does")
    if start > 1 or text[1:-1].strip(WHITESPACE):
        yield text[start:-1]


def _request(document: JSON) -> Request:
    if not isinstance(document, dict):
        raise BadBody("body: Input should be an object")
    shown = {**document, "posted": {key: document.get(key) for key in ("subscription", "signature")}}
    failures = []
    for adapter in (_OFFCHAIN, _DELEGATED):
        try:
            return adapter.validate_python(shown)
        except ValidationError as failure:
            failures.append(failure)
    meant = "containers" not in document and not document.keys().isdisjoint({"subscription", "signature"})
    raise BadBody(_explained(failures[meant]))


_WORDS: Mapping[str, str] = {
    "dataclass_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "string_unicode": "Input should not hold a lone surrogate",
    "tuple_type": "Input should be a list",
}
"""What is wrong in the words of JSON, where pydantic has those of Python."""


def _explained(failure: ValidationError) -> str:
    problem = failure.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    return f"{path or 'body'}: {_WORDS.get(problem['type'], problem['msg'])}"


# Reports of containers


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What a container says of a job of its own (section 4.8)."""

    id: Annotated[Text, Field(max_length=MAX_ID)]
    status: State
    containers: tuple[Text, ...]


_STATUS = TypeAdapter(StatusReport)


def parse_status(body: bytes) -> StatusReport:
    """Read the body of `PUT /api/status`.

    Raises BadBody in the two texts of section 4.8.
    """
    try:
        return _STATUS.validate_python(load(body))
    except BadBody:
        raise BadBody("Could not store job status") from None
    except ValidationError as failure:
        bad_status = any(problem["type"] == "literal_error" for problem in failure.errors(include_url=False))
        raise BadBody("Status is invalid" if bad_status else "Could not store job status") from None


# Answers


def encode(value: JSON) -> bytes:
    r"""Write JSON compactly, keys sorted, `\uXXXX` for all that is not ASCII."""
    return _ENCODER.encode(value).encode()


def dump(value: JSON) -> bytes:
    """Write an answer: JSON with a newline at the end (section 4)."""
    return encode(value) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a container gave."""

    value: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a container gave nothing; never empty (section 3.3)."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one container of a job's chain came to."""

    container: str
    outcome: Output | Failure

    @property
    def document(self) -> dict[str, JSON]:
        """The answer as JSON."""
        match self.outcome:
            case Output(value=value):
                return {"container": self.container, "output": value}
            case Failure(error=error):
                return {"container": self.container, "error": error}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What is known of a job (section 4.7)."""

    id: str
    status: State
    result: Answer | None = None
    """Of the container that ended the job."""
    intermediate_results: Sequence[Answer] = ()
    """Of those before it."""

    def document(self, *, intermediate: bool) -> dict[str, JSON]:
        """Give the result as JSON; the outputs on the way only to those who ask for them."""
        answer: dict[str, JSON] = {"id": self.id, "status": self.status, "result": None}
        if self.result:
            answer["result"] = self.result.document
        if intermediate:
            answer["intermediate_results"] = [earlier.document for earlier in self.intermediate_results]
        return answer
