"""Backends: one over any array namespace, one compiled for the CPU; the array's type chooses."""
