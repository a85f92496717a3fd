"""What this node does with each field of a message, in a sentence (contract, sections 2.3 to 2.11 and 3.6).

`moorage aleph explain` and the reference of messages say it from here. `{value}` stands for the value of the field.
"""

from collections.abc import Mapping

ENVELOPE: Mapping[str, str] = {
    "chain": "Tells how the signature is made, and is covered by it.",
    "sender": "Who signed; must be the owner, or be let in by the owner's `security` aggregate.",
    "type": "Tells what the content is.",
    "channel": "Kept and filtered by; the signature does not cover it.",
    "signature": "Shows that the sender sent this; covers chain, sender, type and item hash.",
    "time": "When it was sent, as the sender says; the signature does not cover it.",
    "item_type": "Where the content is: `inline` in `item_content`, else in a file named by `item_hash`.",
    "item_content": "The content as JSON text, to the byte what `item_hash` is the sha256 of.",
    "item_hash": "The name of the message, and of a program in its URL; the hash of the content.",
}
"""What each key that clients publish is for."""

_OWNED = {
    "address": "The owner.",
    "time": "When it was made, in Unix seconds; of several versions the newest counts.",
}
_PAYMENT = {
    "payment.type": "Kept, never charged.",
    "payment.chain": "Kept.",
    "payment.receiver": "Kept.",
}
_LATEST = "The newest STORE of the same owner that updates the file is taken."
_MINE = "Kept for readers; nothing is done with it."

PROGRAM: Mapping[str, str] = {
    "address": "The owner, who may amend, forget and control the program.",
    "time": _OWNED["time"],
    "type": "Tells that the content is a program.",
    "allow_amend": "A later message of the owner may replace this version.",
    "code.encoding": "How the code is packed.",
    "code.entrypoint": "What is started.",
    "code.ref": "The STORE message of the code; its file is checked against its hash, then unpacked.",
    "code.content": "The code itself, as text; its sha256 stands for the reference.",
    "code.interface": "How the node talks to the program: `asgi` is a Python callable, `binary` an HTTP server.",
    "code.args": "Follow the entrypoint in `sys.argv` of an ASGI program, and on the command line of an executable.",
    "code.use_latest": f"{_LATEST} The next request runs it.",
    "on.http": "Requests to `/vm/<hash>` and to the program's host name reach it.",
    "on.message": "Each message that matches one of these starts a run, once.",
    "on.persistent": "Started when published and with the node, and again when it ends; never stopped for idleness.",
    "on.cron": "Asked at these times, in UTC; a time is left out while the last run goes on or the node is down.",
    "environment.reproducible": "Hash seed, time zone and locale are fixed, and what references led to is recorded.",
    "environment.internet": "It may reach the internet, but neither the node's loopback nor private networks.",
    "environment.aleph_api": "Messages, files and the node's signature are at the guest API's socket.",
    "environment.shared_cache": "Its cache is that of all programs of its owner.",
    "resources.vcpus": "Time on at most {value} of the CPUs.",
    "resources.memory": "At most {value} MiB; beyond that it is killed and the caller gets 502.",
    "resources.seconds": "The answer must begin within {value} s of a request, and go on as often, or the caller gets "
    "504; the start of the program does not count.",
    "resources.published_ports.port": "A port of the node leads to this one; the executions list says which.",
    "resources.published_ports.protocol": "Which protocol is led on.",
    "runtime.ref": "The root file system to run in, if the node has it or maps it; else the built-in Python runtime.",
    "runtime.comment": _MINE,
    "runtime.use_latest": _LATEST,
    "data.encoding": "How the data is packed.",
    "data.mount": "Where the data is unpacked, and at `/data` too.",
    "data.ref": "The STORE message of the data.",
    "data.use_latest": _LATEST,
    "export.encoding": "After each run the directory is archived so; it is found by `Aleph-Run-Id`.",
    "export.mount": "The directory that is archived. Equal contents give an equal hash; no answer waits for it.",
    "variables": "Environment variables, set after the built-in ones and so above them.",
    "authorized_keys": "Written to `/root/.ssh/authorized_keys`; no SSH server is promised.",
    "metadata": "Kept for readers; only `cron_path` means something, the path that `on.cron` asks for.",
    "volumes.ref": "The STORE message whose file this volume holds, read-only.",
    "volumes.use_latest": _LATEST,
    "volumes.ephemeral": "Empty at every start, gone when the program stops.",
    "volumes.size_mib": "At most {value} MiB can be written.",
    "volumes.name": "It belongs to the program and this name, and survives restarts and amends.",
    "volumes.persistence": "`host` keeps it on this node; `store` also saves snapshots by their content.",
    "volumes.parent.ref": "The STORE message whose file a new volume begins with; too large a one is refused (304).",
    "volumes.parent.use_latest": _LATEST,
    "volumes.comment": _MINE,
    "volumes.mount": "Where the volume is.",
    "replaces": "The program that this is a new version of: its URL serves this one, unless a newer one comes.",
    **_PAYMENT,
    "requirements.cpu.architecture": "A node of another architecture answers 503.",
    "requirements.cpu.vendor": "A node with a CPU of another vendor answers 503.",
    "requirements.cpu.features": "A node whose CPU lacks one answers 503.",
    "requirements.node.owner": "A node of another owner answers 503.",
    "requirements.node.address_regex": "A node whose address does not match answers 503.",
    "requirements.node.node_hash": "Any other node answers 503.",
    "requirements.node.terms_and_conditions": "A node with other terms answers 503.",
    "requirements.gpu.vendor": "A node without such a GPU answers 503.",
    "requirements.gpu.device_name": "A node without such a GPU answers 503.",
    "requirements.gpu.device_class": "A node without such a GPU answers 503.",
    "requirements.gpu.device_id": "A node without such a GPU answers 503.",
}
"""What is done with each field of a program that holds no other fields."""

