"""Adaptive proximal methods on arrays."""
