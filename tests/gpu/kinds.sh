#!/bin/bash
# usage: kinds.sh SITE_PACKAGES OUT PLAN MINUTES [--turns]    (SGLang 0.5.17 unpacked in SITE_PACKAGES)
# Measures the kinds of a plan from tests/data/gpu/plans and packs logs and traces.
set -euo pipefail
site=$1 out=$2 plan=$3 minutes=$4
export DUMMY_AS_REAL=1 NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1
export PYTHONPATH=$PWD:$site:$site/nvidia_cutlass_dsl/dsl_packages
grep -q DUMMY_AS_REAL "$site/sglang/srt/model_loader/weight_utils.py" || python3 -m tests.gpu.patch_sglang "$site"
python3 -m tests.gpu.shapes "$out/models"
python3 -m tests.gpu.kinds "$out" "$out/models" "$plan" --minutes "$minutes" ${5:-}
(cd "$out" && tar czf kept.tgz logs traces && rm -rf logs traces models)
