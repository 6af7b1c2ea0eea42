"""A federated round in plain PyTorch: a loop over clients and steps of a Llama, without messages.

It stands for what somebody would write who has PyTorch and no library of federated training, with
`scaled_dot_product_attention`, `rms_norm` and the fused AdamW.
"""

import importlib
from collections.abc import Callable
from typing import Any

from ..data.readers.installed import missing
from .works import RANK, RATE, Work


def torch_module() -> Any:
    """Import PyTorch; raise `ModuleNotFoundError` with the remedy where it is not installed."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise missing("torch", extra="parity", who="bench") from error


def torch_round(work: Work, dtype: str) -> Callable[[], None]:
    """Make a function that runs one round, each from where the last one led."""
    torch = torch_module()
    F = torch.nn.functional  # noqa: N806 (as everybody)
    torch.manual_seed(0)
    model = _Llama(torch, work, getattr(torch, dtype))
    shape = (work.clients, work.steps, work.batch, work.seq + 1)
    texts = torch.randint(0, work.config.vocab_size, shape)
    trained = model.trained

    def once() -> None:
        start = [p.detach().clone() for p in trained]
        total = [torch.zeros_like(p) for p in start]
        for client in texts:
            with torch.no_grad():
                for p, s in zip(trained, start, strict=True):
                    p.copy_(s)
            optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-4, fused=True)
            for tokens in client:
                logits = model(tokens[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                for sum_, p in zip(total, trained, strict=True):
                    sum_.add_(p, alpha=1 / len(texts))
        with torch.no_grad():
            for p, t in zip(trained, total, strict=True):
                p.copy_(t)

    return once


class _Llama:
    """Tokens to logits with a tied head; trained are all parameters, or the adapters alone."""

    def __init__(self, torch: Any, work: Work, dtype: Any) -> None:
        c, self.torch, self.functions = work.config, torch, torch.nn.functional
        self.heads, self.adapted, self.trained = c.num_attention_heads, work.adapted, []
        self.dtype = dtype
        width, inner = c.hidden_size, c.intermediate_size
        sizes = [(width, width)] * 4 + [(width, inner)] * 2 + [(inner, width)]
        self.embedding = self._parameter((c.vocab_size, width), width**-0.5)
        self.norm = self._parameter((width,))
        self.blocks = [
            ([self._product(*size) for size in sizes], [self._parameter((width,)) for _ in "12"])
            for _ in range(c.num_hidden_layers)
        ]
        head = width // self.heads
        rates = c.rope_theta ** (-torch.arange(0, head, 2) / head)
        angles = torch.outer(torch.arange(work.seq), rates).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def _parameter(self, shape: tuple[int, ...], deviation: float | None = None) -> Any:
        """A base parameter: ones, or normal entries; frozen under adapters."""
        torch = self.torch
        values = torch.ones(shape) if deviation is None else torch.randn(shape) * deviation
        values = values.to(self.dtype).requires_grad_(not self.adapted)
        if not self.adapted:
            self.trained.append(values)
        return values

    def _product(self, inputs: int, outputs: int) -> tuple[Any, ...]:
        """A kernel `[outputs, inputs]`, and A and B of its adapter, if any."""
        kernel = self._parameter((outputs, inputs), inputs**-0.5)
        if not self.adapted:
            return (kernel,)
        a = (self.torch.randn(RANK, inputs) * inputs**-0.5).requires_grad_()
        b = self.torch.zeros(outputs, RANK).requires_grad_()
        self.trained += [a, b]
        return kernel, a, b

    def _apply(self, x: Any, product: tuple[Any, ...]) -> Any:
        linear = self.functions.linear
        y = linear(x, product[0])
        if len(product) == 1:
            return y
        a, b = (each.to(x.dtype) for each in product[1:])
        return y + linear(linear(x, a) * 2.0, b)

    def _turned(self, x: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + self.torch.cat((-second, first), dim=-1) * self.sin

    def __call__(self, tokens: Any) -> Any:
        f = self.functions
        x = f.embedding(tokens, self.embedding)
        for (q, k, v, o, gate, up, down), (before, between) in self.blocks:
            y = f.rms_norm(x, x.shape[-1:], before, 1e-5)
            heads = (*x.shape[:2], self.heads, -1)
            qs, ks, vs = (self._apply(y, each).view(heads).transpose(1, 2) for each in (q, k, v))
            qs, ks = self._turned(qs), self._turned(ks)
            mixed = f.scaled_dot_product_attention(qs, ks, vs, is_causal=True)
            x = x + self._apply(mixed.transpose(1, 2).flatten(2), o)
            y = f.rms_norm(x, x.shape[-1:], between, 1e-5)
            x = x + self._apply(f.silu(self._apply(y, gate)) * self._apply(y, up), down)
        return f.linear(f.rms_norm(x, x.shape[-1:], self.norm, 1e-5), self.embedding)
