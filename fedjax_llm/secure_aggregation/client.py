"""A client of a secure sum."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from fedjax_compression.checks import check_integer, check_kind
from fedjax_compression.errors import message
from jaxtyping import Integer

from .errors import SecureAggregationError
from .messages import (
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
from .packing import pack
from .primitives import (
    KEY_BYTES,
    add_stream,
    agree,
    check_public_key,
    commit,
    context,
    cryptography,
    derive,
    public_key,
    seal,
    unseal,
)
from .setup import Setup, check_setup, word_type
from .shamir import SHARE_BYTES, RandomBytes, read_share, split

STEPS = ("advertise", "share", "mask", "unmask")
"""The steps of a round, in their order."""


class Client:
    """One client in one round: four steps, each at most once and in this order.

    1. `advertise() -> message`: makes two key pairs.
    2. `share(message) -> message`: reads the neighbours' keys, and shares the seed of its own mask
       and its masking key among them, sealed.
    3. `mask(message, integers) -> message`: adds its own mask, and one in common with each
       neighbour that shared, which that neighbour subtracts or adds.
    4. `unmask(message) -> message`: for each neighbour that shared, reveals one share: of the seed
       if it survived, of the masking key if it did not.

    Guarantees: it never reveals both shares of a neighbour, as the fourth step is done once and
    names each neighbour once; nothing at all unless `threshold` neighbours survived; and no share
    of a client that is not a neighbour. A message with unknown, repeated or missing neighbours, of
    another round or client, with keys that are no keys, or changed on its way is refused; whatever
    is refused ends the round for this client, and its secrets are dropped.

    What it must trust is in `docs/privacy.md`: the server passes keys on as they are.

    Args:
        setup: The public parameters, the same for all.
        number: The client's number, from 0 to 2^32 - 2.
        random: Source of random bytes. Default: `os.urandom`; another only in tests.

    Raises:
        ValueError: For parameters or a number out of range.
        ModuleNotFoundError: Without the package cryptography.

    Example:
        >>> from fedjax_llm.secure_aggregation import Client, Setup
        >>> client = Client(Setup(bytes(16), 100, 16, 8, 4, 3), 5)
        >>> len(client.advertise())  # 12 of header, round 16, client 4, two keys of 32
        96
        >>> client.advertise()
        Traceback (most recent call last):
        ...
        fedjax_llm.secure_aggregation.errors.SecureAggregationError: client 5: expected share \
