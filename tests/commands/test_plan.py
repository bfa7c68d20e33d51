import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from pdctl.cli import main
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.engines.launchers import registry
from pdctl.paths import last_plan_path
from pdctl.status.records import Target
from pdctl.workload.describe import workload_from_lengths
from tests.engines.launchers.in_memory import InMemoryLauncher

R1 = ("deepseek-r1", "--gpus", "4x8xH200:rdma400")
LENGTHS = ("--isl", "4000", "--osl", "200", "--rate", "2")
TRACE = "\n".join(
    json.dumps({"timestamp": i * 500, "input_length": 3000, "output_length": 60}) for i in range(80)
)
pytestmark = pytest.mark.usefixtures("here")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    return int(ended.value.code or 0)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    run(*arguments, "--json")
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


@pytest.mark.slow
def test_a_plan_in_words_ends_with_the_command_that_launches_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = "--isl 8000 --osl 500 --isl-cv 0 --osl-cv 0 --rate 8 --ttft 2s --tpot 50ms"
    assert run(*R1, *asked.split()) == 0
    said = capsys.readouterr()
    assert "Split: run 3 prefill and 1 decode engine (3P1D)" in said.out
    assert "pdctl up deepseek-r1 --prefill" in said.out
    assert said.err.startswith("  Drawn requests: prompts 8,000 tokens each, outputs 500 tokens")


def test_json_is_one_envelope_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "qwen3-8b", "--gpus", "4xH200", *LENGTHS)
    assert (told["command"], told["status"], told["error"]) == ("plan", "ok", None)
    assert told["data"]["verdict"] in ("pd", "colocated", "too_close")


@pytest.mark.slow
def test_the_question_is_echoed_with_its_defaults_and_next_is_a_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slos = ("--ttft", "1s", "--tpot", "30ms")
    told = answer(capsys, "qwen3-8b", "--gpus", "4xH200@2.5", *LENGTHS, *slos)["data"]
    assert told["question"]["slo"] == {"ttft_s": 1.0, "tpot_s": 0.03, "attainment": 0.9}
    assert told["question"]["seed"] == 0
    assert told["question"]["gpus"]["usd_per_hour"] == 2.5
    assert told["next"][0].startswith("pdctl up qwen3-8b --prefill ")
    assert told["gpus_needed"] == min(arm["gpus_needed"] for arm in told["arms"].values())
    for arm in told["arms"].values():
        assert arm["capacity_rps"] > arm["goodput_rps"] > 0
        assert arm["usd_per_million_output_tokens"] > 0
    assert told["model"]["kv_bytes_per_token"] > 0


@pytest.mark.slow
def test_the_fewest_gpus_are_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    slos = ("--ttft", "1s", "--tpot", "30ms", "--fewest")
    told = answer(capsys, "qwen3-8b", "--gpus", "4xH200", *LENGTHS, *slos)["data"]
    assert told["question"]["gpus"]["most"] == told["gpus_needed"] == 1
    assert told["arms"][told["verdict"]]["meets_slo"]


@pytest.mark.slow
def test_what_is_piped_has_no_padding_and_no_wrapped_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("qwen3-8b", "--gpus", "4xH200", *LENGTHS, "--attention-backend", "triton") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert any(line.endswith("--args '--attention-backend triton'") for line in lines)


