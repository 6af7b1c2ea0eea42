"""A run from its configuration: everything that texts and numbers name, built and checked."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, codec

from ..adapters import Adapter
from ..adapters.registry import ADAPTERS
from ..aggregators import Aggregator
from ..aggregators.registry import AGGREGATORS
from ..algorithm import FederatedAlgorithm, SplitMethod
from ..algorithms.shared.base_changes import base_of
from ..attacks import Attack, attackable
from ..client_training import Loss
from ..data import Batching, HoldOut
from ..data.batches import batches_of_one
from ..evaluation import backdoor_success
from ..privacy import PrivateLoss, dp_sgd
from ..simulation import CLIENT_AXES, Auto, ClientAxis, Conditions
from ..tasks import Measure, Task
from ..tasks.registry import TaskSpec
from .conditions import check_declared, conditions
from .config import ParsedConfig, RunConfig, parse_config
from .contents import Contents, adapter_digest, condition_contents
from .held_out import Evaluated, held_out, to_evaluate
from .memory import check_memory
from .method_inputs import check_adapter, check_client_axis, method_inputs, names_in
from .optimizers import OPTIMIZERS
from .private import Private, check_gradients, private
from .stages import Later, later, uplink_stages
from .texts import Parsed, built, in_field
from .workload import Read, Workload, workload


class Run(NamedTuple):
    """A configuration, built and checked; no round has run yet, and nothing was written.

    `contents` are the digests of all that it read: runs are compared by them. `backdoor` measures
    the success of an attack that plants one. `later` is the method of the later rounds, where the
    uplink changes.
    """

    config: RunConfig
    task_spec: TaskSpec
    workload: Workload
    task: Task
    split: HoldOut
    evaluated: Evaluated
    client_optimizer: optax.GradientTransformation | None
    algorithm: FederatedAlgorithm | SplitMethod
    batching: Batching
    client_axis: ClientAxis | Auto
    conditions: Conditions
    contents: Contents
    private: Private | None = None
    backdoor: Measure | None = None
    later: Later | None = None

    @property
    def unit(self) -> str:
        """What the loss is a mean over, in titles, tables and rows: byte, token or pair."""
        unit = self.task_spec.unit
        return "byte" if unit == "token" and self.workload.tokenizer is None else unit

    @property
    def left_out(self) -> list[str]:
        """A line for each set of data of which something is not learnt, for people to read."""
        return [
            f"{field}: left out "
            + " and ".join(f"{count} of {of} {what}" for what, (count, of) in counts.items())
            + f", of which nothing is learnt at seq={self.config.seq} with long={self.config.long}."
            for field, counts in self.workload.left_out.items()
        ]


def prepare(config: RunConfig, *, cache: Path | None = None, read: Read = workload) -> Run:
    """Build everything that a configuration names.

    Args:
        config: The configuration.
        cache: Folder in which the tokens of a checkpoint's tokenizer are kept for later runs.
        read: What reads data and model. Default: `workload`; `keeping_last()` reads once what
            several configurations share.

    Raises:
        ValueError: Naming the field, what was expected and what was got.

    """
    parsed = parse_config(config)
    config, texts, task_spec = parsed.config, parsed.texts, parsed.task_spec
    if config.rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {config.rounds}.")
    for name in ("evaluate_rows", "evaluate_clients", "evaluate_every"):
        if (count := getattr(config, name)) is not None and count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}.")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected 0 to 4294967295, got {config.seed}.")
    batching = Batching(
        seq=config.seq, batch=config.batch, steps=config.local_steps, epochs=config.local_epochs
    )
    assert config.long is not None  # noqa: S101 - as it is parsed
    load = read(
        task_spec,
        text=texts["data"],
        heldout=None if texts["heldout"].call.name == "share" else texts["heldout"],
        population=config.population,
        seed=0 if config.population is None else config.seed,  # no population, no draw
        model=config.model,
        chat_template=config.chat_template,
        date=config.date,
        decoder=config.decoder,
        seq=config.seq,
        long=config.long,
        cache=cache,
    )
    check_memory(config, load.config, texts=task_spec.texts)
    split = held_out(parsed, load.corpus, load.heldout)
    evaluated = to_evaluate(parsed, split)
    _check_target(config, evaluated)
    population = len(split.train.names)
    if not 1 <= config.clients <= population:
        raise ValueError(
            f"clients: expected 1 to {population}, the number of training clients, got "
            f"{config.clients}."
        )
    adapter = built("adapter", texts["adapter"], ADAPTERS)
    task = _task(task_spec, config, load, adapter)
    parts: dict[str, Any] = {
        field: built(field, texts[field], OPTIMIZERS)
        for field in ("client_optimizer", "server_optimizer")
        if field in texts
    }
    if "aggregate" in texts:
        rule = built("aggregate", texts["aggregate"], AGGREGATORS)
        cohort = config.buffer or config.clients
        in_field("aggregate", jax.eval_shape, partial(_tried, rule, cohort), task.params)
        parts["aggregate"] = rule
    parts["downlink"] = _codec("downlink", texts["downlink"])
    check_client_axis(parsed)
    under = conditions(parsed, load)
    check_adapter(parsed, task.params)
    attack = under.attack
    if attack and attack.batches:
        of_one = batches_of_one(split.train, batching)
        in_field("attack", jax.eval_shape, attack.batches, jr.key(0), of_one)
    loss = _loss(parsed, task)

    def method_with(uplink: Parsed) -> FederatedAlgorithm | SplitMethod:
        mine = parts | {"uplink": _uplink(uplink, attack, parts.get("aggregate"))}
        _check_sums(config, mine, task)
        inputs = method_inputs(parsed, mine, load, task, split)
        return _algorithm(parsed, task, inputs, loss)

    stages = uplink_stages(parsed)
    algorithm = method_with(stages.first)
    if isinstance(loss, PrivateLoss):
        check_gradients(parsed, algorithm, loss)
    check_declared(parsed, algorithm, population)
    if under.sampler:
        in_field("sampler", under.sampler.participation, config.clients, population)
    contents = _contents(parsed, load, task, under)
    of_privacy = private(parsed, algorithm, under, split.train, batching, contents)
    client_axis = built("client_axis", texts["client_axis"], CLIENT_AXES)
    ready = task_spec.ready(task, load.corpus, config.seq)
    if ready is not load.corpus:
        own = load.heldout and task_spec.ready(task, load.heldout, config.seq)
        split = held_out(parsed, ready, own)
        evaluated = to_evaluate(parsed, split)
    return Run(
        config,
        task_spec,
        load,
        task,
        split,
        evaluated,
        parts.get("client_optimizer"),
        algorithm,
        batching,
        client_axis,
        under,
        contents | (of_privacy.contents if of_privacy else {}),
        of_privacy,
        backdoor_success(task, attack.backdoor) if attack and attack.backdoor else None,
        later(stages, algorithm, method_with, task.params),
    )


def _task(task_spec: TaskSpec, config: RunConfig, load: Workload, adapter: Adapter) -> Task:
    key = jr.key(config.seed)
    try:
        return task_spec.build(load.config, key=key, adapter=adapter, params=load.params)
    except TypeError as error:  # an adapter for another kind of model
        raise ValueError(f"adapter: {error}") from None


def _tried(rule: Aggregator, cohort: int, update: Any) -> Any:
    """The partial of a rule, with one client's update where the rule adds updates as they are."""
    begun = rule.empty(update, cohort)
    if rule.summing or rule.at_clients:
        return begun
    rows = jax.tree.map(lambda leaf: leaf[None].astype(jnp.float32), update)
    return rule.add(begun, rows, jnp.ones(1))


