"""The topics of `pdctl help`, and the page of each."""

# topic -> its page under docs/; README and a wheel hold the same files
TOPICS = {
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
