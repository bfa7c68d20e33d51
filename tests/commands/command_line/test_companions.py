"""An option that would have no effect is refused, with the way out, before a verb does anything."""

import importlib
from collections.abc import Mapping

import pytest

from pdctl.cli import main
from pdctl.commands.command_line.companions import EXCLUDES, NEEDS, ONLY_WITH

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("line", "said", "way_out"),
    [
        ("plan qwen3-8b --window 1m", "--window needs --from.", "add --from, or drop --window"),
        ("plan qwen3-8b --skip-bad", "--skip-bad needs --trace or --lengths.", "add --trace"),
        ("plan qwen3-8b --isl 9 --osl-cv 0", "--osl-cv needs --osl or", "add --osl"),
        ("plan qwen3-8b --attainment 0.99", "--attainment needs --ttft or --tpot.", "add --ttft"),
        ("plan qwen3-8b --force", "--force needs --output.", "add --output"),
        ("plan --models --gpus 8xH100", "--models and --gpus cannot be combined.", "drop --gpus"),
        ("up qwen3-8b --resume", "--resume and MODEL cannot be combined.", "drop MODEL"),
        ("up --resume --prefill 3", "--resume and --prefill cannot be", "drop --prefill"),
        ("status --window 9m", "--window needs --what-if.", "add --what-if"),
        ("status --metrics-port 9", "--metrics-port needs --router.", "status --router URL"),
        ("status --once --interval 9s", "--once and --interval cannot be", "drop --interval"),
        ("up qwen3-8b --total 2 --sim-speed 2", "--sim-speed 2 needs simulated", "--engine sim"),
        ("explain 3f2a91 --slowest 5", "--slowest 5 and the id '3f2a91' cannot", "drop one"),
        ("scale --window 9m", "--window needs --dry-run.", "add --dry-run"),
        ("scale --dry-run --no-wait", "--dry-run and --no-wait cannot be", "drop --no-wait"),
        ("measure --target http://h:1 --tp 2", "--target and --tp cannot be", "drop --tp"),
        ("calibrate m --window 9m", "--window needs --from.", "add --from"),
        ("calibrate m --decode-args x", "--decode-args needs --transfer.", "add --transfer"),
        ("calibrate --from u --budget 1m", "--from and --budget cannot be", "drop --budget"),
        ("autopilot --report --dry-run", "--report and --dry-run cannot be", "drop --dry-run"),
        ("rehearse --time-unit ms", "--time-unit needs --trace.", "add --trace"),
    ],
)
def test_an_option_without_effect_is_refused(
    line: str, said: str, way_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert way_out in told


@pytest.mark.parametrize("rules", [NEEDS, EXCLUDES, ONLY_WITH])
def test_the_rules_name_parameters_that_there_are(
    rules: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> None:
    for verb, options in rules.items():
        module = importlib.import_module(f"pdctl.commands.{verb}")
        parameters = set(getattr(module, verb).__annotations__) - {"return"}
        named = {one for option, others in options.items() for one in (option, *others)}
        assert named <= parameters, verb
