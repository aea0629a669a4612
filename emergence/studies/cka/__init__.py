"""Temporal CKA: how the representations of a run change over pretraining and finetuning."""
