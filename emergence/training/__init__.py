"""Pretraining, and what every loop needs: context, loop, checkpoints, optimisers, schedules, recording."""
