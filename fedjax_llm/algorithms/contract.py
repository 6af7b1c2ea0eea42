"""What a method declares to the programs that run it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..algorithm import FederatedAlgorithm, SplitMethod
from ..client_training import Params

NEEDS: Mapping[str, str] = {
    "client_optimizer": "the run's client optimizer (an Optax transformation)",
    "server_optimizer": "the run's server optimizer (an Optax transformation)",
    "uplink": "the codec of what clients send",
    "downlink": "the codec of what the server sends",
    "aggregate": "the rule that combines decoded updates (an `Aggregator`)",
    "prediction": "the share of the last update that uplinks are coded relative to",
    "steps": "local steps of each client in a round (an integer)",
    "window": "rounds of the run (an integer)",
    "clients": "clients in each cohort (an integer)",
    "population": "the sum of the weights of all clients, sampled or not",
    "scale": "alpha / rank of the run's LoRA adapter, one number for all products",
    "vocab": "tokens in the vocabulary (an integer)",
    "logits": "`(params, frozen, tokens) -> logits` of the run's language model",
    "public": "token windows that every client may read, `[batches, 1, batch, seq]`",
    "root": "batches of the server's own data, leaves `[batches, batch, ...]`",
    "halves": "`(cut) -> Halves`: the model cut into a client's and the server's half",
}
"""What a run can give to a factory, by the name of the factory's parameter."""


class Method(NamedTuple):
    """A factory of an algorithm, what it needs of a run, and how a run chooses its defaults.

    Only the declared needs are passed to `factory`, so other parameters may have any name. What
    runtimes must know of the algorithm itself is declared in the `FederatedAlgorithm`.

    Attributes:
        factory: `(loss, like, **needs, **arguments) -> FederatedAlgorithm`; with `split`,
            `(like, **needs, **arguments) -> SplitMethod`.
        needs: Names from `NEEDS`, each a keyword parameter of `factory`.
        own_server_optimizer: `server_optimizer=None` stands for the paper's server step, so that a
            run passes an optimizer only if the user gave one.
        small_steps: Clients step along noisy estimates; their default optimizer is SGD with a
            small learning rate.
        sends_slopes: Messages are slopes along seeded directions, so that no codec applies.
        forward_mode: Clients differentiate with `jax.jvp`.
        split: Clients and server exchange messages in every step; the factory returns a
            `SplitMethod`, and a round's clients run together.
        check_start: `(params, arguments, adapter) -> None`: raises `ValueError` if the method
            cannot start from the parameters; `arguments` are those of the run's `algorithm` text,
            `adapter` is the adapter's text. None (default) accepts any parameters.

    """

    factory: Callable[..., FederatedAlgorithm | SplitMethod]
    needs: tuple[str, ...] = ()
    own_server_optimizer: bool = False
    small_steps: bool = False
    sends_slopes: bool = False
    forward_mode: bool = False
    split: bool = False
    check_start: Callable[[Params, Mapping[str, Any], str], None] | None = None
