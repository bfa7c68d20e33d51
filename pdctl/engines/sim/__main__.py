"""`python -m pdctl.engines.sim`: run one simulated engine in the foreground."""

import asyncio
import sys

from pdctl.engines.sim.flags import parse_flags
from pdctl.engines.sim.server import serve_engine, wait_as_follower
from pdctl.errors import PdctlError


def main() -> int:
    """Run one engine until it stops; return its exit code."""
    try:
        flags = parse_flags(sys.argv[1:])
        return asyncio.run(wait_as_follower(flags) if flags.node_rank else serve_engine(flags))
    except PdctlError as problem:
        sys.stderr.write(f"error: {problem.message}\n")
        return int(problem.exit_code)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
