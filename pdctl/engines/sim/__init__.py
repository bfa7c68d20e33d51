"""A simulated SGLang engine: SGLang's HTTP interface and queues, with predicted step times."""
