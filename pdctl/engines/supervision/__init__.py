"""Keep a deployment in its target state: a pure decision step, and the loop around it."""
