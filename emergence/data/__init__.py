"""From files, the hub or the micro-world to token streams and question-answer examples."""
