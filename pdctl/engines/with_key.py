"""Run SGLang or its router with an API key, without showing it in a command line or a log.

    PDCTL_API_KEY=... python with_key.py MODULE ARGUMENT...

Run by path in the Python that has MODULE. That Python may lack pdctl, so this file uses only the
standard library. Both programs accept a key only as an argument, which every user can read in ps;
this file adds it to the parsed arguments after the process has started. SGLang logs its arguments,
so the key is also removed from every log line.
"""

import logging
import os
import runpy
import sys
from typing import Any

VARIABLE = "PDCTL_API_KEY"
HIDDEN = "<api key>"


def main(module: str, key: str) -> None:
    """Run MODULE as `python -m MODULE` would, with the key."""
    if key:
        hide(key)
        add = {"sglang.launch_server": _to_sglang, "sglang_router.launch_router": _to_router}
        if module in add:
            add[module](key)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def hide(key: str) -> None:
    """Replace the key by HIDDEN in every log record of this process."""
    make = logging.getLogRecordFactory()

    def record_without_key(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - logging itself reports a record that cannot be formatted
            return record
        if key in text:
            record.msg, record.args = text.replace(key, HIDDEN), ()
        return record

    logging.setLogRecordFactory(record_without_key)


def _to_sglang(key: str) -> None:
    import sglang.srt.server_args as server_args

    prepare = server_args.prepare_server_args
    server_args.prepare_server_args = lambda argv: prepare([*argv, "--api-key", key])


def _to_router(key: str) -> None:
    from sglang_router.router_args import RouterArgs

    from_arguments = RouterArgs.from_cli_args

    def with_key(args: Any, *more: Any, **options: Any) -> Any:
        args.api_key = key
        return from_arguments(args, *more, **options)

    RouterArgs.from_cli_args = with_key


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    main(sys.argv[0], os.environ.get(VARIABLE, ""))
