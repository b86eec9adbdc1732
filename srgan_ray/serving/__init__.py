"""HTTP: limits, problems, bytes in, bytes out. Knows nothing of Ray or of training."""
