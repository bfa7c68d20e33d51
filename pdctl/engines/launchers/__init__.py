"""Where processes run: one protocol, one file for each place."""
