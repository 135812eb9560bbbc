"""The GPU backend: numba-cuda kernels around the scalar source that the compiled CPU backend uses."""
