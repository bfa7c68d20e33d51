"""A request inside a simulated engine, and the columns all engines write their times into."""

from pdctl.perf_model.prefix_cache import Blocks, Node


class Job:
    """One request on its way.

    prompt: tokens to have in KV before the next token (grows when retracted); done: of these, in
    KV; out: tokens emitted; left: tokens to come; private: KV tokens held outside the tree;
    decode_kv: KV tokens held on a decode engine;
    prefill, decode: the places of its engines.
    """

    __slots__ = (
        "blocks", "covered", "decode", "decode_kv", "done", "index", "isl", "joined_step", "left",
        "node", "osl", "out", "prefill", "private", "prompt"
    )  # fmt: skip

    def __init__(self, index: int, isl: int, osl: int, blocks: Blocks) -> None:
        self.index = index
        self.isl = isl
        self.prompt = isl
        self.osl = osl
        self.left = osl
        self.out = 0
        self.done = 0
        self.blocks = blocks
        self.node: Node | None = None
        self.covered = 0
        self.private: float = 0
        self.joined_step = 0
        self.decode_kv: float = 0
        self.prefill = 0
        self.decode = 0


class Columns:
    """When each request's first token was made and answered for, and its last token, in seconds."""

    __slots__ = ("first_s", "last_s", "num_retracted", "reply_s")

    def __init__(self, count: int) -> None:
        self.first_s: list[float] = [-1.0] * count
        self.reply_s: list[float] = [0.0] * count
        self.last_s: list[float] = [-1.0] * count
        self.num_retracted = 0
