"""How examples are divided among clients: as rows, as a table and as a picture."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from ..checks import check_records
from ..readers.examples import Example, Examples, check_no_client_is_empty


class ClientSummary(NamedTuple):
    """How many examples one client has, and of which labels.

    Attributes:
        client: Name of the client.
        examples: Number of its examples.
        characters: Characters of its texts and messages.
        labels: Its examples by label, for every label that any client has.
        skew: Total variation distance between the distribution of its labels and that of all
            clients' examples: 0 where they are equal, close to 1 where they hardly overlap.

    """

    client: str
    examples: int
    characters: int
    labels: dict[str, int]
    skew: float


def partition(examples: Examples) -> list[ClientSummary]:
    """Summarise how examples are divided among clients.

    Args:
        examples: The examples of each client.

    Returns:
        One summary per client, sorted by name.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Example`.
        ValueError: For a client without examples.

    Example:
        >>> from fedjax_llm.data import Example, partition
        >>> ann = [Example("one", label="x")]
        >>> bob = [Example("two", label="x"), Example("three", label="y")]
        >>> for summary in partition({"ann": ann, "bob": bob}):
        ...     print(summary.client, summary.characters, summary.labels, round(summary.skew, 3))
        ann 3 {'x': 1, 'y': 0} 0.333
        bob 8 {'x': 1, 'y': 1} 0.167

    """
    check_records(examples, who="partition", name="examples", kind=Example)
    check_no_client_is_empty(examples, who="partition")
    by_client = {c: Counter(example.label for example in examples[c]) for c in sorted(examples)}
    everyone = sum(by_client.values(), Counter())
    total = everyone.total()
    return [
        ClientSummary(
            client,
            counts.total(),
            sum(map(_characters, examples[client])),
            {label: counts[label] for label in sorted(everyone)},
            sum(abs(counts[x] / counts.total() - everyone[x] / total) for x in everyone) / 2,
        )
        for client, counts in by_client.items()
    ]


def partition_table(examples: Examples) -> Table:
    """Show how examples are divided among clients as a table for the terminal.

    Args:
        examples: The examples of each client.

    Returns:
        A table of `rich` with one line per client: its examples, characters, skew, and examples of
        each label.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Example`.
        ValueError: For a client without examples.

    Example:
        >>> from fedjax_llm.data import Example, partition_table
        >>> table = partition_table({"ann": [Example("one", label="x")]})
        >>> [column.header for column in table.columns]
        ['client', 'examples', 'characters', 'skew', 'x']

    """
    summaries = partition(examples)
    labels = list(summaries[0].labels) if summaries else []
    out = Table(title="Examples by client", box=box.SIMPLE_HEAD)
    out.add_column("client")
    for name in ("examples", "characters", "skew", *labels):
        out.add_column(name or "no label", justify="right")
    for each in summaries:
        counts = map(str, each.labels.values())
        out.add_row(
            each.client, str(each.examples), str(each.characters), f"{each.skew:.3f}", *counts
        )
    return out


def draw_partition(examples: Examples, path: Path) -> None:
    """Draw the share of each label in each client as stacked bars, below the clients' sizes.

    The same examples give the same file.

    Args:
        examples: The examples of each client, of at least one client.
        path: The PNG file to write.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Example`.
        ValueError: For no client, and for a client without examples.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import Example, draw_partition
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_partition({"ann": [Example("one", "x")]}, Path(folder, "clients.png"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['clients.png']

    """
    import matplotlib  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    summaries = partition(examples)
    if not summaries:
        raise ValueError("draw_partition: examples: expected at least one client, got none.")
    clients = [each.client for each in summaries]
    labels = list(summaries[0].labels)
    place = np.arange(len(clients))
    figure = Figure(figsize=(min(4 + 0.25 * len(clients), 14) + 2.5, 5), layout="constrained")
    sizes, shares = figure.subplots(2, sharex=True, height_ratios=(1, 3))
    sizes.bar(place, [each.examples for each in summaries], width=0.9, color="grey")
    sizes.set_ylabel("examples")
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(labels)))
    floor = np.zeros(len(clients))
    for label, colour in zip(labels, colours, strict=True):
        share = np.array([each.labels[label] / each.examples for each in summaries])
        shares.bar(place, share, bottom=floor, width=0.9, color=colour, label=label or "no label")
        floor += share
    shares.set_ylim(0, 1)
    shares.set_ylabel("share of label")
    few = len(clients) <= 40
    shares.set_xticks(place if few else [], clients if few else [], rotation=90)
    shares.set_xlabel("" if few else f"{len(clients)} clients, sorted by name")
    handles, names = shares.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _characters(example: Example) -> int:
    if isinstance(example.text, str):
        return len(example.text)
    return sum(len(message.content) for message in example.text)
