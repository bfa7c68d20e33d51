"""The SGLang of one Python, found without importing any of it.

Runs in this process, and as `python -c` in others: standard library only, any Python 3.8.
"""

import importlib.machinery
import importlib.metadata
import json
import sys

# A KV transfer backend, and the modules of which one must be there for it to work.
BACKENDS = {
    "mooncake": ("mooncake.engine",),
    "nixl": ("nixl._api", "nixl_cu12._api", "nixl_cu13._api"),
    "mori": ("mori.io",),
    "ascend": ("memfabric_hybrid", "mf_adapter"),
}


def probe():
    # type: () -> dict[str, object]
    """Versions and transfer backends of the running interpreter, ready for JSON."""
    return {
        "sglang": version("sglang"),
        "router": version("sglang-router"),
        "backends": [name for name, modules in BACKENDS.items() if any(map(exists, modules))],
    }


def version(distribution):
    # type: (str) -> str | None
    """The installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def exists(module):
    # type: (str) -> bool
    """True if a module's file exists. Unlike find_spec, imports no parent package."""
    path, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return False
        path = list(spec.submodule_search_locations or ())
    return True


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()) + "\n")