next, got advertise; each step is done once a round.

    """

    def __init__(self, setup: Setup, number: int, random: RandomBytes = os.urandom) -> None:
        check_kind(setup, Setup, who="Client", name="setup", expected="a Setup")
        check_setup(setup)
        cryptography()
        check_integer(number, who="Client", name="number", at_least=0, at_most=2**32 - 2)
        self.setup = setup
        self.number = number
        self.step = STEPS[0]
        """The next step; "done" after the last, "failed" after anything was refused."""
        self._random = random
        self._private: dict[str, bytes] = {}
        self._public: dict[str, bytes] = {}
        self._seed = b""
        self._masking: dict[int, bytes] = {}
        self._agreed: dict[int, bytes] = {}
        self._shares: dict[int, tuple[bytes, bytes]] = {}

    def __repr__(self) -> str:
        return f"Client({self.number}, step={self.step!r})"

    def advertise(self) -> bytes:
        """Make the keys of the round.

        Returns:
            The message for the server.

        Raises:
            SecureAggregationError: If the step is not the next.

        """
        with self._doing("advertise"):
            self._private = {use: self._random(KEY_BYTES) for use in ("sealing", "masking")}
            self._public = {use: public_key(private) for use, private in self._private.items()}
            return write(Advertised, self.setup, self.number, **self._public)

    def share(self, data: bytes) -> bytes:
        """Share this client's secrets among its neighbours.

        Args:
            data: The server's message with the neighbours' keys.

        Returns:
            The message for the server.

        Raises:
            SecureAggregationError: For a message that is refused.

        """
        with self._doing("share"):
            sent = read(Neighbors, data, self.setup, who=self._name, client=self.number)
            numbers = sent.neighbors.tolist()
            self._check_enough(len(numbers), "neighbours")
            if self.number in numbers or max(numbers) > 2**32 - 2:
                self._refuse("neighbors", "numbers of other clients", numbers)
            sealings = [key.tobytes() for key in sent.sealings]
            maskings = [key.tobytes() for key in sent.maskings]
            keys = [*self._public.values(), *sealings, *maskings]
            if len(set(keys)) < len(keys):
                self._refuse("keys", "keys that all differ", "a key that is there twice")
            for v, pair in zip(numbers, zip(sealings, maskings, strict=True), strict=True):
                for key in pair:
                    check_public_key(key, who=f"{self._name}: neighbour {v}")
            self._masking = dict(zip(numbers, maskings, strict=True))
            own_key = self._private["sealing"]
            self._agreed = {
                v: agree(own_key, key) for v, key in zip(numbers, sealings, strict=True)
            }
            self._seed = self._random(KEY_BYTES)
            holders = [v + 1 for v in numbers]
            t = self.setup.threshold
            of_seed = split(self._seed, holders, threshold=t, random=self._random)
            of_key = split(self._private["masking"], holders, threshold=t, random=self._random)
            sealed = [
                seal(self._sealing_key(v, self.number, v), one + other, self._about(self.number, v))
                for v, one, other in zip(numbers, of_seed, of_key, strict=True)
            ]
            commitment = commit(self._seed, self.setup.round, self.number)
            return write(
                *(Shared, self.setup, self.number),
                commitment=commitment,
                receivers=numbers,
                sealed=sealed,
            )

    def mask(self, data: bytes, integers: Integer[np.ndarray, " entries"]) -> bytes:
        """Mask this client's integers.

        Args:
            data: The server's message with what neighbours sealed for this client.
            integers: `[entries]`, each at least -2^(bits - 1) and below 2^(bits - 1).

        Returns:
            The message for the server.

        Raises:
            ValueError: For integers of another number or size. The step can be tried again.
            SecureAggregationError: For a message that is refused.

        """
        self._check_integers(integers)
        with self._doing("mask"):
            sent = read(Delivered, data, self.setup, who=self._name, client=self.number)
            senders = sent.senders.tolist()
            unknown = sorted(set(senders) - set(self._masking))
            if unknown:
                self._refuse("senders", "neighbours of this client", unknown)
            self._check_enough(len(senders), "neighbours that shared")
            for v, sealed in zip(senders, sent.sealed, strict=True):
                who = f"{self._name}: neighbour {v}"
                key, about = self._sealing_key(v, v, self.number), self._about(v, self.number)
                opened = unseal(key, sealed.tobytes(), about, who=who)
                pair = opened[:SHARE_BYTES], opened[SHARE_BYTES:]
                for each in pair:
                    read_share(each)
                self._shares[v] = pair
            width = self.setup.width
            total = integers.astype(word_type(width))  # two's complement, modulo the word
            round_, own = self.setup.round, self.number
            add_stream(total, derive(self._seed, "own mask", round_, own, own))
            private = self._private["masking"]
            for v in senders:
                key = pair_key(private, self._masking[v], round_, own, v)
                add_stream(total, key, subtract=own > v)
            reduced = total.astype(np.uint32) & np.uint32(2**width - 1)
            return write(Masked, self.setup, self.number, packed=pack(reduced, bits=width))

    def unmask(self, data: bytes) -> bytes:
        """Reveal one share for each neighbour that shared.

        Args:
            data: The server's message that says who survived.

        Returns:
            The message for the server.

        Raises:
            SecureAggregationError: For a message that is refused, and for fewer survivors than the
                threshold.

        """
        with self._doing("unmask"):
            sent = read(Survivors, data, self.setup, who=self._name, client=self.number)
            numbers = sent.neighbors.tolist()
            if set(numbers) != set(self._shares):
                wrong = sorted(set(numbers) ^ set(self._shares))
                self._refuse("neighbors", "each neighbour that shared, and no other", wrong)
            self._check_enough(int(sent.survived.sum()), "neighbours that survived")
            shares = [
                self._shares[v][0 if survived else 1]
                for v, survived in zip(numbers, sent.survived.tolist(), strict=True)
            ]
            return write(Revealed, self.setup, self.number, neighbors=numbers, shares=shares)

    @property
    def _name(self) -> str:
        return f"client {self.number}"

    @contextmanager
    def _doing(self, step: str) -> Iterator[None]:
        """Let a step be done once and in its order; drop all secrets if anything goes wrong."""
        if self.step != step:
            raise SecureAggregationError(
                f"{self._name}: expected {self.step} next, got {step}; each step is done once a "
                "round."
            )
        self.step = "failed"
        try:
            yield
        except BaseException:
            self._forget()
            raise
        if step == STEPS[-1]:
            self._forget()
        self.step = [*STEPS, "done"][STEPS.index(step) + 1]

    def _forget(self) -> None:
        self._private, self._seed = {}, b""
        self._masking, self._agreed, self._shares = {}, {}, {}

    def _refuse(self, name: str, expected: str, got: object) -> None:
        raise SecureAggregationError(message(self._name, name, expected, got))

    def _check_enough(self, count: int, what: str) -> None:
        threshold = self.setup.threshold
        if count < threshold:
            self._refuse(what, f"at least {threshold}, the threshold", count)

    def _check_integers(self, integers: Integer[np.ndarray, " entries"]) -> None:
        who, bits = "Client.mask", self.setup.bits
        whole = isinstance(integers, np.ndarray) and integers.dtype.kind in "iu"
        if not whole or integers.shape != (self.setup.entries,):
            expected = f"an array of {self.setup.entries} integers"
            raise ValueError(message(who, "integers", expected, integers))
        low, high = int(integers.min()), int(integers.max())
        if low < -(2 ** (bits - 1)) or high >= 2 ** (bits - 1):
            expected = f"integers of {bits} bits, as the setup says"
            raise ValueError(message(who, "integers", expected, f"{low} to {high}"))

    def _sealing_key(self, neighbor: int, sender: int, receiver: int) -> bytes:
        secret = self._agreed[neighbor]
        return derive(secret, "sealed shares", self.setup.round, sender, receiver)

    def _about(self, sender: int, receiver: int) -> bytes:
        """What a seal is bound to, both masking keys included: else masks might not cancel."""
        keys = {**self._masking, self.number: self._public["masking"]}
        about = context("sealed shares", self.setup.round, sender, receiver)
        return about + keys[sender] + keys[receiver]


def pair_key(private: bytes, public: bytes, round_: bytes, one: int, other: int) -> bytes:
    """The key of the mask that two clients have in common, from either end."""
    low, high = min(one, other), max(one, other)
    return derive(agree(private, public), "pair mask", round_, low, high)
