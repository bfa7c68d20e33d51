"""The dashboard: a document that Grafana can import, over metrics that exist."""

import asyncio
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from pdctl.deployment.exports import queries
from pdctl.deployment.exports.grafana import dashboard, rows
from pdctl.deployment.exports.prometheus import alerts, recordings
from tests.engines.sim.engines import engine

CAPTURES = Path(__file__).parents[2] / "data" / "captures"
NAME = re.compile(r"\b(?:sglang:|smg_)\w+")
OWN = re.compile(r"\bpdctl_\w+")


def expressions() -> list[str]:
    """Every expression of dashboard and rules."""
    shown = [query.expr for row in rows() for panel in row.panels for query in panel.queries]
    return [*shown, *recordings().values(), *(alert.expr for alert in alerts())]


def names_in(pages: str) -> set[str]:
    return {name for page in CAPTURES.glob(pages) for name in NAME.findall(page.read_text())}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dashboard())
    return found


def test_every_metric_of_an_engine_is_one_that_simulated_engines_serve_as_sglang_does() -> None:
    async def pages() -> str:
        async with engine("prefill", "--enable-metrics") as one:
            _, prefill = await one.get("/metrics")
        async with engine("decode", "--enable-metrics") as one:
            _, decode = await one.get("/metrics")
        return str(prefill) + str(decode)

    used = {name for one in expressions() for name in NAME.findall(one) if "sglang" in name}
    assert used <= set(NAME.findall(asyncio.run(pages())))


def test_every_metric_of_the_router_is_one_that_it_has_served() -> None:
    used = {name for one in expressions() for name in NAME.findall(one) if "smg" in name}
    assert used
    assert used <= names_in("router_metrics_*.txt")


def test_every_metric_of_pdctl_has_its_name_in_one_place() -> None:
    own = {value for key, value in vars(queries).items() if key.isupper()}
    assert {name for one in expressions() for name in OWN.findall(one)} <= own


def test_panels_have_numbers_of_their_own_and_do_not_overlap(document: dict[str, Any]) -> None:
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_every_chart_asks_the_chosen_prometheus_about_the_chosen_deployment(
    document: dict[str, Any],
) -> None:
    charts = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert charts
    for chart in charts:
        assert chart["datasource"]["uid"] == "${datasource}"
        assert chart["description"]
        for target in chart["targets"]:
            assert '=~"$deployment"' in target["expr"]


def test_grafanas_own_types_read_the_whole_dashboard(document: dict[str, Any]) -> None:
    """Whatever the types of its schema do not know would be lost on the way back."""
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    back = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(document)))
    assert differences(document, back) == []


def differences(mine: object, back: object, path: str = "") -> list[str]:
    """Places where `back` lacks a part of `mine`, or has another value."""
    if isinstance(mine, dict) and isinstance(back, dict):
        pairs = [(value, back.get(key, "nothing"), f"{path}/{key}") for key, value in mine.items()]
    elif isinstance(mine, list) and isinstance(back, list) and len(mine) == len(back):
        pairs = [(one, back[i], f"{path}[{i}]") for i, one in enumerate(mine)]
    else:
        return [] if mine == back else [f"{path}: {mine} became {back}"]
    return [found for one, other, where in pairs for found in differences(one, other, where)]
