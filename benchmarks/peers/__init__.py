"""What ours is measured against: a trainer that pads, and GPT-2 tuned to its best."""
