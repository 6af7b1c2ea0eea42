"""What the processes of a federation read is the configuration that was written."""

import dataclasses
import json

import pytest

from fedjax_llm import DecoderConfig, RunConfig
from fedjax_llm.models import LinearScaling, Llama3Scaling
from fedjax_llm.runs.federated.parts import read_config

LLAMA3 = Llama3Scaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
CONFIGS = {
    "defaults": RunConfig(),
    "a pretrained model": RunConfig(model="smollm2", adapter="lora(rank=8)", population=4),
    "layer types": RunConfig(
        decoder=DecoderConfig(
            sliding_window=16, layer_types=("sliding_attention", "full_attention")
        )
    ),
    "linear scaling": RunConfig(decoder=DecoderConfig(rope_scaling=LinearScaling(factor=4.0))),
    "scaling of Llama 3": RunConfig(decoder=DecoderConfig(rope_scaling=LLAMA3)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_read_as_it_was_written(name):
    config = CONFIGS[name]
    assert read_config(json.loads(json.dumps(dataclasses.asdict(config)))) == config
