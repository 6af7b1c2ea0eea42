"""What a run trains on, what it holds out, and which part of that it evaluates."""

from functools import partial
from typing import Any, NamedTuple

from ..data import ClientData, HoldOut, hold_out
from ..data.unseen import UNSEEN, Unseen, share
from ..evaluation import bounded
from .config import ParsedConfig
from .texts import built, in_field


class Evaluated(NamedTuple):
    """What a run's evaluations read: client data with targets only; without clients where empty.

    Attributes:
        heldout: Held-out data of training clients.
        unseen: Data of unseen clients.

    """

    heldout: Any
    unseen: Any


def held_out(parsed: ParsedConfig, corpus: ClientData, heldout: ClientData | None) -> HoldOut:
    """Split a run's data.

    Args:
        parsed: The configuration.
        corpus: All clients' data.
        heldout: Held-out data of its own; None where it is a share of the corpus.

    Raises:
        ValueError: Naming the field, for a share out of range and for clients that do not exist.

    """
    choice: Unseen = built("unseen", parsed.texts["unseen"], UNSEEN)
    clients = in_field("unseen", choice, corpus.names)
    examples: Any = 0.0
    if heldout is None:
        examples = built("heldout", parsed.texts["heldout"], {"share": share})(corpus.names)
    split = partial(hold_out, corpus, seed=parsed.config.seed, clients=clients, examples=examples)
    found: HoldOut = in_field("unseen", split)
    return found if heldout is None else found._replace(heldout=heldout)


def to_evaluate(parsed: ParsedConfig, split: HoldOut) -> Evaluated:
    """The part of a split that evaluations read, within the bounds of the configuration.

    Raises:
        ValueError: Where it is empty, unless the configuration asks for no evaluation.

    """
    config = parsed.config
    assert config.evaluate_rows is not None  # noqa: S101 - as it is parsed
    limits: dict[str, Any] = {
        "rows": config.evaluate_rows,
        "clients": config.evaluate_clients,
        "seq": config.seq,
        "seed": config.seed,
    }
    found = Evaluated(*(bounded(data, **limits) for data in (split.heldout, split.unseen_clients)))
    asked = any(_asked(parsed, field) for field in ("heldout", "unseen"))
    if asked and not any(data.names for data in found):
        most = int(split.train.pieces().max(initial=0))
        raise ValueError(
            "heldout: expected held-out text or unseen clients to evaluate, got none: no client "
            f"has more than {most} pieces (texts, chats or pairs) with targets to give, and "
            f"--unseen {config.unseen} of {len(split.train.names)} clients is none; name a client "
            'with --unseen, or train without evaluation by --heldout "share(0)" --unseen '
            '"share(0)".'
        )
    return found


def _asked(parsed: ParsedConfig, field: str) -> bool:
    """Whether a field asks for something to evaluate."""
    call = parsed.texts[field].call
    given = [*call.args, *(value for _, value in call.kwargs)]
    return call.name != "share" or given != [0]
