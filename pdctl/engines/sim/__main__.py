"""`python -m pdctl.engines.sim`: one simulated engine in the foreground."""

import asyncio
import sys

from pdctl.engines.sim.flags import parse
from pdctl.errors import PdctlError


def main() -> int:
    """Run one engine until it is stopped; its exit code."""
    try:
        flags = parse(sys.argv[1:])
        from pdctl.engines.sim.server import follow, serve

        return asyncio.run(follow(flags) if flags.node_rank else serve(flags))
    except PdctlError as problem:
        sys.stderr.write(f"error: {problem.message}\n")
        return int(problem.exit_code)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
