"""Modal: the app and its calls, the laptop's client, the container's part, a run's mirror, pulling, a sweep there."""
