"""An app's descriptor, and the id that it gives the app (contract, section 3.6)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainValidator, TypeAdapter, ValidationError

from moorage.errors import BadManifest
from moorage.model.jobs import JSON
from moorage.networks.golem.documents import BadDocument, object_in, problems, read_object, readable

KEYS = (
    "name", "requestor_env", "requestor_prereq", "max_benchmark_score", "version", "description", "author", "license",
    "market_strategy",
)  # fmt: skip
"""All keys of a descriptor, in the order in which the id is made of them."""
MAX_FILE_NAME = 255
"""Bytes, as Linux file systems take them."""


def _number(value: JSON) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports ValueError
    return value


def _strategy(value: JSON) -> JSON:
    return (value.lower() or "brass") if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a descriptor says; the first nine fields are its keys."""

    name: str
    requestor_env: str
    """Id of the environment of the requestor; that of providers is not told here."""
    requestor_prereq: Annotated[Mapping[str, JSON], PlainValidator(object_in)]
    """Its keys in the order of the file."""
    max_benchmark_score: Annotated[int | float, PlainValidator(_number)]
    """An integer or a float, as it was written: the id differs."""
    version: str = "0.0"
    description: str = ""
    author: str = ""
    license: str = ""
    market_strategy: Annotated[Literal["brass", "wasm"], BeforeValidator(_strategy)] = "brass"
    ignored: tuple[str, ...] = ()
    """Unknown keys, fit for a message."""

    @property
    def document(self) -> dict[str, JSON]:
        """The descriptor with exactly its nine keys, defaults filled in."""
        return {key: getattr(self, key) for key in KEYS}

    @property
    def app_id(self) -> str:
        """The app's id: 32 hexadecimal digits."""
        return _digest(self.document)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other ids of the same app: newer tools make an integer score a float before they hash."""
        if isinstance(self.max_benchmark_score, float):
            return ()
        try:
            return (_digest({**self.document, "max_benchmark_score": float(self.max_benchmark_score)}),)
        except OverflowError:
            return ()

    @property
    def file_name(self) -> str:
        """The name under which the descriptor is kept; what file names cannot hold is replaced by `_`."""
        tail = f"_{self.app_id}.json"
        stem = "".join(_in_file_name(sign) for sign in f"{self.name}_{self.version}")
        return stem.encode()[: MAX_FILE_NAME - len(tail)].decode(errors="ignore") + tail


def parse(text: str | bytes, *, file: str) -> Descriptor:
    """Read a descriptor; unknown keys are ignored.

    Raises BadManifest naming the file, each bad key and what it should be.
    """
    try:
        document = read_object(text)
        ignored = tuple(readable(key) for key in document if key not in KEYS)
        known = {key: document[key] for key in KEYS if key in document}
        return _adapter().validate_python({**known, "ignored": ignored})
    except BadDocument as error:
        raise _bad(file, f"The text cannot be used: {error}.") from None
    except ValidationError as error:
        raise _bad(file, " ".join(f"`{key}`: {reason}." for key, reason in problems(error))) from None


@cache
def _adapter() -> TypeAdapter[Descriptor]:
    return TypeAdapter(Descriptor)


def _bad(file: str, problem: str) -> BadManifest:
    return BadManifest(
        f"Error parsing app definition from file '{file}'. {problem}",
        hint="It is a JSON object with `name`, `requestor_env`, `requestor_prereq` and `max_benchmark_score` at least.",
    )


def _digest(document: Mapping[str, JSON]) -> str:
    return blake2b(json.dumps(document).encode(), digest_size=16).hexdigest()


def _in_file_name(sign: str) -> str:
    return "_" if sign in '<>:"/\\|?*' or not sign.isprintable() else sign
