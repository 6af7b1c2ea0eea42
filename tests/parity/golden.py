"""Write the golden values that tests without torch compare with; run by `make golden`."""

from pathlib import Path

import numpy as np

from tests.parity.reference import golden

PATH = Path(__file__).parents[1] / "fedjax_llm/models/golden.npz"

if __name__ == "__main__":
    np.savez_compressed(PATH, **golden())
