"""Find what is wrong with this machine or a deployment, each finding with its fix."""
