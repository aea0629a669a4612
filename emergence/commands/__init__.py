"""What each ``emergence`` command does; :mod:`emergence.cli` holds their flags."""
