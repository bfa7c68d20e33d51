"""Predictions of running engines."""

import subprocess
import sys

import pytest

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.engine_facts import facts_from_pages
from pdctl.measurement.prediction import predicted_engine
from pdctl.perf_model.records import EngineModel

# /server_info of SGLang 0.5.17 with NGRAM on H200, cut to what is read here
INFO = {
    "version": "0.5.17",
    "max_total_num_tokens": 100_000,
    "attention_backend": "triton",
    "speculative_algorithm": "NGRAM",
    "speculative_num_draft_tokens": 8,
    "internal_states": [{"avg_spec_accept_length": 7.6}],
    "cuda_graph_config": {"prefill": {"backend": "breakable", "bs": [256, 512, 1024]}},
}


def predicted(info: dict[str, object]) -> EngineModel:
    facts = facts_from_pages("http://127.0.0.1:1", info, {}, None)
    return predicted_engine(facts, read_llm("llama-3.1-8b"), parse_gpus("1xH200"), None)


def test_a_prediction_imports_no_http_client() -> None:
    code = (
        "import sys\nimport pdctl.measurement.prediction\n"
        "clients = ('aiohttp', 'http.client', 'urllib.request', 'pdctl.engines.clients.http')\n"
        "found = [name for name in clients if name in sys.modules]\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_engine_that_speculates_is_predicted_so_with_what_it_has_accepted() -> None:
    plain = predicted({**INFO, "speculative_algorithm": None, "speculative_num_draft_tokens": None})
    ngram, eagle = predicted(INFO), predicted({**INFO, "speculative_algorithm": "EAGLE"})
    assert (plain.verify_tokens, ngram.verify_tokens) == (1, 8)
    assert ngram.accept_length == 7.6
    assert plain.times.decode_base_s < ngram.times.decode_base_s < eagle.times.decode_base_s


def test_prompts_are_predicted_with_the_prefill_graphs_that_an_engine_reports() -> None:
    assert predicted(INFO).times.prefill_sizes == (256, 512, 1024)
    assert predicted({**INFO, "cuda_graph_config": None}).times.prefill_sizes == ()


@pytest.mark.parametrize(
    "sizes", [{"attn_dp_size": 8, "dp_size": 1}, {"dp_size": 8, "enable_dp_attention": True}]
)
def test_an_engine_with_attention_dp_reports_the_limits_of_one_rank(sizes: dict[str, int]) -> None:
    # as 0.5.23 and 0.5.15 name the ranks: SGLang divides chunk and requests before it reports them
    ranks = predicted(
        {
            **INFO,
            "tp_size": 8,
            **sizes,
            "chunked_prefill_size": 1024,
            "load_balance_method": "total_tokens",
            "internal_states": [{"effective_max_running_requests_per_dp": 32}],
        }
    )
    assert ranks.parallelism.dp == 8
    assert (ranks.chunked_prefill_size, ranks.max_running_requests) == (8192, 256)
    assert ranks.kv_capacity_tokens == 800_000
    assert ranks.balance == "total_tokens"


def test_an_engine_that_looks_for_requests_every_tenth_step_is_predicted_so() -> None:
    assert predicted({**INFO, "scheduler_recv_interval": 10}).receive_interval == 10
    assert predicted({**INFO, "scheduler_recv_interval": None}).receive_interval == 1


def test_an_engine_that_has_accepted_nothing_yet_is_taken_to_gain_one_token_a_step() -> None:
    assert predicted({**INFO, "internal_states": [{}]}).accept_length == 1.0
