"""Records to rich tables: pure, no I/O. One file per screen."""
