"""What follows from messages and their order (contract, sections 2.3, 3.6, 3.7 and 4.3).

Items 8, 10, 12 and the FORGET half of 46 of the acceptance checklist (section 8).
"""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.networks.aleph.messages import contents
from moorage.networks.aleph.messages.contents import Aggregate, Forget, Instance, Post, Store
from moorage.networks.aleph.messages.rules import (
    PROCESSED,
    Machine,
    Message,
    Pending,
    Rejected,
    Unserved,
    authorised,
    current_post,
    current_version,
    judge,
    merged,
    names_of,
    origin,
    resolve,
    served,
    targets,
)

OWNER, OTHER, DELEGATE = "0x" + "aB" * 20, "0x" + "22" * 20, "0x" + "dE" * 20
PROGRAM = "1d3842fc4257c0fd4f9c7d5c55bba16264de8d44f47265a14f8f6eb4d542dda2"
LABEL = "du4ef7cck7ap2t44pvoflo5bmjsn5dke6rzglikpr5xljvkc3wra"


def hashed(name: str) -> str:
    """Give a name the shape of an item hash."""
    return name.encode().hex().rjust(64, "0")


def message(
    name: str, content: Any, *, sender: str | None = None, chain: str = "ETH", channel: str | None = "TEST"
) -> Message:
    kinds: dict[type, Any] = {
        Post: "POST",
        Aggregate: "AGGREGATE",
        Store: "STORE",
        Forget: "FORGET",
        Machine: "PROGRAM",
    }
    return Message(
        item_hash=hashed(name),
        type=kinds[type(content)],
        chain=chain,
        sender=sender or content.address,
        channel=channel,
        content=content,
    )


def post(name: str, *, amends: Any = None, owner: str = OWNER, time: float = 1.0, **fields: Any) -> Message:
    ref = hashed(amends) if isinstance(amends, str) else amends
    kind = fields.pop("kind", "amend" if amends else "note")
    return message(name, Post(address=owner, time=time, type=kind, content=name, ref=ref), **fields)


def store(name: str, *, ref: str | None = None, owner: str = OWNER, time: float = 1.0, **fields: Any) -> Message:
    content = Store(address=owner, time=time, item_type="storage", item_hash=hashed(f"file {name}"), ref=ref)
    return message(name, content, **fields)


def update(name: str, original: str, **fields: Any) -> Message:
    return store(name, ref=hashed(original), **fields)


def program(
    name: str, *, replaces: str | None = None, amendable: bool = True, owner: str = OWNER, time: float = 1.0,
    files: Iterable[str] = (), **fields: Any,
) -> Message:  # fmt: skip
    content = Machine(
        address=owner,
        time=time,
        allow_amend=amendable,
        replaces=replaces and hashed(replaces),
        files=frozenset(map(hashed, files)),
    )
    return message(name, content, **fields)


def aggregate(
    name: str, content: Any, *, key: str = "k", owner: str = OWNER, time: float = 1.0, **fields: Any
) -> Message:
    return message(name, Aggregate(address=owner, time=time, key=key, content=content), **fields)


def forget(name: str, *hashes: str, aggregates: Iterable[str] = (), owner: str = OWNER, **fields: Any) -> Message:
    content = Forget(address=owner, time=9.0, hashes=tuple(map(hashed, hashes)), aggregates=tuple(aggregates))
    return message(name, content, **fields)


def security(*authorizations: Any, owner: str = OWNER, time: float = 0.0) -> Message:
    content = {"authorizations": [*authorizations]}
    return aggregate(f"security {owner[:4]} {time}", content, key="security", owner=owner, time=time)


