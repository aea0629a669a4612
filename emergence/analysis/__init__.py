"""From run directories to answers: scores, similarity of representations, figures, reports."""
