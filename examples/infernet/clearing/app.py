"""Clear debts: leave the least that has to be paid, without anybody paying somebody they did not owe.

An Infernet container. Ana owes Ben 50, Ben owes Cleo 50, Cleo owes Ana 40: what has to be paid is 10 and 10. The answer
is hard to find and easy to verify, which makes it work for a container and not for a contract: a contract only looks
whether everybody's balance is what it was, and whether no debt has grown.

    source 0       data is hexadecimal: abi.encode(address[] from, address[] to, uint256[] amount), or JSON as below
    source 1       data is {"debts": [{"from": .., "to": .., "amount": ..}, ..]}
    destination 0  the five keys; raw_output is abi.encode(address[], address[], uint256[]), as the input
    destination 1  {"debts": [..], "owed": .., "left": ..}, which can be cleared again
    destination 2  the debts that are left, one a line, as soon as a group of people that owe each other is done
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import networkx as nx
from eth_abi import decode, encode
from eth_abi.exceptions import DecodingError
from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

CHAIN, STREAM = 0, 2
ON_CHAIN = ("address[]", "address[]", "uint256[]")
ADDRESS = re.compile(r"0x[0-9a-f]{40}")
MOST_DEBTS = 5000
LONGEST_NAME = 200

Debts = dict[tuple[str, str], int]
"""Who owes whom how much; in order, so that all nodes give the same bytes."""

app = Flask(__name__)
app.json.sort_keys = False


@app.get("/")
def about() -> str:
    return "clearing"


@app.get("/service-resources")
def resources() -> dict[str, Any]:
    return {"clearing": {"most_debts": MOST_DEBTS, "on_chain": list(ON_CHAIN)}}


@app.post("/service_output")
def service_output() -> Any:
    asked = request.get_json()
    if not isinstance(asked, dict) or not {"source", "destination", "data"} <= asked.keys():
        abort(400, "expected an object with source, destination and data")
    raw = _bytes(asked["data"]) if asked["source"] == CHAIN else b""
    owed = _from_chain(raw) if asked["source"] == CHAIN else _from_json(asked["data"])
    if asked["destination"] == STREAM:
        return Response(_lines(owed), mimetype="application/x-ndjson")
    left = {pair: amount for group in _groups(owed) for pair, amount in _cleared(group).items()}
    if asked["destination"] == CHAIN:
        return {
            "raw_input": raw.hex(),
            "processed_input": _to_chain(owed).hex(),
            "raw_output": _to_chain(left).hex(),
            "processed_output": encode(["uint256", "uint256"], [_sum(owed), _sum(left)]).hex(),
            "proof": "",
        }
    return jsonify(debts=[_record(pair, amount) for pair, amount in left.items()], owed=_sum(owed), left=_sum(left))


@app.errorhandler(HTTPException)
def refused(error: HTTPException) -> Any:
    """Answer every error in the network's own form; the code is a text there."""
    return {"code": str(error.code), "name": error.name, "description": error.description}, error.code


# What is cleared


def _groups(debts: Debts) -> Iterator[Debts]:
    """Part people that have nothing to do with each other: each group is cleared by itself."""
    graph = nx.Graph(list(debts))
    for members in sorted(map(sorted, nx.connected_components(graph))):
        people = set(members)
        yield {pair: amount for pair, amount in debts.items() if pair[0] in people}


def _cleared(debts: Debts) -> Debts:
    """Find the least that keeps everybody's balance: a flow of minimal cost through the debts that there are."""
    graph, balance = nx.DiGraph(), Counter[str]()
    for (debtor, creditor), amount in debts.items():
        balance[debtor] -= amount
        balance[creditor] += amount
        graph.add_edge(debtor, creditor, capacity=amount, weight=1)
    nx.set_node_attributes(graph, balance, "demand")
    _, flow = nx.network_simplex(graph)
    return {(debtor, creditor): flow[debtor][creditor] for debtor, creditor in debts if flow[debtor][creditor]}


def _lines(owed: Debts) -> Iterator[str]:
    for group in _groups(owed):
        for pair, amount in _cleared(group).items():
            yield json.dumps(_record(pair, amount)) + "\n"


def _record(pair: tuple[str, str], amount: int) -> dict[str, Any]:
    return {"from": pair[0], "to": pair[1], "amount": amount}


def _sum(debts: Debts) -> int:
    total = sum(debts.values())
    return total if total < 2**256 else abort(400, "the debts together are more than a uint256 holds")


# What comes in and goes out


def _bytes(data: Any) -> bytes:
    try:
        return bytes.fromhex(data)
    except (TypeError, ValueError):
        abort(400, "source is 0, so data must be hexadecimal text")


def _from_chain(raw: bytes) -> Debts:
    if raw.startswith(b"{"):
        try:
            return _from_json(json.loads(raw))
        except (ValueError, RecursionError):
            abort(400, "data begins like JSON in hexadecimal, and is none")
    try:
        debtors, creditors, amounts = decode(ON_CHAIN, raw)
    except (DecodingError, OverflowError, ValueError) as error:
        abort(400, f"data is not abi.encode({', '.join(ON_CHAIN)}): {error}")
    if not len(debtors) == len(creditors) == len(amounts):
        abort(400, "the three lists must be of one length")
    return _debts(list(zip(debtors, creditors, amounts, strict=True)))


def _from_json(data: Any) -> Debts:
    listed = data.get("debts") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        abort(400, 'expected {"debts": [{"from": .., "to": .., "amount": ..}, ..]}')
    return _debts([_debt(number, debt) for number, debt in enumerate(listed)])


def _debt(number: int, debt: Any) -> tuple[str, str, int]:
    if not isinstance(debt, dict) or not {"from", "to", "amount"} <= debt.keys():
        abort(400, f"debts[{number}] must have from, to and amount")
    for key in ("from", "to"):
        if not isinstance(debt[key], str) or not 0 < len(debt[key]) <= LONGEST_NAME:
            abort(400, f"debts[{number}].{key} must be a name or an address")
    amount = debt["amount"]
    if isinstance(amount, str) and re.fullmatch("[0-9]{1,78}", amount):  # for clients whose numbers are not exact
        amount = int(amount)
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount < 2**256:
        abort(400, f"debts[{number}].amount must be a whole number, from 0 to 2^256 - 1")
    return debt["from"], debt["to"], amount


def _debts(listed: list[tuple[str, str, int]]) -> Debts:
    """Add up what one owes another, and drop what is no debt."""
    if len(listed) > MOST_DEBTS:
        abort(400, f"there are more than {MOST_DEBTS} debts")
    found = Counter[tuple[str, str]]()
    for debtor, creditor, amount in listed:
        if debtor != creditor and amount:
            found[_plain(debtor), _plain(creditor)] += amount
    return dict(sorted(found.items()))


def _plain(name: str) -> str:
    """Give addresses in the one form that can be compared."""
    return name.lower() if ADDRESS.fullmatch(name.lower()) else name


def _to_chain(debts: Debts) -> bytes:
    strangers = sorted({name for pair in debts for name in pair if not ADDRESS.fullmatch(name)})
    if strangers:
        abort(400, f"a contract knows only addresses, and {strangers[0]!r} is none")
    _sum(debts)
    return encode(ON_CHAIN, [[d for d, _ in debts], [c for _, c in debts], list(debts.values())])