class Book:
    """A ledger in memory, which processes what the rules let it."""

    def __init__(self, *messages: Message, files: Iterable[str] = ()) -> None:
        self.held: dict[str, Message] = {}
        self.gone: set[str] = set()
        self.waiting: list[Message] = []
        self.files = set(files)
        for each in messages:
            assert self.receive(each) == PROCESSED, each

    def receive(self, received: Message) -> Any:
        verdict = judge(self, received)
        if isinstance(verdict, Pending):
            self.waiting.append(received)
        if verdict == PROCESSED:
            self._take(received)
        return verdict

    def _take(self, received: Message) -> None:
        if isinstance(received.content, Forget):
            for target in targets(self, received.content):
                del self.held[target.item_hash]
                self.gone.add(target.item_hash)
        self.held[received.item_hash] = received
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            self.receive(each)

    def message(self, item_hash: str) -> Message | None:
        return self.held.get(item_hash)

    def forgotten(self, item_hash: str) -> bool:
        return item_hash in self.gone

    def referring(self, ref: str) -> Iterable[Message]:
        return [
            each
            for each in self.held.values()
            if ref in (getattr(each.content, "ref", None), getattr(each.content, "replaces", None))
        ]

    def elements(self, owner: str, key: str) -> Iterable[Message]:
        return [
            each
            for each in self.held.values()
            if isinstance(each.content, Aggregate) and (each.content.key, each.owner.lower()) == (key, owner.lower())
        ]

    def using(self, ref: str) -> Iterable[Message]:
        return [each for each in self.held.values() if isinstance(each.content, Machine) and ref in each.content.files]

    def has_file(self, file_hash: str) -> bool:
        return file_hash in self.files


def outcome(verdict: Any) -> str:
    return f"{type(verdict).__name__} {getattr(verdict, 'code', '')}".strip()


# Authorisation


def test_the_owner_may_publish_in_any_case_of_the_address() -> None:
    assert judge(Book(), post("p", sender=OWNER.upper().replace("X", "x"))) == PROCESSED
    assert outcome(judge(Book(), post("p", sender=OTHER))) == "Rejected 2"


@pytest.mark.parametrize(
    ("filters", "admitted"),
    [
        ({}, True),
        ({"chain": "ETH"}, True), ({"chain": "SOL"}, False), ({"chain": None}, True), ({"chain": ["ETH"]}, False),
        ({"channels": ["X", "TEST"]}, True), ({"channels": ["X"]}, False), ({"channels": []}, True),
        ({"channels": "TEST"}, False), ({"channels": {"TEST": 1}}, False), ({"channels": None}, True),
        ({"types": ["POST"]}, True), ({"types": ["STORE", "FORGET"]}, False), ({"types": ["post"]}, False),
        ({"post_types": ["note"]}, True), ({"post_types": ["other"]}, False), ({"post_types": [["note"]]}, False),
        ({"aggregate_keys": ["k"]}, True),  # asks nothing of a POST
        ({"types": ["POST"], "channels": ["TEST"], "chain": "ETH", "post_types": ["note"]}, True),
        ({"types": ["POST"], "channels": ["X"], "chain": "ETH", "post_types": ["note"]}, False),
        ({"address": OTHER}, False), ({"address": None}, False), ({"address": DELEGATE.lower()}, True),
        ({"unknown": ["x"]}, True),
    ],
)  # fmt: skip
def test_a_delegate_may_do_what_every_filter_admits(filters: dict[str, Any], admitted: bool) -> None:
    book = Book(security({"address": DELEGATE} | filters))
    assert (judge(book, post("p", sender=DELEGATE)) == PROCESSED) is admitted


def test_filters_of_one_type_ask_nothing_of_another() -> None:
    book = Book(security({"address": DELEGATE, "post_types": ["x"], "aggregate_keys": ["k"]}))
    assert authorised(book, store("s", sender=DELEGATE))
    assert authorised(book, aggregate("a", {}, key="k", sender=DELEGATE))
    assert not authorised(book, aggregate("a", {}, key="other", sender=DELEGATE))


def test_a_filter_of_channels_does_not_admit_a_message_without_one() -> None:
    book = Book(security({"address": DELEGATE, "channels": ["TEST"]}))
    assert not authorised(book, post("p", sender=DELEGATE, channel=None))


