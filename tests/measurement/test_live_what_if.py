"""The requests of a running deployment, as its supervisor recorded them."""

from pdctl.measurement.live_what_if import arrived_in


def pages(*totals: int | None) -> list[dict[str, object]]:
    """One page every 5 s. None: the router did not answer."""
    return [
        {"at": 5.0 * i, "router": None if num is None else f"smg_router_requests_total {num}"}
        for i, num in enumerate(totals)
    ]


def test_arrivals_follow_from_the_routers_counter() -> None:
    assert arrived_in(pages(100, 110, None, 130), 30.0) == 60


def test_a_router_that_was_restarted_loses_no_arrivals_but_those_around_it() -> None:
    assert arrived_in(pages(100, 110, None, 3, 13), 30.0) == 60


def test_without_a_counter_arrivals_are_unknown() -> None:
    assert arrived_in(pages(None, None, 7), 30.0) is None
