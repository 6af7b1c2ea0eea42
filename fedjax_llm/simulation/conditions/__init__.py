"""Conditions: faults, network, deadlines and availability."""
