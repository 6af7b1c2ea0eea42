"""A user's `mypy --strict` on the documents' Python examples: python tests/typed_docs.py."""

import re
import sys
import tempfile
from pathlib import Path

from mypy import api

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "compression/README.md")


def main():
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for document in DOCUMENTS:
            blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
            for number, code in enumerate(blocks):
                stem = document.replace("/", "_").removesuffix(".md").lower()
                path = Path(folder) / f"{stem}_{number}.py"
                path.write_text(code)
                files.append(str(path))
        flags = [
            "--strict",
            "--config-file=",
            "--disable-error-code=import-untyped",
            "--follow-imports=silent",
            "--no-incremental",
        ]
        said, errors, status = api.run([*flags, *files])
    print(said + errors, end="")
    sys.exit(status)


if __name__ == "__main__":
    main()
