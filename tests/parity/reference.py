"""The same models in torch, built by transformers with the same tensors."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fedjax_llm.models import config_from
from tests.helpers.families import BERT, FAMILIES, LABELS, bert_weights, tokens, weights


def reference(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The torch model of a family, with the tensors of `families.params`."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**FAMILIES[name]), attn_implementation="eager"
    )
    state = {k: torch.from_numpy(v) for k, v in weights(config_from(FAMILIES[name])).items()}
    wrong = model.load_state_dict(state, strict=False)
    assert set(wrong.missing_keys) <= {"lm_head.weight"}, wrong
    assert not wrong.unexpected_keys, wrong
    model.tie_weights()
    return model.to(dtype).eval()


def bert_reference(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The torch BERT classifier, with the tensors of `families.bert_weights`."""
    config = AutoConfig.for_model(**BERT, num_labels=LABELS)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    state = {name: torch.from_numpy(value) for name, value in bert_weights().items()}
    wrong = model.load_state_dict(state, strict=False)
    assert not [*wrong.missing_keys, *wrong.unexpected_keys], wrong
    return model.to(dtype).eval()


def golden() -> dict[str, np.ndarray]:
    """Logits of every family and label scores of BERT, on the same tokens."""
    ids = torch.from_numpy(tokens((2, 12))).long()
    with torch.no_grad():
        logits = {name: reference(name)(ids).logits.numpy() for name in FAMILIES}
        return {**logits, "bert": bert_reference()(ids).logits.numpy()}
