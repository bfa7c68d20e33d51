"""Failures by the part of SGLang that raised an exception of no known kind, each with a fix to try.

Each row: the path below sglang/srt, what happened in one sentence, what to try.
"""

PLACES = (
    (
        "server_args.py",
        "SGLang refused its flags.",
        "change what that line names under --args, --prefill-args or --decode-args",
    ),
    (
        "arg_groups/",
        "SGLang refused its flags.",
        "change what that line names under --args, --prefill-args or --decode-args",
    ),
    (
        "configs/",
        "SGLang could not use the model's config.json.",
        "pip install -U sglang, or a checkpoint of the model that this release knows",
    ),
    (
        "model_loader/",
        "SGLang could not load the weights.",
        "ls MODEL for every *.safetensors of the index; pip install -U sglang",
    ),
    (
        "disaggregation/",
        "SGLang failed in its code for split prefill and decode.",
        "pdctl doctor checks that both roles agree; --transfer-backend with another one",
    ),
    (
        "distributed/",
        "SGLang failed while it connected the GPUs of one engine.",
        "NCCL_DEBUG=INFO in env; a smaller --tp",
    ),
    (
        "mem_cache/",
        "SGLang failed in its KV cache.",
        "--args '--disable-radix-cache' tells if the prefix cache is at fault",
    ),
    (
        "layers/attention/",
        "SGLang failed in its attention kernels.",
        "--args '--attention-backend triton'",
    ),
    (
        "layers/moe/",
        "SGLang failed in its kernels for experts.",
        "--args '--moe-runner-backend triton'",
    ),
    (
        "layers/quantization/",
        "SGLang failed with the format of the weights.",
        "a checkpoint in another format",
    ),
    (
        "speculative/",
        "SGLang failed in speculative decoding.",
        "remove the --speculative- flags from --args",
    ),
    (
        "models/",
        "SGLang failed in its code for this model.",
        "pip install -U sglang; pdctl logs shows what it served before",
    ),
    (
        "managers/",
        "SGLang's scheduler failed.",
        "pip install -U sglang; pdctl logs shows what it served before",
    ),
)
