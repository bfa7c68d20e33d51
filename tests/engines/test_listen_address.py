"""Names and addresses a router may be told to listen on."""

import pytest

from pdctl.engines.listen_address import listen_address
from pdctl.errors import InvalidInput


def test_an_address_of_this_machine_stays() -> None:
    assert listen_address("127.0.0.1") == "127.0.0.1"
    assert listen_address("0.0.0.0") == "0.0.0.0"


def test_a_name_becomes_an_address() -> None:
    assert listen_address("localhost") in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "http://x", "192.0.2.1"])
def test_a_host_that_is_not_here_is_refused_with_the_flag(host: str) -> None:
    with pytest.raises(InvalidInput, match="--host") as error:
        listen_address(host)
    assert "--host 127.0.0.1" in str(error.value.hint)
