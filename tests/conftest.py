"""What every test relies on."""

import gc
import os
import signal
import sys
from pathlib import Path

# started in the background by a script, a process inherits an ignored SIGINT, and so do those it
# starts: Ctrl-C would do nothing in the tests of Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

# where no byte code may lie beside the sources, every worker and every command that a test starts
# would compile all of them again: half of a command's time
if sys.dont_write_bytecode and sys.pycache_prefix is None:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parent.parent / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """Keep what was collected out of every later garbage collection."""
    gc.collect()
    gc.freeze()
