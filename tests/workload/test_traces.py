"""Traces of every format, and what is wrong with a broken one."""

import bz2
import contextlib
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdctl.errors import InvalidInput
from pdctl.workload.records import Trace
from pdctl.workload.traces import read_trace

DATA = Path(__file__).parent.parent / "data" / "traces"
MOONCAKE_LINE = '{"timestamp": %d, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]}\n'


def read(path: Path, content: str | bytes, *, skip_bad: bool = False) -> Trace:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_trace(path, skip_bad=skip_bad)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def test_mooncake_counts_in_milliseconds_and_shares_blocks_of_512_tokens() -> None:
    trace = read_trace(DATA / "mooncake_conversation_head.jsonl")
    assert len(trace.requests) == 60
    assert trace.requests.arrival_s[-1] == 15.0
    assert trace.requests.isl[0] == 6758
    assert trace.requests.blocks is not None
    assert trace.requests.blocks[0] == tuple(range(14))
    assert trace.requests.block_tokens == 512
    assert trace.columns == (
        "timestamp in ms",
        "input_length",
        "output_length",
        "hash_ids in blocks of 512",
    )


def test_azure_has_dates_with_seven_decimals() -> None:
    trace = read_trace(DATA / "azure2023_code_head.csv")
    assert trace.has_arrivals
    assert trace.requests.arrival_s[:2] == pytest.approx([0.0, 0.052], abs=1e-6)
    assert list(trace.requests.isl[:2]) == [4808, 3180]
    assert trace.columns[0] == "TIMESTAMP (dates)"


def test_a_file_of_lengths_only_has_no_arrivals() -> None:
    trace = read_trace(DATA / "vidur_arxiv_summarization_lengths_head.csv")
    assert not trace.has_arrivals
    assert list(trace.requests.osl[:2]) == [54, 156]
    assert set(trace.requests.arrival_s) == {0.0}
    assert trace.columns == ("num_prefill_tokens", "num_decode_tokens")


def test_burstgpt_counts_in_seconds_and_its_failed_requests_are_left_out(file: Path) -> None:
    trace = read(
        file,
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        'Log Type\n5,1,,ChatGPT,472,18,490,"Conversation log"\n'
        "45,2,,GPT-4,1087,230,1317,API log\n1018,3,,GPT-4,100,0,100,API log\n",
    )
    assert list(trace.requests.arrival_s) == [0.0, 40.0]
    assert list(trace.requests.isl) == [472, 1087]
    assert trace.skipped_lines == 1


def test_bailian_counts_in_seconds_and_has_blocks_of_16_tokens(file: Path) -> None:
    line: dict[str, object] = {
        "chat_id": 1,
        "parent_chat_id": -1,
        "timestamp": 61.114,
        "input_length": 33,
    }
    line |= {"output_length": 7, "type": "text", "turn": 1, "hash_ids": [5, 6, 7]}
    trace = read(file, json.dumps(line) + "\n" + json.dumps(line | {"timestamp": 63.114}) + "\n")
    assert list(trace.requests.arrival_s) == pytest.approx([0.0, 2.0])
    assert trace.requests.block_tokens == 16


def test_a_benchmark_result_gives_its_lists_and_start_times(file: Path) -> None:
    result = {"completed": 2, "input_lens": [10, 20, 30], "output_lens": [1, 2, 0]}
    trace = read(file, json.dumps(result | {"start_times": [100.5, 100.0, 101.0]}))
    assert list(trace.requests.isl) == [20, 10]
    assert list(trace.requests.arrival_s) == [0.0, 0.5]
    assert trace.skipped_lines == 1
    assert not read(file, json.dumps(result)).has_arrivals


def test_a_benchmark_result_without_details_says_how_to_get_them(file: Path) -> None:
    result = {"completed": 2, "total_input_tokens": 5, "total_output_tokens": 5}
    with pytest.raises(InvalidInput) as problem:
        read(file, json.dumps(result))
    assert "--output-details" in problem.value.hint


def test_requests_one_to_a_line_are_read_by_the_names_of_their_lengths(file: Path) -> None:
    trace = read(file, '{"prompt_len": 3, "output_len": 4}\n{"prompt_len": 5, "output_len": 6}\n')
    assert list(trace.requests.isl) == [3, 5]
    assert list(trace.requests.osl) == [4, 6]
    assert not trace.has_arrivals


