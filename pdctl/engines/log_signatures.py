"""How failures of SGLang, the router and their libraries look in a log, and what helps.

Each row: id, what the line looks like, what happened in one sentence, the fix, where it is known
from. Rows of one line are tried in order: the special before the general.
"""

from typing import NamedTuple


class Signature(NamedTuple):
    """A failure as a log shows it. pattern: for `re.search` on one line."""

    id: str
    pattern: str
    text: str
    fix: str
    source: str = ""


RUNNING = (
    Signature(
        "aborted",
        r"Aborted by AbortReq",
        "Clients gave requests up while their KV was on its way.",
        "nothing, where clients meant to; else a longer time limit in the client",
    ),
    Signature(
        "bootstrap_timeout",
        r"KVPoll\.Bootstrapping",
        "Requests waited too long for decode to make room for their KV.",
        "pdctl scale: more decode; --router-args '--max-concurrent-requests N'",
        "sglang#10110, #11809",
    ),
    Signature(
        "transfer_timeout",
        r"KVPoll\.WaitingForInput|KVPoll\.Transferring",
        "KV that decode waited for never came: a prefill engine or a NIC failed meanwhile.",
        "pdctl logs of the prefill engines; a longer timeout only hides it",
        "sglang#10204, #11648",
    ),
    Signature(
        "lost_prefill",
        r"Lost connection with prefill instance|Could not fetch prefill parallel info"
        r"|Error fetching prefill|failed to register to bootstrap server",
        "Decode engines could not reach a prefill engine's bootstrap registry.",
        "pdctl status; engines on one machine need no firewall, on several open bootstrap ports",
        "sglang#11747, #12779",
    ),
    Signature(
        "transfer_failed",
        r"Failed to send kv chunk|[Ss]ession .{0,80}failed|KVTransferError|NIXL_ERR"
        r"|Failed to modify QP|transport retry counter exceeded",
        "KV transfers failed.",
        "--transfer-backend nixl; --args '--disaggregation-ib-device NIC'; ulimit -l unlimited",
        "sglang#23272, #7118, Mooncake#1384",
    ),
    Signature(
        "mismatch",
        r"Page size mismatch|KV cache dtype mismatch|KV layout mismatch",
        "Prefill and decode engines keep KV differently.",
        "one --page-size and one --kv-cache-dtype under --args for both roles",
        "sglang#14439",
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
        "Decode threw running requests out to make room for KV.",
        "--decode-args '--num-reserved-decode-tokens 1024', or more decode engines",
        "sglang#6860, #19881",
    ),
    Signature(
        "dp_rank",
        r"follow_bootstrap_room conflict",
        "A request reached another rank than its bootstrap room says.",
        "dp inside tp (--dp) instead of --dp-size on prefill",
        "sglang#29725",
    ),
    Signature(
        "open_circuits",
        r"all circuits open|Failed to select (?:PD pair|prefill worker|decode worker|worker pair)",
        "The router refused requests: it had no healthy engine with a closed circuit breaker.",
        "--router-args '--cb-timeout-duration-secs 5'; pdctl logs router for the first failure",
        "sglang#25811",
    ),
)

