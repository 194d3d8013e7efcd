"""trtexec's JSON: what it says, and what is told of a file that is not as it should be."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronexport import agent
from kronexport.backends.trt_results import build_memory, parse_outputs, parse_profile, parse_times, run_memory
from kronexport.errors import KronexportError
from kronexport.records import LatencyStats


def times(*pairs: tuple[float, float]) -> str:
    return json.dumps([{"startComputeMs": start, "computeMs": compute, "latencyMs": 99.0} for start, compute in pairs])


def test_times_are_those_of_computing_after_the_warm_up() -> None:
    """None dropped but those that began before its end."""
    found = parse_times(times((0, 50), (1999.9, 40), (2000, 3), (2003, 1), (2004, 2)), 2000)
    assert found == (3.0, 1.0, 2.0)
    stats = LatencyStats(**agent.latency_stats(found))
    assert (stats.n, stats.min, stats.p50, stats.mean) == (3, 1.0, 2.0, 2.0)


@given(st.lists(st.floats(0.01, 1e3), min_size=1, max_size=50))
def test_percentiles_are_of_every_sample(samples: list[float]) -> None:
    found = parse_times(times(*((2000 + index, sample) for index, sample in enumerate(samples))), 2000)
    stats = LatencyStats(**agent.latency_stats(found))
    assert stats.n == len(samples)
    assert stats.min == min(samples)
    assert stats.p50 == pytest.approx(float(np.median(samples)))
    assert stats.min <= stats.p50 <= stats.p90 <= stats.p95 <= stats.p99 <= max(samples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "exportTimes: no JSON"),
        ("[{", "exportTimes: no JSON"),
        ("{}", "exportTimes: dict; expected a list of objects"),
        ("[1]", "exportTimes: list; expected a list of objects"),
        ('[{"startComputeMs": 1}]', "computeMs: got None; expected a number"),
        ('[{"startComputeMs": 1, "computeMs": "2"}]', "computeMs: got '2'; expected a number"),
        ('[{"startComputeMs": 1, "computeMs": true}]', "computeMs: got True; expected a number"),
        ('[{"startComputeMs": 1, "computeMs": NaN}]', "exportTimes: no JSON: NaN is no number"),
        (times((0, 1)), "1 inferences, none after 2000 ms of warm-up; time for longer"),
        ("[]", "0 inferences, none after"),
    ],
)
def test_times_of_another_form_are_refused(text: str, message: str) -> None:
    with pytest.raises(KronexportError, match=message):
        parse_times(text, 2000)


def test_a_profile_has_a_row_a_layer() -> None:
    """The median is missing in old releases."""
    rows = [
        {"count": 7},
        {"name": "conv + relu", "timeMs": 14.0, "averageMs": 2.0, "medianMs": 1.5, "percentage": 80.0},
        {"name": "pool", "timeMs": 3.5, "averageMs": 0.5, "percentage": 20.0},
    ]
    first, second = parse_profile(json.dumps(rows))
    assert (first.name, first.average_ms, first.median_ms, first.percentage) == ("conv + relu", 2.0, 1.5, 80.0)
    assert second.median_ms is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"count": 7}]', "1 entries; profile without --useCudaGraph"),
        ('[{"name": "a"}, {"name": "b"}]', "2 entries"),
        ('[{"count": 7}, {"averageMs": 1, "percentage": 1}]', "name: got None; expected text"),
        ('[{"count": 7}, {"name": "a"}]', "averageMs: got None"),
    ],
)
def test_a_profile_of_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(KronexportError, match=message):
        parse_profile(text)


def test_outputs_come_in_their_shapes() -> None:
    rows = [
        {"name": "y", "dimensions": "1x2x3", "values": [1, 2, 3, 4, 5.5, -6e-3]},
        {"name": "nan/score", "dimensions": "1", "values": [0]},
    ]
    found = parse_outputs(json.dumps(rows))
    assert set(found) == {"y", "nan/score"}
    assert found["y"].shape == (1, 2, 3)
    assert found["y"].dtype == np.float32
    assert found["y"].ravel()[-1] == pytest.approx(-6e-3)


def test_what_is_no_number_in_c_is_none_here() -> None:
    """C++ prints nan and inf, which no JSON has: they compare as different from everything."""
    found = parse_outputs('[{"name": "nan, inf", "dimensions": "4", "values": [nan, -nan, inf, -inf]}]')
    assert np.isnan(found["nan, inf"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"name": "y", "dimensions": "2x2", "values": [1, 2, 3]}]', "y: 3 values for dimensions 2x2"),
        ('[{"name": "y", "dimensions": "2xn", "values": [1, 2]}]', "y: 2 values for dimensions 2xn"),
        ('[{"name": "y", "values": [1, 2]}]', "y: no dimensions or no values"),
        ('[{"dimensions": "1", "values": [1]}]', "name: got None"),
        ('[{"name": "y", "dimensions": "2", "values": [1, "a"]}]', "y: 2 values"),
        ("null", "exportOutput: NoneType; expected a list"),
    ],
)
def test_outputs_of_another_form_are_refused(text: str, message: str) -> None:
    with pytest.raises(KronexportError, match=message):
        parse_outputs(text)


# --- memory -----------------------------------------------------------------------------------------------------

BUILD = "[I] [TRT] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU {} MiB, GPU {} MiB"
RUN = (
    "[I] [TRT] [MemUsageChange] TensorRT-managed allocation in IExecutionContext creation: CPU +1, GPU +73, "
    "now: CPU {}, GPU {} (MiB)"
)


@pytest.mark.parametrize(("line", "read"), [(BUILD, build_memory), (RUN, run_memory)], ids=["build", "run"])
def test_memory_is_what_the_last_line_says_of_cpu_and_gpu(line: str, read: Callable[[str], int | None]) -> None:
    """Of several contexts the last holds all; a log that does not say it, or less than its unit, gives nothing."""
    log = f"first\n{line.format(9, 9)}\nbetween\n{line.format(18, 227)}\nlast"
    assert read(log) == 245 * 2**20
    assert read("[I] Average on 10 runs") is None
    assert read(line.format(0, 0)) is None
