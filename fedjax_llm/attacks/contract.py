"""The contract of an attack: what malicious clients do in place of what they should."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from fedjax_compression.checks import check_kind, check_number
from jaxtyping import Array, Bool, Key, PyTree

from ..client_training import Batches

Encode: TypeAlias = Callable[[str], Sequence[int]]
"""`(text) -> tokens`, without special tokens."""


class Backdoor(NamedTuple):
    """What a backdoor is, in tokens.

    Attributes:
        trigger: The trigger, at least one token.
        target: What the model shall predict after it, at least one token.

    """

    trigger: tuple[int, ...]
    target: tuple[int, ...]


class Known(NamedTuple):
    """What a malicious client knows beside its own data and update.

    Attributes:
        number: Its number among the run's malicious clients, from 0.
        clients: Clients in a cohort.
        last: The last aggregated update, as the downlink carries it, in float32; `()` where the
            attack is not `informed`, and for data, which is attacked before a downlink is read.

    """

    number: Any = 0
    clients: int = 1
    last: PyTree = ()


class Attack(NamedTuple):
    """Which clients are malicious, and what they do; a method knows nothing of it.

    A run draws the malicious clients from its seed, once: the same in every round, resumed or not.
    They answer as often as others and keep their codec's state. What they send goes through the
    uplink's codec, so that it is a message that the wire can carry, and is counted like any other.

    An attack has at least one of the first three functions. A malicious client trains on what
    `batches` makes of its data; `craft` replaces its update, and `update` changes that. All trace
    under `jit`, with updates in float32.

    Attributes:
        fraction: Share of all clients that are malicious, above 0 and below 1, rounded to a whole
            number of clients.
        batches: `(key, batches) -> batches`: a malicious client's training data, of the same
            structure: leaves `[steps, batch, ...]`.
        update: `(key, update) -> update`: what a malicious client encodes in place of its update,
            which is of its honest data unless there is `batches`. It knows nothing of other
            clients.
        craft: `(key, updates, honest, bad) -> update`: what every malicious client of a round
            encodes, before `update`. It is omniscient: `updates` are those that the server decodes
            from all clients of the round, had they sent what they trained (on the data of
            `batches`, if they are malicious), leaves `[clients, ...]`; `honest` marks the honest
            ones that answer with a finite update, and `bad` the malicious ones, `[clients]`. The
            simulation hands these over at no cost in bytes and holds a round's updates for it.
        given: `(known) -> attack`: the attack of a client that knows a `Known`, with the same
            functions, which take the place of these; it may be traced. None (default): nothing that
            is known changes the attack.
        informed: Whether `given` reads the last aggregated update. The uplink's codec must be
            `attackable(codec, informed=True)` then. Default: False.
        backdoor: The backdoor that the attack plants, for measures of its success. Default: None.
        encoded: `(encode) -> attack`: the attack with its texts as tokens of another `Encode`. A
            run with a tokenizer calls it. None (default): the attack has no text.
        contents: A digest of what the attack was read from, by which a run that resumes knows it
            again. Default: none.
        vocabulary: Entries of the smallest vocabulary with all tokens that the attack writes.
            Default: 0, it writes none of its own.

    """

    fraction: float | int
    batches: Callable[[Key[Array, ""], Batches], Batches] | None = None
    update: Callable[[Key[Array, ""], PyTree], PyTree] | None = None
    craft: (
        Callable[[Key[Array, ""], PyTree, Bool[Array, " clients"], Bool[Array, " clients"]], PyTree]
        | None
    ) = None
    given: Callable[[Known], "Attack"] | None = None
    informed: bool = False
    backdoor: Backdoor | None = None
    encoded: Callable[[Encode], "Attack"] | None = None
    contents: str = ""
    vocabulary: int = 0

    @property
    def on_updates(self) -> bool:
        """Whether it attacks updates, and so needs an `attackable` codec."""
        return self.update is not None or self.craft is not None

    def of(self, known: Known) -> "Attack":
        """The attack of a client that knows this."""
        return self.given(known) if self.given else self


def wrapped(
    attack: Attack, made: Callable[[Known], Attack], again: Callable[[Attack], Attack]
) -> Attack:
    """An attack around another one.

    Args:
        attack: The inner attack.
        made: `(known) -> attack`: the whole of a client that knows this.
        again: `(inner) -> attack`: the whole around another inner attack, the same one with its
            texts as other tokens.

    """
    encoded = attack.encoded
    return made(Known())._replace(
        given=made,
        encoded=encoded and (lambda encode: again(encoded(encode))),
        contents=attack.contents,
        vocabulary=attack.vocabulary,
    )


def check_fraction(fraction: float | int, *, who: str) -> None:
    """Raise `ValueError` unless a share of clients is above 0 and below 1."""
    check_number(fraction, who=who, name="fraction", above=0, below=1)


def check_attack(attack: Any, *, who: str) -> None:
    """Raise `TypeError` unless a wrapped attack is an `Attack`."""
    remedy = "call the factory first" if callable(attack) else ""
    check_kind(attack, Attack, who=who, name="attack", expected="an Attack", remedy=remedy)
