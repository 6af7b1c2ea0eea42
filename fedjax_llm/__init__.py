"""Communication-efficient federated training of language models in JAX.

The public names and where they come from are in `__init__.pyi`. Each is imported when it is first
used, so that `import fedjax_llm` costs next to nothing.
"""

import lazy_loader

from ._version import __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
