"""Keep a deployment as its plan says: a pure step, and the loop around it."""
