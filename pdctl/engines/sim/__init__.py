"""A simulated SGLang engine: its HTTP interface and queues, with predicted steps."""
