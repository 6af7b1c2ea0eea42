"""The app of a federation's nodes: `app` of this module, as the generated app names it."""

import functools
import os

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ...flower import client_app
from ...locks import one_of
from ...secure_aggregation.client import STEPS
from .parts import algorithm_of, opened, run_folder, secure_sums

app = ClientApp()


def answer(asked: Message, context: Context) -> Message:
    """Answer any message of the server: joining, a round, a later step of a secure sum.

    As many clients compute at once as the machine has cores: more would each take longer, and the
    memory of all.
    """
    with one_of(len(os.sched_getaffinity(0)), run_folder()):
        return _built()(asked, context)


app.query("join")(answer)
app.train()(answer)
for step in STEPS[1:]:
    app.train(step)(answer)


@functools.cache
def _built() -> ClientApp:
    """The app, built when the first message comes."""
    folder, run, about = opened()
    return client_app(
        algorithm_of(run),
        run.task.params,
        run.task.frozen,
        run.split.train,
        run.batching,
        folder=folder / "clients",
        secure=secure_sums(run, about["threshold"]),
    )