def test_missing_lengths_give_the_rules_and_never_a_question(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = answer(capsys, *R1)
    assert told["data"]["decided_by"] == "rules"
    assert any("--isl" in warning for warning in told["data"]["warnings"])


@pytest.mark.slow
def test_the_plan_is_written_and_kept_for_the_next_command(here: Path) -> None:
    assert run("qwen3-32b", "--gpus", "2x8xH200", "--tp", "2", *LENGTHS, "-o", "pd.yaml") == 0
    written = read_deployment(here / "pd.yaml")
    assert written == read_deployment(last_plan_path())
    assert written.model == "qwen3-32b"
    assert written.total == 8
    assert {role.parallelism.tp for role in written.roles.values()} == {2}


@pytest.mark.slow
def test_the_attention_backend_planned_for_is_the_one_launched(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = ("--attention-backend", "triton")
    assert run("qwen3-8b", "--gpus", "4xH200", *LENGTHS, *backend) == 0
    written = read_deployment(last_plan_path())
    assert all(role.args == backend for role in written.roles.values())
    assert "--args '--attention-backend triton'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_running_deployment_is_looked_at_instead_of_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = workload_from_lengths(isl=4000, osl=200, rate_rps=2.5, prefix_hit=0.25)
    monkeypatch.setattr("pdctl.status.targets.targets_of_router", lambda url: ())
    monkeypatch.setattr(
        "pdctl.status.observed_workload.watch_workload", lambda targets, window_s, tell: seen
    )
    live = ("--from", "http://127.0.0.1:30000")
    assert run("qwen3-8b", "--gpus", "4xH200", *live) == 0
    said = capsys.readouterr()
    assert "2.5 req/s, ISL 4,000, OSL 200, 25 % of the prompts cached" in " ".join(said.err.split())
    assert "mean 4,000 tokens, 3,000 uncached" in said.out


def test_traffic_of_a_router_is_planned_for_the_model_behind_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("llama-3.1-8b", "--gpus", "4xH200") == 0
    seen = workload_from_lengths(isl=4000, osl=200, rate_rps=2.5)
    engine = Target("decode-0", "decode", "http://127.0.0.1:9")
    monkeypatch.setattr("pdctl.status.targets.targets_of_router", lambda url: (engine,))
    monkeypatch.setattr("pdctl.status.targets.model_path", lambda target: "Qwen/Qwen3-8B")
    monkeypatch.setattr(
        "pdctl.status.observed_workload.watch_workload", lambda targets, window_s, tell: seen
    )
    url = "http://127.0.0.1:30000"
    capsys.readouterr()
    told = answer(capsys, "--gpus", "4xH200", "--from", url)["data"]
    assert told["model"]["name"] == "qwen3-8b"


@pytest.mark.slow
def test_a_bare_plan_takes_the_model_of_the_last_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("qwen3-8b", "--gpus", "4xH200", *LENGTHS) == 0
    (last_plan_path().parent / "unrelated").touch()
    capsys.readouterr()
    assert run("--gpus", "4xH200", *LENGTHS) == 0
    assert "qwen3-8b" in capsys.readouterr().out


def test_a_bare_plan_without_any_model_says_what_to_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--gpus", "4xH200") == 2
    assert "pdctl plan llama-3.1-8b" in capsys.readouterr().err


def test_a_trace_is_replayed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "trace.jsonl").write_text(TRACE + "\n")
    told = answer(capsys, "qwen3-8b", "--gpus", "4xH200", "--trace", "trace.jsonl")
    assert told["data"]["arms"]["pd"]["ttft_s"]["p50"] > 0


def test_a_broken_line_is_named_and_can_be_skipped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "trace.jsonl").write_text(TRACE + "\n{broken\n")
    arguments = ("qwen3-8b", "--gpus", "4xH200", "--trace", "trace.jsonl")
    assert run(*arguments) == 2
    assert "trace.jsonl" in capsys.readouterr().err
    assert run(*arguments, "--skip-bad") == 0
    assert "1 line of trace.jsonl left out" in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_is_one_page(here: Path) -> None:
    assert run("qwen3-8b", "--gpus", "4xH200", *LENGTHS, "--report", "plan.html") == 0
    assert (here / "plan.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_an_error_in_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("qwen3-8b", "--gpus", "4xH200", *LENGTHS, "--report", "no/plan.html") == 4
    assert "no/plan.html cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--isl", "-5", "--osl", "9"), 2, "--isl"),
        (("--isl", "inf", "--osl", "9"), 2, "--isl"),
        (("--isl", "9", "--osl", "nan"), 2, "--osl"),
        (("--rate", "0", *LENGTHS[:4]), 2, "--rate"),
        ((*LENGTHS, "--concurrency", "8"), 2, "--rate and --concurrency cannot be combined"),
        (
            (*LENGTHS[:4], "--concurrency", "2.5"),
            2,
            "a whole number up to 50,000",
        ),
        ((*LENGTHS[:4], "--concurrency", "1e6"), 2, "not 1e+06"),
        ((*LENGTHS[:4], "--concurrency", "0"), 2, "--concurrency must be positive"),
        (("--prefix-hit", "1.5", *LENGTHS), 2, "--prefix-hit"),
        (("--attainment", "0", *LENGTHS), 2, "--attainment"),
        (("--ttft", "soon", *LENGTHS), 2, "--ttft"),
        (("--attention-backend", "foo", *LENGTHS), 2, "has no --attention-backend 'foo'"),
        (
            ("--args", "--chunked-prefil-siz 512", *LENGTHS),
            2,
            "Did you mean --chunked-prefill-size",
        ),
        (("--isl-cv", "-1", *LENGTHS), 2, "--isl-cv"),
        (("--rate", "5/week", *LENGTHS[:4]), 2, "--rate"),
        (("--tp", "0", *LENGTHS), 2, "--tp"),
        (("--tp", "3", *LENGTHS), 2, "heads"),
        (("--ep", "4", *LENGTHS), 2, "--ep needs --tp"),
        (("--total", "0"), 2, "--total"),
        (("--total", "9", "--tp", "1"), 2, "9 engines"),
        (("--spec-accept-length", "2"), 2, "--spec-draft-tokens"),
        (("--spec-draft-tokens", "2", "--spec-accept-length", "9"), 2, "from 1 to 3"),
        (("--trace", "missing.jsonl"), 2, "missing.jsonl"),
        (("--trace", "x.jsonl", "--isl", "5"), 2, "--isl"),
        (("--from", "http://127.0.0.1:9", "--isl", "5"), 2, "--from and --isl"),
        (("--from", "127.0.0.1"), 2, "not the URL of a router"),
        (("--profile", "missing.json"), 2, "missing.json"),
        (("--gpus", "4xH200@cheap"), 2, "not a price"),
        (("--gpus", "4xH200@-2"), 2, "price must be positive"),
        (("--fewest", "--isl", "4000", "--osl", "200"), 2, "--fewest needs a rate and SLOs"),
        (("--isl", "99999999", "--osl", "9"), 3, "context"),
        (("--isl", "99999999", "--osl", "9", "-o", "no.yaml"), 3, "no.yaml was not written"),
        (("--ttft", "1ms", "--tpot", "1us", *LENGTHS), 3, "No layout meets these SLOs"),
        (("--isl", "4000", "--osl", "200", "--rate", "99999"), 3, "keeps up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_gets_its_exit_code_and_names_the_value(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("qwen3-8b", "--gpus", "4xH200", *arguments) == code
    said = capsys.readouterr()
    assert words in " ".join(said.out.split()) + said.err
    assert not last_plan_path().exists()


def test_an_unknown_gpu_type_and_no_gpu_at_all_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("qwen3-8b", "--gpus", "8xH9000") == 2
    capsys.readouterr()
    told = answer(capsys, "qwen3-8b", "--isl", "1", "--osl", "1")
    if told["status"] == "error":  # a machine without a GPU
        assert "--gpus" in told["error"]["hint"]


def test_a_model_that_does_not_fit_is_an_answer_with_exit_3(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("deepseek-r1", "--gpus", "2xH100", "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "no"
    assert told["data"]["decided_by"] == "feasibility"


def test_help_has_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert capsys.readouterr().out.count("pdctl plan ") >= 2


@pytest.mark.slow
def test_on_a_terminal_what_is_missing_is_asked_for(here: Path) -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "pdctl", "plan", "qwen3-8b", "--gpus", "4xH200"],
        )
    said = ""
    for question, reply in (("prompt tokens", "4000"), ("output tokens", ""), ("per second", "2")):
        while question not in said:
            said += os.read(terminal, 4096).decode()
        os.write(terminal, f"{reply}\n".encode())
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        said += part.decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "TPOT" in said


@pytest.mark.slow
def test_a_bundled_profile_of_another_backend_is_named_and_not_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("llama-3.1-8b", "--gpus", "2xH200", *LENGTHS)
    told = answer(capsys, *asked, "--attention-backend", "flashinfer")["data"]
    assert told["provenance"]["basis"] == "roofline"
    assert any("--attention-backend fa3" in warning for warning in told["warnings"])


@pytest.mark.slow
def test_the_bundled_profile_is_that_of_the_backend_in_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("llama-3.1-8b", "--gpus", "2xH200", *LENGTHS)
    usual, other = (f"h200--dense-gqa--sglang-0.5.15--{name}" for name in ("fa3", "triton"))
    assert answer(capsys, *asked)["data"]["provenance"]["profile"] == usual
    for more in (("--attention-backend", "triton"), ("--profile", other)):
        assert answer(capsys, *asked, *more)["data"]["provenance"]["profile"] == other


def test_a_profile_and_another_attention_backend_contradict_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile = ("--profile", "h200--dense-gqa--sglang-0.5.15--triton")
    assert run("llama-3.1-8b", "--gpus", "2xH200", *profile, "--attention-backend", "fa3") == 2
    assert "measured with triton attention, not with fa3" in capsys.readouterr().err


DOUBTFUL = "".join(
    f'{{"timestamp": {10 * i + i % 7}, "input_length": 900, "output_length": 9}}\n'
    for i in range(2000)
)
SMALL = ("qwen3-8b", "--gpus", "1xH200")


def test_times_that_make_sense_in_two_units_are_refused_with_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "doubtful.jsonl"
    file.write_text(DOUBTFUL, encoding="utf-8")
    assert run(*SMALL, "--trace", str(file)) == 2
    said = capsys.readouterr().err
    assert "--time-unit s or --time-unit ms" in said
    assert said.count("req/s over") == 2


@pytest.mark.parametrize(("unit", "rate"), [("s", 0.1), ("ms", 100.0)])
def test_the_given_unit_decides_and_is_in_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str, rate: float
) -> None:
    file = tmp_path / "doubtful.jsonl"
    file.write_text(DOUBTFUL, encoding="utf-8")
    told = answer(capsys, *SMALL, "--trace", str(file), "--time-unit", unit)["data"]["workload"]
    assert told["rate_rps"] == pytest.approx(rate, rel=0.01)
    assert told["trace"]["time_unit"] == unit
    assert told["trace"]["columns"] == [f"timestamp in {unit}", "input_length", "output_length"]


