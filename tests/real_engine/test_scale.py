"""Real engines change their roles at run time, and one leaves, while requests run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.under_load import under_load
from tests.real_engine.installed import missing
from tests.real_engine.loopback import loopback_only
from tests.real_engine.test_real_engine import PORT, Real, generate, split

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

RATE_RPS = 1.0
PROMPT = list(range(10, 60))
# a decode engine becomes a prefill engine and one again; the next prefill engine is a new one,
# since decode engines would look for the old one where it was; it changes too, and one leaves
OPERATIONS = (
    (("--prefill", "2"), "2P1D"),
    (("--decode", "2"), "1P2D"),
    (("--prefill", "2"), "2P1D"),
    (("--decode", "2"), "1P2D"),
    (("--total", "2"), "1P1D"),
)


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    """Run where nobody else can reach Mooncake's listeners."""
    with loopback_only():
        yield


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    """Real engines; whatever a failed test leaves running is killed."""
    one = Real(tmp_path)
    yield one
    for process in one.processes():
        process.kill()


def test_five_changes_lose_no_request(real: Real) -> None:
    roles = split()
    roles["decode"]["engines"] = 2
    real.up("roles", roles)
    before = generate(PROMPT)
    changes: list[str] = []
    with under_load(
        f"http://127.0.0.1:{PORT}", RATE_RPS, isl=32, osl=8, token_ids=(3, 259)
    ) as load:
        for options, layout in OPERATIONS:
            data: Any = real.pdctl("scale", "roles", *options, "--timeout", "5min")["data"]
            assert data["layout"] == layout
            changes += data["changes"]
            assert generate(PROMPT) == before
    real.pdctl("down", "roles")
    assert [change.partition(" ")[0] for change in changes if "without a restart" in change] == [
        "decode-1",
        "prefill-1",
        "prefill-1",
    ]
    assert load.failed == []
    assert len(load.sent) >= 10
    assert real.processes() == []
