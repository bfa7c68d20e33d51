"""Caveats about a site beside the verdict, a sentence each."""

from collections.abc import Iterator

from pdctl.inspection.cluster import machines_text
from pdctl.perf_model.communication import assumed_cluster
from pdctl.perf_model.formats import kernel_warnings
from pdctl.perf_model.records import SGLANG_DEFAULTS
from pdctl.perf_model.releases import why_unknown
from pdctl.verdict.records import Site, StateLimits
from pdctl.workload.records import TraceFacts, longest_request

FEW_REQUESTS = 20  # fewer say little about a workload


def caveats(site: Site) -> Iterator[str]:
    """Caveats about the GPUs, the LLM and the requests that hold whatever the verdict."""
    yield from _cluster_warnings(site)
    yield from kernel_warnings(site.llm, site.cluster.gpu)
    if site.speculation is not None:
        yield (
            f"Planned with {site.speculation.draft_tokens} draft tokens a step: pass "
            "SGLang's own --speculative flags to `up` with --args."
        )
    yield from _profile_warnings(site)
    yield from _setting_warnings(site)
    yield from site.llm.assumptions
    yield from _request_warnings(site)


def no_times(facts: TraceFacts | None, origin: str) -> Iterator[str]:
    """A file, with no rate beside it, whose columns may be times under a name nobody knows."""
    if facts is not None and facts.span_s is None and facts.unused_columns:
        unused = ", ".join(facts.unused_columns[:6])
        yield f"No column of {origin} was read as times (not used: {unused}); add --rate."


def _request_warnings(site: Site) -> Iterator[str]:
    """Requests that are few or cannot be served, and how a file of them was read."""
    requests = site.workload.requests
    if requests is not None and len(requests) < FEW_REQUESTS:
        noun = "request" if len(requests) == 1 else "requests"
        yield f"{len(requests)} {noun} in the file, repeated: too few to tell how lengths vary."
    if share := share_too_long(site):
        yield (
            f"{100 * share:.1f} % of the requests exceed the {site.llm.max_context:,} tokens "
            f"of context of {site.llm.name}: engines refuse them or cut their output."
        )
    if site.workload.trace is not None:
        yield from site.workload.trace.notes
    if skipped := site.workload.skipped_lines:
        noun = "line" if skipped == 1 else "lines"
        yield f"{skipped:,} {noun} of {site.workload.origin} left out."


def _cluster_warnings(site: Site) -> Iterator[str]:
    cluster = site.cluster
    if cluster.num_nodes > 1:
        yield (
            f"This plan spans {cluster.num_nodes} hosts. `--on slurm` starts it on the nodes of a "
            "Slurm job; `pdctl render k8s` writes it for Kubernetes."
        )
    if assumed_cluster(cluster) is not cluster:
        gpus = machines_text(cluster)
        yield (
            "The rate between nodes is unknown; 400 Gbit/s per GPU is assumed. Give it as in "
            f"--gpus {gpus}:rdma400."
        )


def _profile_warnings(site: Site) -> Iterator[str]:
    if site.profile is not None:
        measured = site.profile
        yield (
            f"Step times were measured on {measured.gpu} with {measured.llm}, {measured.engine} "
            f"and {measured.attention_backend} attention; other backends differ."
        )
    if site.unused_profile is not None:
        unused = site.unused_profile
        yield (
            f"Step times come from the roofline: {unused.id} was measured with "
            f"{unused.attention_backend} attention and is used only with "
            f"--attention-backend {unused.attention_backend}."
        )


def _setting_warnings(site: Site) -> Iterator[str]:
    """A release without constants, and settings that cost time."""
    yield from unknown_release(site)
    yield from _gathered_tokens(site)
    steps = max((own.receive_interval for own in site.serving.values()), default=1)
    if steps > 1:
        yield (
            f"--scheduler-recv-interval {steps} lets a request wait for up to {steps} decode steps "
            f"({steps / 2:g} x TPOT on average) before its prefill; 1 removes that wait from TTFT. "
            "The plan simulates it in colocated engines only."
        )


def _gathered_tokens(site: Site) -> Iterator[str]:
    """Hosts over which experts could be spread, if their tokens were sent to them."""
    sends = any(own.all_to_all for own in site.serving.values())
    if (
        site.llm.experts
        and site.llm.attention == "mla"
        and site.cluster.num_nodes > 1
        and not sends
    ):
        yield (
            "Engines over several hosts are slow unless tokens are sent to their experts: `--args "
            "'--moe-a2a-backend deepep'`, here and in `up`, if DeepEP is installed."
        )


def unknown_release(site: Site) -> Iterator[str]:
    """A release of SGLang without constants."""
    if why := why_unknown(site.release):
        yield f"{why}; the plan is for that one. `pdctl calibrate` measures yours."


def drawn_ranks(site: Site, dp: int) -> Iterator[str]:
    """Prompts that wait for one of dp ranks of a prefill engine while another has none."""
    serving = site.serving.get("prefill", SGLANG_DEFAULTS)
    if dp > 1 and serving.balance is None:
        yield (
            "SGLang draws the attention-DP rank of a prompt at random. With `--prefill-args "
            "'--load-balance-method total_tokens'`, here and in `up`, the rank with the fewest "
            "tokens gets it."
        )


def share_too_long(site: Site) -> float:
    """The share of a trace's requests longer than the LLM's context, which engines refuse."""
    requests, context = site.workload.requests, site.llm.max_context
    if requests is None or context is None:
        return 0.0
    longest = longest_request(context)
    long = sum(i + o > longest for i, o in zip(requests.isl, requests.osl, strict=True))
    return long / len(requests)


def state_sentence(limits: StateLimits | None) -> str:
    """The most requests that engines of both arms can run, where their states limit it; else ""."""
    if limits is None:
        return ""
    return (
        f"A decode engine runs up to {limits.decode:,} requests at once, a colocated one "
        f"{limits.colocated:,}: each request keeps a state in GPU memory."
    )
