"""SGLang's log lines, as pdctl and people read them."""

import sys
import time


def log(text: str) -> None:
    """One line with SGLang's time stamp."""
    sys.stderr.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")
    sys.stderr.flush()
