"""The configuration of a run, as texts and numbers, and its parsed form."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fedjax_compression.text import found

from ..algorithm import FederatedAlgorithm, SplitMethod
from ..algorithms.contract import Method
from ..algorithms.registry import METHODS
from ..data.tokenisation.chat import DATE
from ..models import DecoderConfig
from ..tasks.registry import TASKS, Long, TaskSpec
from .texts import Parsed, built, in_field, parsed


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run's numbers depend on.

    Texts are calls of the public factories, such as `eden(bits=1)`; they are parsed, never
    evaluated. An object of your own goes in as `Named(text, object)`.

    Attributes:
        rounds: Rounds to run.
        clients: Clients drawn for each round.
        seed: Seed of the clients' draws, batches, initial parameters and codecs.
        algorithm: A method with its own arguments, such as fed_prox(mu=0.01). It takes what it
            needs from the flags below; a flag that it does not need is refused.
        uplink: Codec of what clients send. With preconditioned(...) the downlink also carries the
            last round's mean, at 4 bits per entry.
        downlink: Codec of what the server sends.
        aggregate: How the server combines decoded updates: weighted_mean(), a robust rule such as
            median() or krum(f=6), one with noise for privacy such as dp_fed_avg(clip=0.5,
            noise_multiplier=1.0), secure_mean() of integers with the uplink
            fixed_point(clip=0.05, clients=32), or a registered rule of your own. Default: the
            method's.
        gradients: How clients compute the gradients of local steps: dp_sgd(clip=0.1,
            noise_multiplier=1.0) clips that of each row (window, pair) and adds noise, for the
            privacy of rows, from the server too. Default: without noise.
        prediction: Share of the last round's update that clients and server subtract before coding
            an uplink; above 0 the downlink carries that update too, at 4 bits per entry.
        client_axis: How a round's clients run: vmap(), scan(), chunked(size=8),
            sharded(inner=scan()) over devices, or auto() for the fastest of them. Default: vmap()
            for a fresh decoder, scan() for a pretrained model.
        client_optimizer: Optax optimizer of each client, or muon(0.02), which orthogonalises the
            momentum of stacked matrices. Default: adam(0.006) for a fresh decoder, adam(0.0005) for
            a pretrained model, SGD with a small learning rate for zeroth-order methods. A schedule
            over the rounds, or over the steps, of the run: chain(adam(0.006),
            over_rounds(cosine_decay_schedule(1.0, 20))), or over_run_steps.
        server_optimizer: Optax optimizer that takes the negative mean update as its gradient, or
            fed_adam(0.01), fed_yogi(0.01) or fed_adagrad(0.01) of arXiv:2003.00295. Default:
            sgd(1.0, momentum=0.5, nesterov=True), or the method's own.
        adapter: Which parameters are trained: full(), lora(rank=8) or another adapter;
            head_only() for a classifier's head; nf4_base(lora(rank=8)) and int8_base(...) quantise
            the frozen base.
        local_steps: Local steps of each client in a round. Default: 8, unless local epochs are
            given.
        local_epochs: Passes of each client over its data in a round, instead of local steps.
        batch: Rows (windows, pairs) in a local step.
        seq: Tokens in a window; a fresh decoder's tokens are bytes.
        task: What is learned: language_model(), or preference(beta=0.1) for DPO on pairs of
            answers; preference(prompt_tokens=128) keeps as many tokens of a prompt's end where
            pairs are truncated, half of `seq` by default; or classification(labels=2) of texts by
            an encoder such as minilm.
        data: Text by client: shakespeare(), chitchat(), fedit('folder'), or jsonl(...), csv(...)
            and parquet(...) such as
            jsonl('chats.jsonl', fields(messages='messages', client='user')). Published
            layouts have names: alpaca(client='user') reads instruction, input and output,
            sharegpt(client='user') conversations. Pairs: pair_fields(client='user') reads TRL's
            prompt, chosen and rejected, alpaca_pairs(...) instruction, input, chosen and rejected,
            sharegpt_pairs(...) conversations, chosen and rejected. Labelled texts:
            fields(text='text', label='label', client='user'). Any of them dealt out anew by
            iid, dirichlet, label_shards, log_normal or power_law, such as
            iid(chitchat(), clients=100, seed=0).
        population: Clients to keep of all there are, drawn by the seed. Default: all.
        unseen: Clients that take no part in training: share(0.1) of them, drawn by the seed;
            last(20) in the order of their names; named('ann', 'bob'); or matching('test_*').
        heldout: Held-out text of training clients: the last share(0.1) of each one's pieces, at
            least one of two; or text of its own, as `data` takes it, such as
            jsonl('heldout.jsonl', fields(text='text')), or fedit_test('folder'), the test set of a
            folder that fedit reads.
        evaluate_rows: Most rows in an evaluation of the held-out text, and in one of the unseen
            clients. Default: those of 2^20 tokens for a fresh decoder, of 2^17 for a pretrained
            model.
        evaluate_clients: Most clients in each of them, drawn by the seed.
        evaluate_every: Rounds between two evaluations whose losses go into the rounds' rows.
            Default: no evaluation before the last round is done.
        target_loss: Stop after a round whose loss on held-out text is at most this many nats (per
            token, or per pair). Needs `evaluate_every`. Default: all rounds.
        long: How to handle examples longer than `seq` (with `model`): split (default), truncate or
            error; for pairs error (default), truncate (the prompt from the left, then the answers
            from the right) or drop; for labelled texts error (default) or truncate.
        model: Pretrained model to start from: a folder, such as the model/ that train wrote, a
            .gguf file, smollm2, minilm (an encoder), or owner/name on the hub. Default: a fresh
            byte-level decoder of the sizes below.
        chat_template: File with a Jinja chat template (with `model`), where the model has none or
            its own refuses the data. Default: the model's.
        date: Date that a chat template's clock shows (with `model`). Default 2024-07-26, so that
            the same run gives the same tokens on every day.
        faults: What goes wrong with clients, by probabilities for each client and round, such as
            faults(dropout=0.1, silence=0.01, failure=0.01, partial=0.2). Default: nothing.
        link: Network speed, from which rounds get simulated seconds:
            link(uplink=10e6, downlink=50e6, latency=0.05, step=0.1) in bits per second and seconds
            for all clients, or links('links.csv') for each. Default: no simulated time.
        deadline: Which answers count: deadline(first=24), deadline(seconds=60), or both. Needs a
            link. Default: all.
        availability: Which clients can be drawn when: trace('trace.csv') or diurnal(share=0.3).
            Needs a link. Default: all clients, always.
        buffer: Answers after which the server steps while other clients still work (FedBuff);
            `clients` is then the number at work at a time, and `rounds` the number of server
            steps. Needs a link. Such a run has no checkpoints: --resume starts it again.
        attack: Which share of the clients is malicious, drawn by the seed, and what they do:
            alie(fraction=0.2), sign_flip(fraction=0.1), token_flip(fraction=0.1, values=256) or
            another. Default: none.
        sampler: Which clients a round draws: poisson(0.1), each client with that probability and
            at most `clients` of them; cyclic(min_separation=4), groups in turn; or
            without_replacement(). Default: `clients` of them, drawn by the seed.
        secret: File with the secret of a run with noise, 32 hexadecimal digits or more: its noise
            and its sampler's draws come from it, and not from the seed. Rows have its digest alone.
        delta: Delta at which rows tell the epsilon of a run with noise.
        decoder: Sizes of a fresh decoder.

    """

    rounds: int = 20
    clients: int = 32
    seed: int = 0
    algorithm: str = "fed_avg()"
    uplink: str = "identity()"
    downlink: str = "identity()"
    aggregate: str | None = None
    gradients: str | None = None
    prediction: float = 0.0
    client_axis: str | None = None
    client_optimizer: str | None = None
    server_optimizer: str | None = None
    adapter: str = "full()"
    local_steps: int | None = None
    local_epochs: int | None = None
    batch: int = 8
    seq: int = 64
    task: str = "language_model()"
    data: str = "shakespeare()"
    population: int | None = None
    unseen: str = "share(0.1)"
    heldout: str = "share(0.1)"
    evaluate_rows: int | None = None
    evaluate_clients: int = 1000
    evaluate_every: int | None = None
    target_loss: float | None = None
    long: Long | None = None
    model: str | None = None
    chat_template: str | None = None
    date: str = DATE
    faults: str | None = None
    link: str | None = None
    deadline: str | None = None
    availability: str | None = None
    buffer: int | None = None
    attack: str | None = None
    sampler: str | None = None
    secret: str | None = None
    delta: float | None = None
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


TEXTS = (
    "algorithm",
    "uplink",
    "downlink",
    "aggregate",
    "gradients",
    "client_axis",
    "client_optimizer",
    "server_optimizer",
    "adapter",
    "task",
    "data",
    "unseen",
    "heldout",
    "faults",
    "link",
    "deadline",
    "availability",
    "attack",
    "sampler",
)
"""The fields that hold a call as text."""


ENDS = ("rounds", "target_loss")
"""The fields that say when a run ends, and do not change its rounds."""


class ParsedConfig(NamedTuple):
    """A configuration whose texts were parsed, once.

    Attributes:
        config: The configuration with each text in its one spelling, and all defaults in place.
        texts: The parsed text of each field that has one.
        method: The method that `algorithm` names.
        task_spec: The task that `task` names.

    """

    config: RunConfig
    texts: Mapping[str, Parsed]
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
    most_rows = max(1, (2**20 if fresh else 2**17) // max(config.seq, 1))
    given = config.local_steps is not None or config.local_epochs is not None
    config = dataclasses.replace(
        config,
        local_steps=config.local_steps if given else 8,
        evaluate_rows=most_rows if config.evaluate_rows is None else config.evaluate_rows,
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
