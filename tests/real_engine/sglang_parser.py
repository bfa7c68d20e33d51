"""Runs in SGLang's own Python: reads command lines, says what SGLang makes of them."""

import argparse
import importlib
import json
import sys
from typing import Any


def main() -> None:
    """Print every spelling of every flag, and the resolved settings of each line of stdin."""
    server_args: Any = importlib.import_module("sglang.srt.server_args").ServerArgs
    parser = argparse.ArgumentParser()
    server_args.add_cli_args(parser)
    resolved = []
    for argv in json.load(sys.stdin):
        settings = server_args.from_cli_args(parser.parse_args(argv))
        settings.resolve_once()
        settings.check_server_args()
        resolved.append(settings.resolved_dict())
    spellings = [action.option_strings for action in parser._actions]
    json.dump({"spellings": spellings, "resolved": resolved}, sys.stdout, default=str)


if __name__ == "__main__":
    main()
