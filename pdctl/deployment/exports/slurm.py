"""A deployment as an sbatch script that a person reads, edits and owns."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from pdctl.deployment.cluster_file import ClusterFile, SlurmSettings, cluster_here
from pdctl.deployment.containers import in_container, pyxis_options
from pdctl.deployment.elsewhere import Elsewhere, NodeKind, expand_on_nodes
from pdctl.deployment.flags import with_engines
from pdctl.deployment.records import Deployment, ProcessSpec

_HOSTS = 'mapfile -t host < <(scontrol show hostnames "$SLURM_JOB_NODELIST")'
_HET_HOSTS = """\
host=() group=()
for part in {{0..{last}}}; do
    list=SLURM_JOB_NODELIST_HET_GROUP_$part
    for name in $(scontrol show hostnames "${{!list}}"); do
        host+=("$name") group+=("--het-group=$part")
    done
done"""
_STEP_OF_NAME = '-w "$name"'
_STEP_OF_NODE = '-w "${host[$node]}"'
_RESOLVE = r"""
# The address on which a node reaches the others, asked on the node itself.
own_address='
    if [ -n "$INTERFACE" ]; then
        ip -o -4 addr show dev "$INTERFACE" | sed -n "s/.* inet \([0-9.]*\).*/\1/p"
    else
        ip -o -4 route get "$SLURM_LAUNCH_NODE_IPADDR" | sed -n "s/.* src \([0-9.]*\).*/\1/p"
    fi'
mapfile -t host < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=()
for name in "${host[@]}"; do
    one=$(srun --overlap -N1 -n1 -w "$name" bash -c "$own_address")
    case "$one" in
        ""|127.*|169.254.*)
            echo "$name has no address that other nodes reach (${one:-none}); set INTERFACE" >&2
            exit 1 ;;
    esac
    address+=("$one")
done
"""

_ENGINES = r"""
logs=$SLURM_SUBMIT_DIR/$SLURM_JOB_NAME-$SLURM_JOB_ID
mkdir -p "$logs"

# engine NAME NODE [OPTION OF SRUN...] -- [VARIABLE=VALUE...] COMMAND: one engine as one step.
# --overlap gives it the whole node, so the script divides the GPUs; Slurm sets
# CUDA_VISIBLE_DEVICES itself, so env sets it last.
engine() {
    local name=$1 node=$2
    shift 2
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    srun --overlap -N1 -n1 -w "${host[$node]}" --mem=0 --cpu-bind=none --job-name="$name" \
        --output="$logs/$name.log" --open-mode=append "${options[@]}" env "$@" &
}
"""

_WAIT = r"""
router_pid=$!
# before the time limit Slurm sends TERM: the router accepts no more and finishes what it has
trap 'kill -TERM "$router_pid"; wait "$router_pid"; exit 0' TERM
(
    until curl -fso /dev/null "http://$endpoint/readiness"; do sleep 2; done
    echo "ready: http://$endpoint"
    exec sleep infinity
) &
trap "kill $! 2>/dev/null" EXIT
# the first process to end ends the job, and Slurm then ends all others
wait -n || true
echo "a process ended; see $logs" >&2
exit 1
"""


def render(deployment: Deployment, specs: Sequence[ProcessSpec]) -> str:
    """An sbatch script for the cluster that cluster.yaml describes; see `slurm`."""
    cluster = cluster_here()
    python = sys.executable
    return slurm(
        expand_on_nodes(deployment, cluster, address_of=address_of, python=python), cluster
    )


def slurm(planned: Elsewhere, cluster: ClusterFile) -> str:
    """An sbatch script that starts every process of a deployment; the first to end ends the job.

    Each engine is a step, and each rank of an engine larger than a node. The router runs beside the
    script, on the first node. Without pdctl nobody restarts a process or changes the router's list.

    Args:
        planned: expanded with `address_of` as the address of each node.
    """
    router = planned.specs[0]
    lines = [
        "#!/bin/bash",
        *sbatch_lines(planned.kinds),
        "",
        f"# {planned.deployment.layout} of {planned.deployment.model}; from pdctl render slurm.",
        *(f"# {note}" for note in planned.notes),
        "set -euo pipefail",
        *([cluster.preamble.rstrip()] if cluster.preamble else []),
        f"INTERFACE={shlex.quote(cluster.interface or '')}",
        "export INTERFACE",
        *_shell(planned.kinds),
        "",
        *(line for spec in planned.specs[1:] for line in _engine(spec)),
        "",
        f'endpoint="{router.host}:{router.port}"',
        _router(router, planned.specs[1:]),
        _WAIT.strip(),
    ]
    return "\n".join(lines) + "\n"


def sbatch_lines(kinds: Sequence[NodeKind], *more: str) -> tuple[str, ...]:
    """The options of a job; of a heterogeneous one where there are several kinds of nodes.

    more: further options of each part.
    """
    parts = (
        tuple(
            f"#SBATCH {option}"
            for option in (*sbatch_options(kind.deployment, kind.cluster, kind.num_nodes), *more)
        )
        for kind in kinds
    )
    first, *others = parts
    return (*first, *(line for part in others for line in ("#SBATCH hetjob", *part)))


def _shell(kinds: Sequence[NodeKind]) -> tuple[str, str]:
    """The script's functions. In a heterogeneous job every step names the part of its node."""
    if len(kinds) == 1:
        return _RESOLVE.strip(), _ENGINES.rstrip()
    resolve = _RESOLVE.replace(_HOSTS, _HET_HOSTS.format(last=len(kinds) - 1))
    resolve = resolve.replace(_STEP_OF_NAME, '-w "$name" "${group[${#address[@]}]}"')
    engines = _ENGINES.replace(_STEP_OF_NODE, f'{_STEP_OF_NODE} "${{group[$node]}}"')
    return resolve.strip(), engines.rstrip()


