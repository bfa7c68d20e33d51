"""Log signatures of troubles that SGLang and the router survive, each with its fix."""

from pdctl.engines.log_signatures import Signature

TROUBLES = (
    Signature(
        "aborted",
        r"Aborted by AbortReq",
        "Clients gave up requests while their KV was on its way.",
        "none if clients meant to; otherwise a longer time limit in the client",
        releases="0.4.7 and later",
    ),
    Signature(
        "bootstrap_timeout",
        r"KVPoll\.Bootstrapping",
        "Requests waited too long for decode to make room for their KV.",
        "pdctl scale: more decode; --router-args '--max-concurrent-requests N'",
        "sglang#10110, #11809",
        releases="0.4.6 and later",
    ),
    Signature(
        "transfer_timeout",
        r"KVPoll\.WaitingForInput|KVPoll\.Transferring",
        "The KV that decode waited for never came, because a prefill engine or a NIC failed.",
        "pdctl logs of the prefill engines; a longer timeout only hides it",
        "sglang#10204, #11648",
        releases="0.4.6 and later",
    ),
    Signature(
        "stuck",
        r"get a response from (?:detokenizer|scheduler)",
        "An engine missed its own health check: its scheduler hung, or one step took too long.",
        "pdctl status; SGLANG_HEALTH_CHECK_TIMEOUT=60 in env where steps are that long",
        "SGLang http_server.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "lost_prefill",
        r"Lost connection with prefill instance|Could not fetch prefill parallel info"
        r"|Error fetching prefill|failed to register to bootstrap server"
        r"|prefill instance, it might be|Losing connection with prefill instance"
        r"|Prefill instance with bootstrap_port=\S+ is dead",
        "Decode engines could not reach a prefill engine's bootstrap registry.",
        "pdctl status; engines on one machine need no firewall, on several open bootstrap ports",
        "sglang#11747, #12779",
        releases="0.4.6 and later",
    ),
    Signature(
        "transfer_failed",
        r"Failed to send kv chunk|[Ss]ession .{0,80}failed|KVTransferError|NIXL_ERR"
        r"|Failed to modify QP|transport retry counter exceeded|local protection error"
        r"|remote access error|NIXL transfer encountered ERR|KVSender failed to create",
        "KV transfers failed.",
        "--transfer-backend nixl; --args '--disaggregation-ib-device NIC'; ulimit -l unlimited",
        "sglang#23272, #7118, Mooncake#1384",
        releases="0.4.7 and later",
    ),
    Signature(
        "mismatch",
        r"(?:[Pp]age size|dtype|layout|item length|index length|slot size|component count) mismatch"
        r"|(?:layout|geometry|item_lens).{0,40} differs? |do not match prefill",
        "Prefill and decode engines store KV differently.",
        "one --page-size, --kv-cache-dtype and --attention-backend under --args for both roles",
        "sglang#14439",
        releases="0.5.7 and later",
    ),
    Signature(
        "transfer_refused",
        r"TcpTransport::startTransfer .*(?:refused|timed out|reset|unreachable)",
        "Mooncake could not reach the other engine over TCP: it listens on another address.",
        "SGLANG_HOST_IP=ADDRESS in env, one the other host reaches; no 127.0.1.1 in /etc/hosts",
        "Mooncake transfer_engine.cpp",
    ),
    Signature(
        "retraction",
        r"No space left for only one request|Retract requests|KV cache pool is full",
        "Decode retracted running requests to make room for KV.",
        "--decode-args '--num-reserved-decode-tokens 1024', or more decode engines",
        "sglang#6860, #19881",
        releases="0.4.6 and later",
    ),
    Signature(
        "dp_rank",
        r"follow_bootstrap_room conflict",
        "A request reached a rank other than the one its bootstrap room names.",
        "dp inside tp (--dp) instead of --dp-size on prefill",
        "sglang#29725",
        releases="0.5.11 and later",
    ),
    Signature(
        "unreachable_engine",
        r"Cannot connect to host \S+:\d+|error sending request|Failed to connect to worker"
        r"|PD (?:backend )?request (?:failed|transport error)",
        "The router could not reach an engine.",
        "pdctl status for engines that are down; a firewall or a proxy between the hosts",
    ),
    Signature(
        "open_circuits",
        r"all circuits open|No (?:available|healthy) .{0,20}(?:workers|servers)"
        r"|No workers available"
        r"|Failed to select (?:PD pair|prefill worker|decode worker|worker pair)",
        "The router refused requests: it had no healthy engine with a closed circuit breaker.",
        "--router-args '--cb-timeout-duration-secs 5'; pdctl logs router for the first failure",
        "sglang#25811",
    ),
    Signature(
        "engine_errors",
        r"(?:Prefill|Decode) (?:server|worker) returned error status",
        "An engine answered requests with errors, and the router passed them on.",
        "pdctl logs of the engine that the line names, at that time",
        "sglang#10001",
    ),
)
