"""SRGAN on Ray: photographs in, a generator and an upscaling endpoint out. Importing this package does nothing."""
