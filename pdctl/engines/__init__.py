"""The choice as processes: launch, register, supervise, stop; and the simulated engine."""