def _check_target(config: RunConfig, evaluated: Evaluated) -> None:
    """Raise `ValueError` for a target loss that no round could reach."""
    if (target := config.target_loss) is None:
        return
    if not target > 0:
        raise ValueError(f"target_loss: expected a number above 0, got {target}.")
    if config.evaluate_every is None or not evaluated.heldout.names:
        raise ValueError(
            f"target_loss: expected evaluate_every and held-out text, by which rounds are judged, "
            f"got {target} with evaluate_every={config.evaluate_every} and {config.heldout}."
        )


def _contents(parsed: ParsedConfig, load: Workload, task: Task, under: Conditions) -> Contents:
    """Digests of all that was read; the same for every seed."""
    imported = "import_adapter" in names_in(parsed.texts["adapter"].call)
    adapter = {"adapter": adapter_digest(task)} if imported else {}
    return load.contents | adapter | condition_contents(under, load.names)


def _check_sums(config: RunConfig, parts: Mapping[str, Any], task: Task) -> None:
    """Raise for a rule that sums integers, with an uplink that has none or too few bits."""
    summing = parts["aggregate"].summing if "aggregate" in parts else None
    if summing is None or parts["aggregate"].at_clients:
        return
    if parts["uplink"].summable is None:
        raise ValueError(
            f"uplink: with {config.aggregate} expected a codec whose messages add up as integers, "
            f"such as fixed_point(clip=1.0, clients={config.clients}), got {config.uplink}."
        )
    rule = summing(parts["uplink"], task.params).rule
    cohort = config.buffer or config.clients
    in_field("uplink", jax.eval_shape, lambda: rule.empty(task.params, cohort))


def _loss(parsed: ParsedConfig, task: Task) -> Loss:
    """The loss that clients train on: the task's, or one with noise in its gradient."""
    texts, config = parsed.texts, parsed.config
    if "gradients" not in texts:
        return task.loss
    if parsed.method.split:
        raise ValueError(
            f"gradients: expected none with {config.algorithm}, whose clients send activations, "
            f"got {config.gradients}."
        )
    loss: Loss = built("gradients", texts["gradients"], {"dp_sgd": partial(dp_sgd, task.loss)})
    return loss


def _codec(field: str, text: Parsed) -> Compressor:
    return text.value if text.value is not None else in_field(field, codec, text.text)


def _uplink(text: Parsed, attack: Attack | None, rule: Aggregator | None) -> Compressor | None:
    """The codec of the uplink; None where a rule at clients makes what they send."""
    uplink = _codec("uplink", text)
    if attack and attack.on_updates:
        uplink = attackable(uplink, informed=attack.informed)
    elif rule and rule.at_clients and text.text == "identity()":
        return None
    return uplink


def _algorithm(
    parsed: ParsedConfig, task: Task, inputs: Mapping[str, Any], loss: Loss
) -> FederatedAlgorithm | SplitMethod:
    """The method of a configuration, built with the inputs it needs and its own arguments."""
    method, text = parsed.method, parsed.texts["algorithm"]
    like = jax.eval_shape(lambda: task.params)
    start = (like,) if method.split else (loss, like)
    factory = partial(method.factory, *start, **inputs)
    algorithm = built("algorithm", Parsed(text.call), {text.call.name: factory})
    in_field("algorithm", _check_base, algorithm, task)
    return algorithm


def _check_base(algorithm: FederatedAlgorithm | SplitMethod, task: Task) -> None:
    """Raise `ValueError` where a method's change does not fit the frozen kernels."""

    def begun(params: Any, frozen: Any) -> Any:
        return base_of(algorithm.init(jr.key(0), params), frozen)

    jax.eval_shape(begun, task.params, task.frozen)
