"""A run's trunk as a directory that stock ``transformers`` loads, and on the hub."""
