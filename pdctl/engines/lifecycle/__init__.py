"""Start, follow, change and stop a deployment, as commands do it."""
