"""Training: pretraining, probing, finetuning, and what makes them resumable."""
