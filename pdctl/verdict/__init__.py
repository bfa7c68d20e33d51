"""The decision and its reasons: rules as priors, a search over layouts, one verdict."""