def test_the_authorizations_of_others_count_for_nothing() -> None:
    book = Book(security({"address": DELEGATE}, owner=OTHER))
    assert not authorised(book, post("p", sender=DELEGATE))
    assert authorised(book, post("p", sender=DELEGATE, owner=OTHER))


def test_only_the_owner_says_who_else_may_publish() -> None:
    book = Book(security({"address": DELEGATE}))
    grab = aggregate("grab", {"authorizations": [{"address": OTHER}]}, key="security", time=5.0)
    assert authorised(book, grab)
    assert not authorised(book, message("grab", grab.content, sender=DELEGATE))


@pytest.mark.parametrize("found", [None, "x", 5, {}, [None, "x", 3, []], [{"address": 5}], [{}]])
def test_authorizations_that_are_no_such_list_admit_nobody(found: Any) -> None:
    book = Book(aggregate("s", {"authorizations": found}, key="security"))
    assert not authorised(book, post("p", sender=DELEGATE))


def test_the_newest_authorizations_hold() -> None:
    book = Book(security(time=2.0), security({"address": DELEGATE}, time=1.0))
    assert not authorised(book, post("p", sender=DELEGATE))


@pytest.mark.parametrize("address", [PROGRAM, LABEL])
def test_a_program_speaks_for_itself_through_its_own_guest_api_only(address: str) -> None:
    said = post("p", owner=address, sender=OTHER)
    assert judge(Book(), said, program=PROGRAM) == PROCESSED
    assert outcome(judge(Book(), said)) == "Rejected 2"
    assert outcome(judge(Book(), said, program=hashed("another"))) == "Rejected 2"
    assert outcome(judge(Book(), post("p", sender=DELEGATE), program=PROGRAM)) == "Rejected 2"


def test_a_program_is_named_by_its_hash_and_its_host_label() -> None:
    assert names_of(PROGRAM) == {PROGRAM, LABEL}
    assert names_of("Qm" + "a" * 44) == {"Qm" + "a" * 44}


# POST


@pytest.mark.parametrize(
    ("held", "amend", "result"),
    [
        ([post("o")], post("a", amends="o"), "Processed"),
        ([post("o")], post("a", amends={"item_hash": hashed("o")}), "Processed"),
        ([post("o")], post("a", amends={}, kind="amend"), "Rejected 100"),
        ([], post("a", kind="amend"), "Rejected 100"),
        ([], post("a", amends="o"), "Pending 101"),
        ([store("o")], post("a", amends="o"), "Pending 101"),
        ([post("o"), post("b", amends="o")], post("a", amends="b"), "Rejected 102"),
        ([post("o", owner=OTHER)], post("a", amends="o"), "Rejected 2"),
        ([post("o", owner=OWNER.lower())], post("a", amends="o"), "Processed"),
        ([], post("a", amends="o", kind="comment"), "Processed"),  # a mere reference
    ],
)
def test_a_post_amends_an_original_of_the_same_owner(held: list[Message], amend: Message, result: str) -> None:
    assert outcome(judge(Book(*held), amend)) == result


def test_what_waits_names_what_it_waits_for() -> None:
    assert judge(Book(), post("a", amends="o")) == Pending(code=101, missing=(hashed("o"),))


def test_an_original_shows_its_newest_amend_and_no_comment() -> None:
    old, new = post("old", amends="o", time=5.0), post("new", amends="o", time=6.0)
    book = Book(post("o", time=9.0), new, old, post("c", amends="o", kind="comment", time=8.0))
    original = book.held[hashed("o")]
    assert current_post(book, original) == new
    book.receive(forget("f", "new"))
    assert current_post(book, original) == old
    book.receive(forget("g", "old"))
    assert current_post(book, original) == original


# STORE