SPECIAL = (
    Signature(
        "ascend_transfer",
        r"Ascend Transfer Engine initialization failed|hybm core init failed"
        r"|Failed to init smem_trans|AscendTransferEngine.*fail|mf_adapter.*fail",
        "The Ascend transfer engine could not set up the memory that moves KV.",
        "the same memfabric and CANN release on every host; leave it memory:"
        " --args '--mem-fraction-static 0.8'",
    ),
    Signature(
        "gpu_memory_not_registered",
        r"Failed to register memory .*Bad address|nvidia[-_]peermem"
        r"|Mooncake memory registration failed",
        "The NIC cannot register GPU memory: the kernel module for GPUDirect RDMA is not loaded.",
        "modprobe nvidia-peermem on every host, or --transfer-backend mooncake_tcp for a test",
        "Mooncake transfer engine",
    ),
    Signature(
        "no_fp4_kernel",
        r"(?:does not|doesn't) support (?:NV|MX)?FP4"
        r"|FP4 .*(?:requires|only supported on) .*Blackwell",
        "This GPU has no kernel for the weights' FP4 format.",
        "a Blackwell GPU, or an FP8 or 16-bit checkpoint of the model",
        "sglang#18071",
    ),
    Signature(
        "quantization_block",
        r"not divisible by weight quantization block",
        "A GPU's part of a weight does not divide into the blocks it is quantized in.",
        "a smaller --tp, or --ep equal to tp so that experts stay whole",
        "SGLang layers/quantization/fp8.py",
    ),
    Signature(
        "mamba_slots",
        r"Not enough space for mamba cache|max-mamba-cache-size",
        "The state pool of the model's linear-attention layers is full.",
        "--decode-args '--max-mamba-cache-size N' or a larger --mamba-full-memory-ratio",
        "SGLang disaggregation/decode.py",
    ),
    Signature(
        "mamba_speculative",
        r"not compatible with radix cache when using --mamba-scheduler-strategy",
        "Speculative decoding of this hybrid model needs another scheduler strategy for its state.",
        "--args '--mamba-scheduler-strategy extra_buffer', SGLANG_ENABLE_SPEC_V2=1 in env",
        "SGLang server_args.py, _handle_mamba_radix_cache",
    ),
    Signature(
        "decode_radix_cache",
        r"disaggregation-decode-enable-radix-cache is incompatible with",
        "SGLang refuses a radix cache on decode together with another flag.",
        "remove --disaggregation-decode-enable-radix-cache from --decode-args",
        "SGLang 0.5.15 with any speculative decoding; 0.5.23 with fewer",
    ),
    Signature(
        "hicache_without_radix",
        r"enable-hierarchical-cache and disable-radix-cache are mutually exclusive",
        "HiCache needs the radix cache, which decode engines start without.",
        "--prefill-args for --enable-hierarchical-cache, or add"
        " --disaggregation-decode-enable-radix-cache to --decode-args",
        "SGLang 0.5.23",
    ),
    Signature(
        "pool_leak",
        r"(?:pool )?memory leak detected",
        "SGLang counted its KV pool, found slots missing, and ended itself: a bug in SGLang.",
        "pip install -U sglang; pdctl logs for what it served before",
        "SGLang scheduler_runtime_checker_mixin",
    ),
    Signature(
        "hybrid_tp",
        r"does NOT support PD different TP sizes|different (?:attn[- ])?TP sizes? .*not support",
        "SGLang cannot move this model's KV between prefill and decode of different tp.",
        "the same --tp for both roles",
        "SGLang disaggregation/nixl/conn.py",
    ),
    Signature(
        "watchdog",
        r"[Ww]atchdog timeout|Watchdog caught collective operation timeout",
        "A step took longer than the watchdog allows, and SGLang ended itself.",
        "--args '--watchdog-timeout 1200' while kernels compile; else a hung collective: compare"
        " the last line of every rank",
        "SGLang watchdog; PyTorch ProcessGroupNCCL",
    ),
    Signature(
        "nixl_missing",
        r"NIXL is not available|[Pp]lease install NIXL",
        "NIXL is not installed in SGLang's Python.",
        "pip install nixl, or --transfer-backend mooncake",
        "SGLang depends on no KV transfer library",
    ),
)

