"""The records of perf_model: an engine's parallelism, its step times, a fleet, an outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Role = Literal["colocated", "prefill", "decode"]
Basis = Literal["fitted", "relative", "roofline"]
Balance = Literal["round_robin", "follow_bootstrap_room", "total_requests", "total_tokens"]


@dataclass(frozen=True)
class Parallelism:
    """The spread of one engine over its GPUs. It takes tp × pp of them."""

    tp: int = 1
    pp: int = 1
    dp: int = 1  # attention data parallelism, inside tp
    ep: int = 1  # expert parallelism, inside tp

    @property
    def num_gpus(self) -> int:
        return self.tp * self.pp

    @property
    def text(self) -> str:
        """tp8 dp8 ep8; sizes of one other than tp are left out."""
        others = (("pp", self.pp), ("dp", self.dp), ("ep", self.ep))
        return " ".join([f"tp{self.tp}", *(f"{name}{n}" for name, n in others if n > 1)])


@dataclass(frozen=True)
class Link:
    """The link that carries KV from a prefill engine to a decode engine, per GPU pair."""

    kind: Literal["nvlink", "pcie", "rdma", "tcp"]
    bytes_per_s: float  # what arrives, efficiency included
    base_s: float  # of one transfer: handshake, descriptors, completion
    source: str = ""


@dataclass(frozen=True)
class Serving:
    """The serving settings of one engine; SGLang's defaults where None.

    chunk: --chunked-prefill-size, -1 for whole prompts. max_running: --max-running-requests.
    mem_fraction: --mem-fraction-static. graph_batch: largest batch of a rank with a decode graph.
    release: SGLang's; None: the newest known. prefill_graphs: None: as the release does by default.
    prefill_sizes: --cuda-graph-bs-prefill, ascending; () leaves their padding out.
    verify_tokens, accept_length: of speculative decoding, per step and request. ngram: drafts are
    looked up on the CPU, not computed by layers.
    receive_interval: --scheduler-recv-interval, decode steps between two looks for new requests.
    state_memory_ratio: --mamba-full-memory-ratio. state_slots: of a running request, as
    --mamba-radix-cache-strategy makes it: 5 with extra_buffer, 3 with no_buffer.
    balance: --load-balance-method, which gives a request to an attention-DP rank.
    all_to_all: with --moe-a2a-backend tokens are sent to their experts; else all GPUs get all.
    """

    chunk: int | None = None
    max_running: int | None = None
    max_total_tokens: int | None = None
    mem_fraction: float | None = None
    max_context: int | None = None
    page_size: int = 1
    reserved_decode_tokens: int = 512
    radix_cache: bool | None = None
    mixed_chunk: bool = False
    verify_tokens: int = 1
    accept_length: float = 1.0
    ngram: bool = False
    kv_dtype_bytes: float | None = None  # None: what the checkpoint says
    attention_backend: str | None = None
    release: str | None = None
    prefill_graphs: bool | None = None
    prefill_sizes: tuple[int, ...] = ()
    decode_graphs: bool = True
    graph_batch: int | None = None
    two_batch_overlap: bool = False
    receive_interval: int = 1
    state_memory_ratio: float | None = None
    state_slots: int | None = None
    balance: Balance | None = None
    all_to_all: bool = False


SGLANG_DEFAULTS = Serving()


@dataclass(frozen=True)
class StepTimes:
    """Coefficients of one engine's step times; all seconds, all non-negative.

    smooth(x, y) = (x⁴ + y⁴)^¼, and coverage(n) = 1 − (1 − expert_share)^n: the share of the
    experts that n tokens touch, 1 for a dense LLM. Then:

    prefill of chunks (e new tokens after h cached each), N = Σe up to the next of prefill_sizes,
        A = Σ(e²/2 + prefill_cached_weight·h·(e + prefill_cached_tokens)):
        max(prefill_base_s + prefill_pair_s·A + prefill_row_s·N
            + smooth(prefill_weight_s·coverage(N), prefill_token_s·(N + padding·coverage(N))),
            prefill_pieces_s / stages, or eager_s / stages where prefill has no graphs)
    decode of B requests with S tokens of context in all:
        max(decode_base_s + decode_request_s·B′ + (decode_split_s if 1 < B, B′ < 0.8·wave)
            + smooth(decode_dense_s + decode_weight_s·coverage(B′), decode_compute_s·B′)
            − decode_dense_s + smooth(decode_latency_s·S/B, decode_context_s·S·waves(B)),
            eager_s where B > decode_graph_batch)
        B′ is B padded to its graph; wave = decode_wave_batch, waves(B) as in steps.py.
        With B fixed it is linear in S above its floor, so n steps sum in closed form.
    A mixed step of N tokens and B requests: prefill(N, A), decode's attention and request terms.
    KV of n tokens moves in transfer_base_s + n·transfer_token_s; a last chunk adds state, windows.

    No part of a step: request_s, a request's way in and out through the engine's other processes
    (HTTP, tokenizer, detokenizer), which keeps no step waiting; and prefill_start_s, from the
    decision of a prefill step until the GPU has it, hidden while the step before it runs.

    B counts requests of the whole engine; coefficients have verify batches in them. stages > 1:
    prefill's are those of one stage, a batch's result comes stages − 1 such times after its step.
    """

    prefill_base_s: float
    prefill_token_s: float
    prefill_pair_s: float
    decode_base_s: float
    decode_weight_s: float  # all routed experts read
    decode_request_s: float
    decode_latency_s: float
    decode_context_s: float
    decode_compute_s: float
    transfer_base_s: float
    transfer_token_s: float
    decode_dense_s: float = 0.0  # all other weights read, which decode_base_s counts
    decode_split_s: float = 0.0  # joining parts of sequences; decode_latency_s has a lone one's
    decode_wave_batch: float = 0.0  # requests whose KV heads fill the GPU once; 0: no such waves
    decode_block_batch: float = 0.0  # the same of query heads, where each is one whole block
    expert_share: float = 1.0  # of the experts, touched by one request's step; 1.0: dense
    prefill_weight_s: float = 0.0
    prefill_row_s: float = 0.0  # per token, hidden behind no weights
    prefill_expert_share: float = 1.0  # of the experts, touched by one prompt token
    prefill_padding: float = 0.0  # prompt tokens as costly as the rows that pad all experts' blocks
    prefill_cached_weight: float = 1.0  # cost of a pair with a cached token over one among new
    prefill_cached_tokens: float = 0.0  # new ones as costly as the first read of the cached ones
    eager_s: float = 0.0  # the least a step takes whose kernels are launched one by one
    prefill_pieces_s: float = 0.0  # the same of what graphs of prefill leave out
    prefill_sizes: tuple[int, ...] = ()  # tokens of each prefill graph, ascending; (): not known
    decode_graph_batch: int = 1 << 30
    prefill_graphs: bool = True
    stages: int = 1
    request_s: float = 0.0
    prefill_start_s: float = 0.0
    transfer_state_s: float = 0.0
    transfer_window_token_s: float = 0.0
    transfer_window_tokens: int = 0


@dataclass(frozen=True)
class Measurement:
    """One measured step or transfer, of an engine that did nothing else.

    prefill: batch prompts of new_tokens after cached_tokens each, in one step that an idle engine
    began: from asking to answer less the HTTP hop, or from its launch on if it was `counted` by
    the engine; `eager` where it has no graphs for prefill. stall: by how much it delays a running
    request of `context` tokens, or without context one prefill right after another. request: what a
    request takes beside its step, the HTTP hop apart. decode: batch requests, context tokens summed
    over them. transfer: new_tokens of KV. mixed: a prefill of new_tokens after cached_tokens
    carrying batch decode rows. answer: as prefill, while a request of `context` tokens decodes.
    """

    kind: Literal["prefill", "decode", "mixed", "transfer", "stall", "request", "answer"]
    seconds: float
    batch: int = 1
    new_tokens: int = 0
    cached_tokens: int = 0
    context: int = 0
    counted: bool = False
    eager: bool = False


@dataclass(frozen=True)
class Fit:
    """The result of a calibration: factors on roofline coefficients and their errors.

    residuals: (fitted − measured) / measured, by measurement. left_out_error: the median
    relative error on a measurement when it is left out of the fit.
    """

    factors: Mapping[str, float]
    residuals: tuple[float, ...]
    left_out_error: float


@dataclass(frozen=True)
class Profile:
    """Measured step times as factors on the roofline's coefficients.

    factors: by StepTimes field; 1.15 means 15 % slower than the roofline has it. As factors
    they carry over to another LLM of the family and to other parallelisms.
    coefficients: the fitted seconds themselves, of the LLM and parallelism measured, to read.
    """

    id: str  # the file's name without .json
    gpu: str
    family: str  # "dense-gqa", "moe-gqa", "moe-mla": see profiles.family
    architecture: str
    llm: str  # the one measured
    engine: str  # "sglang 0.5.15"
    attention_backend: str
    parallelism: Parallelism
    num_params: float  # of the LLM measured
    date: str
    command: str
    factors: Mapping[str, float]
    coefficients: Mapping[str, float]
    left_out_error: float
    measurements: tuple[Measurement, ...]
    residuals: tuple[float, ...]

    def scaled(self, times: StepTimes) -> StepTimes:
        """Roofline times with this profile's factors applied."""
        changed = {name: getattr(times, name) * f for name, f in self.factors.items()}
        return replace(times, **changed)