def address_of(node: int) -> str:
    """The address of a node as the script knows it only when it runs."""
    return f"${{address[{node}]}}"


def sbatch_options(deployment: Deployment, cluster: ClusterFile, num_nodes: int) -> tuple[str, ...]:
    """The options of sbatch for a deployment; those of the cluster file come last."""
    settings = cluster.slurm
    return (
        f"--job-name={deployment.name}",
        f"--nodes={num_nodes}",
        "--ntasks-per-node=1",
        *_gpu_options(deployment, cluster, num_nodes),
        *_named(settings),
        *(("--exclusive", "--mem=0") if settings.exclusive else ()),
        *_time_options(settings),
        "--no-requeue",
        *_segment(deployment, settings, num_nodes),
        *settings.options,
    )


def _segment(deployment: Deployment, settings: SlurmSettings, num_nodes: int) -> tuple[str, ...]:
    """One NVLink domain for the whole job. Ignores: domains that features of nodes tell.

    Source: sbatch manual of Slurm 23.11: --segment keeps so many nodes in one block, and
        --switches has the job wait until one switch, of the leaves too, has the nodes.
    """
    options = {"block": f"--segment={num_nodes}", "switch": "--switches=1"}
    option = options.get(settings.domain, "")
    has_own = any(own.partition("=")[0] == option.partition("=")[0] for own in settings.options)
    wants_one = deployment.place == "domain" and num_nodes > 1 and not has_own
    return (option,) if option and wants_one else ()


def _gpu_options(deployment: Deployment, cluster: ClusterFile, num_nodes: int) -> tuple[str, ...]:
    per_node = cluster.gpus_per_node if num_nodes > 1 else deployment.num_gpus
    settings = cluster.slurm
    kind = f"{settings.gpu_type}:" if settings.gpu_type else ""
    request = f"--gres=gpu:{kind}{per_node}"
    if settings.gpu_request == "gpus-per-node":
        request = f"--gpus-per-node={kind}{per_node}"
    per_gpu = settings.cpus_per_gpu
    return (request, *((f"--cpus-per-task={per_gpu * per_node}",) if per_gpu else ()))


def _named(settings: SlurmSettings) -> tuple[str, ...]:
    names = ("partition", "account", "qos", "constraint")
    return tuple(f"--{n}={value}" for n in names if (value := getattr(settings, n)) is not None)


def _time_options(settings: SlurmSettings) -> tuple[str, ...]:
    if settings.time_s is None:
        return ()
    minutes, seconds = divmod(round(settings.time_s), 60)
    return (
        f"--time={minutes}:{seconds:02}",
        f"--signal=B:TERM@{round(settings.drain_s)}",
    )


def _engine(spec: ProcessSpec) -> list[str]:
    """The line of an engine, and one for each further rank."""
    others = (
        replace(spec, name=f.log.stem, node=f.node, env=f.env, argv=f.argv) for f in spec.followers
    )
    return [_step(rank) for rank in (spec, *others)]


def _step(rank: ProcessSpec) -> str:
    container = rank.container
    options = pyxis_options(container) if container and container.runtime == "pyxis" else ()
    variables = (f"{name}={value}" for name, value in sorted(rank.env.items()))
    argv = in_container(rank, rank.argv, name=f"pdctl-{rank.name}-{rank.port}")
    words = (*options, "--", *variables, *argv)
    return " ".join(("engine", rank.name, rank.node, *map(_quoted, words)))


def _router(router: ProcessSpec, engines: Sequence[ProcessSpec]) -> str:
    env = [f"{name}={value}" for name, value in sorted(router.env.items())]
    words = " ".join(map(_quoted, (*env, *with_engines(router, engines))))
    return f'env {words} >> "$logs/router.log" 2>&1 &'


def _quoted(word: str) -> str:
    """A word for bash in which addresses are still looked up."""
    if "${address[" not in word:
        return shlex.quote(word)
    before, _, rest = word.partition("${address[")
    number, _, after = rest.partition("]}")
    bare = _bare(before), f'"${{address[{number}]}}"', _quoted(after) if after else ""
    return "".join(bare)


def _bare(text: str) -> str:
    return shlex.quote(text) if text else ""
