"""A deployment as data: read, check and write pd.yaml, and expand it into processes."""
