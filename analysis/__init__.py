"""The studies of proxlab: error bounds, root finders, inexact proximal steps and speed, on real data.

Run ``python -m analysis --help``. Studies import only the public package.
"""
