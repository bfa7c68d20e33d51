"""Flags shortened, spelled otherwise, given twice: read as SGLang's parser reads them."""

import argparse
from dataclasses import replace

import pytest

from pdctl.deployment.checks import check_args
from pdctl.deployment.flags import role_switch_obstacle
from pdctl.deployment.records import RouterPlan
from pdctl.deployment.sglang_flags import engine_table, options, router_options, router_table
from pdctl.errors import InvalidInput
from tests.deployment.examples import split, with_args

NEW = (0, 5, 23)


@pytest.mark.parametrize(
    ("args", "read"),
    [
        ("--speculative-algo EAGLE", {"--speculative-algorithm": "EAGLE"}),
        ("--kv-cache-d=fp8_e4m3", {"--kv-cache-dtype": "fp8_e4m3"}),
        ("--moe-a2a deepep", {"--moe-a2a-backend": "deepep"}),
        ("--page-s 1 --page-size=64", {"--page-size": "64"}),
        ("--enable-hicache", {"--enable-hierarchical-cache": ""}),
        ("--enable-hic", {"--enable-hierarchical-cache": ""}),
        ("--cuda-graph-max-bs 8", {"--cuda-graph-max-bs": "8"}),
        ("--of-another-release 1", {"--of-another-release": "1"}),
        (
            '--json-model-override-args {"a":1}',
            {"--json-model-override-args": '{"a":1}'},
        ),
    ],
)
def test_a_flag_is_read_by_its_full_name(args: str, read: dict[str, str]) -> None:
    assert options(args.split()) == read


def test_the_table_shortens_as_argparse_does() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    by_main: dict[str, list[str]] = {}
    for name, main in engine_table().spellings.items():
        by_main.setdefault(main, []).append(name)
    for main, names in by_main.items():
        parser.add_argument(*names, dest=main)
    for spelled in ("--speculative-algo", "--moe-a2a", "--kv-cache-d", "--enable-hier"):
        (full,) = engine_table().meant_by(spelled)
        assert vars(parser.parse_args([spelled, "x"]))[full] == "x"


@pytest.mark.parametrize(
    "name",
    ["--speculative-algorithm", "--speculative-algo", "--moe-a2a-backend=deepep", "--moe-a2a"],
)
def test_a_shortened_flag_keeps_engines_from_changing_roles(name: str) -> None:
    args = name if "=" in name else f"{name} deepep"
    deployment = with_args(prefill=args, decode=args)
    assert "not rebuilt" in role_switch_obstacle(deployment, version=NEW, backend="mooncake")


def test_a_shortened_flag_must_be_equal_on_both_roles_too() -> None:
    with pytest.raises(InvalidInput, match="--kv-cache-dtype must be the same"):
        check_args(with_args(decode="--kv-cache-d fp8_e4m3"))


def test_a_beginning_of_several_flags_is_refused_with_them() -> None:
    with pytest.raises(
        InvalidInput, match="--speculative-num in decode.args may be any of"
    ) as error:
        check_args(with_args(decode="--speculative-num 3"))
    assert "--speculative-num-draft-tokens" in error.value.message
    assert "--speculative-num-steps" in error.value.message


def test_a_value_of_no_use_is_refused_where_the_release_is_known() -> None:
    args = "--attention-backend foo"
    with pytest.raises(InvalidInput, match="does not take 'foo'") as error:
        check_args(with_args(prefill=args, decode=args), NEW)
    assert "flashinfer" in str(error.value.hint)
    check_args(with_args(prefill=args, decode=args), (0, 5, 15))
    good = "--attention-backend fa3"
    check_args(with_args(prefill=good, decode=good), NEW)


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        ("--enable-hierarchical-cache", "mutually exclusive"),
        ("--enable-hicache", "mutually exclusive"),
        ("--disaggregation-decode-enable-radix --speculative-algo EAGLE", "speculative decoding"),
        ("--disaggregation-decode-enable-radix-cache --enable-hisparse", "incompatible"),
        ("--disaggregation-decode-enable-offload-kvcache", "storage"),
    ],
)
def test_a_pair_that_sglang_refuses_is_refused_with_its_reason(decode: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        check_args(with_args(decode=decode))


def test_pairs_that_sglang_takes_pass() -> None:
    radix = "--disaggregation-decode-enable-radix-cache"
    check_args(with_args(decode=f"--enable-hierarchical-cache {radix}"))
    check_args(with_args(decode=f"{radix} --speculative-algorithm EAGLE"), NEW)
    with pytest.raises(InvalidInput):
        check_args(with_args(decode=f"{radix} --speculative-algorithm NGRAM"), NEW)


def test_flags_of_the_router_are_read_by_its_own_table() -> None:
    assert router_options(["--prefill-pol", "random"]) == {"--prefill-policy": "random"}
    assert router_table().meant_by("--prefill") == ("--prefill",)


def test_a_policy_that_the_router_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not take 'fastest'"):
        check_args(replace(split(), router=RouterPlan(args=("--prefill-policy", "fastest"))))
