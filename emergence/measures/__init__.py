"""Pure mathematics: arrays in, floats or frozen dataclasses out. Imports numpy, scipy and scikit-learn only."""
