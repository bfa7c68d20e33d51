import socket

import pytest

from pdctl.engines.supervision.exporter_process import check_free
from pdctl.errors import EnvironmentProblem


def test_a_taken_address_of_the_metrics_is_refused_with_the_next_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=r"Address already in use\.$") as refused:
            check_free(f"127.0.0.1:{port}")
    assert refused.value.hint == f"--metrics-endpoint 127.0.0.1:{port + 1}"
    check_free("")
