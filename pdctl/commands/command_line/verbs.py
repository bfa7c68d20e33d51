"""The verbs of pdctl, in the order in which --help lists them, and the topics of `pdctl help`."""

# verb -> description for `pdctl --help`; pdctl.commands.VERB has a function of that name
VERBS = {
    "plan": "Decide whether to split prefill and decode, and into how many engines.",
    "up": "Start engines and router, and stay until Ctrl-C.",
    "status": "Show every engine's queues live, and suggest changes.",
    "explain": "Show where the time of slow requests went, and whose fault it was.",
    "autopilot": "Move engines between prefill and decode as the load changes.",
    "scale": "Add, remove and move engines under load.",
    "down": "Stop a deployment.",
    "logs": "Show logs of engines, or the supervisor's decisions.",
    "ls": "List the deployments that run on this machine.",
    "rehearse": "Play a plan on simulated engines behind the real router.",
    "render": "Print a deployment for a shell, Slurm, Kubernetes, Miles, Prometheus or Grafana.",
    "doctor": "Check this machine and its deployments.",
    "measure": "Run colocated and split engines side by side; show which wins.",
    "calibrate": "Measure an engine's step times; plan then uses them.",
    "schema": "Print the JSON Schema of what a verb prints with --json.",
    "help": "Explain a topic: exit codes, JSON, trace formats, glossary.",
}

# topic -> its page under docs/; README and a wheel hold the same files
TOPICS = {
    "autopilot": "autopilot.md",
    "completion": "completion.md",
    "doctor": "doctor.md",
    "exit-codes": "exit-codes.md",
    "explain": "explain.md",
    "glossary": "glossary.md",
    "gpus": "gpus.md",
    "json": "json.md",
    "pd.yaml": "pd-yaml.md",
    "security": "security.md",
    "status-columns": "status-columns.md",
    "supervision": "supervision.md",
    "traces": "traces.md",
}
