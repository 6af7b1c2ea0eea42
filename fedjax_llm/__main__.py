"""`python -m fedjax_llm`, the same as `fedjax-llm`."""

from .cli import main

main()
