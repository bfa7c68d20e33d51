"""Flags that SGLang accepts one by one and refuses together in an engine of a role. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from pdctl.perf_model.records import Role

Version = tuple[int, ...]

RADIX = "--disaggregation-decode-enable-radix-cache"
OFFLOAD = "--disaggregation-decode-enable-offload-kvcache"
HICACHE = "--enable-hierarchical-cache"
SPECULATIVE = "--speculative-algorithm"
# with these a radix cache on decode works, from 0.5.23 on
SPECULATIVE_WITH_RADIX = ("EAGLE", "EAGLE3", "NEXTN", "DSPARK")
NEW_RADIX: Version = (0, 5, 23)


@dataclass(frozen=True)
class RefusedPair:
    """A flag that a role does not start with beside another, or without it.

    value: of `flag`, where only that one is refused; "": any. without: it is refused where `other`
    is not given. reason: SGLang's, as a sentence.
    """

    role: Role
    flag: str
    other: str
    reason: str
    value: str = ""
    without: bool = False


_COMPLETE = "--disaggregation-decode-allocation-policy"
_SPLIT: tuple[Role, ...] = ("prefill", "decode")
_NOT_YET = "prefill_complete does not yet support it."
# Source: arg_groups/{pd_disaggregation,speculative,kv_cache,attention}_hook.py of SGLang 0.5.23
REFUSED: tuple[RefusedPair, ...] = (
    RefusedPair(
        "decode",
        HICACHE,
        RADIX,
        "enable-hierarchical-cache and disable-radix-cache are mutually exclusive, and decode"
        " engines start without a radix cache.",
        without=True,
    ),
    RefusedPair("decode", OFFLOAD, "--hicache-storage-backend", "it needs a storage.", "", True),
    RefusedPair("decode", RADIX, "--enable-hisparse", "the two are incompatible."),
    RefusedPair("decode", _COMPLETE, RADIX, _NOT_YET, "prefill_complete"),
    RefusedPair("decode", _COMPLETE, HICACHE, _NOT_YET, "prefill_complete"),
    RefusedPair("decode", _COMPLETE, "--enable-hisparse", _NOT_YET, "prefill_complete"),
    RefusedPair("prefill", _COMPLETE, "--enable-hisparse", _NOT_YET, "prefill_complete"),
    *(
        RefusedPair(role, flag, "", "SGLang supports it in colocated engines only.")
        for role in _SPLIT
        for flag in ("--enable-pdmux", "--enable-lmcache", "--enable-linear-replayssm")
    ),
    RefusedPair(
        "colocated",
        HICACHE,
        "--disable-radix-cache",
        "enable-hierarchical-cache and disable-radix-cache are mutually exclusive.",
    ),
    RefusedPair(
        "prefill",
        HICACHE,
        "--disable-radix-cache",
        "enable-hierarchical-cache and disable-radix-cache are mutually exclusive.",
    ),
)


def refused_pair(
    role: Role, given: Mapping[str, str], version: Version | None
) -> RefusedPair | None:
    """The first pair among a role's flags that SGLang refuses; None if it takes them all.

    Args:
        given: flag -> value, by main names.
        version: SGLang's; None, unknown, is taken for an old one, which refuses more.
    """
    for pair in REFUSED:
        is_given = pair.flag in given and pair.value in ("", given[pair.flag])
        if (
            pair.role == role
            and is_given
            and (pair.other in given or not pair.other) != (pair.without)
        ):
            return pair
    return _speculative_radix(role, given, version)


def _speculative_radix(
    role: Role, given: Mapping[str, str], version: Version | None
) -> RefusedPair | None:
    if role != "decode" or RADIX not in given or SPECULATIVE not in given:
        return None
    is_new = version is not None and version >= NEW_RADIX
    algorithm = given[SPECULATIVE]
    if is_new and algorithm.upper() in SPECULATIVE_WITH_RADIX:
        return None
    since = "" if is_new else " before 0.5.23"
    return RefusedPair(
        role,
        RADIX,
        SPECULATIVE,
        f"SGLang{since} treats it as incompatible with speculative decoding ({algorithm}).",
    )
