"""The configuration of a run: all that its numbers depend on, as texts and numbers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fedjax_compression.text import found

from ..algorithm import FederatedAlgorithm, SplitMethod
from ..algorithms.contract import Method
from ..algorithms.registry import METHODS
from ..models import DecoderConfig
from ..tasks.registry import TASKS, Long, TaskSpec
from .texts import Parsed, built, in_field, parsed


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that a run's numbers depend on. Texts are calls of the public factories."""

    rounds: int = 20
    clients: int = 32
    """Clients drawn for each round."""
    seed: int = 0
    algorithm: str = "fed_avg()"
    """A method with what it takes of its own, such as fed_prox(mu=0.01). What it takes of the
    flags below comes from them; one that it does not take is refused."""
    uplink: str = "identity()"
    """Codec of what clients send."""
    downlink: str = "identity()"
    """Codec of what the server sends."""
    prediction: float = 0.0
    """Share of the last round's update that clients and server subtract before coding an uplink;
    above 0 the downlink carries that update too."""
    client_axis: str | None = None
    """vmap(), scan(), chunked(size), sharded(inner=scan()) for such an axis on each device, or
    auto() for the fastest of these. Unless given, vmap() for a fresh decoder and scan() for a
    checkpoint."""
    client_optimizer: str | None = None
    """An Optax optimizer of each client. Unless given, adam(0.006) for a fresh decoder and
    adam(0.0005) for a checkpoint; SGD for methods without gradients."""
    server_optimizer: str | None = None
    """An Optax optimizer that takes minus the mean update for a gradient. Unless given,
    sgd(1.0, momentum=0.5, nesterov=True), and for diloco() and its kin, fwd_llm()
    and spry() their own."""
    adapter: str = "full()"
    """full(), lora(rank=8), rslora, dora, ia3, bitfit, bottleneck, prompt_tuning, prefix_tuning,
    layers or seeds; nf4_base(lora(rank=8)) or int8_base(lora(rank=8))."""
    local_steps: int | None = None
    """Steps of a client in a round; 8 unless local epochs are given."""
    local_epochs: int | None = None
    """Passes of a client over its text in a round, instead of local steps."""
    batch: int = 8
    """Windows in a step."""
    seq: int = 64
    """Tokens in a window; a fresh decoder's are bytes."""
    task: str = "language_model()"
    """language_model(), or preference(beta=0.1) for DPO on pairs of answers."""
    data: str = "shakespeare()"
    """shakespeare(), chitchat(), fedit('folder'), or jsonl or parquet, such as
    jsonl('chats.jsonl', fields(messages='messages', client='user')), with pair_fields for pairs,
    such as jsonl('pairs.jsonl', pair_fields(client='user')); or any of them dealt out
    anew by iid, dirichlet, label_shards, log_normal or power_law, such as
    iid(chitchat(), clients=100, seed=0)."""
    population: int | None = None
    """Clients to keep of those there are, drawn by the seed; a tenth of them is held out."""
    long: Long | None = None
    """What becomes of an example longer than a window, where a checkpoint reads it: error, truncate
    or split, which it is unless given; of a pair error, which it is unless given, or drop."""
    model: str | None = None
    """A checkpoint to start from: a folder, a .gguf file, smollm2, or owner/name on the hub; a
    fresh decoder of the sizes below, which reads bytes, unless given."""
    faults: str | None = None
    """What goes wrong, by probabilities of each client in each round, such as
    faults(dropout=0.1, silence=0.01, failure=0.01, partial=0.2); nothing unless given."""
    link: str | None = None
    """Bits per second, seconds of latency and of a step, from which rounds get simulated seconds:
    link(uplink=10e6, downlink=50e6, latency=0.05, step=0.1) for all clients, or
    links('links.csv') for each; no time unless given."""
    deadline: str | None = None
    """Who answers in time: deadline(first=24), deadline(seconds=60), or both; all unless given."""
    availability: str | None = None
    """Who can be drawn when: trace('trace.csv'), or diurnal(share=0.3); all at all times unless
    given."""
    buffer: int | None = None
    """Answers after which the server steps while others are still at work, as FedBuff does;
    `clients` are then those at work at a time, and `rounds` the server's steps. Needs a link.
    Nothing of such a run is kept for --resume, which begins it again."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


TEXTS = (
    "algorithm",
    "uplink",
    "downlink",
    "client_axis",
    "client_optimizer",
    "server_optimizer",
    "adapter",
    "task",
    "data",
    "faults",
    "link",
    "deadline",
    "availability",
)
"""The fields that hold a call as text."""


class ParsedConfig(NamedTuple):
    """A configuration whose texts were parsed, once."""

    config: RunConfig
    """With each text in its one spelling, and all defaults in place."""
    texts: Mapping[str, Parsed]
    """By field; fields that are None have none."""
    method: Method
    task_spec: TaskSpec


def parse_config(config: RunConfig) -> ParsedConfig:
    """Parse every text of a configuration and put the defaults in place.

    Raises:
        ValueError: Naming the field, for a text that is no call, an unknown method or task.

    """
    texts = {
        field: parsed(field, text)
        for field in TEXTS
        if (text := getattr(config, field)) is not None
    }
    method = _method(texts["algorithm"])
    task_spec: TaskSpec = built("task", texts["task"], TASKS)
    fresh = config.model is None
    defaults = {}
    if config.client_axis is None:
        at_once = (fresh and not config.buffer) or method.split
        defaults["client_axis"] = "vmap()" if at_once else "scan()"
    if config.client_optimizer is None and "client_optimizer" in method.needs:
        adam = f"adam({0.006 if fresh else 0.0005})"
        sgd = f"sgd({0.0001 if fresh else 0.000001})"
        defaults["client_optimizer"] = sgd if method.small_steps else adam
    steps = "server_optimizer" in method.needs and not method.own_server_optimizer
    if config.server_optimizer is None and steps:
        defaults["server_optimizer"] = "sgd(1.0, momentum=0.5, nesterov=True)"
    texts |= {field: parsed(field, text) for field, text in defaults.items()}
    given = config.local_steps is not None or config.local_epochs is not None
    config = dataclasses.replace(
        config,
        local_steps=config.local_steps if given else 8,
        long=config.long or task_spec.long[0],
        **{field: text.text for field, text in texts.items()},  # type: ignore[arg-type]
    )
    return ParsedConfig(config, texts, method, task_spec)


def canonical(config: RunConfig) -> RunConfig:
    """The same configuration with each text in its one spelling, and all defaults in place."""
    return parse_config(config).config


def _method(text: Parsed) -> Method:
    """The method that a text names, or that was given: a `Method`, a factory or an algorithm."""
    if isinstance(text.value, Method):
        return text.value
    if isinstance(text.value, FederatedAlgorithm | SplitMethod):
        algorithm = text.value
        return Method(lambda loss, like: algorithm)
    if text.value is not None:
        return Method(text.value)
    return in_field("algorithm", found, text.call, METHODS)
