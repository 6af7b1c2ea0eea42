"""Instruction tuning end to end: records, template, loss on answers only, generation."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import DecoderConfig, fed_avg, language_model
from fedjax_llm.data import INSTRUCTIONS, Batching, Fields, all_windows, table, tokenize
from fedjax_llm.evaluation import answer, by_client, exact_match, rouge_l, scored
from fedjax_llm.simulation import simulate
from tests.helpers.fast_tokenizers import byte_level

SEQ = 40
ROWS = [
    {"who": "a", "ask": "the cat", "say": "sat on the mat."},
    {"who": "a", "ask": "hello", "say": "there"},
    {"who": "b", "ask": "the cat", "say": "sat on the mat."},
    {"who": "b", "ask": "the mat", "say": "system"},
]


@pytest.fixture(scope="module")
def bpe():
    tokenizer = byte_level()
    tokenizer.chat_template = INSTRUCTIONS
    return tokenizer


@pytest.fixture(scope="module")
def examples():
    return table(ROWS, Fields(instruction="ask", response="say", client="who"))


@pytest.fixture(scope="module")
def task(bpe):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    return language_model(DecoderConfig(vocab_size=len(bpe), **sizes), key=jr.key(0))


@pytest.mark.slow
def test_the_loss_is_that_of_the_answers_given_their_prompts(bpe, examples, task):
    model = task.model(task.params, task.frozen)
    nats, tokens = 0.0, 0
    for example in (example for own in examples.values() for example in own):
        asked, said = (message.content for message in example.text)
        prompt = bpe(f"### Instruction:\n{asked}\n\n### Response:\n")["input_ids"]
        reply = [*bpe(said)["input_ids"], bpe.eos_token_id]
        logits = np.asarray(model(jnp.array([prompt + reply]))[0], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        nats -= sum(log_p[len(prompt) + i - 1, token] for i, token in enumerate(reply))
        tokens += len(reply)
    corpus = tokenize(examples, bpe, seq=SEQ)
    assert corpus.targets().sum() == tokens
    for pack in (False, True):
        batches = all_windows(corpus, seq=SEQ, batch=3, pack=pack)
        found = task.evaluate(task.params, task.frozen, batches)
        assert found == pytest.approx(nats / tokens, rel=1e-4)
    measured = by_client(task.nats, task.params, task.frozen, corpus, seq=SEQ, batch=2)
    assert measured.totals.sum() == pytest.approx(nats, rel=1e-4)


@pytest.mark.slow
def test_a_federation_learns_the_answers_and_not_the_questions(bpe, examples, task):
    corpus = tokenize(examples, bpe, seq=SEQ)
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adam(0.003))
    batching = Batching(seq=SEQ, batch=2, steps=20)
    federation = (algorithm, task.params, task.frozen, corpus, batching)
    params = list(simulate(*federation, rounds=8, clients=2, seed=0))[-1].state.params
    measured = by_client(task.nats, params, task.frozen, corpus, seq=SEQ, batch=2)
    assert measured.values.max() < 0.2
    asking = corpus._replace(counted=~corpus.counted)
    assert by_client(task.nats, params, task.frozen, asking, seq=SEQ, batch=2).values.min() > 1
    before, after = (
        answer(task.model(p, task.frozen), examples, bpe, seq=SEQ, max_new_tokens=9, batch=4)
        for p in (task.params, params)
    )
    assert scored(after, exact_match).values.tolist() == [1.0, 1.0]
    assert scored(before, rouge_l).values.max() < 0.5
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params))
