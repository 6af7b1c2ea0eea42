"""One decoder for the families of Llama, Mistral, Qwen, Gemma and GPT-2, in Flax NNX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_integer, check_kind
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .config import DecoderConfig, check
from .layers import KEPT, Block, Linear, Past, View, norm
from .masks import ALL_SEGMENTS, causal_mask, cut_to_window, positions_in_segments, segment_mask
from .params import filled, shapes
from .rope import rates, turns

PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(*KEPT),
)
"""What the backward pass of a block does not compute again."""


class Cache(NamedTuple):
    """Keys and values of the tokens that a decoder has read, as `Decoder.cache` makes it.

    Attributes:
        keys: Keys of every layer, `[layers, batch, slots, heads, head]`.
        values: Values of every layer, in the same shape.
        segments: Segment of the token in each slot, `[batch, slots]`.
        used: Number of filled slots, the same for each row.

    """

    keys: Float[Array, "layers batch slots heads head"]
    values: Float[Array, "layers batch slots heads head"]
    segments: Int[Array, "batch slots"]
    used: Int[Array, ""]


class Decoder(nnx.Module):
    """Causal language model: tokens to logits, in the structure that a `DecoderConfig` describes.

    Kernels are drawn from a normal distribution of variance 1 / inputs, embeddings of variance
    1 / width; biases start at 0, and norms scale by 1. The parameters of the blocks are stacked
    in leaves `[layers, ...]`, and one `lax.scan` runs them.

    A token attends to itself and to earlier tokens of its segment. `segments` numbers the texts
    that are packed into a row, each a run of tokens. Segment 0 is padding: its logits are finite
    and without meaning.

    Memory: the attention scores of one layer at a time, batch * heads * seq * seq; a sliding
    window does not reduce them. The backward pass keeps the results of products with weights and
    recomputes everything else, which takes less time than keeping it; `config.remat` recomputes
    the products too.

    Args:
        config: Sizes and structure.
        rngs: Source of the initial parameters.

    Attributes:
        prompt: Vectors `[slots, width]` before every row, to which all segments attend, as the
            blocks read them: not scaled as Gemma's embeddings of tokens are. None unless an
            adapter sets them.
        before: First blocks of the stack, when an adapter splits it in three around `blocks`.
        after: Last blocks of the stack, likewise.

    Raises:
        TypeError: `config` is not a `DecoderConfig`.
        ValueError: A value of `config` is out of range or contradicts another.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((1, 5), jnp.int32)).shape
        (1, 5, 16)

    """

    prompt: nnx.Variable | None = None
    before: Block | None = None
    after: Block | None = None

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        check_kind(config, DecoderConfig, who="Decoder", name="config", expected="a DecoderConfig")
        check(config)
        self.config, width = config, config.hidden_size
        scale = nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Param(scale(rngs.params(), (config.vocab_size, width)))
        table = (config.max_position_embeddings, width)
        learned = config.position_embeddings == "learned"
        self.position_embedding = nnx.Param(scale(rngs.params(), table)) if learned else None
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
        """Compute the logits of the next token at each place.

        Args:
            tokens: Token ids `[batch, seq]`.
            positions: Position of each token; counts from 0 in each segment by default.
            segments: Segment of each token, 0 for padding; one segment per row by default.

        Returns:
            Logits `[batch, seq, vocab]` in float32.

        Raises:
            ValueError: The sequence is longer than the learned positions.

        """
        seq, extra = tokens.shape[1], self._prompt_slots()
        positions, segments = self._positions_and_segments(seq, positions, segments)
        x = self._embed(tokens, positions)
        if segments is not None and extra:
            segments = jnp.pad(segments, ((0, 0), (extra, 0)), constant_values=ALL_SEGMENTS)
            x = jnp.concatenate([self._embed_prompt(len(tokens)), x], axis=1)
            positions = jnp.concatenate(
                [jnp.broadcast_to(jnp.arange(extra), (len(positions), extra)), positions], axis=1
            )
        mask = segment_mask(segments)
        hidden, _ = self._run_blocks(x, positions, mask, 0, None)
        return self._logits(hidden[:, extra:])

    def lower(
        self,
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq width"]:
        """Compute the hidden vectors after this model's blocks, for `upper` of another model.

        Use it on a model without `prompt` whose `blocks` are the first layers of a stack.

        Args:
            tokens: Token ids `[batch, seq]`.
            positions: Position of each token; counts from 0 in each segment by default.
            segments: Segment of each token, 0 for padding; one segment per row by default.

        Returns:
            Hidden vectors `[batch, seq, width]` in `config.dtype`.

        Raises:
            ValueError: The sequence is longer than the learned positions.

        """
        positions, segments = self._positions_and_segments(tokens.shape[1], positions, segments)
        x = self._embed(tokens, positions)
        return self._run_blocks(x, positions, segment_mask(segments), 0, None)[0]

    def upper(
        self,
        hidden: Float[Array, "batch seq width"],
        *,
        first: int,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq vocab"]:
        """Compute logits from the hidden vectors that `lower` of another model returned.

        Args:
            hidden: Hidden vectors `[batch, seq, width]`.
            first: Index in the whole stack of this model's first block.
            positions: The same positions as for `lower`.
            segments: The same segments as for `lower`.

        Returns:
            Logits `[batch, seq, vocab]` in float32.

        """
        positions, segments = self._positions_and_segments(hidden.shape[1], positions, segments)
        mask = segment_mask(segments)
        return self._logits(self._run_blocks(hidden, positions, mask, 0, None, layer=first)[0])

    def extend(
        self,
        cache: Cache,
        tokens: Int[Array, "batch seq"],
        *,
        positions: Int[Array, "batch seq"] | None = None,
        segments: Int[Array, "batch seq"] | None = None,
        last: bool = False,
    ) -> tuple[Float[Array, "batch out vocab"], Cache]:
        """Compute the logits of further tokens after those in the cache, and extend the cache.

        The logits equal those of one call with all tokens, to rounding. The number of tokens is
        not checked against the cache's free slots: excess tokens overwrite the last slots.

        Args:
            cache: Keys and values of the tokens before.
            tokens: Token ids `[batch, seq]`.
            positions: Position of each token; continues the count in each segment by default.
            segments: Segment of each token, 0 for padding; all 1 by default.
            last: Compute only the logits of each row's last token; False by default.

        Returns:
            Logits `[batch, out, vocab]` in float32, where out is 1 with `last` and seq without,
            and the cache that includes the tokens.

        Raises:
            ValueError: The tokens alone are more than the learned positions.

        """
        if segments is None:
            segments = jnp.ones(tokens.shape, jnp.int32)
        start = (0, cache.used)
        known = jax.lax.dynamic_update_slice(cache.segments, segments, start)
        if positions is None:
            positions = jax.lax.dynamic_slice(positions_in_segments(known), start, tokens.shape)
        positions = positions + self._slots_ahead()
        places = cache.used + jnp.arange(tokens.shape[1])
        past = Past(cache.keys, cache.values, jnp.int32(0), cache.used)
        mask = causal_mask(segments, known, places)
        x = self._embed(tokens, positions)
        hidden, extended = self._run_blocks(x, positions, mask, cache.used, past)
        assert extended is not None  # noqa: S101
        logits = self._logits(hidden[:, -1:] if last else hidden)
        used = cache.used + tokens.shape[1]
        return logits, Cache(extended.keys, extended.values, known, used)

    def cache(self, *, batch: int, slots: int) -> Cache:
        """Make a cache for rows of tokens; it is empty except for `prompt`, if the model has one.

        Args:
            batch: Number of rows.
            slots: Largest number of tokens in a row, padding included.

        Returns:
            The cache, `used` being the number of prompt vectors.

        Raises:
            ValueError: `batch` or `slots` is not an integer of at least 0, or there are fewer
                learned positions than slots and prompt vectors.

        """
        check_integer(batch, who="Decoder.cache", name="batch", at_least=0)
        check_integer(slots, who="Decoder.cache", name="slots", at_least=0)
        c, extra = self.config, self._prompt_slots()
        most = c.max_position_embeddings - extra
        if c.position_embeddings == "learned" and slots > most:
            raise ValueError(
                f"Decoder.cache: slots: expected at most {most} (max_position_embeddings less the "
                f"prompt's vectors), got {slots}."
            )
        slots = slots + extra
        shape = (c.num_hidden_layers, batch, slots, c.num_key_value_heads, c.head_size)
        empty = jnp.zeros(shape, c.dtype)
        segments = jnp.zeros((batch, slots), jnp.int32)
        if not extra:
            return Cache(empty, empty, segments, jnp.int32(0))
        segments = segments.at[:, :extra].set(ALL_SEGMENTS)
        mask = causal_mask(segments[:, :extra], segments, jnp.arange(extra))
        past = Past(empty, empty, jnp.int32(0), jnp.int32(0))
        prompt, positions = self._embed_prompt(batch), jnp.arange(extra)[None]
        _, extended = self._run_blocks(prompt, positions, mask, 0, past)
        assert extended is not None  # noqa: S101
        return Cache(extended.keys, extended.values, segments, jnp.int32(extra))

    def _positions_and_segments(
        self,
        seq: int,
        positions: Int[Array, "#batch seq"] | None,
        segments: Int[Array, "#batch seq"] | None,
    ) -> tuple[Int[Array, "#batch seq"], Int[Array, "#batch seq"] | None]:
        """Positions after prompt and prefix, and segments if a mask depends on them."""
        window, ahead = self.config.sliding_window, self._slots_ahead()
        if positions is None and segments is not None:
            positions = positions_in_segments(segments)
        elif positions is None:
            positions = jnp.arange(seq)[None]
        sliding = any(self.config.sliding) and window is not None and window < seq
        if segments is None and (sliding or ahead):
            segments = jnp.ones((1, seq), jnp.int32)
        return positions + ahead, segments

    def _prompt_slots(self) -> int:
        return 0 if self.prompt is None else self.prompt.shape[0]

    def _slots_ahead(self) -> int:
        """Number of positions that prompt and prefix occupy."""
        return self._prompt_slots() + self._prefix_slots()

    def _prefix_slots(self) -> int:
        prefix: Any = self.blocks.attention.prefix
        return 0 if prefix is None else prefix.keys.shape[-3]

    def _run_blocks(
        self,
        x: Float[Array, "batch seq width"],
        positions: Int[Array, "#batch seq"],
        mask: Bool[Array, "#batch 1 seq keys"] | None,
        first: Int[Array, ""] | int,
        past: Past | None,
        layer: int = 0,
    ) -> tuple[Float[Array, "batch seq width"], Past | None]:
        view = self._views(positions, mask, first)
        keep = None if self.config.remat else PRODUCTS
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

            body = jax.checkpoint(block, policy=keep, prevent_cse=False)  # a scan prevents CSE
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
        """Rotations and mask of a layer, as a function of whether it slides (0 or 1)."""
        c, kinds = self.config, sorted(set(self.config.sliding))
        rotary = c.position_embeddings == "rotary"
        ahead, prefix = self._slots_ahead(), self._prefix_slots()
        if mask is not None and ahead:
            rows = jnp.broadcast_shapes(mask.shape[:1], positions.shape[:1])
            mask = jnp.broadcast_to(mask, (*rows, *mask.shape[1:]))
            mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (prefix, 0)), constant_values=True)
        views = [
            View(
                turns(positions, rates(c, local=local)) if rotary else None,
                cut_to_window(
                    mask, first + prefix, c.sliding_window or 0, ahead=ahead, positions=positions
                )
                if local and mask is not None
                else mask,
            )
            for local in kinds
        ]
        if len(kinds) == 1:
            return lambda slides: views[0]
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *views)
        return lambda slides: jax.tree.map(lambda leaf: leaf[slides], both)

    @jax.named_scope("embedding")
    def _embed(
        self, tokens: Int[Array, "batch seq"], positions: Int[Array, "#batch seq"]
    ) -> Float[Array, "batch seq width"]:
        longest, most = tokens.shape[1] + self._slots_ahead(), self.config.max_position_embeddings
        if self.position_embedding is not None and longest > most:
            raise ValueError(
                f"Decoder: tokens: expected at most {most} in a row (max_position_embeddings), "
                f"got {longest}."
            )
        return self._scaled_with_positions(self.embedding[...][tokens], positions)

    def _scaled_with_positions(
        self, x: Float[Array, "batch seq width"], positions: Int[Array, "#batch seq"]
    ) -> Float[Array, "batch seq width"]:
        """What the first block reads of rows of the embedding table."""
        x, c = self._with_positions(x, positions), self.config
        return x * jnp.asarray(c.embedding_scale, c.dtype) if c.scale_embeddings else x

    def _embed_prompt(self, batch: int) -> Float[Array, "batch slots width"]:
        assert self.prompt is not None  # noqa: S101
        prompt = jnp.broadcast_to(self.prompt[...], (batch, *self.prompt.shape))
        return self._with_positions(prompt, jnp.arange(self._prompt_slots())[None])

    def _with_positions(
        self, x: Float[Array, "batch seq width"], positions: Int[Array, "#batch seq"]
    ) -> Float[Array, "batch seq width"]:
        """Embeddings with learned positions, if any, in the type of the blocks."""
        if self.position_embedding is not None:
            x = x + self.position_embedding[...][positions]
        return x.astype(self.config.dtype)

    @jax.named_scope("head")
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
    """Return the shapes of a decoder's parameters: nested dictionaries of ShapeDtypeStructs."""
    return shapes(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def from_params(config: DecoderConfig, params: PyTree) -> Decoder:
    """Build a decoder with given parameters, without drawing any.

    It traces under `jit`. Pass large parameters as arguments of the jitted function: as constants
    they would be compiled into the program.

    Args:
        config: Sizes and structure.
        params: Nested dictionaries of arrays, as `nnx.to_pure_dict(nnx.state(model, nnx.Param))`
            and `load` return them.

    Returns:
        The decoder.

    Raises:
        TypeError: `config` is not a `DecoderConfig`.
        ValueError: A value of `config` is out of range or contradicts another, or `params` have
            another structure or other shapes.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig, from_params
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        >>> logits = jax.jit(lambda params, ids: from_params(config, params)(ids))
        >>> logits(params, jnp.zeros((1, 5), jnp.int32)).shape
        (1, 5, 16)

    """
    check_kind(config, DecoderConfig, who="from_params", name="config", expected="a DecoderConfig")
    return filled(lambda: Decoder(config, rngs=nnx.Rngs(0)), params)
