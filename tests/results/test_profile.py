"""Where the time went: what is added up, what is told, what is advised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

import wsiproc
from tests.command import words
from tests.command import wsiproc as command
from tests.records import record
from wsiproc.executors import TaskMetrics
from wsiproc.results.profile import NETWORK, NetworkTime, Profile, Stage, advice, device_share, idle_share, lines
from wsiproc.results.record import ProfileRecord, RunRecord
from wsiproc.synthetic import write_synthetic_slide


def facts(busy: dict[str, float], slides_at_once: int = 1, **changed: Any) -> RunRecord:
    """What advice looks at, of a slide of two workers, a minute, twenty regions."""
    profile = {"workers": 2, "slides_at_once": slides_at_once, "busy_s": busy, "mpx": {NETWORK: 90.0}}
    seconds = {"plan": 2.0, "infer and segment": 50.0, "render and export": 8.0, "total": 60.0}
    return record(**{"profile": profile, "seconds": seconds, "device": "cpu", "regions": {"tissue": 20}} | changed)


def profile_of(run: RunRecord) -> ProfileRecord:
    assert run.profile is not None
    return run.profile


def test_seconds_are_added_up_by_what_they_were_spent_on() -> None:
    profile = Profile()
    assert profile.most() == ""
    spent = NetworkTime(read_s=1.0, predict_s=8.0, read_mpx=3.0, network_mpx=4.0)
    for _ in range(2):
        profile.add_inference(TaskMetrics(10.0, 300, 20), spent)
    profile.add(Stage.SEGMENT, TaskMetrics(4.0, 7, 5))
    profile.add(Stage.MAPS, TaskMetrics(0.5))
    assert profile.as_dict(2, 1) == {
        "workers": 2,
        "slides_at_once": 1,
        "busy_s": {"read": 2.0, "network": 16.0, "write maps": 2.0, "segment": 4.0, "coarse maps": 0.5},
        "mpx": {"read": 6.0, "network": 8.0},
        "read_bytes": {"read": 600, "network": 0, "write maps": 0, "segment": 7, "coarse maps": 0},
        "written_bytes": {"read": 0, "network": 0, "write maps": 40, "segment": 5, "coarse maps": 0},
    }
    assert profile.most() == "network 65%"


def test_the_heaviest_comes_first_with_its_rate() -> None:
    rows = lines(profile_of(facts({"read": 10.0, NETWORK: 90.0})))
    assert [(row.what, row.share, row.rate) for row in rows] == [
        ("network", 0.9, "1.0 Mpx/s a worker"),
        ("read", 0.1, ""),
    ]
    assert lines(profile_of(facts({}))) == []


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (facts({NETWORK: 100.0, "read": 10.0}), ["The network is what costs: a GPU"]),
        (
            facts({NETWORK: 100.0}, settings={"precision": "float32"}),
            ["The network is what costs", "--precision float32 was asked for"],
        ),
        (facts({NETWORK: 100.0, "read": 10.0}, device="cuda"), ["The network is what costs: more GPUs"]),
        (facts({NETWORK: 50.0, "read": 60.0}), ["Reading weighs much"]),
        (facts({"segment": 110.0}), []),
        (facts({"segment": 50.0}), ["Workers waited 57% of the time: give several slides"]),
        (
            facts({"segment": 50.0}, regions={"tissue": 5, "step": 2048}),
            ["Workers waited 57% of the time: 5 regions are few for 2 workers. Give several slides at once, or"],
        ),
        (
            facts({"segment": 2.0}, seconds={"plan": 8.0, "infer and segment": 1.0, "total": 9.0}),
            ["8.0 s of 9.0 s were preparation"],
        ),
    ],
)
def test_advice_fits_what_limited_the_run(run: RunRecord, said: list[str]) -> None:
    told = list(advice(run))
    assert len(told) == len(said)
    assert all(line.startswith(start) for line, start in zip(told, said, strict=True))


def test_the_device_is_busy_as_long_as_the_network_runs() -> None:
    alone, shared = facts({NETWORK: 80.0, "read": 9.0}), facts({NETWORK: 80.0}, slides_at_once=2)
    assert device_share(profile_of(alone), alone.seconds) == 0.8  # of two workers, 50 s each
    assert device_share(profile_of(shared), shared.seconds) == 0.0


def test_workers_that_two_slides_share_are_not_called_idle() -> None:
    alone, shared = facts({"segment": 10.0}), facts({"segment": 10.0}, slides_at_once=2)
    assert idle_share(profile_of(alone), alone.seconds) > 0.5
    assert idle_share(profile_of(shared), shared.seconds) == 0.0


def test_the_command_tells_of_a_real_run(tmp_path: Path) -> None:
    slide = tmp_path / "drawn.tif"
    write_synthetic_slide(slide, (900, 900), mpp=0.5, tissue_fraction=0.6)
    (outcome,) = wsiproc.run(slide, tmp_path / "out", model="classical", executor="loop", region=512)
    assert outcome.run is not None
    profile, seconds = outcome.run["profile"], outcome.run["seconds"]
    assert set(profile["busy_s"]) >= {"read", "network", "write maps", "segment", "labels", "GeoJSON", "cell table"}
    spent = sum(profile["busy_s"].values())
    # One worker, which did nothing else in these stages.
    assert 0.5 * spent < seconds["infer and segment"] + seconds["render and export"]
    assert spent <= seconds["infer and segment"] + seconds["render and export"]
    regions = outcome.run["regions"]
    assert regions["mpx"] <= regions["windows"] * 512**2 / 1e6
    assert profile["mpx"]["network"] > regions["mpx"]  # halos
    assert 0 < profile["device_busy"] < 1
    if hasattr(psutil.Process, "io_counters"):
        table = tmp_path / "out/drawn/cells.parquet"
        assert profile["written_bytes"]["cell table"] == pytest.approx(table.stat().st_size, rel=0.1)
        assert profile["read_bytes"]["read"] > 100_000
    done = command("profile", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for name in profile["busy_s"]:
        assert name in words(done.stdout)
    (tmp_path / "out/drawn/run.json").unlink()
    done = command("profile", tmp_path / "out")
    assert done.returncode == 2
    assert "unfinished" in done.stderr
