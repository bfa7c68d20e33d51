"""pdctl: plan, launch and watch SGLang prefill/decode disaggregation.

One folder per stage. A stage imports only stages above it in this list:

inspection   facts about the LLM, the GPUs and SGLang
workload     the requests to serve
perf_model   step times, memory, simulation
verdict      which layout to run, and why
deployment   the layout as data: flags, ports, GPUs, files
engines      the layout as processes
status       what the engines do now
doctor       faults and their fixes
measurement  load, measured figures, calibration
"""

__version__ = "0.1.0"


def is_compiled() -> bool:
    """True if the simulator is compiled, as it is in wheels (docs/decisions/0041)."""
    from importlib.util import find_spec

    found = find_spec("pdctl.perf_model.simulator.job")
    return found is not None and not (found.origin or "").endswith(".py")
