"""MuLoCo (Therien et al. 2025, arXiv:2505.23725): DiLoCo with Muon inside, and two bits outside."""

from typing import Any

import jax
import optax
from fedjax_compression import Compressor, least_error_scale
from fedjax_compression.quantizers import eden
from fedjax_compression.wrappers import error_feedback
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers, muon

from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..shared.averaging import averaging, persistent_optimizer


def muloco(
    loss: Loss,
    like: Params,
    *,
    rate: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    bits: float | int = 2,
    decay: float | int = 0.95,
    server_optimizer: optax.GradientTransformation | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """DiLoCo whose inner optimizer is Muon, and whose clients send their differences in two bits,
    remembering what was lost.

    Inside, stacked matrices (leaves of at least three axes: a decoder's blocks, whole or adapters)
    take Muon's orthogonalised momentum at `rate`, and all else (embedding, head, norms) AdamW at
    the same rate; the state lasts on the client. Up: e becomes decay * e + difference, and is sent
    in `bits` an entry and taken out of e. Down: the parameters, through `downlink`. The server
    takes minus the weighted mean for a gradient of SGD at rate 0.7 with Nesterov momentum 0.9,
    DiLoCo's, unless given.
    Departures: entries are coded by `least_error_scale(eden(bits=bits))`, whose four levels are
    Lloyd's for a Gaussian behind a rotation, where the authors' code has four even bins over six
    standard deviations of a tensor, and their means; the paper also codes the reduced mean again.
    Failures and downlinks with memories are treated as `fed_avg` treats them.
    Raises `ValueError` where no leaf has three axes, as the codec does for bits and decay, and
    where the parameters do not have the structure of `like`.
    """
    if all(len(leaf.shape) < 3 for leaf in jax.tree.leaves(like)):
        raise ValueError(
            "muloco: expected stacked matrices among the parameters, leaves of at least three "
            f"axes, got {[leaf.shape for leaf in jax.tree.leaves(like)]}: use diloco."
        )
    inner = optax.partition(
        {
            "matrices": muon(
                rate,
                beta=momentum,
                weight_decay=weight_decay,
                muon_weight_dimension_numbers=stacked_matrices,
            ),
            # Optax's Muon would give these an AdamW with Nesterov's momentum
            "others": optax.adamw(rate, weight_decay=weight_decay),
        },
        lambda params: jax.tree.map(
            lambda leaf: "matrices" if len(leaf.shape) > 2 else "others", params
        ),
    )
    return averaging(
        persistent_optimizer(loss, inner),
        like,
        who="muloco",
        server_optimizer=server_optimizer or optax.sgd(0.7, momentum=0.9, nesterov=True),
        uplink=error_feedback(least_error_scale(eden(bits=bits)), decay=decay),
        downlink=downlink,
    )


def stacked_matrices(params: PyTree) -> PyTree:
    """Where Muon finds its matrices: the last two axes of leaves that have at least three."""

    def axes(leaf: Any) -> MuonDimensionNumbers | None:
        last = len(leaf.shape) - 1
        return MuonDimensionNumbers(last - 1, last) if last >= 2 else None

    return jax.tree.map(axes, params)
