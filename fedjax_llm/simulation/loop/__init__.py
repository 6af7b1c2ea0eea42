"""Rounds: who takes part, the compiled programs, the messages and states they leave."""
