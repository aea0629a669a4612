"""Units that tell semantic roles: how selective they are, what hangs on them, and how few carry a role."""
