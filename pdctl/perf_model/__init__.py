"""How long does it take? Memory, step times, KV transfer, and the simulator over them."""