@pytest.mark.parametrize(
    ("held", "received", "result"),
    [
        ([], store("s"), "Processed"),
        ([], store("s", ref="my-tag"), "Processed"),
        ([], store("s", ref=f"{OTHER}/tag"), "Processed"),
        ([], store("s", ref=""), "Processed"),
        ([store("o")], update("u", "o"), "Processed"),
        ([store("o", ref="my-tag")], update("u", "o"), "Processed"),
        ([], update("u", "o"), "Pending 200"),
        ([post("o")], update("u", "o"), "Pending 200"),
        ([store("o"), update("v", "o")], update("u", "v"), "Rejected 201"),
        ([store("o", owner=OTHER)], update("u", "o"), "Rejected 2"),
    ],
)
def test_a_store_updates_an_original_of_the_same_owner(held: list[Message], received: Message, result: str) -> None:
    assert outcome(judge(Book(*held), received)) == result


@pytest.mark.parametrize(
    ("payment", "result"), [("hold", "Processed"), ("credit", "Processed"), ("superfluid", "Rejected 202")]
)
def test_a_file_is_paid_by_holding_or_with_credit(payment: str, result: str) -> None:
    raw = {"address": OWNER, "time": 1, "item_type": "storage", "item_hash": PROGRAM, "payment": {"type": payment}}
    assert outcome(judge(Book(), message("s", contents.parse("STORE", raw)))) == result


def test_a_reference_follows_the_newest_update_or_stays_as_it_asks() -> None:
    book = Book(store("o", time=9.0), update("new", "o", time=3.0), update("old", "o", time=2.0))
    ref = hashed("o")
    assert resolve(book, ref, use_latest=True) == book.held[hashed("new")]
    assert resolve(book, ref, use_latest=False) == book.held[ref]
    assert resolve(book, hashed("old"), use_latest=True) == book.held[hashed("old")]
    assert book.receive(forget("f", "new")) == PROCESSED
    assert resolve(book, ref, use_latest=True) == book.held[hashed("old")]
    assert book.receive(forget("g", "old")) == PROCESSED
    assert resolve(book, ref, use_latest=True) == book.held[ref]


def test_the_owner_counts_and_not_who_sent_an_update() -> None:
    book = Book(security({"address": DELEGATE}), store("o"), update("u", "o", time=2.0, sender=DELEGATE))
    found = resolve(book, hashed("o"), use_latest=True)
    assert found == book.held[hashed("u")]


def test_of_updates_of_one_time_the_first_received_wins() -> None:
    book = Book(store("o"), update("a", "o", time=2.0), update("b", "o", time=2.0))
    assert resolve(book, hashed("o"), use_latest=True) == book.held[hashed("a")]


def test_a_foreign_or_strange_follower_is_never_taken() -> None:
    book = Book(store("o"), post("p", amends="o", kind="comment", time=8.0))
    intruder = update("u", "o", owner=OTHER, time=9.0)
    book.held[intruder.item_hash] = intruder
    assert resolve(book, hashed("o"), use_latest=True) == book.held[hashed("o")]


def test_what_is_no_store_message_resolves_to_nothing() -> None:
    assert resolve(Book(), hashed("o"), use_latest=True) is None
    assert resolve(Book(post("o")), hashed("o"), use_latest=True) is None


def test_loops_of_references_end() -> None:
    book = Book()
    for one, other in (("a", "b"), ("b", "a"), ("c", "c")):
        for each in (update(one, other), program(f"p{one}", replaces=f"p{other}")):
            book.held[each.item_hash] = each
    for name in "abc":
        assert resolve(book, hashed(name), use_latest=True) is not None
        assert served(book, hashed(f"p{name}")) == book.held[hashed(f"p{name}")]
        assert outcome(judge(book, update("u", name))) == "Rejected 201"
        assert outcome(judge(book, program("q", replaces=f"p{name}"))) == "Rejected 303"


times = st.lists(st.floats(0, 9e9), unique=True, min_size=1, max_size=6)


