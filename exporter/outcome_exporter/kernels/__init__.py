"""Loops over arrays, compiled by numba: no Python object for a span, an attempt or a key."""
