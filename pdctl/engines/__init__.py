"""Run deployments: launchers, the supervisor, its clients and files; and the simulated engine."""