def test_a_text_request_log_gives_finished_requests_at_the_time_they_came(file: Path) -> None:
    trace = read(
        file,
        "[2026-11-23 09:00:00] The server is fired up and ready to roll!\n"
        "[2026-11-23 09:00:01] Receive: obj=GenerateReqInput(rid='a', text='hi')\n"
        "[2026-11-23 09:00:05] Finish: obj=GenerateReqInput(rid='a', text=\"'prompt_tokens': 9\"), "
        "out={'text': 'x', 'meta_info': {'id': 'a', 'prompt_tokens': 7, 'completion_tokens': 3, "
        "'cached_tokens': 0, 'e2e_latency': 4.5}}\n"
        "[2026-11-23 09:00:05] Finish: obj=GenerateReqInput(rid='b'), out={'meta_info': "
        "{'prompt_tokens': 8, 'completion_tokens': 2, 'e2e_latency': 1.5}}\n",
    )
    assert list(trace.requests.isl) == [7, 8]
    assert list(trace.requests.arrival_s) == [0.0, 3.0]


def test_a_json_request_log_gives_finished_requests(file: Path) -> None:
    event = {"timestamp": "2026-11-23T09:00:05.250000", "event": "request.received", "rid": "a"}
    out = {"meta_info": {"prompt_tokens": 7, "completion_tokens": 3, "e2e_latency": 0.25}}
    done = event | {"event": "request.finished", "out": out}
    later = done | {"timestamp": "2026-11-23T09:00:06.250000"}
    trace = read(file, "".join(json.dumps(one) + "\n" for one in (event, done, later)))
    assert list(trace.requests.arrival_s) == [0.0, 1.0]
    assert list(trace.requests.osl) == [3, 3]


@pytest.mark.parametrize(
    ("stamps", "unit", "span_s"),
    [
        (("0", "1.5"), "s", 1.5),
        (("0", "90000"), "ms", 90.0),
        (("0", "12"), "s", 12.0),
        (("1700000000", "1700000007"), "s", 7.0),
        (("1700000000000", "1700000007000"), "ms", 7.0),
        (("1700000000000000", "1700000007000000"), "us", 7.0),
        (("2026-01-01T00:00:00Z", "2026-01-01T01:00:30+01:00"), "date", 30.0),
    ],
)
def test_the_unit_of_timestamps_is_found_and_shown(
    file: Path, stamps: tuple[str, str], unit: str, span_s: float
) -> None:
    trace = read(file, "time,isl,osl\n" + "".join(f"{stamp},5,6\n" for stamp in stamps))
    assert trace.time_unit == unit
    assert trace.columns[0] == ("time (dates)" if unit == "date" else f"time in {unit}")
    assert trace.requests.arrival_s[-1] == pytest.approx(span_s)


def test_a_unit_in_the_name_of_the_column_wins(file: Path) -> None:
    trace = read(file, "arrival_time_ms,isl,osl\n0,5,6\n12,5,6\n")
    assert trace.requests.arrival_s[-1] == pytest.approx(0.012)