@dataclass(frozen=True)
class EngineModel:
    """One engine as the simulator and the simulated server see it."""

    role: Role
    parallelism: Parallelism
    times: StepTimes
    kv_capacity_tokens: int
    max_running_requests: int
    chunked_prefill_size: int
    max_context: int
    page_size: int = 1
    reserved_decode_tokens: int = 512
    radix_cache: bool = True
    mixed_chunk: bool = False
    verify_tokens: int = 1  # speculative decoding: draft tokens verified per step and request
    accept_length: float = 1.0  # tokens gained per step and request
    receive_interval: int = 1  # decode steps between two looks for new requests; colocated only
    state_slots: int | None = None  # states its pool holds; None: no layer keeps a state
    slots_per_request: int = 1  # state slots reserved for each running request
    balance: Balance = "round_robin"  # gives a request to one of the attention-DP ranks


def layout_text(counts: Mapping[Role, int]) -> str:
    """Numbers of engines by role as one word: 2P6D or 8C. Roles without engines are left out."""
    letters: Mapping[Role, str] = {"prefill": "P", "decode": "D", "colocated": "C"}
    return "".join(f"{num}{letters[role]}" for role in letters if (num := counts.get(role, 0)))


@dataclass(frozen=True)
class Fleet:
    """Equal engines of each role. Either `colocated` alone or `prefill` and `decode`."""

    colocated: EngineModel | None = None
    prefill: EngineModel | None = None
    decode: EngineModel | None = None
    num_colocated: int = 0
    num_prefill: int = 0
    num_decode: int = 0
    policy: Literal["random", "round_robin", "power_of_two", "cache_aware"] = "cache_aware"
    router_hop_s: float = 0.001

    @property
    def counts(self) -> dict[Role, int]:
        """Numbers of engines by role."""
        if self.num_colocated:
            return {"colocated": self.num_colocated}
        return {"prefill": self.num_prefill, "decode": self.num_decode}

    @property
    def num_engines(self) -> int:
        return sum(self.counts.values())

    @property
    def layout(self) -> str:
        """2P6D or 8C."""
        return layout_text(self.counts)

    @property
    def num_gpus(self) -> int:
        parts = (
            (self.colocated, self.num_colocated),
            (self.prefill, self.num_prefill),
            (self.decode, self.num_decode),
        )
        return sum(engine.parallelism.num_gpus * n for engine, n in parts if engine)


