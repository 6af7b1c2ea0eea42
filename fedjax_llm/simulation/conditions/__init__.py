"""Conditions of a run: client faults, network links, deadlines and availability."""
