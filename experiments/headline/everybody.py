"""Who needs the fewest bytes, if the same few clients take part in every round?

    fedjax-llm study experiments/headline/everybody.py --out runs/headline/everybody

Sixteen roles of Shakespeare in each of 30 rounds: where memories at the clients, such as residuals
of error feedback, have the best chance. Tuned as in partial.py.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(rounds=30, clients=16, population=20, client_axis="scan()", evaluate_every=5)