@dataclass(frozen=True)
class Change:
    """Something that happens to one engine of a fleet at a given time.

    fail: it is gone at once; what it had no first token for is routed again, the rest is lost.
    recover: it takes requests again, with an empty cache. drain: it finishes what it has and gets
    no more. to_prefill, to_decode: drain, then serve as the other role `takes_s` later.
    """

    at_s: float
    kind: Literal["fail", "recover", "drain", "to_prefill", "to_decode"]
    role: Role  # of the engine now
    place: int  # among the engines of its role, from 0; engines that changed roles come last
    takes_s: float = 0.0


@dataclass(frozen=True)
class Percentiles:
    """A distribution of seconds over requests."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class QueueSample:
    """Requests in each waiting place of a fleet at one moment."""

    at_s: float
    waiting: int
    running: int
    bootstrap: int = 0
    inflight: int = 0
    prealloc: int = 0
    transfer: int = 0


@dataclass(frozen=True)
class Outcome:
    """A fleet's results. Columns are per request, in arrival order; None: rejected."""

    ttft_s: Sequence[float | None]
    tpot_s: Sequence[float | None]  # 0 for a single output token
    e2e_s: Sequence[float | None]
    span_s: float  # first arrival to last token
    output_tokens: int
    kv_usage_peak: dict[str, float]  # by role, 0..1
    num_retracted: int = 0
    num_rejected: int = 0
    queues: Sequence[QueueSample] = ()
    busy_share: Mapping[str, float] = field(default_factory=dict)  # "prefill-0": time in steps
    num_failed: int = 0  # lost with an engine after their first token, or no engine was open
    arrival_s: Sequence[float] = ()
