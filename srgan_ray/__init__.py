"""SRGAN on Ray: photographs in, a generator and an upscaling endpoint out. Importing this package does nothing."""

__version__ = "0.1.0"
