"""The two stages: steps, state, checkpoints, the loop. Knows nothing of Ray."""
