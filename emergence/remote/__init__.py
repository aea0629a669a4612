"""Modal: the app, the laptop's client, the container's part, the mirror of a run, pulling, a sweep there."""
