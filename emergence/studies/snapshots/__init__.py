"""The frozen probe of every pretraining snapshot of a run."""