def test_timestamps_out_of_order_are_sorted_and_equal_ones_stay_in_order(file: Path) -> None:
    trace = read(file, "time,isl,osl\n3,1,1\n1,2,1\n3,3,1\n1,4,1\n")
    assert list(trace.requests.isl) == [2, 4, 1, 3]
    assert list(trace.requests.arrival_s) == [0.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_windows_line_ends_a_byte_order_mark_and_other_delimiters_do_not_matter(
    file: Path, delimiter: str
) -> None:
    text = "\ufefftime,isl,osl\r\n0,5,6\r\n\r\n1,7,8\r\n".replace(",", delimiter)
    trace = read(file, text)
    assert list(trace.requests.isl) == [5, 7]


def test_a_compressed_trace_is_read_as_it_is(file: Path) -> None:
    trace = read(file, gzip.compress((MOONCAKE_LINE % 0 + MOONCAKE_LINE % 3000).encode()))
    assert list(trace.requests.arrival_s) == [0.0, 3.0]


def test_a_compressed_trace_cut_in_half_is_refused(file: Path) -> None:
    content = gzip.compress("".join(MOONCAKE_LINE % i for i in range(999)).encode())
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(file, content[: len(content) // 2])


BROKEN_JSON = {
    "{cut": "not JSON",
    "[1]": "not a JSON object",
    '{"timestamp": 1, "input_length": 5}': "no 'output_length'",
    '{"timestamp": 1, "input_length": -5, "output_length": 1}': "input_length is -5",
    '{"timestamp": 1, "input_length": 0, "output_length": 1}': "input_length is 0",
    '{"timestamp": 1, "input_length": 5.5, "output_length": 1}': "5.5 is not a whole number",
    '{"timestamp": 1, "input_length": true, "output_length": 1}': "True is not a whole number",
    '{"timestamp": 1, "input_length": 5, "output_length": NaN}': "nan is not a whole number",
    '{"timestamp": 1, "input_length": 5, "output_length": 1e999}': "inf is not a whole number",
    '{"timestamp": null, "input_length": 5, "output_length": 1}': "timestamp None",
    '{"timestamp": Infinity, "input_length": 5, "output_length": 1}': "timestamp inf",
    '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": ["a"]}': "hash_ids",
    "[" * 100_000: "not JSON",
    "9" * 5000: "not JSON",
}


@pytest.mark.parametrize(("line", "reason"), BROKEN_JSON.items(), ids=BROKEN_JSON.values())
def test_a_broken_line_names_file_line_and_reason(file: Path, line: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as problem:
        read(file, MOONCAKE_LINE % 0 + line + "\n" + MOONCAKE_LINE % 1)
    assert problem.value.message.startswith("trace, line 2: ")
    assert reason in problem.value.message
    assert "--skip-bad" in problem.value.hint


@pytest.mark.parametrize("line", BROKEN_JSON, ids=BROKEN_JSON.values())
def test_broken_lines_are_counted_when_they_may_be_skipped(file: Path, line: str) -> None:
    trace = read(file, MOONCAKE_LINE % 0 + line + "\n" + MOONCAKE_LINE % 1, skip_bad=True)
    assert len(trace.requests) == 2
    assert trace.skipped_lines == 1


@pytest.mark.parametrize(
    "line", ["0,5", "0,5,6,7", "0,-5,6", "0,x,6", "0,,6", "x,5,6", "inf,5,6", '0,"5,6', "\xff,1,1"]
)
def test_a_broken_csv_line_names_its_number(file: Path, line: str) -> None:
    content = ("time,isl,osl\n0,5,6\n" + line + "\n").encode("latin-1")
    with pytest.raises(InvalidInput, match="trace, line 3: "):
        read(file, content)


@pytest.mark.slow
def test_a_line_without_end_is_refused_without_being_held_in_memory(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.write((MOONCAKE_LINE % 0).encode())
        sparse.truncate(2 * 2**30)
    with pytest.raises(InvalidInput, match="line 2: longer than 64 MiB"):
        read_trace(file)


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_trace_is_refused(file: Path, content: str) -> None:
    with pytest.raises(InvalidInput, match="holds no requests"):
        read(file, content)


@pytest.mark.parametrize(
    "content", ["time,isl,osl\n", "time,isl,osl\n0,5,0\n", "some words\n", b"\x00\x01\x02"]
)
def test_a_file_without_a_usable_request_is_refused(file: Path, content: str | bytes) -> None:
    with pytest.raises(InvalidInput, match="no usable request"):
        read(file, content)


@pytest.mark.parametrize("content", ["a,b\n1,2\n", '{"a": 1}\n', "3772,54\n2015,156\n"])
def test_columns_without_lengths_are_named(file: Path, content: str) -> None:
    with pytest.raises(InvalidInput) as problem:
        read(file, content)
    assert "prompt and output lengths among" in problem.value.message
    assert "isl" in problem.value.hint


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_directory_or_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_trace(tmp_path / name)


LINES = st.sampled_from(
    [
        b"time,isl,osl",
        b"0,5,6",
        b'"0",5,6',
        b"{}",
        b'{"isl": 5, "osl": 6}',
        b'{"isl": 5, "osl": 6, "time": "2026-01-01T99:99:99"}',
        b'{"input_lens": [1], "output_lens": [2]}',
        b'{"input_lens": 3}',
        b'{"event": "request.finished", "rid": 1}',
        b"[2026-99-99 00:00:00] Finish: out={'prompt_tokens': 7, 'completion_tokens': 3}",
        b"[2026-01-01 00:00:00] Finish: out={'prompt_tokens': 7, 'completion_tokens': 1e999}",
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES | st.binary(max_size=40), max_size=6), skip_bad=st.booleans())
def test_any_file_is_a_trace_or_an_error_in_words(
    tmp_path: Path, lines: list[bytes], skip_bad: bool
) -> None:
    with contextlib.suppress(InvalidInput):
        trace = read(tmp_path / "trace", b"\n".join(lines), skip_bad=skip_bad)
        assert len(trace.requests) > 0
        assert min(trace.requests.arrival_s) == 0.0


@pytest.mark.parametrize(
    "content",
    [
        b"TIMESTAMP,ContextTokens\r,GeneratedTokens\n2023-11-16,48,10\n",
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023\r-11-16,48,10\n",
    ],
)
def test_a_carriage_return_inside_a_line_of_csv_is_a_broken_line(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInput):
        read_trace(path)


def test_a_json_array_is_read_over_one_line_or_many(file: Path) -> None:
    rows = [{"timestamp": 250 * i, "input_length": 80, "output_length": 9} for i in range(50)]
    for content in (json.dumps(rows), json.dumps(rows, indent=2), json.dumps({"requests": rows})):
        trace = read(file, content)
        assert len(trace.requests) == 50
        assert trace.requests.arrival_s[-1] == pytest.approx(12.25)


def test_a_broken_entry_of_an_array_is_named_or_skipped(file: Path) -> None:
    content = '[{"time": 0, "isl": 5, "osl": 6}, {"time": 1, "isl": "x", "osl": 6}]'
    with pytest.raises(InvalidInput, match="line 2"):
        read(file, content)
    assert read(file, content, skip_bad=True).num_broken == 1


def test_a_benchmark_result_may_be_indented(file: Path) -> None:
    result = {"completed": 2, "input_lens": [10, 20], "output_lens": [1, 2]}
    assert list(read(file, json.dumps(result, indent=2)).requests.isl) == [10, 20]


@pytest.mark.parametrize(
    "content",
    [
        "time_s,isl\n0,5\n1,7\n",
        "time_s,isl,osl\n0,5,\n1,7,\n",
        '{"time_s": 0, "isl": 5}\n{"time_s": 1, "isl": 7}\n',
        '[{"time_s": 0, "isl": 5}, {"time_s": 1, "isl": 7, "osl": null}]',
    ],
)
def test_missing_output_lengths_are_those_that_were_given(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    trace = read_trace(file, osl=200)
    assert list(trace.requests.osl) == [200, 200]
    assert trace.notes == ("2 requests have no output length; each was given 200 tokens (--osl).",)


def test_a_file_without_output_lengths_says_how_to_give_them(file: Path) -> None:
    with pytest.raises(InvalidInput, match="output lengths among time, isl") as caught:
        read(file, "time,isl\n0,5\n")
    assert caught.value.hint.startswith("--osl 200")


def test_output_lengths_are_not_given_twice(file: Path) -> None:
    file.write_text("time,isl,osl\n0,5,6\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="both give output lengths"):
        read_trace(file, osl=200)


def test_columns_that_mean_nothing_are_named(file: Path) -> None:
    trace = read(file, "request_id,send_time_us,isl,osl,model\nr,1,5,6,m\n")
    assert trace.unused_columns == ("request_id", "model")
    assert trace.time_unit == "us"


def test_requests_that_a_table_calls_failed_are_left_out(file: Path) -> None:
    content = "time_s,isl,osl,finish_reason\n0,5,6,stop\n1,0,0,abort\n2,5,6,length\n"
    trace = read(file, content)
    assert (len(trace.requests), trace.num_aborted) == (2, 1)


def test_a_column_that_the_first_line_lacks_is_found(file: Path) -> None:
    first = '{"isl": 5, "osl": 6}'
    with pytest.raises(InvalidInput, match="line 1: no 'time_s'"):
        read(file, first + "\n" + '{"time_s": 1, "isl": 5, "osl": 6}\n')


def test_a_request_with_messages_is_a_request(file: Path) -> None:
    row = {"time_s": 0, "isl": 5, "osl": 6, "messages": [{"role": "user"}, {"role": "system"}]}
    assert list(read(file, json.dumps(row)).requests.isl) == [5]


def test_one_instant_has_no_unit_and_no_rate(file: Path) -> None:
    for content in ("time,isl,osl\n7,5,6\n", "time,isl,osl\n" + "7,5,6\n" * 5):
        trace = read(file, content)
        assert trace.time_unit is None
        assert trace.columns == ("time", "isl", "osl")
        assert set(trace.requests.arrival_s) == {0.0}


def test_lengths_one_level_down_are_found(file: Path) -> None:
    rows = [
        {"created": 1_760_000_000 + i, "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
        for i in range(60)
    ]
    trace = read(file, "\n".join(map(json.dumps, rows)))
    assert (len(trace.requests), trace.time_unit) == (60, "s")
    assert trace.columns == ("created in s", "prompt_tokens", "completion_tokens")


AIPERF = """{"metadata": {"request_start_ns": %d000000000, "was_cancelled": false},
 "metrics": {"input_sequence_length": {"value": 700, "unit": "tokens"},
             "output_sequence_length": {"value": 5, "unit": "tokens"}}}"""
REPORT = {
    "benchmarks": [
        {
            "requests": {
                "successful": [
                    {"prompt_tokens": 700, "output_tokens": 5, "start_time": 1760000000.0 + i}
                    for i in range(3)
                ],
                "errored": [],
            }
        }
    ]
}
ROWS = "".join(f"{i},700,5\n" for i in range(3))


@pytest.mark.parametrize(
    "content",
    [
        "".join(AIPERF.replace("\n", "") % (1760000000 + i) + "\n" for i in range(3)),
        json.dumps(REPORT),
        json.dumps({"t": [0, 1, 2], "isl": [700] * 3, "osl": [5] * 3}),
        json.dumps(
            {k: {str(i): v for i in range(3)} for k, v in (("isl", 700), ("osl", 5))}
            | {"start_s": {"0": 0, "1": 1, "2": 2}}
        ),
        "arrival_timestamp,batch_size,prompt_size,token_size\n"
        + "".join(f"{i},1,700,5\n" for i in range(3)),
        "# exported today\n\n# by hand\nstart_s,isl,osl\n" + ROWS,
        "# start_s,isl,osl\n" + ROWS,
        "arrival_minutes,isl,osl\n" + "".join(f"{i / 60},700,5\n" for i in range(3)),
        'start_s,"prompt tokens",osl\n' + "".join(f'{i},"700",5\n' for i in range(3)),
    ],
    ids=[
        "aiperf",
        "guidellm",
        "by column",
        "pandas",
        "splitwise",
        "comments",
        "commented header",
        "minutes",
        "quotes",
    ],
)
def test_the_same_requests_are_read_from_every_public_spelling(file: Path, content: str) -> None:
    trace = read(file, content)
    assert list(trace.requests.isl) == [700] * 3
    assert list(trace.requests.osl) == [5] * 3
    assert list(trace.requests.arrival_s) == pytest.approx([0, 1, 2], abs=1e-3)


def test_thousands_may_be_set_apart(file: Path) -> None:
    assert list(read(file, 'isl,osl\n"12,035","1,000"\n').requests.isl) == [12035]


def test_a_rate_of_tokens_is_no_length(file: Path) -> None:
    one = {"output_throughput_token_per_s": 30, "number_output_tokens": 200}
    trace = read(file, json.dumps([{"number_input_tokens": 700, **one}]))
    assert trace.columns == ("number_input_tokens", "number_output_tokens")


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_other_packings_of_python_are_read_too(file: Path, pack: Callable[[bytes], bytes]) -> None:
    assert list(read(file, pack(b"isl,osl\n700,5\n")).requests.isl) == [700]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"PK\x03\x04\0\0", "a zip archive"),
        (b"\x28\xb5\x2f\xfd\0", "packed by zstd"),
        ("isl,osl\n700,5\n".encode("utf-16"), "UTF-16 text"),
    ],
)
def test_a_file_that_is_no_text_is_named_for_what_it_is(
    file: Path, content: bytes, kind: str
) -> None:
    with pytest.raises(InvalidInput, match=f"trace is {kind}; pdctl reads text"):
        read(file, content)
