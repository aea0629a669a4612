"""What a folder of runs says: collected, compared by content, scored, judged, in tables and curves. No torch."""
