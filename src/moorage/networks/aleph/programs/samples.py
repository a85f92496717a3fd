"""Messages that nobody published, to try programs with."""

import json
import time
from collections.abc import Mapping

from moorage.model.jobs import JSON
from moorage.networks.aleph.messages.hashes import sha256

NOBODY = "0x0000000000000000000000000000000000000000"


def completed(given: Mapping[str, JSON]) -> dict[str, JSON]:
    """Give a message as the API shows one, with what was given of it in the place of what would be there.

    Nobody has signed it.
    """
    own = given.get("content")
    sender = given.get("sender", NOBODY)
    content: JSON = {"address": sender, "time": time.time(), "type": "sample", "content": {}}
    content = {**content, **own} if isinstance(own, dict) else own if "content" in given else content
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return {
        "sender": sender,
        "chain": "ETH",
        "signature": "",
        "type": "POST",
        "item_type": "inline",
        "item_content": text,
        "item_hash": sha256(text),
        "time": time.time(),
        "channel": None,
        "size": len(text.encode()),
        "confirmed": False,
        "confirmations": [],
        **given,
        "content": content,
    }


def asked_for(subscription: JSON) -> JSON:
    """Give what a subscription takes: itself, with one item for each list of them."""
    if isinstance(subscription, dict):
        return {key: asked_for(value) for key, value in subscription.items()}
    if isinstance(subscription, list) and subscription:
        return subscription[0]
    return subscription
