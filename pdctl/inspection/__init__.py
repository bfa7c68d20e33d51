"""What is here? GPUs, links, the LLM's shape, the SGLang that is installed."""
