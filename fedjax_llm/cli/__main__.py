"""`python -m fedjax_llm.cli`."""

from .main import main

main()