STARTS = (
    Signature(
        "no_kv_memory",
        r"Not enough memory|[Nn]o memory (?:left )?for (?:the )?KV|max_total_num_tokens=-?0\b"
        r"|Loading the model leaves no|The memory capacity is unbalanced"
        r"|max_running_request is zero",
        "After the weights there is no GPU memory left for the KV cache.",
        "a larger --tp, --args '--mem-fraction-static 0.9', or other processes off the GPU",
        "SGLang model_runner_kv_cache_mixin",
    ),
    *SPECIAL,
    Signature(
        "host_out_of_memory",
        r"OOM killer|oom-kill|[Oo]ut of memory: Killed process|exit code:? -9\b"
        r"|Cannot allocate memory|std::bad_alloc|^Killed\b"
        r"|DefaultCPUAllocator: can't allocate",
        "The host ran out of memory, and the kernel ended a process.",
        "fewer engines on this machine, or more memory for the container",
        "SGLang Engine._wait_for_scheduler_ready",
    ),
    Signature(
        "out_of_memory",
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|hipErrorOutOfMemory"
        r"|cudaErrorMemoryAllocation|NCCL.*[Oo]ut of memory",
        "The GPU ran out of memory.",
        "--args '--mem-fraction-static 0.8', a larger --tp, or end what else holds the GPU",
    ),
    Signature(
        "disk_full",
        r"No space left on device|Disk quota exceeded",
        "A disk is full: the model cache, /tmp, /dev/shm, or the logs.",
        "df -h; HF_HOME=DIR or TMPDIR=DIR on a disk with room, docker run --shm-size 32g",
    ),
    Signature(
        "port_in_use",
        r"[Aa]ddress already in use|EADDRINUSE|port .{0,40}is not available in"
        r"|error while attempting to bind|errno: 98",
        "Another process took one of its ports before it could.",
        "pdctl up again picks other ports; --port N for the router's",
        "sglang#22779",
    ),
    Signature(
        "address_not_here",
        r"Cannot assign requested address|EADDRNOTAVAIL|errno: 99",
        "It was to listen on an address this machine does not have, or ran out of local ports.",
        "unset SGLANG_HOST_IP HOST_IP; --transfer-backend nixl instead of Mooncake over TCP",
        "sglang#15665",
    ),
    Signature(
        "bad_nic",
        r"No available RNIC|port not active|Invalid IB devices|InfiniBand sysfs path not found"
        r"|Failed to modify QP|transport retry counter exceeded|ibv_\w+ failed|No HCA"
        r"|Failed to register memory|IB device .{0,40}not found",
        "The RDMA device cannot be used: not there, not active, or the wrong one was picked.",
        "--args '--disaggregation-ib-device mlx5_0' with an ACTIVE one, ulimit -l unlimited, or"
        " --transfer-backend nixl",
        "Mooncake#1384, sglang#21395, #27730",
    ),
    Signature(
        "nixl",
        r"NIXL_ERR|nixl.*(?:failed|not found)|UCX\s+ERROR",
        "NIXL cannot move KV here: its UCX does not match the system's, or misses CUDA.",
        "pip install --force-reinstall nixl; unset LD_LIBRARY_PATH UCX_TLS; or"
        " --transfer-backend mooncake",
        "sglang#5709, #6694, nixl#492",
    ),
    Signature(
        "missing_library",
        r"cannot open shared object file|undefined symbol|GLIBC(?:XX)?_\S+ not found"
        r"|DLL load failed",
        "A shared library is missing or does not match.",
        "reinstall the package that needs it; for libibverbs: apt-get install libibverbs1",
    ),
    Signature(
        "missing_backend",
        r"Please install (?:mooncake|nixl|mori)|No module named '?(?:mooncake|nixl|mori|mf_adapter)"
        r"|Failed to initialize [Mm]ooncake|(?:mooncake|nixl) is not installed",
        "The library that moves KV is not installed in SGLang's Python.",
        "pip install nixl, or pip install mooncake-transfer-engine, in that Python",
        "SGLang depends on neither",
    ),
    Signature(
        "missing_module",
        r"ModuleNotFoundError|No module named|ImportError",
        "A Python package is missing or broken in SGLang's Python.",
        "pip install 'pdctl[sglang]', or --python VENV/bin/python",
    ),
    Signature(
        "unknown_flag",
        r"unrecognized arguments|ambiguous option|invalid choice|expected (?:one|at least one) arg"
        r"|the following arguments are required|unexpected keyword argument",
        "This SGLang does not know one of its flags: they come and go between versions.",
        "remove it from --args, --prefill-args or --decode-args; SGLang's --help lists the rest",
        "SGLang 0.5.16 removed --cuda-graph-bs",
    ),
    Signature(
        "driver",
        r"driver version is insufficient|no kernel image is available|CUDA driver .* too old"
        r"|no CUDA-capable device|No CUDA GPUs are available|Torch not compiled with CUDA"
        r"|forward compatibility was attempted",
        "The GPU, its driver and PyTorch do not fit together.",
        "nvidia-smi shows the driver's CUDA; install the torch and sgl-kernel built for it",
    ),
    Signature(
        "gpu_fault",
        r"uncorrectable ECC|illegal memory access|unspecified launch failure|CUDA error:"
        r"|device-side assert|HIP error|hipError(?!OutOfMemory)\w+|HSA_STATUS_ERROR"
        r"|NCCL error|ncclSystemError|ncclUnhandledCudaError|\bXid\b",
        "The GPU, or the link between GPUs, failed.",
        "nvidia-smi -q, dmesg | grep -i xid; --gpus to leave the GPU out",
    ),
    Signature(
        "offline",
        r"HF_HUB_OFFLINE|OfflineModeIsEnabled|LocalEntryNotFoundError|couldn't connect to"
        r"|Max retries exceeded|Name or service not known|Temporary failure in name resolution",
        "The model is not in the local cache, and the hub cannot be reached.",
        "a directory instead of the model's id, unset HF_HUB_OFFLINE, or HF_ENDPOINT=URL",
    ),
    Signature(
        "gated",
        r"GatedRepoError|gated repo|401 Client Error|Repository Not Found|RepositoryNotFoundError"
        r"|Invalid user token",
        "The hub does not give this model to you: a wrong id, or one that needs a licence.",
        "check the id; HF_TOKEN=... of an account that accepted its licence",
    ),
    Signature(
        "no_model",
        r"does not appear to have a file named|Unrecognized model in|is not a local folder"
        r"|not a valid model identifier"
        r"|Cannot find any model weights|SafetensorError|HeaderTooLarge|Error no file named",
        "The model's directory is incomplete, or its weights are broken.",
        "ls MODEL: config.json, the tokenizer, and every *.safetensors of the index",
    ),
    Signature(
        "remote_code",
        r"trust_remote_code|trust-remote-code=True|requires you to execute the configuration file",
        "The model brings Python code of its own.",
        "--trust-remote-code, if you trust it",
    ),
    Signature(
        "unsupported_model",
        r"not supported for now|Model architectures .* are not supported|Unknown architecture"
        r"|model type `?\w+`? but Transformers does not recognize",
        "This SGLang does not know the model's architecture.",
        "pip install -U sglang transformers in SGLang's Python",
    ),
    Signature(
        "indivisible",
        r"must be divisible by|is not divisible by|divisible by tensor parallel",
        "The model's heads or experts cannot be spread over that many GPUs.",
        "another --tp or --ep that divides its heads",
    ),
    Signature(
        "too_few_files",
        r"Too many open files|EMFILE",
        "It may open too few files.",
        "ulimit -n 65536, or docker run --ulimit nofile=65536",
    ),
    Signature(
        "threads",
        r"can't start new thread|Resource temporarily unavailable|pthread_create failed",
        "It may start too few processes or threads.",
        "ulimit -u unlimited, or docker run --pids-limit -1",
    ),
    Signature(
        "permission",
        r"Permission denied|EACCES",
        "It was refused a file, a device or a port.",
        "ls -l of the path in that line",
    ),
    Signature(
        "not_runnable",
        r"pdctl: cannot run|command not found",
        "Its program is not there.",
        "--python VENV/bin/python",
    ),
    Signature(
        "crashed",
        r"Segmentation fault|core dumped|Fatal Python error|panicked at|PanicException"
        r"|exit code:? -(?:4|6|7|8|11)\b|Memory access fault by GPU|SIGSEGV|SIGABRT|SIGBUS",
        "A library crashed.",
        "the lines after it name the library; reinstall it",
    ),
    Signature(
        "warmup",
        r"Disaggregation warmup failed|Initialization failed\. warmup error|warmup error"
        r"|[Ww]arm ?[Uu]p [Ff]ailed",
        "It loaded, but did not answer its own first request.",
        "no_proxy=127.0.0.1,localhost; the lines before it say why",
    ),
)
