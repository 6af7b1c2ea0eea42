"""Rounds: their cohorts, compiled programs, messages and client states."""
