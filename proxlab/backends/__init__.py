"""Backends: one over any array namespace, one compiled for the CPU; :mod:`proxlab.prox` chooses by the array's type."""