@given(times, st.randoms(use_true_random=False))
def test_the_newest_update_wins_in_whatever_order_they_arrive(moments: list[float], random: Any) -> None:
    arriving = [store("o"), *(update(f"u{n}", "o", time=time) for n, time in enumerate(moments))]
    random.shuffle(arriving)
    book = Book()
    for each in arriving:
        book.receive(each)
    assert not book.waiting
    found = resolve(book, hashed("o"), use_latest=True)
    assert found is not None
    assert found.time == max(moments)


@given(times, st.randoms(use_true_random=False))
def test_the_newest_version_and_amend_win_in_whatever_order_they_arrive(moments: list[float], random: Any) -> None:
    originals = [program("o", time=0.0), post("p", time=0.0)]
    arriving = [*originals]
    for n, time in enumerate(moments):
        arriving += [program(f"v{n}", replaces="o", time=time), post(f"a{n}", amends="p", time=time)]
    random.shuffle(arriving)
    book = Book()
    for each in arriving:
        book.receive(each)
    assert current_version(book, originals[0]).time == max(moments)
    assert current_post(book, originals[1]).time == max(moments)


timed = st.tuples(st.floats(0, 9), st.dictionaries(st.sampled_from("abc"), st.integers()))


@given(st.lists(timed, unique_by=lambda element: element[0]), st.randoms(use_true_random=False))
def test_an_aggregate_is_the_same_in_whatever_order_its_elements_arrive(elements: list[Any], random: Any) -> None:
    arrived = [aggregate(f"a{n}", content, time=time) for n, (time, content) in enumerate(elements)]
    expected: dict[str, Any] = {}
    for _, content in sorted(elements, key=lambda element: element[0]):
        expected |= content
    random.shuffle(arrived)
    assert merged(arrived) == expected


def test_aggregates_are_merged_shallowly_and_change_no_element() -> None:
    first, second = aggregate("a", {"x": {"y": 1}, "z": 1}, time=1.0), aggregate("b", {"x": {"w": 2}}, time=2.0)
    assert merged([second, first]) == {"x": {"w": 2}, "z": 1}
    assert merged(iter([aggregate("c", {"x": 1}), aggregate("d", {"x": 2})])) == {"x": 1}
    assert merged([]) == {}
    assert first.content == aggregate("a", {"x": {"y": 1}, "z": 1}).content


# PROGRAM


@pytest.mark.parametrize(
    ("held", "received", "result"),
    [
        ([], program("p"), "Processed"),
        ([], program("p", amendable=False), "Processed"),
        ([program("o")], program("p", replaces="o"), "Processed"),
        ([], program("p", replaces="o"), "Pending 300"),
        ([store("o")], program("p", replaces="o"), "Pending 300"),
        ([program("o", amendable=False)], program("p", replaces="o"), "Rejected 302"),
        ([program("o"), program("v", replaces="o", amendable=False, time=2.0)], program("p", replaces="o", time=3.0),
         "Rejected 302"),
        ([program("o"), program("v", replaces="o")], program("p", replaces="v"), "Rejected 303"),
        ([program("o", amendable=False, owner=OTHER)], program("p", replaces="o"), "Rejected 302"),
        ([program("o", owner=OTHER)], program("p", replaces="o"), "Rejected 2"),
        ([], program("p", files=["f"]), "Pending 301"),
        ([post("f")], program("p", files=["f"]), "Pending 301"),
        ([store("f")], program("p", files=["f"]), "Processed"),
        ([store("f", owner=OTHER)], program("p", files=["f"]), "Processed"),
    ],
)  # fmt: skip
def test_a_program_replaces_an_original_that_lets_it(held: list[Message], received: Message, result: str) -> None:
    assert outcome(judge(Book(*held), received)) == result


def test_a_program_waits_for_all_its_files_and_takes_one_by_its_own_hash_too() -> None:
    book = Book(store("f"), files=[hashed("content")])
    waiting = judge(book, program("p", files=["f", "h", "g", "content"]))
    assert waiting == Pending(code=301, missing=(hashed("g"), hashed("h")))


