"""Facts about this place: GPUs, links, the LLM's shape, the installed SGLang."""
