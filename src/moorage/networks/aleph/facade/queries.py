"""What a list of messages or posts is asked for (contract, section 4.2)."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from moorage.networks.aleph.facade.answers import Refused, listed, seconds, whole
from moorage.networks.aleph.ledger.listing import Filter, Listing, Name, Place
from moorage.networks.aleph.ledger.records import Record

PER_PAGE = 20
MOST_AFTER_CURSOR = 200

_SHARED: Mapping[Name, tuple[str, ...]] = {
    "addresses": ("addresses",), "refs": ("refs",), "hashes": ("hashes",), "channels": ("channels",), "tags": ("tags",),
}  # fmt: skip
_OF_MESSAGES: Mapping[Name, tuple[str, ...]] = {
    **_SHARED, "types": ("msgType", "msgTypes"), "statuses": ("msgStatuses", "message_statuses"),
    "owners": ("owners",), "content_types": ("contentTypes",), "content_keys": ("contentKeys",),
    "content_hashes": ("contentHashes",), "chains": ("chains",),
}  # fmt: skip
_OF_POSTS: Mapping[Name, tuple[str, ...]] = {**_SHARED, "content_types": ("types",), "chains": ("chains",)}


def of_messages(query: QueryParams) -> Filter:
    """Read which messages are asked for: those that hold, unless it says otherwise.

    Raises Refused.
    """
    return _filter(query, _OF_MESSAGES, {"statuses": ["processed"]})


def of_posts(query: QueryParams) -> Filter:
    """Read which posts are asked for, each by its original.

    Raises Refused.
    """
    return _filter(query, _OF_POSTS, {"statuses": ["processed"], "types": ["POST"]}, originals=True)


def _filter(
    query: QueryParams,
    names: Mapping[Name, tuple[str, ...]],
    default: Mapping[Name, list[str]],
    *,
    originals: bool = False,
) -> Filter:
    given = {name: values for name, spelt in names.items() if (values := listed(query, *spelt))}
    return Filter(
        among={**default, **given},
        start=seconds(query, "startDate"),
        end=seconds(query, "endDate"),
        ascending=query.get("sortOrder") == "1",
        originals=originals,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is asked for; by a cursor if there is one."""

    size: int
    """0 is all."""
    number: int = 1
    cursor: str | None = None

    @classmethod
    def asked(cls, query: QueryParams, path: Mapping[str, Any]) -> "Page":
        """Read it; the number may stand in the path.

        Raises Refused.
        """
        size, cursor = whole(query, "pagination", PER_PAGE), query.get("cursor")
        if cursor is not None:
            return cls(size=min(size or MOST_AFTER_CURSOR, MOST_AFTER_CURSOR), cursor=cursor)
        return cls(size=size, number=whole({**query, **path}, "page", 1, least=1))

    def find(self, listing: Listing, where: Filter, kind: str) -> tuple[list[Record], dict[str, Any]]:
        """Read the page, and what is told of it.

        Raises Refused.
        """
        if self.cursor is not None:
            found = listing.after(where, _place(self.cursor), limit=self.size + 1)
            more = len(found) > self.size
            found = found[: self.size]
            next_cursor = _cursor(found[-1]) if more else None
            return found, {"pagination_per_page": self.size, "next_cursor": next_cursor}
        told = {
            "pagination_page": self.number,
            "pagination_per_page": self.size,
            "pagination_total": listing.count(where),
            "pagination_item": kind,
        }
        return listing.page(where, limit=self.size or None, offset=self.size * (self.number - 1)), told


def _cursor(last: Record) -> str:
    return base64.urlsafe_b64encode(json.dumps([last.envelope.time, last.n]).encode()).decode()


def _place(cursor: str) -> Place | None:
    if not cursor:
        return None
    try:
        time, n = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        place = Place(time=float(time), n=int(n))
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        raise Refused(422, "cursor must be one that a page ended with") from None
    if not math.isfinite(place.time) or abs(place.n) >= 1 << 63:
        raise Refused(422, "cursor must be one that a page ended with")
    return place
