"""Durations: memory, step times, KV transfer, and the simulator over them."""
