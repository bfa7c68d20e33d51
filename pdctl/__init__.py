"""pdctl: decide on, launch and watch SGLang prefill/decode disaggregation.

The chain, one folder a stage, each importing only stages to its left:

inspection   what is here?
workload     what is asked?
perf_model   how long does it take?
verdict      what should run, and why?
deployment   the choice as data
engines      the choice as processes
status       what is happening?
measurement  what did it really do?
"""

__version__ = "0.1.0"


def is_compiled() -> bool:
    """Whether this pdctl carries its simulator compiled, as wheels do (docs/decisions/0041)."""
    from importlib.util import find_spec

    found = find_spec("pdctl.perf_model.simulator.job")
    return found is not None and not (found.origin or "").endswith(".py")
