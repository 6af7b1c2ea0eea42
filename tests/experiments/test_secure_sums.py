"""The bytes of the table of what secure sums cost, in the documents, are those of the messages."""

import math
import re
from pathlib import Path

from fedjax_llm.secure_aggregation import choose_degree

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"
ROW = re.compile(
    r"^\| ([\d,]+) \| (\d+), (\d+) \| ([\d,]+) \| [\d.]+ \| [\d.]+ \| ([\d,]+) \| ([\d.]+) "
    r"\| ([\d,]+) \|$",
    re.MULTILINE,
)


def test_the_bytes_in_the_documents_are_those_of_the_formula():
    rows = ROW.findall(DOCUMENT.read_text())
    assert len(rows) == 12
    for row in rows:
        clients, degree, threshold, entries = (int(cell.replace(",", "")) for cell in row[:4])
        integers = math.ceil(entries * (16 + math.ceil(math.log2(clients))) / 8)
        head = 12 + 16 + 4
        # keys; a hash and two sealed shares each; integers; a share each
        sent = 4 * head + 2 * 32 + 32 + degree * (4 + 82) + integers + degree * (4 + 33)
        received = 3 * head + degree * (4 + 64) + degree * (4 + 82) + degree * (4 + 1)
        assert int(row[4].replace(",", "")) == sent
        assert row[5] == f"{sent / integers:.4f}"
        assert int(row[6].replace(",", "")) == received
        if degree < 99:
            assert (degree, threshold) == choose_degree(clients, corrupt=0.05, dropout=0.05)
