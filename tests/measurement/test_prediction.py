"""Predictions of running engines."""

import subprocess
import sys


def test_a_prediction_imports_no_http_client() -> None:
    code = (
        "import sys\nimport pdctl.measurement.prediction\n"
        "clients = ('aiohttp', 'http.client', 'urllib.request', 'pdctl.engines.clients.http')\n"
        "found = [name for name in clients if name in sys.modules]\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
