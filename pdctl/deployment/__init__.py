"""The choice as data: what pd.yaml says, expanded to command lines."""
