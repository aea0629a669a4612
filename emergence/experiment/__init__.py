"""Experiments on disk: run directories, results, listings, and the order in which a run does things."""
