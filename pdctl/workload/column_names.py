"""The names by which traces call their columns."""

# names are compared in lower case, without spaces, underscores, dashes and a unit at the end;
# the first alias that a file has wins
ALIASES = {
    "arrival": (
        "timestamp", "arrivaltime", "arrivaltimestamp", "arrivedat", "arrival", "arrivals",
        "requestreceivedts", "receivedat", "starttime", "requesttime", "requesttimestamp",
        "sendtime", "sentat", "createdat", "created", "datetime", "date", "time", "ts", "t",
    ),
    "prompt": (
        "inputlength", "inputlen", "inputtokens", "contexttokens", "requesttokens", "prompttokens",
        "promptlength", "promptlen", "numprefilltokens", "numprompttokens", "isl",
    ),
    "output": (
        "outputlength", "outputlen", "outputtokens", "generatedtokens", "responsetokens",
        "completiontokens", "numdecodetokens", "osl",
        "tokensize",  # Splitwise's simulator, beside prompt_size
    ),
    "blocks": ("hashids",),
    "session": ("sessionid", "conversationid", "session", "conversation"),
    "delay": ("delay", "thinktime", "turndelay"),
    "outcome": ("finishreason", "status", "success", "aborted", "failed", "wascancelled"),
}  # fmt: skip
_RATES = frozenset((
    "rate", "throughput", "per", "speed", "latency", "time", "ttft", "itl", "tpot", "cost", "price",
))  # fmt: skip
# names nobody has listed: one word of each set, none of the last
WORDS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "arrival": (
        (
            "arrival", "arrived", "arrive", "timestamp", "ts", "received", "submitted", "submit",
            "enqueued", "sent", "send", "created", "start", "started", "begin", "began", "datetime",
            "date", "time", "epoch", "clock", "when",
        ),
        frozenset((
            "first", "end", "ended", "finish", "finished", "complete", "completed", "done",
            "elapsed", "latency", "duration", "e2e", "ttft", "tpot", "itl", "wait", "queue", "last",
            "response", "output", "decode", "total", "processing", "taken", "exec", "think",
            "delay", "out",
        )),
    ),
    "prompt": (
        (
            "prompt", "input", "context", "request", "prefill", "query", "question", "in",
        ),
        frozenset((
            "output", "out", "cached", "cache", "hash", "max", "id", "text", "chars", "ratio",
            "response",
        )) | _RATES,
    ),
    "output": (
        (
            "output", "completion", "response", "generated", "generation", "gen", "decode",
            "answer", "reply", "candidates", "out",
        ),
        frozenset((
            "input", "in", "prompt", "cached", "cache", "hash", "max", "id", "text", "chars",
            "ratio",
        )) | _RATES,
    ),
}  # fmt: skip
LENGTH_WORDS = frozenset((
    "tokens", "token", "toks", "tok", "length", "lengths", "len", "size", "num", "count", "n",
))  # fmt: skip
