"""What a curious server learns: tokens and texts, membership, and lower bounds on epsilon."""

from .exposure import exposure
from .lower_bounds import OneRun, audit_one_run, clopper_pearson_epsilon, one_run_epsilon
from .matching import Match, match_gradients
from .membership import auc, lira_scores, logit_confidence, min_k_scores, tpr_at_fpr
from .spans import Span, first_layer_inputs, span_distances
from .texts import Text, recover_texts
from .tokens import Recovery, recovery, revealed_tokens, row_distances

__all__ = [
    "Match",
    "OneRun",
    "Recovery",
    "Span",
    "Text",
    "auc",
    "audit_one_run",
    "clopper_pearson_epsilon",
    "exposure",
    "first_layer_inputs",
    "lira_scores",
    "logit_confidence",
    "match_gradients",
    "min_k_scores",
    "one_run_epsilon",
    "recover_texts",
    "recovery",
    "revealed_tokens",
    "row_distances",
    "span_distances",
    "tpr_at_fpr",
]
