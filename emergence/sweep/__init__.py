"""Many experiments by one command: graph, plan, record, and who executes it (this machine, or Modal)."""
