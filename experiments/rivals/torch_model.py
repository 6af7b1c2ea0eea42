"""The model in plain PyTorch, for the three rivals that train PyTorch modules."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody)
from exchange import KERNELS, SCALES, Work
from torch import Tensor, nn


class Llama(nn.Module):
    """A decoder with a tied head, initialised with a work's parameters."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.heads, self.epsilon = work.heads, work.epsilon
        self.embedding = nn.Parameter(torch.tensor(work.params["embedding"]))
        self.norm = nn.Parameter(torch.tensor(work.params["norm"]))
        self.blocks = nn.ModuleList(
            nn.ParameterDict(
                {name: torch.tensor(work.params[name][layer].T.copy()) for name in KERNELS}
                | {name: torch.tensor(work.params[name][layer]) for name in SCALES}
            )
            for layer in range(len(work.params["q"]))
        )
        head, seq = self.embedding.shape[1] // self.heads, work.rows.shape[-1] - 1
        rates = work.theta ** (-torch.arange(0, head, 2) / head)
        angles = torch.outer(torch.arange(seq), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, self.embedding)
        shape = (*tokens.shape, self.heads, -1)
        for block in self.blocks:
            y = F.rms_norm(x, x.shape[-1:], block["before_attention"], self.epsilon)
            q, k, v = (F.linear(y, block[name]).view(shape).transpose(1, 2) for name in "qkv")
            mixed = F.scaled_dot_product_attention(
                self.rotated(q), self.rotated(k), v, is_causal=True
            )
            x = x + F.linear(mixed.transpose(1, 2).flatten(2), block["o"])
            y = F.rms_norm(x, x.shape[-1:], block["before_mlp"], self.epsilon)
            gated = F.silu(F.linear(y, block["gate"])) * F.linear(y, block["up"])
            x = x + F.linear(gated, block["down"])
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, self.epsilon), self.embedding)

    def rotated(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def loss(self, rows: Tensor) -> Tensor:
        """Mean cross-entropy of the next token over rows `[batch, seq + 1]`."""
        return F.cross_entropy(self(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters as a work has them."""

        def stacked(name: str) -> Tensor:
            return torch.stack([block[name] for block in self.blocks])

        with torch.no_grad():
            params = {name: stacked(name).transpose(1, 2) for name in KERNELS}
            params |= {name: stacked(name) for name in SCALES}
            params |= {"embedding": self.embedding, "norm": self.norm}
            return {name: value.numpy() for name, value in params.items()}


def train(model: Llama, steps: Tensor, rate: float) -> None:
    """A client's local steps, `[steps, batch, seq + 1]`, of plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, fused=True)
    for rows in steps:
        optimizer.zero_grad(set_to_none=True)
        model.loss(rows).backward()
        optimizer.step()
