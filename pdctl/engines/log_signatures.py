"""Log signatures of failures that end SGLang, the router or their libraries, each with its fix.

Rows are tried in order for each line: the special before the general.
"""

from typing import NamedTuple


class Signature(NamedTuple):
    """A failure as a log shows it.

    pattern: for `re.search` on one line, after the time or name that a logger puts before it.
    text: what happened, in one sentence. source: where it is known from. releases: the SGLang
    releases whose source has the line, of 0.4.6 to 0.5.23; "" where a library prints it.
    """

    id: str
    pattern: str
    text: str
    fix: str
    source: str = ""
    releases: str = ""


SPECIAL = (
    Signature(
        "ascend_transfer",
        r"Ascend Transfer Engine initialization failed|hybm core init failed"
        r"|Failed to init smem_trans|AscendTransferEngine.*fail|mf_adapter.*fail",
        "The Ascend transfer engine could not set up the memory that moves KV.",
        "the same memfabric and CANN release on every host; leave it memory:"
        " --args '--mem-fraction-static 0.8'",
        releases="0.4.10 and later",
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
        releases="0.4.7 and later",
    ),
    Signature(
        "no_kernel_for_format",
        r"quantization method .* not supported for the current GPU|Minimum capability: \d"
        r"|fp8e4nv not supported|FP8 .{0,60}(?:not supported|only supported|requires)",
        "This GPU has no kernel for the format of the weights or of the KV cache.",
        "a checkpoint in another format, 16 bits where in doubt; --args '--kv-cache-dtype auto'",
        "SGLang model_loader/loader.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "quantization_block",
        r"not divisible by weight quantization block",
        "A GPU's part of a weight does not divide into the blocks it is quantized in.",
        "a smaller --tp, or --ep equal to tp so that experts stay whole",
        "SGLang layers/quantization/fp8.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "mamba_slots",
        r"Not enough space for mamba cache|max-mamba-cache-size",
        "The state pool of the model's linear-attention layers is full.",
        "--decode-args '--max-mamba-cache-size N' or a larger --mamba-full-memory-ratio",
        "SGLang disaggregation/decode.py",
        releases="0.5.2 and later",
    ),
    Signature(
        "mamba_speculative",
        r"not compatible with radix cache when using --mamba-scheduler-strategy",
        "Speculative decoding of this hybrid model needs another scheduler strategy for its state.",
        "--args '--mamba-scheduler-strategy extra_buffer', SGLANG_ENABLE_SPEC_V2=1 in env",
        "SGLang server_args.py, _handle_mamba_radix_cache",
        releases="0.5.10 to 0.5.13",
    ),
    Signature(
        "decode_radix_cache",
        r"disaggregation-decode-enable-radix-cache is incompatible with",
        "SGLang refuses a radix cache on decode together with another flag.",
        "remove --disaggregation-decode-enable-radix-cache from --decode-args",
        "SGLang 0.5.15 with any speculative decoding; 0.5.23 with fewer",
        releases="0.5.11 and later",
    ),
    Signature(
        "hicache_without_radix",
        r"enable-hierarchical-cache and disable-radix-cache are mutually exclusive",
        "HiCache needs the radix cache, which decode engines start without.",
        "--prefill-args for --enable-hierarchical-cache, or add"
        " --disaggregation-decode-enable-radix-cache to --decode-args",
        "SGLang 0.5.23",
        releases="0.5.1 and later",
    ),
    Signature(
        "pool_leak",
        r"Error: .*memory leak detected",
        "SGLang found slots missing in its KV pool and exited. This is a bug in SGLang.",
        "pip install -U sglang; pdctl logs for what it served before",
        "SGLang scheduler_runtime_checker_mixin",
        releases="0.4.6 and later",
    ),
    Signature(
        "hybrid_tp",
        r"(?:NOT|not) support .{0,20}different .{0,30}(?:TP|tp) sizes?"
        r"|(?:different|heterogeneous)[- ](?:attn[- ])?TP.{0,40}not (?:yet )?(?:support|implement)"
        r"|(?:matching|same|TP-mismatched) .{0,40}TP (?:sizes?|on both)",
        "SGLang cannot move this model's KV between prefill and decode of different tp.",
        "the same --tp for both roles",
        "SGLang disaggregation/nixl/conn.py",
        releases="0.5.4 and later",
    ),
    Signature(
        "kv_pool_exhausted",
        r"(?:Prefill|Decode) out of memory\. Try|alloc_req_slots runs out of memory",
        "A batch did not fit the KV pool, although SGLang had admitted it.",
        "--args '--max-running-requests 64', or more engines",
        "SGLang mem_cache/common.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "deepep",
        r"num_max_dispatch_tokens_per_rank|DeepEP (?:error|timeout|is not available)"
        r"|Error.* \S*deep_ep\S*\.(?:cpp|cu|hpp):\d+"
        r"|(?i:nvshmem).{0,80}(?:fail|error|abort)",
        "DeepEP, which sends tokens to experts on other GPUs, failed.",
        "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK=256 in env, or"
        " --args '--moe-a2a-backend none'",
        "sglang#6017",
    ),
    Signature(
        "attention_backend",
        r"Error: .*(?:[Aa]ttention|FlashMLA|FlashInfer|(?i:trtllm)|FA[34])"
        r".{0,80}(?:requires|support)",
        "The attention backend does not support this GPU or this model.",
        "--args '--attention-backend triton', or leave the flag out for SGLang's default",
        "SGLang attention_registry.py",
    ),
    Signature(
        "context_length",
        r"greater than the derived context_length",
        "--context-length is longer than the model's own.",
        "a smaller --context-length under --args",
        "SGLang configs/model_config.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "watchdog",
        r"[Ww]atchdog timeout|Watchdog caught collective operation timeout",
        "A step took longer than the watchdog allows, so SGLang exited.",
        "--args '--watchdog-timeout 1200' while kernels compile; else a hung collective: compare"
        " the last line of every rank",
        "SGLang watchdog; PyTorch ProcessGroupNCCL",
        releases="0.4.6 and later",
    ),
    Signature(
        "nixl_missing",
        r"NIXL is not available|[Pp]lease install NIXL",
        "NIXL is not installed in SGLang's Python.",
        "pip install nixl, or --transfer-backend mooncake",
        "SGLang depends on no KV transfer library",
        releases="0.4.6 and later",
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
        releases="0.4.6 and later",
    ),
    *SPECIAL,
    Signature(
        "hicache_memory",
        r"Not enough host memory",
        "The host has too little memory for HiCache.",
        "--args '--hicache-size 32' (GB per rank), or a smaller --hicache-ratio",
        "SGLang mem_cache",
        releases="0.4.6 and later",
    ),
    Signature(
        "host_out_of_memory",
        r"OOM [Kk]ille[rd]|oom[-_]kill|[Oo]ut of memory: Killed process|exit ?code[:=]? ?-?9\b"
        r"|Cannot allocate memory|std::bad_alloc|^Killed\b"
        r"|DefaultCPUAllocator: can't allocate",
        "The host ran out of memory, and the kernel ended a process.",
        "fewer engines on this machine, or more memory for the container",
        "SGLang Engine._wait_for_scheduler_ready",
    ),
    Signature(
        "out_of_memory",
        r"(?:CUDA|HIP|NPU|XPU|MUSA) out of memory|OutOfMemoryError|CUDA error: out of memory"
        r"|hipErrorOutOfMemory|cudaErrorMemoryAllocation|NCCL.*[Oo]ut of memory",
        "The GPU ran out of memory.",
        "--args '--mem-fraction-static 0.8', a larger --tp, or end what else holds the GPU",
    ),
    Signature(
        "storage",
        r"Stale file handle|Input/output error|Remote I/O error|Transport endpoint is not conn",
        "A disk or a network file system failed.",
        "dmesg, and mount of the path in that line; a copy of the model on a local disk",
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
        r"|error while attempting to bind|errno: 98|AddrInUse"
        r"|[Pp]ort \d+ (?:is )?already (?:in )?use",
        "Another process took one of its ports before it could.",
        "pdctl up again picks other ports; --port N for the router's",
        "sglang#22779",
    ),
    Signature(
        "address_not_here",
        r"Cannot assign requested address|EADDRNOTAVAIL|errno: 99",
        "It tried to listen on an address this machine does not have, or ran out of local ports.",
        "unset SGLANG_HOST_IP HOST_IP; --transfer-backend nixl instead of Mooncake over TCP",
        "sglang#15665",
    ),
    Signature(
        "rendezvous",
        r"DistStoreError|DistNetworkError|client socket has timed out|waiting for clients"
        r"|connectFullMesh failed|gloo/transport/tcp/|Timeout waiting for worker ports"
        r"|wait timeout after \d+ ?ms",
        "The ranks of an engine did not find each other.",
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in env with the NIC that the hosts share;"
        " the log of every host",
        "PyTorch TCPStore and Gloo",
    ),
    Signature(
        "bad_nic",
        r"No available RNIC|port not active|Invalid IB devices|InfiniBand sysfs path not found"
        r"|Failed to modify QP|transport retry counter exceeded|ibv_\w+ failed|No HCA"
        r"|Failed to register memory|IB device .{0,40}not found|No matched device found"
        r"|Failed to open device \w+_\d",
        "The RDMA device is missing or inactive, or the wrong one was picked.",
        "--args '--disaggregation-ib-device mlx5_0' with an ACTIVE one, ulimit -l unlimited, or"
        " --transfer-backend nixl",
        "Mooncake#1384, sglang#21395, #27730",
    ),
    Signature(
        "nixl",
        r"NIXL_ERR|(?i:nixl).*(?:failed|not found)|UCX\s+ERROR",
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
        releases="0.4.6 and later",
    ),
    Signature(
        "missing_module",
        r"^(?:ModuleNotFoundError|ImportError)\b|^\S*python\S*: No module named"
        r"|Error while finding module specification",
        "A Python package is missing or broken in SGLang's Python.",
        "pip install sglang, or --python VENV/bin/python",
    ),
    Signature(
        "no_compiler",
        r"[Nn]inja (?:exited|build failed)|ninja: build stopped|Ninja is required|\['ninja'"
        r"|(?:nvcc|ninja|cicc): (?:command )?not found|Could not find nvcc|nvcc fatal|nvrtc: error"
        r"|CUDA_HOME .{0,40}not set|Error building extension|Failed to find C compiler"
        r"|fatal error: \S+\.h(?:pp)?: No such file|NVCC compilation failed",
        "A kernel could not be compiled: the compiler or a header is missing.",
        "install gcc, ninja and the CUDA toolkit that PyTorch was built with;"
        " CUDA_HOME=/usr/local/cuda in env",
        "sglang#5389",
    ),
    Signature(
        "kernel_resources",
        r"OutOfResources|out of resource: shared memory",
        "A Triton kernel needs more shared memory than this GPU has.",
        "another --attention-backend or --moe-runner-backend under --args",
        "Triton",
    ),
    Signature(
        "unknown_flag",
        r"unrecognized arguments|ambiguous option|invalid choice|expected (?:one|at least one) arg"
        r"|the following arguments are required|unexpected keyword argument",
        "This SGLang does not know one of its flags; they come and go between versions.",
        "remove it from --args, --prefill-args or --decode-args; SGLang's --help lists the rest",
        "SGLang 0.5.16 removed --cuda-graph-bs",
    ),
    Signature(
        "fabric_manager",
        r"system not yet initialized|cudaErrorSystemNotReady",
        "The NVSwitch fabric of this host is down, so no CUDA program can start.",
        "systemctl restart nvidia-fabricmanager, of the driver's own version",
        "CUDA error 802",
    ),
    Signature(
        "kernel_package",
        r"operator sgl_kernel::\S+ does not exist|module 'sgl_kernel\S*' has no attribute"
        r"|sgl-kernel is installed with version",
        "SGLang and its kernel package do not match.",
        "pip install -U sglang, which brings the sgl-kernel built for it",
        "SGLang sgl-kernel",
    ),
    Signature(
        "driver",
        r"driver version is insufficient|no kernel image is available|CUDA driver .* too old"
        r"|no CUDA-capable device|No CUDA GPUs are available|Torch not compiled with CUDA"
        r"|forward compatibility was attempted|NVML Shared Library Not Found"
        r"|CUDA driver initialization failed|NVML: Driver/library version mismatch",
        "The GPU, its driver and PyTorch are incompatible.",
        "nvidia-smi shows the driver's CUDA; install the torch and sgl-kernel built for it",
    ),
    Signature(
        "nccl",
        r"NCCL error|DistBackendError|nccl(?:System|Remote|Internal|Invalid\w+|UnhandledCuda)Error",
        "NCCL could not connect the GPUs of one engine.",
        "NCCL_DEBUG=INFO in env for the reason; NCCL_SOCKET_IFNAME=NIC; docker run --shm-size 32g",
        "NCCL docs",
    ),
    Signature(
        "gpu_fault",
        r"uncorrectable ECC|illegal memory access|unspecified launch failure|CUDA error:"
        r"|device-side assert|HIP error|hipError(?!OutOfMemory)\w+|HSA_STATUS_ERROR"
        r"|\bXid\b|cuDNN error|cudaError(?!MemoryAllocation)\w+|ERR\d{5} PTA"
        r"|error code(?: is|:) ?507\d{3}|fallen off the bus",
        "The GPU, or a kernel on it, failed.",
        "nvidia-smi -q, dmesg | grep -i xid; --gpus to leave the GPU out",
    ),
    Signature(
        "offline",
        r"HF_HUB_OFFLINE|OfflineModeIsEnabled|LocalEntryNotFoundError|couldn't connect to"
        r"|Max retries exceeded|429 Client Error|50[234] Server Error"
        r"|Name or service not known|Temporary failure in name resolution",
        "The model is not in the local cache, and the hub cannot be reached.",
        "a directory instead of the model's id, unset HF_HUB_OFFLINE, or HF_ENDPOINT=URL",
    ),
    Signature(
        "gated",
        r"GatedRepoError|gated repo|401 Client Error|Repository Not Found|RepositoryNotFoundError"
        r"|Invalid user token",
        "The hub does not serve you this model: the id is wrong, or its licence must be accepted.",
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
        "tokenizer",
        r"Failed to load the tokenizer|Can't load tokenizer|Tokenizer class \S+ does not exist"
        r"|Couldn't instantiate the backend tokenizer",
        "The tokenizer cannot be loaded.",
        "ls MODEL for tokenizer.json or tokenizer.model; pip install -U transformers",
        releases="0.4.6 and later",
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
        releases="0.4.6 and later",
    ),
    Signature(
        "unknown_format",
        r"Unknown quantization method|quantization method .{0,60} does not match",
        "This SGLang does not know the format of the weights, or was told another.",
        "no --quantization under --args; pip install -U sglang; or a checkpoint in another format",
        "SGLang configs/model_config.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "job_ended",
        r"CANCELLED AT .{0,40}DUE TO|DUE TO (?:TIME LIMIT|PREEMPTION|NODE FAILURE)",
        "Slurm ended the job, because its time was up, it was preempted, or a node failed.",
        "a longer --time, or a partition without preemption; sacct -j JOB says which",
        "Slurm",
    ),
    Signature(
        "indivisible",
        r"must be divisible by|is not divisible by|divisible by tensor parallel",
        "The model's heads or experts cannot be spread over that many GPUs.",
        "another --tp or --ep that divides its heads",
        releases="0.4.6 and later",
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
        "It is not allowed to start enough processes or threads.",
        "ulimit -u unlimited, or docker run --pids-limit -1",
    ),
    Signature(
        "permission",
        r"Permission denied|EACCES",
        "It was denied access to a file, a device or a port.",
        "ls -l of the path in that line",
    ),
    Signature(
        "not_runnable",
        r"pdctl: cannot run|command not found",
        "Its program is not there.",
        "--python VENV/bin/python",
    ),
    Signature(
        "bus_error",
        r"Bus error|exit code:? -7\b|SIGBUS",
        "A write to mapped memory failed, because /dev/shm is full or a mapped file was truncated.",
        "df -h /dev/shm; docker run --shm-size 32g or --ipc=host",
    ),
    Signature(
        "graph_capture",
        r"Capture cuda graph failed",
        "CUDA graphs could not be captured.",
        "--args '--mem-fraction-static 0.8'; --args '--disable-cuda-graph' starts without them",
        "SGLang decode_cuda_graph_runner.py",
        releases="0.4.6 and later",
    ),
    Signature(
        "crashed",
        r"Segmentation fault|core dumped|terminate called after|Fatal Python error"
        r"|panicked at|PanicException|exit code:? -(?:4|6|8|11)\b|Memory access fault by GPU"
        r"|SIGSEGV|SIGABRT",
        "A library crashed.",
        "the lines after it name the library; reinstall it",
    ),
    Signature(
        "warmup",
        r"Disaggregation warmup failed|Initialization failed\. warmup error|warmup error"
        r"|[Ww]arm ?[Uu]p [Ff]ailed",
        "It loaded, but did not answer its own first request.",
        "no_proxy=127.0.0.1,localhost; the lines before it say why",
        releases="0.4.6 and later",
    ),
)
