"""One decoder for the families of Llama, Mistral, Qwen, Gemma and GPT-2, in Flax NNX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .config import DecoderConfig, check
from .layers import Block, Linear, Past, View, norm
from .masks import EVERYONE, cut_to_window, mask_of, own_mask, within
from .params import filled, shapes
from .rope import rates, turns


class Cache(NamedTuple):
    """What a decoder remembers of the tokens it has read."""

    keys: Float[Array, "layers batch slots heads head"]
    values: Float[Array, "layers batch slots heads head"]
    segments: Int[Array, "batch slots"]
    """The segment of each slot's token."""
    used: Int[Array, ""]
    """Slots filled, the same for each row."""


class Decoder(nnx.Module):
    """Tokens to logits. The blocks' parameters are stacked: leaves `[layers, ...]`, one scan.

    A token sees itself and what comes before it in its own segment: `segments` numbers the texts
    that are packed into a row, each a run of tokens, and 0 is padding, whose logits are finite
    and mean nothing. `positions` count from 0 in each segment unless given. Logits are float32.
    Adapters may set `prompt`, vectors that stand before each row and that all segments see, and
    `before` and `after`, blocks around `blocks` where its stack is cut in three.
    Cost: attention has batch * heads * seq * seq scores, one layer's at a time, also where layers
    slide. A gradient keeps the results of products with weights and computes all else again, which
    takes less time than to keep it.
    Raises `ValueError` for a config whose values do not fit each other, and for a sequence that
    is longer than learned positions go.
    """

    prompt: nnx.Variable | None = None
    before: Block | None = None
    after: Block | None = None

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        check(config)
        self.config, width = config, config.hidden_size
        scale = nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Param(scale(rngs.params(), (config.vocab_size, width)))
        places = (config.max_position_embeddings, width)
        learned = config.position_embeddings == "learned"
        self.position_embedding = nnx.Param(scale(rngs.params(), places)) if learned else None
        layers = nnx.split_rngs(splits=config.num_hidden_layers)
        self.blocks = layers(nnx.vmap(lambda rngs: Block(config, rngs=rngs)))(rngs)
        self.norm = norm(config, width)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(width, config.vocab_size, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq vocab"]:
        seq, extra = tokens.shape[1], self._prompt_slots()
        positions, segments = self._places(seq, positions, segments)
        x = self._embed(tokens, positions)
        if segments is not None and extra:
            segments = jnp.pad(segments, ((0, 0), (extra, 0)), constant_values=EVERYONE)
            x = jnp.concatenate([self._embed_prompt(len(tokens)), x], axis=1)
            positions = jnp.concatenate(
                [jnp.broadcast_to(jnp.arange(extra), (len(positions), extra)), positions], axis=1
            )
        mask = own_mask(segments)
        hidden, _ = self._blocks(x, positions, mask, 0, None)
        return self._logits(hidden[:, extra:])

    def lower(
        self,
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq width"]:
        """What the blocks that there are make of tokens, for `upper` of a model of those above.

        For a model without `prompt`, and `blocks` of its first layers alone.
        """
        positions, segments = self._places(tokens.shape[1], positions, segments)
        x = self._embed(tokens, positions)
        return self._blocks(x, positions, own_mask(segments), 0, None)[0]

    def upper(
        self,
        hidden: Float[Array, "batch seq width"],
        *,
        first: int,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq vocab"]:
        """Logits from what `lower` of another model made: its blocks are the layers from `first`
        on, and of positions and segments both are told the same.
        """
        positions, segments = self._places(hidden.shape[1], positions, segments)
        mask = own_mask(segments)
        return self._logits(self._blocks(hidden, positions, mask, 0, None, layer=first)[0])

    def extend(
        self,
        cache: Cache,
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
        last: bool = False,
    ) -> tuple[Float[Array, "batch out vocab"], Cache]:
        """Read further tokens after those in the cache: their logits, and the cache with them.

        The logits are those of one call with all tokens, to rounding; `last` asks only for those
        of the last token of each row. `segments` are all 1 unless given, and `positions` count
        on in each segment. Tokens beyond the cache's slots are not caught: they overwrite its end.
        """
        if segments is None:
            segments = jnp.ones(tokens.shape, jnp.int32)
        start = (0, cache.used)
        known = jax.lax.dynamic_update_slice(cache.segments, segments, start)
        if positions is None:
            positions = jax.lax.dynamic_slice(within(known), start, tokens.shape)
        positions = positions + self._slots_ahead()
        places = cache.used + jnp.arange(tokens.shape[1])
        past = Past(cache.keys, cache.values, jnp.int32(0), cache.used)
        mask = mask_of(segments, known, places)
        x = self._embed(tokens, positions)
        hidden, filled = self._blocks(x, positions, mask, cache.used, past)
        assert filled is not None  # noqa: S101
        logits = self._logits(hidden[:, -1:] if last else hidden)
        used = cache.used + tokens.shape[1]
        return logits, Cache(filled.keys, filled.values, known, used)

    def cache(self, *, batch: int, slots: int) -> Cache:
        """A cache for rows of at most `slots` tokens, padding counted: empty but for a prompt.

        Raises `ValueError` for more slots than there are learned positions.
        """
        c, extra = self.config, self._prompt_slots()
        slots = slots + extra
        if c.position_embeddings == "learned" and slots > c.max_position_embeddings:
            raise ValueError(
                f"Decoder.cache: expected at most {c.max_position_embeddings} slots "
                f"(max_position_embeddings), got {slots}."
            )
        shape = (c.num_hidden_layers, batch, slots, c.num_key_value_heads, c.head_size)
        empty = jnp.zeros(shape, c.dtype)
        segments = jnp.zeros((batch, slots), jnp.int32)
        if not extra:
            return Cache(empty, empty, segments, jnp.int32(0))
        segments = segments.at[:, :extra].set(EVERYONE)
        mask = mask_of(segments[:, :extra], segments, jnp.arange(extra))
        past = Past(empty, empty, jnp.int32(0), jnp.int32(0))
        prompt, places = self._embed_prompt(batch), jnp.arange(extra)[None]
        _, filled = self._blocks(prompt, places, mask, 0, past)
        assert filled is not None  # noqa: S101
        return Cache(filled.keys, filled.values, segments, jnp.int32(extra))

    def _places(
        self,
        seq: int,
        positions: Int[Array, "#batch seq"] | None,
        segments: Int[Array, "#batch seq"] | None,
    ) -> tuple[Int[Array, "#batch seq"], Int[Array, "#batch seq"] | None]:
        """Positions behind what stands before each row, and segments where a mask needs them."""
        window, extra = self.config.sliding_window, self._prompt_slots()
        if positions is None:
            positions = jnp.arange(seq)[None] if segments is None else within(segments)
        sliding = any(self.config.sliding) and window is not None and window < seq + extra
        if segments is None and (sliding or extra):
            segments = jnp.ones((1, seq), jnp.int32)
        return positions + self._slots_ahead(), segments

    def _prompt_slots(self) -> int:
        return 0 if self.prompt is None else self.prompt.shape[0]

    def _slots_ahead(self) -> int:
        """Positions that prompt and prefix take."""
        prefix: Any = self.blocks.attention.prefix
        return self._prompt_slots() + (0 if prefix is None else prefix.keys.shape[-3])

    def _blocks(
        self,
        x: Float[Array, "batch seq width"],
        positions: Int[Array, "#batch seq"],
        mask: Bool[Array, "#batch 1 seq keys"] | None,
        first: Int[Array, ""] | int,
        past: Past | None,
        layer: int = 0,
    ) -> tuple[Float[Array, "batch seq width"], Past | None]:
        view = self._views(positions, mask, first)
        products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        keep = None if self.config.remat else products
        index, slides = jnp.arange(self.config.num_hidden_layers), jnp.array(self.config.sliding)
        done = layer
        for blocks in (self.before, self.blocks, self.after):
            if blocks is None:
                continue
            graph, layers = nnx.split(blocks)

            def block(carry: tuple, layer: PyTree, graph: Any = graph) -> tuple:
                x, past = carry
                params, index, slides = layer
                if past is not None:
                    past = past._replace(layer=index)
                return nnx.merge(graph, params)(x, view(slides), past), None

            body = jax.checkpoint(block, policy=keep, prevent_cse=False)  # needless in a scan
            rows = slice(done, done + len(jax.tree.leaves(layers)[0]))
            (x, past), _ = jax.lax.scan(
                body, (x, past), (layers, index[rows], slides[rows].astype(jnp.int32))
            )
            done = rows.stop
        return x, past

    def _views(
        self,
        positions: Int[Array, "#batch seq"],
        mask: Bool[Array, "#batch 1 seq keys"] | None,
        first: Int[Array, ""] | int,
    ) -> Callable[[Int[Array, ""]], View]:
        """What a layer may see, given whether it slides."""
        c, kinds = self.config, sorted(set(self.config.sliding))
        rotary = c.position_embeddings == "rotary"
        views = [
            View(
                turns(positions, rates(c, local=local)) if rotary else None,
                cut_to_window(mask, first, c.sliding_window or 0)
                if local and mask is not None
                else mask,
            )
            for local in kinds
        ]
        if len(kinds) == 1:
            return lambda slides: views[0]
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *views)
        return lambda slides: jax.tree.map(lambda leaf: leaf[slides], both)

    def _embed(
        self, tokens: Int[Array, "batch seq"], positions: Int[Array, "#batch seq"]
    ) -> Float[Array, "batch seq width"]:
        longest, most = tokens.shape[1] + self._slots_ahead(), self.config.max_position_embeddings
        if self.position_embedding is not None and longest > most:
            raise ValueError(
                f"Decoder: expected at most {most} tokens (max_position_embeddings), got {longest}."
            )
        return self._placed(self.embedding[...][tokens], positions)

    def _embed_prompt(self, batch: int) -> Float[Array, "batch slots width"]:
        assert self.prompt is not None  # noqa: S101
        prompt = jnp.broadcast_to(self.prompt[...], (batch, *self.prompt.shape))
        return self._placed(prompt, jnp.arange(self._prompt_slots())[None])

    def _placed(
        self, x: Float[Array, "batch seq width"], positions: Int[Array, "#batch seq"]
    ) -> Float[Array, "batch seq width"]:
        """Embeddings with learned positions, if any, as blocks take them."""
        c = self.config
        if self.position_embedding is not None:
            x = x + self.position_embedding[...][positions]
        x = x.astype(c.dtype)
        return x * jnp.asarray(c.hidden_size**0.5, c.dtype) if c.scale_embeddings else x

    def _logits(self, x: Float[Array, "batch seq width"]) -> Float[Array, "batch seq vocab"]:
        flat = self.norm(x).reshape(-1, x.shape[-1])
        if self.head is None:
            head = self.embedding[...].astype(flat.dtype).T
            logits = jnp.matmul(flat, head, preferred_element_type=jnp.float32)
        else:
            logits = self.head(flat).astype(jnp.float32)
        if cap := self.config.final_logit_softcapping:
            logits = cap * jnp.tanh(logits / cap)
        return logits.reshape(*x.shape[:2], -1)


def empty(config: DecoderConfig) -> PyTree:
    """Shapes of a decoder's parameters, as nested dictionaries of `jax.ShapeDtypeStruct`."""
    return shapes(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def from_params(config: DecoderConfig, params: PyTree) -> Decoder:
    """The decoder with given parameters, in the structure of `empty`, as `filled` says."""
    return filled(lambda: Decoder(config, rngs=nnx.Rngs(0)), params)
