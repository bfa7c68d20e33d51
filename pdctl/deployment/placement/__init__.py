"""Place engines on nodes: the policies, and the GPUs that engines get."""
