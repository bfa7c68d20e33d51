import math
from pathlib import Path

import pytest

from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.slurm import srun
from pdctl.engines.launchers.slurm_commands import SlurmJob, num_gpus, parse_left
from pdctl.errors import EnvironmentProblem, InvalidInput


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8", 8),
        ("gpu:h100:8(S:0-1)", 8),
        ("gpu:h100:4(IDX:0-3),gpu:a100:2(IDX:4-5)", 6),
        ("nvme:1,gpu:2", 2),
        ("(null)", 0),
        ("", 0),
    ],
)
def test_gpus_are_counted_in_slurm_s_words(gres: str, gpus: int) -> None:
    assert num_gpus(gres) == gpus


def test_a_job_in_its_last_moments_is_neither_over_nor_expected() -> None:
    assert SlurmJob("1", "PENDING").is_expected
    assert SlurmJob("1", "RUNNING").is_expected
    ending = SlurmJob("1", "COMPLETING")
    assert not ending.is_expected
    assert not ending.is_over
    assert SlurmJob("1", "").is_over
    assert SlurmJob("1", "TIMEOUT").is_over


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04\n", 93_784.0),
        ("2:03:04", 7_384.0),
        ("3:04", 184.0),
        ("0:00", 0.0),
        ("UNLIMITED", math.inf),
        ("INVALID", None),
        ("", None),
    ],
)
def test_the_time_left_is_read_as_slurm_writes_it(text: str, seconds: float | None) -> None:
    assert parse_left(text) == seconds


SQUEUE = """\
#!/bin/sh
echo 'RUNNING|None|1:00:00|node[1-2]|7+1'
echo 'RUNNING|None|1:00:00|node3|7+0'
"""
HOSTNAMES = """\
#!/bin/sh
case "$3" in 'node[1-2]') echo node1; echo node2 ;; *) echo "$3" ;; esac
"""


BLOCKS = """\
#!/bin/sh
cat <<'EOF'
BlockName=b1 BlockIndex=0 Nodes=node[1-2],big BlockSize=18
BlockName=b2 BlockIndex=1 Nodes=node[3,05]-gpu BlockSize=18
AggregatedBlock=b1,b2 BlockIndex=2 Nodes=node[1-2],big,node[3,05]-gpu BlockSize=36
EOF
"""
SWITCHES = """\
#!/bin/sh
echo 'SwitchName=s0 Level=0 LinkSpeed=1 Nodes=node[1-2]'
echo 'SwitchName=s1 Level=0 LinkSpeed=1 Nodes=node3'
echo 'SwitchName=top Level=1 LinkSpeed=1 Nodes=node[1-3] Switches=s[0-1]'
"""
FEATURES = """\
#!/bin/sh
echo 'node1 ib,nvl-a'
echo 'node2 nvl-a'
echo 'node3 (null)'
"""


@pytest.mark.parametrize(
    ("told_by", "domains"),
    [
        ("block", dict.fromkeys(("node1", "node2", "big"), "b1")
         | dict.fromkeys(("node3-gpu", "node05-gpu"), "b2")),
        ("switch", {"node1": "s0", "node2": "s0", "node3": "s1"}),
        ("nvl-*", {"node1": "nvl-a", "node2": "nvl-a"}),
    ],
)  # fmt: skip
def test_nvlink_domains_are_blocks_leaf_switches_or_features(
    told_by: str, domains: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = SWITCHES if told_by == "switch" else BLOCKS
    with_slurm(tmp_path, monkeypatch, scontrol=topology, sinfo=FEATURES)
    assert slurm_commands.domains(told_by) == domains
    with_slurm(tmp_path, monkeypatch, scontrol="#!/bin/sh\necho none >&2\nexit 1\n")
    assert slurm_commands.domains("block") == {}, "a plugin without topology"


def with_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(slurm_commands, "_parts", {})


def test_a_heterogeneous_job_has_its_nodes_in_the_order_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_slurm(tmp_path, monkeypatch, squeue=SQUEUE, scontrol=HOSTNAMES)
    found = slurm_commands.job("7")
    assert found.nodes == ("node3", "node1", "node2")
    assert (found.state, found.left) == ("RUNNING", "1:00:00")
    assert slurm_commands.components_of("7") == (("node3",), ("node1", "node2"))
    assert "--het-group=1" in srun("7", "node2")
    for other in ("RUNNING", "COMPLETED"):
        ends = f"#!/bin/sh\necho COMPLETED\necho {other}\n"
        with_slurm(tmp_path, monkeypatch, squeue=ends)
        assert slurm_commands.is_over("7") == (other == "COMPLETED")

    with_slurm(tmp_path, monkeypatch, squeue="#!/bin/sh\necho 'RUNNING|None|1:00|node[1-2]|8'\n")
    assert slurm_commands.job("8").nodes == ("node1", "node2")
    assert slurm_commands.components_of("8") == ()
    assert not any("het-group" in word for word in srun("8", "node2"))


def test_a_slurm_that_does_not_answer_is_no_fault_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = "#!/bin/sh\necho 'sbatch: error: Unknown host' >&2\nexit 1\n"
    silent = "#!/bin/sh\necho 'sinfo: error: failed to fetch config' >&2\nexit 1\n"
    with_slurm(tmp_path, monkeypatch, sbatch=refuses, sinfo=silent)
    with pytest.raises(EnvironmentProblem, match=r"^sinfo failed: failed to fetch config\.$"):
        slurm_commands.submit_script("#SBATCH --nodes=1\n", directory="/", output="out")
    with_slurm(tmp_path, monkeypatch, sinfo="#!/bin/sh\n")
    with pytest.raises(InvalidInput, match=r"^Slurm refuses the job \(--nodes=1\): Unknown host"):
        slurm_commands.submit_script("#SBATCH --nodes=1\n", directory="/", output="out")
