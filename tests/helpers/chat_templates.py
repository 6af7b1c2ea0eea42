"""Chat templates in the manner of each model family, for tests."""

from fedjax_llm.data import INSTRUCTIONS

HEADED = (  # Llama 3, whose contents are trimmed
    "{{ bos_token }}%s{%% for m in messages %%}<|start|>{{ m.role }}<|header|>\n\n"
    "{{ m.content | trim }}<|eot|>{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|start|>assistant<|header|>\n\n{%% endif %%}"
)
GEMMA = (
    "{{ bos_token }}{%% set first = '' %%}{%% set rest = messages %%}"
    "{%% if messages[0].role == 'system' %%}%s{%% set rest = messages[1:] %%}{%% endif %%}"
    "{%% for m in rest %%}"
    "{%% if (m.role == 'user') != (loop.index0 %% 2 == 0) %%}"
    "{{ raise_exception('roles must alternate') }}{%% endif %%}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}"
    "{{ m.content | trim }}<end>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<turn>model\n{%% endif %%}"
)
CHATML = (
    "{%% if messages[0].role != 'system' %%}<|im|>system\nYou help.<|end|>\n{%% endif %%}"
    "{%% for m in messages %%}<|im|>{{ m.role }}\n%s<|end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im|>assistant\n{%% endif %%}"
)
FAMILIES = {
    "gpt2": INSTRUCTIONS,
    "llama 2": (
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
        "{{ m.content.strip() }} [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "llama 3": HEADED % "",
    "llama 3.2": HEADED % "Today is {{ strftime_now('%d %b %Y') }}\n",
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ m.content + eos_token }}{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}"
        "{% endfor %}"
    ),
    "qwen 2": CHATML % "{{ m.content }}",
    "qwen 3": CHATML
    % (
        "{% set said = m.content.split('</think>')[-1] %}"
        "{% if m.role != 'assistant' %}{{ m.content }}"
        "{% elif loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{{ said }}"
        "{% else %}{{ said }}{% endif %}"
    ),
    "gemma 2": GEMMA % "{{ raise_exception('no system message') }}",
    "gemma 3": GEMMA % "{% set first = messages[0].content + '\n\n' %}",
    "cohere": (
        "{% for m in messages %}<{{ m.role }}>"
        "{{ m.content if m.role == 'system' else m.content.strip() }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}
"""A template in the manner of each family; written anew, with the traits that matter here."""
