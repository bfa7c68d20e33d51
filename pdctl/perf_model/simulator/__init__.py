"""A simulator of SGLang's scheduler over step times, compiled by mypyc."""
