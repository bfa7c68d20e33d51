"""Doctor: find faults of this machine and of deployments, each with its fix."""
