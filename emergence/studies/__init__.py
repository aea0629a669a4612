"""What is computed from trunks after their runs: their states, temporal CKA, probes of every snapshot."""
