"""What a folder of runs says: results collected, compared by content, scored, judged, in tables and curves. No torch."""
