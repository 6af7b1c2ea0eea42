"""Conditions of a run: which faults, networks, deadlines and buffers a method can run under."""

from functools import partial

from ..algorithm import FederatedAlgorithm, SplitMethod
from ..attacks.contract import Attack, Backdoor
from ..data import Corpus
from ..simulation import Conditions
from ..simulation.conditions.registry import CONDITIONS
from ..simulation.loop.arguments import refused_conditions
from .config import ParsedConfig, RunConfig
from .texts import built, in_field
from .workload import Workload


def conditions(parsed: ParsedConfig, load: Workload) -> Conditions:
    """The conditions that a configuration names.

    Args:
        parsed: The configuration.
        load: Its data and model, whose tokenizer reads an attack's texts.

    Raises:
        ValueError: Naming the field: for a text that names no condition, for a deadline or
            availability without a link, for a deadline that waits for more clients than are drawn,
            and where the method cannot run under the condition.

    """
    config, texts, method = parsed.config, parsed.texts, parsed.method
    given = {
        name: built(name, texts[name], factories)
        for name, factories in CONDITIONS.items()
        if name in texts
    }
    if "sampler" in given:
        _check_sampler(config)
    if "attack" in given:
        given["attack"] = _tokenized(given["attack"], load)
        _check_attack(parsed, given["attack"], load)
    for name in given:
        if method.split:
            raise ValueError(
                f"{name}: {texts['algorithm'].call.name} needs the whole of every client in every "
                f"round, expected none, got {getattr(config, name)}."
            )
        if name in ("deadline", "availability") and "link" not in given:
            raise ValueError(
                f"{name}: expected a link, such as link(uplink=10e6, downlink=50e6), as it is in "
                f"simulated seconds; got {getattr(config, name)} alone."
            )
    if config.buffer is not None:
        _check_buffer(config)
    if "deadline" in given and (given["deadline"].first or 0) > config.clients:
        raise ValueError(
            f"deadline: expected first to be at most {config.clients}, the clients drawn for a "
            f"round, got {given['deadline'].first}."
        )
    return Conditions(
        given.get("faults"),
        given.get("link"),
        given.get("deadline"),
        given.get("availability"),
        given.get("attack"),
        given.get("sampler"),
    )


def check_declared(
    parsed: ParsedConfig, algorithm: FederatedAlgorithm | SplitMethod, population: int
) -> None:
    """Raise `ValueError` where the run cannot keep what the built algorithm declares."""
    config, name = parsed.config, parsed.texts["algorithm"].call.name
    if isinstance(algorithm, SplitMethod):
        return
    if refused := refused_conditions(algorithm):
        needs = f"{name} needs every client in every round"
        if not algorithm.every_round:
            needs = (
                f"{name} with downlink {config.downlink} needs every client in every round, as a "
                "client that misses a message cannot read the next"
            )
        if config.clients < population:
            raise ValueError(
                f"algorithm: {needs}, expected clients to be {population}, all there are, got "
                f"{config.clients}."
            )
        for field in refused:
            if (got := getattr(config, field)) is not None:
                raise ValueError(f"{field}: {needs}, expected none, got {got}.")
    if config.buffer is not None and algorithm.add_stale is None:
        raise ValueError(
            f"buffer: {name} with uplink {config.uplink} and downlink {config.downlink} keeps a "
            "state that answers to earlier models do not fit, expected none, got "
            f"{config.buffer}; run it without, or a method like fed_avg with codecs other than "
            "ef21 and diana."
        )


def _check_sampler(config: RunConfig) -> None:
    for name in ("deadline", "availability", "buffer"):
        if (got := getattr(config, name)) is not None:
            raise ValueError(
                f"{name}: expected none with a sampler, which alone says who is drawn, got {got}."
            )


def _tokenized(attack: Attack, load: Workload) -> Attack:
    """The attack with its texts as tokens of the run's model."""
    if attack.encoded is None or load.tokenizer is None:
        return attack
    encode = partial(load.tokenizer, add_special_tokens=False)
    tokenized: Attack = in_field("attack", attack.encoded, lambda text: encode(text)["input_ids"])
    return tokenized


def _check_attack(parsed: ParsedConfig, attack: Attack, load: Workload) -> None:
    config, method, name = parsed.config, parsed.method, parsed.texts["algorithm"].call.name
    if method.split:
        raise ValueError(
            f"attack: {name} exchanges messages in every step, expected none, got {config.attack}."
        )
    if config.buffer is not None:
        raise ValueError(
            f"attack: expected none with a buffer, as its rounds wait for no cohort, got "
            f"{config.attack}."
        )
    if attack.backdoor is not None:
        _check_backdoor(config, attack.backdoor, load)
    if attack.vocabulary > load.config.vocab_size:
        raise ValueError(
            f"attack: expected tokens below {load.config.vocab_size}, the vocabulary, got "
            f"{attack.vocabulary - 1}."
        )
    if not attack.on_updates:
        return
    if "uplink" not in method.needs:
        raise ValueError(
            f"attack: {name} has no codec of updates, expected an attack on data such as "
            f"token_flip(fraction=0.1, values=256), got {config.attack}."
        )
    if config.prediction:
        raise ValueError(
            f"prediction: expected 0 with {config.attack}, which attacks whole updates, got "
            f"{config.prediction}."
        )


def _check_backdoor(config: RunConfig, backdoor: Backdoor, load: Workload) -> None:
    if not isinstance(load.corpus, Corpus):
        raise ValueError(
            f"attack: a backdoor is in windows of tokens, expected language_model(), got "
            f"{config.task}."
        )
    words = backdoor.trigger + backdoor.target
    if len(words) > config.seq + 1:
        raise ValueError(
            f"seq: expected at least {len(words) - 1}, the tokens of the backdoor's trigger and "
            f"target less one, got {config.seq}."
        )


def _check_buffer(config: RunConfig) -> None:
    if config.buffer is not None and config.buffer < 1:
        raise ValueError(f"buffer: expected at least 1, got {config.buffer}.")
    if config.link is None:
        raise ValueError(
            "buffer: expected a link, such as link(uplink=10e6, downlink=50e6), as who answers "
            "first is a matter of time; got none."
        )
    for name, expected in (
        ("deadline", None),
        ("availability", None),
        ("client_axis", "scan()"),
    ):
        if (got := getattr(config, name)) != expected:
            raise ValueError(
                f"{name}: with a buffer clients run one by one and no round waits for them, "
                f"expected {expected or 'none'}, got {got}."
            )