def test_an_instance_waits_for_nothing_and_is_no_program() -> None:
    raw = {
        "address": OWNER, "time": 1, "allow_amend": True, "environment": {}, "resources": {},
        "rootfs": {"parent": {"ref": hashed("image")}, "persistence": "host", "size_mib": 1},
    }  # fmt: skip
    content = contents.parse("INSTANCE", raw)
    assert isinstance(content, Instance)
    machine = Message(item_hash=hashed("i"), type="INSTANCE", chain="ETH", sender=OWNER, content=Machine.of(content))
    book = Book(machine)
    assert served(book, hashed("i")) == Unserved(status=400, text=f"Message {hashed('i')} is not a program")
    assert outcome(judge(book, program("p", replaces="i"))) == "Pending 300"


def test_an_original_serves_its_newest_version_and_an_amend_itself() -> None:
    book = Book(program("o"), program("new", replaces="o", time=3.0), program("old", replaces="o", time=2.0))
    assert served(book, hashed("o")) == book.held[hashed("new")]
    assert served(book, hashed("old")) == book.held[hashed("old")]
    assert served(book, hashed("new")) == book.held[hashed("new")]
    book.receive(forget("f", "new"))
    assert served(book, hashed("o")) == book.held[hashed("old")]
    assert served(book, hashed("new")) == Unserved(status=410, text=f"Program {hashed('new')} has been forgotten")
    assert book.receive(forget("g", "old")) == PROCESSED
    assert served(book, hashed("o")) == book.held[hashed("o")]


def test_an_amend_older_than_its_original_does_not_take_its_address() -> None:
    book = Book(program("o", time=5.0), program("v", replaces="o", time=4.0))
    assert served(book, hashed("o")) == book.held[hashed("o")]


def test_an_amend_outlives_its_forgotten_original() -> None:
    book = Book(program("o"), program("v", replaces="o", time=2.0), forget("f", "o"))
    assert served(book, hashed("o")) == Unserved(status=410, text=f"Program {hashed('o')} has been forgotten")
    assert served(book, hashed("v")) == book.held[hashed("v")]
    assert outcome(judge(book, program("w", replaces="o", time=3.0))) == "Pending 300"


@pytest.mark.parametrize(
    ("held", "status", "text"),
    [([], 404, f"Hash not found: {hashed('o')}"), ([post("o")], 400, f"Message {hashed('o')} is not a program"),
     ([post("o"), forget("f", "o")], 410, f"Program {hashed('o')} has been forgotten")],
)  # fmt: skip
def test_an_address_without_a_program_is_refused_in_the_words_of_the_network(
    held: list[Message], status: int, text: str
) -> None:
    assert served(Book(*held), hashed("o")) == Unserved(status=status, text=text)


def test_volumes_belong_to_the_original() -> None:
    for each, owner in ((program("o"), "o"), (program("v", replaces="o"), "o")):
        assert isinstance(each.content, Machine)
        assert origin(each.content, each.item_hash) == hashed(owner)


# FORGET


@pytest.mark.parametrize(
    ("held", "received", "result"),
    [
        ([post("p")], forget("f", "p"), "Processed"),
        ([post("p"), store("s")], forget("f", "p", "s", "p"), "Processed"),
        ([], forget("f"), "Rejected 500"),
        ([post("p")], forget("f", "p", "q"), "Pending 501"),
        ([], forget("f", aggregates=["k"]), "Pending 501"),
        ([aggregate("a", {})], forget("f", aggregates=["k"]), "Processed"),
        ([aggregate("a", {})], forget("f", aggregates=[hashed("a")]), "Processed"),
        ([post("a")], forget("f", aggregates=[hashed("a")]), "Pending 501"),
        ([post("p"), forget("g", "p")], forget("f", "g"), "Rejected 502"),
        ([post("p"), forget("g", "p")], forget("f", "p"), "Processed"),  # it is gone already
        ([post("p", owner=OTHER)], forget("f", "p"), "Rejected 2"),
        ([post("p"), post("q", owner=OTHER)], forget("f", "p", "q"), "Rejected 2"),
        ([store("s"), program("p", files=["s"])], forget("f", "s"), "Rejected 503"),
        ([store("s"), program("p", files=["s"], owner=OTHER)], forget("f", "s"), "Rejected 503"),
        ([store("s"), program("p", files=["s"])], forget("f", "s", "p"), "Processed"),
        ([store("s"), program("p", files=["s"]), forget("g", "p")], forget("f", "s"), "Processed"),
        ([store("s"), program("p", files=["s"]), update("u", "s")], forget("f", "u"), "Processed"),
        ([store("s"), program("o", files=["s"]), program("v", replaces="o", time=2.0)], forget("f", "s"),
         "Rejected 503"),
    ],
)  # fmt: skip
def test_what_may_be_forgotten(held: list[Message], received: Message, result: str) -> None:
    assert outcome(judge(Book(*held), received)) == result


