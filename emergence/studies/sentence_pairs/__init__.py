"""Pairs of sentences, of which one is better, scored by trunks and published models."""
