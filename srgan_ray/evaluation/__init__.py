"""Metrics with their protocol, and the comparison of a generator with bicubic interpolation."""
