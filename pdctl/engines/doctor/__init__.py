"""What is wrong with this machine, or why a start failed: each finding with its fix."""
