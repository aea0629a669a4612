"""What a run's trunk and its snapshots answer from a prompt alone: the few-shot target of an emergence law."""
