"""What should run, and why? Rules as priors, a search over layouts, one verdict."""