OTHERWISE: Mapping[str, str] = {
    "allow_amend": "Nothing may replace this version (302).",
    "code.interface": "Inferred.",
    "code.args": "No arguments.",
    "code.use_latest": "This very file runs, whatever updates it.",
    "on.http": "`/vm/<hash>` and the host name answer 403.",
    "on.message": "No message starts a run.",
    "on.persistent": "Started by the first request; stopped when idle.",
    "on.cron": "Never asked by the clock.",
    "environment.reproducible": "Nothing is fixed.",
    "environment.internet": "It reaches nothing outside; only its own loopback.",
    "environment.aleph_api": "The guest API answers 403, but for its cache.",
    "environment.shared_cache": "Its cache is its own.",
    "resources.published_ports": "No port is published.",
    "runtime.use_latest": "This very file, whatever updates it.",
    "data": "No data.",
    "data.use_latest": "This very file, whatever updates it.",
    "export": "Nothing is archived.",
    "variables": "No variables beside the built-in ones.",
    "authorized_keys": "No keys.",
    "metadata": "None.",
    "volumes": "No volumes; what is written elsewhere is lost at the stop.",
    "volumes.use_latest": "This very file, whatever updates it.",
    "volumes.name": "It belongs to the program and its index in the list, and survives restarts and amends.",
    "volumes.persistence": "Kept on this node, as with `host`.",
    "volumes.parent": "A new volume is empty.",
    "volumes.parent.use_latest": "This very file, whatever updates it.",
    "volumes.mount": "At `/mnt/` and the name.",
    "replaces": "A program of its own.",
    "payment": "Nothing is charged anyway.",
    "requirements": "Any node will do.",
}
"""What holds of a program where the value is false, null or empty."""

OTHERS: Mapping[str, Mapping[str, str]] = {
    "POST": {
        **_OWNED,
        "type": "The owner's own word for what it is; `amend` replaces the content of the post in `ref`.",
        "content": "Any JSON, kept as it is.",
        "ref": "What it refers to; for `amend` the hash of the original post.",
    },
    "AGGREGATE": {
        **_OWNED,
        "key": "Which of the owner's aggregates it adds to.",
        "content": "Laid over what is there, key by key at the top level only; the newest `time` wins.",
    },
    "STORE": {
        **_OWNED,
        "item_type": "Whether the file is named by its sha256 (`storage`) or by its CID (`ipfs`).",
        "item_hash": "The file; it must be uploaded, and is checked against this hash before each use.",
        "size": "Kept; the node counts itself.",
        "content_type": "Kept.",
        "ref": "The original STORE that this updates, or a name under which the owner's newest file is found.",
        "metadata": _MINE,
        **_PAYMENT,
    },
    "FORGET": {
        **_OWNED,
        "hashes": "Messages whose content is removed; a program among them stops and its URL answers 410.",
        "aggregates": "Aggregates whose messages are all forgotten.",
        "reason": _MINE,
    },
    "INSTANCE": {
        **_OWNED,
        "allow_amend": "Kept: an INSTANCE is never run here.",
        "environment": "Kept.",
        "resources": "Kept.",
        "rootfs.parent.ref": "Kept.",
        "rootfs.parent.use_latest": "Kept.",
        "rootfs.persistence": "Kept.",
        "rootfs.size_mib": "Kept.",
        "replaces": "Checked as for programs.",
    },
}
"""What is done with each field of the messages of the other types."""
