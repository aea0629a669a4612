"""What is asked of the program, checked before anything costs: flags, settings, configurations, cost. No torch."""
