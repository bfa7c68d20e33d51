"""Read the layers of a model from the many dialects of config.json."""
