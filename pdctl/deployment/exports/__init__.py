"""A deployment written for another program, one format a file."""
