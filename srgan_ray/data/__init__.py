"""Photographs to LR/HR shards, shards to batches. Imports nothing of the other rooms."""
