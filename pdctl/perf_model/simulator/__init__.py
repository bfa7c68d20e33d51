"""A simulator of SGLang's scheduling over step times.

mypyc compiles every module of this folder while a wheel is built (docs/decisions/0041), and each
one also runs as plain Python. Code in this folder therefore follows these rules:

- Annotate everything with concrete types. No Any, no duck typing, no attributes added later.
- Classes are plain, with all attributes assigned in __init__. No dataclass tricks, no metaclasses,
  no subclasses of built-in containers.
- Write 0.0 where a float starts at zero. mypyc does not widen an int that is declared float.
- Multiply no integers whose product exceeds 30 bits. mypyc turns a Ctrl-C that arrives inside such
  a product into a fatal "out of memory".
- No nested functions or generators on a hot path. They are compiled into slow heap objects.
- A test that replaces a function of this folder (monkeypatch) has no effect on compiled callers.
"""
