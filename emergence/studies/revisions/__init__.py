"""The revisions of published models: which can be believed."""
