"""Columns are recognised by their names, listed or alike."""

import pytest

from pdctl.workload.columns import (
    find_columns,
    is_failure,
    parse_date,
    unit_in_name,
    with_dates,
)


@pytest.mark.parametrize(
    ("names", "arrival", "prompt", "output"),
    [
        ("timestamp,input_length,output_length", 0, 1, 2),
        ("request_id,send_time_us,input_tokens,output_tokens", 1, 2, 3),
        ("send_time_us,arrival_time_us,input_tokens,output_tokens", 1, 2, 3),
        ("arrivalTimeMs,promptTokens,completionTokens", 0, 1, 2),
        ("enqueued_at,num_input_tokens,num_output_tokens", 0, 1, 2),
        ("req_received,n_prompt_toks,n_gen_toks", 0, 1, 2),
        ("submit_ts,prompt_size,answer_size", 0, 1, 2),
        ("first_token_time,start_time,query_len,response_len", 1, 2, 3),
        ("latency_ms,end_time,input_len,output_len", None, 2, 3),
        ("Request Start,Prompt Tokens,Reply Tokens", 0, 1, 2),
        ("created,usage_prompt_tokens,usage_completion_tokens", 0, 1, 2),
        ("when,n_in,n_out", 0, 1, 2),
        ("epoch_ms,promptTokenCount,candidatesTokenCount", 0, 1, 2),
        ("max_output_len,cached_input_len,input_len,output_len", None, 2, 3),
    ],
)
def test_columns_are_found_by_what_their_names_mean(
    names: str, arrival: int | None, prompt: int, output: int
) -> None:
    columns = find_columns(names.split(","))
    assert columns is not None
    order = names.split(",")
    assert columns.arrival == (None if arrival is None else order[arrival])
    assert (columns.prompt, columns.output) == (order[prompt], order[output])
    assert set(columns.unused) == set(order) - {
        columns.arrival,
        columns.prompt,
        columns.output,
    }


@pytest.mark.parametrize("names", ["a,b", "time,prompt,answer", "isl", "input_tokens,isl"])
def test_names_without_both_lengths_are_no_trace(names: str) -> None:
    assert find_columns(names.split(",")) is None


def test_output_lengths_may_be_missing_where_they_are_given() -> None:
    columns = find_columns(["time", "isl"], needs_output=False)
    assert columns is not None
    assert columns.output is None


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("send_time_us", "us"),
        ("arrival_ns", "ns"),
        ("tsMs", "ms"),
        ("time [s]", "s"),
        ("start (milliseconds)", "ms"),
        ("time_seconds", "s"),
        ("arrivals", None),
        ("timestamp", None),
        ("ms", None),
    ],
)
def test_a_unit_at_the_end_of_a_name_is_read(name: str, unit: str | None) -> None:
    assert unit_in_name(name) == unit


@pytest.mark.parametrize(
    ("column", "raw", "failed"),
    [
        ("finish_reason", "abort", True),
        ("finish_reason", {"type": "abort"}, True),
        ("finish_reason", "length", False),
        ("status", "Failed", True),
        ("status", 200, False),
        ("status", "503", True),
        ("success", False, True),
        ("success", "true", False),
        ("aborted", True, True),
        ("aborted", False, False),
        ("status", None, False),
    ],
)
def test_outcomes_tell_which_requests_failed(column: str, raw: object, failed: bool) -> None:
    assert is_failure(column, raw) == failed


@pytest.mark.parametrize("raw", [20261123181703, "20261123181703", "20261123T181703Z"])
def test_a_date_without_signs_is_a_date_and_no_number(raw: object) -> None:
    columns = find_columns(["timestamp", "isl", "osl"])
    assert columns is not None
    assert with_dates(columns, raw).unit == "date"
    assert parse_date(raw) == parse_date("2026-11-23 18:17:03")


@pytest.mark.parametrize("raw", [1787000000036, 20261323181703, "20261123186103", 36072])
def test_other_numbers_of_that_length_are_no_dates(raw: object) -> None:
    columns = find_columns(["timestamp", "isl", "osl"])
    assert columns is not None
    assert with_dates(columns, raw).unit is None


def test_a_unit_in_the_name_makes_such_a_number_no_date() -> None:
    columns = find_columns(["send_time_us", "isl", "osl"])
    assert columns is not None
    assert with_dates(columns, "20261123181703").unit == "us"
