"""Places to run processes: one protocol, one file for each place."""
