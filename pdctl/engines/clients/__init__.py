"""HTTP clients for SGLang engines and for the SGLang router."""