def test_how_a_trace_was_read_is_said_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "us.csv"
    rows = (f"r{i},{1787000000000000 + 250_000 * i},900,9" for i in range(60))
    file.write_text("\n".join(["request_id,send_time_us,in_tokens,out_tokens", *rows]))
    assert run(*SMALL, "--trace", str(file)) == 0
    assert capsys.readouterr().err == (
        "  Read 60 requests over 14.8 s (send_time_us in us, in_tokens, out_tokens); "
        "not used: request_id\n"
    )


@pytest.mark.parametrize("flag", ["--ttft", "--tpot"])
def test_a_level_without_a_unit_is_refused_with_both_readings(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run(*SMALL, *LENGTHS, flag, "30") == 2
    assert f"{flag} 30 could mean 30ms or 30s" in capsys.readouterr().err


def test_numbers_are_read_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    written = ("--isl", "8k", "--osl", "0.2K", "--rate", "120/min", "--prefix-hit", "90%")
    told = answer(capsys, *SMALL, *written, "--isl-cv", "1")["data"]["workload"]
    assert (told["isl"]["mean"], told["isl"]["cv"], told["osl"]["mean"]) == (8000, 1, 200)
    assert (told["rate_rps"], told["prefix_hit"]) == (2, 0.9)


@pytest.mark.parametrize("flag", ["--isl", "--isl-cv", "--osl-cv", "--prefix-hit"])
def test_flags_that_draw_requests_do_not_go_with_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("time_s,isl,osl\n0,5,6\n1,5,6\n", encoding="utf-8")
    assert run(*SMALL, "--trace", str(file), flag, "0.5") == 2
    assert flag in capsys.readouterr().err


def test_a_rate_and_a_concurrency_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--isl", "9", "--osl", "9", "--rate", "1", "--concurrency", "2") == 2
    assert "--rate and --concurrency" in capsys.readouterr().err


@pytest.mark.slow
def test_answers_of_one_token_meet_any_tpot(capsys: pytest.CaptureFixture[str]) -> None:
    one = ("qwen3-32b", "--gpus", "8xH200", "--isl", "8000", "--osl", "1", "--ttft", "3s")
    for rate in ("3", "6"):
        plain = answer(capsys, *one, "--rate", rate)["data"]["arms"]
        strict = answer(capsys, *one, "--rate", rate, "--tpot", "1us")["data"]["arms"]
        for arms in (plain, strict):
            colocated = arms["colocated"]["capacity_rps"]
            assert colocated >= arms["pd"]["capacity_rps"]
            assert colocated != pytest.approx(float(rate), rel=0.01)
        assert strict["colocated"]["layout"] == plain["colocated"]["layout"]


def test_times_that_are_not_recognised_are_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("moment,isl,osl\n0,5,6\n250,5,6\n", encoding="utf-8")
    told = answer(capsys, *SMALL, "--trace", str(file))["data"]
    assert any("not used: moment" in text for text in told["warnings"])
    told = answer(capsys, *SMALL, "--trace", str(file), "--rate", "2")["data"]
    assert not any("not used: moment" in text for text in told["warnings"])


def test_a_model_is_shown_without_gpus_or_a_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("qwen3-next-80b-a3b", "--show-model") == 0
    said = capsys.readouterr().out
    assert "36 ×     gated delta net" in said
    assert "transfer" not in said
    model = answer(capsys, "qwen3-next-80b-a3b", "--show-model", "--isl", "8K")["data"]["model"]
    assert model["name"] == "qwen3-next-80b-a3b"
    assert model["kv_transfer_bytes"] > model["state_bytes_per_request"] > 0


@pytest.mark.slow
def test_the_bundled_models_are_listed_with_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--models") == 0
    said = capsys.readouterr().out
    assert "deepseek-r1" in said
    assert "…" not in said
    models = answer(capsys, "--models")["data"]["models"]
    assert len(models) == len(said.splitlines()) - 1
    assert all(model["weight_bytes"] > 0 for model in models)


def test_json_says_which_clients_a_closed_loop_has(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ("--isl", "1000", "--osl", "100", "--concurrency", "8")
    told = answer(capsys, "llama-3.1-8b", "--gpus", "2xH200", *lengths)["data"]
    assert told["load"] == "8 clients, closed loop, starting with a burst of 8"
    assert (told["clients"], told["rate_rps"]) == (8, None)
    assert told["workload"]["concurrency"] == 8
    for arm in told["arms"].values():
        assert arm["throughput_rps"] > 0
        assert arm["steady"]["throughput_rps"] > 0
        assert arm["capacity_rps"] is None


@pytest.mark.slow
def test_a_plan_for_a_gpu_of_a_file_is_never_sure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = tmp_path / "gpu.yaml"
    described.write_text("name: my-gpu\nbandwidth_gb_per_s: 3350\n")
    asked = ("plan", "qwen3-8b", "--gpus", "8xmy-gpu", "--gpu-file", str(described), "--json")
    with pytest.raises(SystemExit):
        main([*asked, "--isl", "2000", "--osl", "200", "--rate", "5", "--tpot", "20ms"])
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["confidence"] == "low"
    assert any("Assumed for my-gpu" in warning for warning in data["warnings"])


def test_the_file_of_a_kind_of_gpu_is_kept_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu.yaml").write_text("name: my-gpu\nbandwidth_gb_per_s: 3350\n")
    monkeypatch.chdir(tmp_path)
    assert run("qwen3-8b", "--gpus", "8xmy-gpu", "--gpu-file", "gpu.yaml") == 0
    planned = read_deployment(last_plan_path()).planned
    assert planned is not None
    assert planned.gpu_file == str(tmp_path / "gpu.yaml")
    capsys.readouterr()
    again = answer(capsys)
    assert again["data"]["question"]["gpus"]["name"] == "my-gpu"
    with pytest.raises(SystemExit) as ended:
        main(["render", "shell"])
    assert ended.value.code == 0


def test_a_plan_without_a_model_says_which_earlier_plan_it_takes_it_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("qwen3-8b", "--gpus", "2xH200") == 0
    capsys.readouterr()
    assert run("--gpus", "4xH200") == 0
    told = capsys.readouterr().err
    assert "Taking the model of the plan of " in told
    assert ": qwen3-8b." in told


def test_a_plan_without_a_model_and_gpus_takes_both_from_the_last_plan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("qwen3-8b", "--gpus", "2xH200") == 0
    capsys.readouterr()
    asked = answer(capsys, "--isl", "1000")["data"]["question"]
    assert asked["model"] == "qwen3-8b"
    assert (asked["gpus"]["name"], asked["gpus"]["gpus_per_node"]) == ("H200", 2)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["slurm", "ray"])
def test_the_free_gpus_of_a_cluster_are_planned_for(
    place: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_cluster(place, here, monkeypatch)
    run("qwen3-8b", "--on", place, *LENGTHS, "--json")
    said = capsys.readouterr()
    gpus = json.loads(said.out)["data"]["question"]["gpus"]
    assert (gpus["num_nodes"], gpus["gpus_per_node"]) == (2, 3)
    up = next(step for step in json.loads(said.out)["data"]["next"] if "pdctl up" in step)
    assert up.endswith(f"--on {place}")
    assert f"the free GPUs of {place}: 2x3xH200." in said.err


def a_cluster(place: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of three GPUs, without Slurm or Ray."""
    srun = here / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("pdctl.engines.launchers.ray.is_installed", lambda: True)
    nodes = InMemoryLauncher(names=("n1", "n2"))
    monkeypatch.setitem(registry.LAUNCHERS, place, lambda scope: nodes)


def test_a_place_is_not_combined_with_described_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("qwen3-8b", "--on", "slurm", "--gpus", "8xH200") == 2
    assert "--on and --gpus cannot be combined." in capsys.readouterr().err


def test_slurm_is_not_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert run("qwen3-8b", "--on", "slurm", *LENGTHS) == 4
