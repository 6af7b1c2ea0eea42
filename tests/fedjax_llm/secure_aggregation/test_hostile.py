"""What clients and the server refuse: bytes that nobody wrote, and messages that break a rule."""

import numpy as np
import pytest
from fedjax_compression import wire

from fedjax_llm.secure_aggregation import Client, SecureAggregationError, Server, run_round
from fedjax_llm.secure_aggregation.messages import (
    Advertised,
    Delivered,
    Masked,
    Neighbors,
    Revealed,
    Shared,
    Survivors,
    read,
    write,
)
from fedjax_llm.secure_aggregation.primitives import public_key
from fedjax_llm.secure_aggregation.shamir import PRIME
from tests.helpers.secure_rounds import Lossy, integers_of, seeded, setup_of

FIELD = 2**255 - 19
LOW_ORDER = (
    *(0, 1, FIELD - 1),
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
"""The points of order 1, 2, 4 and 8 (cr.yp.to/ecdh.html)."""
KINDS = {
    ("advertise", "up"): Advertised,
    ("share", "down"): Neighbors,
    ("share", "up"): Shared,
    ("mask", "down"): Delivered,
    ("mask", "up"): Masked,
    ("unmask", "down"): Survivors,
    ("unmask", "up"): Revealed,
}
SETUP = setup_of(4, threshold=2)
LARGER = setup_of(5, threshold=2)


class Changing:
    """Changes the message of client 1 at one place, and lets client 4 drop out late."""

    def __init__(self, place, change):
        self.place, self.change = place, change

    def __call__(self, step, direction, client, message):
        if (step, direction, client) == ("mask", "up", 4):
            return None
        if ((step, direction), client) == (self.place, 1):
            return self.change(message)
        return message


def flipped(message, bit):
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(place, change):
    """The sum if the round ends, having checked that it is that of its survivors."""
    integers = integers_of(LARGER)
    try:
        result = run_round(LARGER, integers, deliver=Changing(place, change), random=seeded(0))
    except SecureAggregationError as error:
        return str(error), {}
    expected = sum(integers[u] for u in result.sum.survivors)
    np.testing.assert_array_equal(result.sum.total, expected)
    return result.sum.survivors, result.refused


@pytest.mark.parametrize("place", KINDS)
def test_a_bit_that_flips_on_the_way_is_noticed(place):
    """The client is left out, or its answer is; the sum stays that of the survivors."""
    bit = 1 + 61 * list(KINDS).index(place)  # in the header, the round, the numbers, the arrays
    _, refused = outcome(place, lambda m: flipped(m, bit % (8 * len(m))))
    assert list(refused) == [1]
    assert f": {KINDS[place].__name__}: wire.loads: data: expected" in refused[1]


def changed_field(place, seed):
    """Flip a bit of a field other than the round, with a checksum that fits."""
    rng = np.random.default_rng(seed)

    def change(data):
        sent = read(KINDS[place], data, LARGER, who="test")
        name = sent._fields[rng.integers(1, len(sent._fields))]
        field = getattr(sent, name)
        raw = bytearray(field.tobytes())
        if field.dtype == np.bool_:
            raw[rng.integers(len(raw))] ^= 1
        else:
            raw = bytearray(flipped(raw, int(rng.integers(8 * len(raw)))))
        return wire.dumps(
            sent._replace(**{name: np.frombuffer(raw, field.dtype).reshape(field.shape)})
        )

    return change


def changes(seeds):
    return [(place, seed) for place in KINDS if place != ("mask", "up") for seed in range(seeds)]


def check_forged(place, seed):
    ended, refused = outcome(place, changed_field(place, seed))
    assert refused or isinstance(ended, str) or 1 not in ended, (place, seed)


def test_a_forged_message_with_a_right_checksum_never_gives_a_wrong_sum():
    """Masked integers apart, which are any client's own to choose."""
    for place, seed in changes(1):
        check_forged(place, seed)


@pytest.mark.slow
def test_many_forged_messages_never_give_a_wrong_sum():
    for place, seed in changes(60):
        check_forged(place, seed)


@pytest.mark.parametrize("length", [0, 11, 12, 31, 33, 10_000])
def test_bytes_of_any_length_are_refused(length):
    data = np.random.default_rng(length).bytes(length)
    for kind in KINDS.values():
        with pytest.raises(SecureAggregationError, match=rf"test: {kind.__name__}: wire.loads"):
            read(kind, data, SETUP, who="test")


def keys_of(clients):
    return {
        u: [public_key(seeded((u, use))(32)) for use in ("sealing", "masking")] for u in clients
    }


def offered(numbers, keys, to=0):
    return write(
        *(Neighbors, SETUP, to),
        neighbors=numbers,
        sealings=[keys[v][0] for v in numbers],
        maskings=[keys[v][1] for v in numbers],
    )


def advertised(number=0):
    client = Client(SETUP, number, seeded(number))
    client.advertise()
    return client


def refuses(step, text):
    with pytest.raises(SecureAggregationError, match=text):
        step()


def test_keys_that_are_no_keys_are_refused():
    keys = keys_of([1, 2])
    assert advertised().share(offered([1, 2], keys))
    non_residue = next(  # u for which no point is on the curve: it is on the twist
        u for u in range(2, 99) if pow(u**3 + 486662 * u**2 + u, (FIELD - 1) // 2, FIELD) != 1
    )
    bad = [(u, "of low order|off the curve") for u in LOW_ORDER]
    bad += [(non_residue, "off the curve")]
    bad += [
        (int.from_bytes(keys[1][0], "little") | 1 << 255, "not reduced"),
        (FIELD + 9, "not red"),
    ]
    for u, kind in bad:
        for use in (0, 1):
            mine = {v: list(pair) for v, pair in keys.items()}
            mine[2][use] = u.to_bytes(32, "little")
            client = advertised()
            refuses(lambda c=client, k=mine: c.share(offered([1, 2], k)), f"neighbour 2.*{kind}")
            assert (client.step, client._private) == ("failed", {})


def test_repeated_and_reflected_keys_are_refused():
    keys = keys_of([1, 2])
    twice = {**keys, 2: keys[1]}
    refuses(lambda: advertised().share(offered([1, 2], twice)), "keys that all differ")
    client = advertised()
    own = public_key(client._private["sealing"])
    refuses(lambda: client.share(offered([1, 2], {**keys, 1: [own, keys[1][1]]})), "all differ")


def test_a_list_of_neighbours_that_cannot_be_is_refused():
    keys = keys_of([0, 1, 2, 3])
    for numbers, text in (
        ([1], "neighbours: expected at least 2, the threshold, got 1"),
        ([0, 1], "neighbors: expected numbers of other clients"),
        ([2, 1], "each client once, in increasing order"),
        ([1, 1, 2], "each client once, in increasing order"),
    ):
        refuses(lambda n=numbers: advertised().share(offered(n, keys)), text)
    refuses(lambda: advertised(3).share(offered([1, 2], keys)), "a message of client 3, got one")


def until(step, lost=None, setup=SETUP):
    """Client 0 before a step, its message for it, and the messages of all."""
    clients, lossy = {}, Lossy({**(lost or {}), 0: (step, "down")})
    made = Client.__init__

    def keep(client, *args):
        made(client, *args)
        clients[client.number] = client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "__init__", keep)
        run_round(setup, integers_of(setup), deliver=lossy, random=seeded(0))
    return clients[0], lossy.sent[step, "down", 0], lossy.sent


@pytest.mark.parametrize(
    ("neighbors", "survived", "text"),
    [
        ([1, 2, 2, 3], [True, True, False, False], "expected 140 bytes|structure|bytes, got"),
        ([1, 2, 2], [True, True, False], "named twice would tell both its shares"),
        ([1, 2, 4], [True, True, True], r"each neighbour that shared, and no other, got \[3, 4\]"),
        ([1, 2], [True, True], r"each neighbour that shared, and no other, got \[3\]"),
        ([1, 2, 3], [True, False, False], "neighbours that survived: expected at least 2"),
    ],
)
def test_a_client_never_reveals_both_shares_or_for_too_few(neighbors, survived, text):
    client, _, _ = until("unmask")
    data = write(Survivors, SETUP, 0, neighbors=neighbors, survived=survived)
    refuses(lambda: client.unmask(data), text)
    assert (client.step, client._shares) == ("failed", {})


def test_each_step_is_done_once():
    client, data, _ = until("unmask")
    other = write(Survivors, SETUP, 0, neighbors=[1, 2, 3], survived=[True, True, False])
    client.unmask(data)
    refuses(lambda: client.unmask(other), "expected done next, got unmask; each step is done once")
    refuses(lambda: client.mask(b"", integers_of(SETUP)[0]), "expected done next, got mask")
    refuses(lambda: Client(SETUP, 0).unmask(data), "expected advertise next, got unmask")


def test_shares_of_others_and_of_other_rounds_are_refused():
    client, data, _ = until("mask")
    sent = read(Delivered, data, SETUP, who="test")
    mine = integers_of(SETUP)[0]
    swapped = wire.dumps(sent._replace(sealed=sent.sealed[[1, 0, 2]]))
    refuses(lambda: client.mask(swapped, mine), "neighbour 1: expected shares sealed for this cl")
    client, data, _ = until("mask")
    unknown = wire.dumps(sent._replace(senders=np.array([1, 2, 9], np.uint32)))
    refuses(
        lambda: client.mask(unknown, mine), r"senders: expected neighbours of this client.*\[9\]"
    )
    later = SETUP._replace(round=bytes(16))
    client, data, _ = until("mask", setup=later)
    _, old, _ = until("mask")
    refuses(lambda: client.mask(old, mine), "expected a message of round 0000.*it is replayed")
    # the same with the round's number changed: seals are bound to it
    client, data, _ = until("mask", setup=later)
    renamed = read(Delivered, old, SETUP, who="test")._replace(round=np.zeros(16, np.uint8))
    refuses(lambda: client.mask(wire.dumps(renamed), mine), "neighbour 1: expected shares sealed")


def test_integers_that_do_not_fit_are_refused_and_the_step_stays_open():
    client, data, _ = until("mask")
    for wrong, text in (
        (np.full(11, 128), "integers of 8 bits, as the setup says, got '128 to 128'"),
        (np.full(11, -129), "integers of 8 bits"),
        (np.zeros(10, np.int64), "an array of 11 integers"),
    ):
        with pytest.raises(ValueError, match=text):
            client.mask(data, wrong)
    assert client.mask(data, np.zeros(11, np.int64))


def test_the_server_refuses_clients_that_it_does_not_expect():
    server = Server(SETUP, seeded(0))
    clients = [Client(SETUP, u, seeded(u)) for u in range(5)]
    keys = [client.advertise() for client in clients]
    for data in keys[:4]:
        server.receive(data)
    refuses(lambda: server.receive(keys[4]), "at most 4 clients, for whose sum the modulus has")
    refuses(lambda: server.receive(keys[0]), "client 0: expected one message with keys, got")
    sent = server.close()
    shares = {u: clients[u].share(sent[u]) for u in range(4)}
    server.receive(shares[0])
    refuses(lambda: server.receive(shares[0]), "client 0: expected one message in this step")
    refuses(lambda: server.receive(keys[1]), "server: Shared: wire.loads: data: expected")
    parsed = read(Shared, shares[1], SETUP, who="test")
    other = parsed._replace(receivers=np.array([0, 2, 5], np.uint32))
    refuses(lambda: server.receive(wire.dumps(other)), "client 1: expected shares for each of its")
    other = parsed._replace(client=np.uint32(9))
    refuses(lambda: server.receive(wire.dumps(other)), "client 9: expected a client that did the")
    assert server.receive(shares[1]) == 1
    copied = Server(SETUP, seeded(0))
    copied.receive(keys[0])
    stolen = read(Advertised, keys[0], SETUP, who="test")._replace(client=np.uint32(7))
    refuses(lambda: copied.receive(wire.dumps(stolen)), "client 7: expected keys that nobody else")


def test_the_server_refuses_shares_that_are_not_of_the_secret():
    place = ("unmask", "up")

    def wrong(data):
        sent = read(Revealed, data, LARGER, who="test")
        return wire.dumps(sent._replace(shares=np.roll(sent.shares, 1, axis=0)))

    ended, _ = outcome(place, wrong)
    assert "expected shares of a secret of client" in ended or "shares of one secret" in ended

    def too_large(data):
        sent = read(Revealed, data, LARGER, who="test")
        shares = sent.shares.copy()
        shares[0] = np.frombuffer(PRIME.to_bytes(33, "big"), np.uint8)
        return wire.dumps(sent._replace(shares=shares))

    survivors, refused = outcome(place, too_large)
    assert survivors == (0, 1, 2, 3)  # two others are enough
    assert "share: expected 33 bytes with a number below the prime" in refused[1]


def test_bits_after_the_last_integer_are_refused():
    setup = SETUP._replace(entries=3)  # 30 bits in four bytes
    _, _, sent = until("unmask", setup=setup)
    server = Server(setup, seeded(0))
    server.step, server._shared = "mask", {1: None}
    message = read(Masked, sent["mask", "up", 1], setup, who="test")
    packed = message.packed.copy()
    packed[-1] |= 128
    refuses(lambda: server.receive(wire.dumps(message._replace(packed=packed))), "zeros after the")
    assert not server._total.any()


def test_a_server_that_ended_or_failed_takes_no_message():
    server = Server(SETUP)
    refuses(server.close, "expected more than 2 clients, the threshold, got 0 that advertised")
    refuses(server.close, "expected no step to close, as it is failed")
    refuses(lambda: server.receive(b""), "expected no message, as it is failed")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"round": bytes(15)}, "Setup: round: expected 16 bytes"),
        ({"entries": 0}, "Setup: entries: expected an integer at least 1"),
        ({"bits": 31}, "Setup: bits: expected at most 30 with 4 clients, whose sum has 32 bits"),
        ({"clients": 2}, "Setup: clients: expected an integer at least 3"),
        ({"degree": 4}, "Setup: degree: expected an integer at least 2 and at most 3, got 4"),
        (
            {"clients": 9, "degree": 5},
            "degree: expected an even number, or 8 for all others",
        ),
        ({"threshold": 1}, "threshold: expected an integer at least 2 and at most 3, got 1"),
        ({"threshold": 4}, "threshold: expected an integer at least 2 and at most 3, got 4"),
    ],
)
def test_parameters_out_of_range_are_named(change, text):
    for made in (Server, lambda setup: Client(setup, 0)):
        with pytest.raises(ValueError, match="expected") as raised:
            made(SETUP._replace(**change))
        assert text in str(raised.value)
