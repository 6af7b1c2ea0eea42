"""Methods over prompts, as the command runs them."""

import pytest

from tests.helpers.commands import train

TOKENS, WIDTH = 3, 16
PROMPT = 4 * TOKENS * WIDTH


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "up", "down"),
    [
        ("fed_avg()", PROMPT, PROMPT),
        ("fed_bpt(dimension=5, generations=2)", 4 * 7, 8 + 4 * 6 + 4 * 15),
    ],
)
def test_methods_over_prompts_run_and_send_what_they_say(tmp_path, algorithm, up, down):
    flags = ("--algorithm", algorithm, "--adapter", f"prompt_tuning(tokens={TOKENS})")
    summary = train(tmp_path / "run", *flags)
    assert summary["trainable"] == TOKENS * WIDTH
    assert summary["failed"] == 0
    messages = 2 * 2  # rounds of clients
    assert summary["uplink_bytes"] == messages * (12 + up)
    assert summary["downlink_bytes"] == messages * (12 + down)
    assert 3 < summary["heldout_nats_per_byte"] < 6
    assert (tmp_path / "run/adapter").exists()