def test_a_refusal_names_the_file_and_the_program_that_uses_it() -> None:
    book = Book(store("s"), program("p", files=["s"]))
    found = judge(book, forget("f", "s"))
    assert found == Rejected(code=503, reason=f"File {hashed('s')} used on vm {hashed('p')}")
    assert found.details == {"errors": [f"File {hashed('s')} used on vm {hashed('p')}"]}


@pytest.mark.parametrize(
    ("filters", "target", "may"),
    [
        ({}, post("t", owner=OTHER), True),
        ({"types": ["FORGET"]}, post("t", owner=OTHER), True),
        ({"types": ["POST"]}, post("t", owner=OTHER), False),
        ({"channels": ["TEST"]}, post("t", owner=OTHER), True),
        ({"channels": ["TEST"]}, post("t", owner=OTHER, channel="other"), False),
        ({"post_types": ["x"]}, post("t", owner=OTHER), False),
        ({"aggregate_keys": ["x"]}, aggregate("t", {}, owner=OTHER), False),
        ({"aggregate_keys": ["k"]}, aggregate("t", {}, owner=OTHER), True),
        ({}, aggregate("t", {"authorizations": []}, key="security", owner=OTHER, time=-1.0), False),
    ],
)  # fmt: skip
def test_each_target_is_forgotten_only_by_whom_its_owner_lets(filters: Any, target: Message, may: bool) -> None:
    book = Book(target, security({"address": DELEGATE} | filters, owner=OTHER), post("mine", owner=DELEGATE))
    verdict = judge(book, forget("f", "t", "mine", owner=DELEGATE))
    assert outcome(verdict) == ("Processed" if may else "Rejected 2")


def test_a_program_forgets_what_it_said_by_either_of_its_names() -> None:
    book = Book()
    for name, owner in (("h", PROGRAM), ("l", LABEL)):
        said = post(name, owner=owner)
        book.held[said.item_hash] = said
    received = forget("f", "h", "l", owner=LABEL, sender=OTHER)
    assert judge(book, received, program=PROGRAM) == PROCESSED


def test_an_aggregate_is_forgotten_with_all_the_owners_elements_under_the_key() -> None:
    book = Book(
        aggregate("a", {"x": 1}), aggregate("b", {"y": 1}), aggregate("c", {}, key="z"), aggregate("d", {}, owner=OTHER)
    )
    content = forget("f", "a", aggregates=["k"]).content
    assert isinstance(content, Forget)
    assert [target.item_hash for target in targets(book, content)] == [hashed("a"), hashed("b")]


def test_a_program_cannot_forget_what_belongs_to_the_node_whose_key_signs_for_it() -> None:
    book = Book(post("operators", owner=OWNER), security({}, owner=OWNER))
    received = forget("f", "operators", owner=PROGRAM, sender=OWNER)
    assert outcome(judge(book, received, program=PROGRAM)) == "Rejected 2"
    assert judge(book, forget("f", "operators", owner=OWNER, sender=OWNER)) == PROCESSED
