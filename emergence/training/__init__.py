"""Pretraining, and what every training loop needs: context, checkpoints, optimisers, schedules, recording."""
