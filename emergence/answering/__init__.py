"""How a trunk answers questions: states, finetuning and its search, probes, what they add to words, evaluation."""
