"""Batches go to the device as they are asked for; on a GPU beside the step before."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from slowfast_uniformer.data.raw_clips import RawClip, RawClips, Stored
from slowfast_uniformer.data.transforms import Normalisation
from slowfast_uniformer.engine import prefetch as module
from slowfast_uniformer.engine.prefetch import prefetch

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_on_the_cpu_batches_are_handed_over_as_they_are_and_none_too_early(clock):
    batches = [{"clips": torch.ones(2), "labels": torch.ones(2), "videos": [k]} for k in range(3)]
    batches.append({"clips": None, "labels": torch.empty(0), "videos": []})  # no video could be read
    taken = []

    def load():
        for number, batch in enumerate(batches):
            clock.seconds += 2
            taken.append(number)
            yield batch

    for number, (batch, waited) in enumerate(prefetch(load(), CPU)):
        assert taken == list(range(number + 1)), "a run that stops here has read no batch in vain"
        assert batch.keys() == batches[number].keys() and all(batch[k] is batches[number][k] for k in batch)
        assert waited == 2
        clock.seconds += 5  # the step
    assert number == 3


class Gpu:
    """A GPU that works off what is launched in 3 seconds a step; `log` has what it is told, in order."""

    def __init__(self, clock, monkeypatch):
        self.clock, self.log, self.busy_until, self.events = clock, [], 0.0, 0
        self.current = "compute"
        compute = Mock(wait_stream=lambda other: self.log.append(f"compute waits for {other.name}"))
        compute.name = "compute"
        side = Mock()
        side.name = "side"
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "Event", self.event)

    def stream(self, stream):
        gpu = self

        class Context:
            def __enter__(self):
                gpu.current = stream.name

            def __exit__(self, *_):
                gpu.current = "compute"

        return Context()

    def event(self, enable_timing):
        assert enable_timing
        number = self.events = self.events + 1
        event = Mock()

        def record(stream):
            assert stream.name == "compute"
            event.at = max(self.busy_until, self.clock.seconds)

        def synchronize():
            self.log.append(f"host waits for {number}")
            self.clock.seconds = max(self.clock.seconds, event.at)

        def elapsed_time(later):
            assert max(event.at, later.at) <= self.clock.seconds, "it would raise"
            return 1000 * (later.at - event.at)

        event.record, event.synchronize, event.elapsed_time = record, synchronize, elapsed_time
        return event

    def tensor(self, name):
        copied = Mock(record_stream=lambda stream: self.log.append(f"{name} kept for {stream.name}"))

        def to(device, non_blocking):
            assert device == GPU and non_blocking
            self.log.append(f"{name} copied on {self.current}")
            return copied

        return Mock(to=to, copied=copied)

    def step(self):
        self.clock.seconds += 0.5  # to launch it
        self.busy_until = max(self.busy_until, self.clock.seconds) + 3
        self.log.append("step")


def run(gpu, clock, seconds: list[float], **options):
    """Steps of batches that take so many seconds to come; returns what was said to be waited for."""
    said = []

    def load():
        for number, wait in enumerate(seconds):
            clock.seconds += wait
            yield {"clips": gpu.tensor(f"clips {number}"), "labels": gpu.tensor(f"labels {number}"), "errors": []}

    for batch, waited in prefetch(load(), GPU, **options):
        said.append(waited)
        gpu.step()
        assert batch["errors"] == []
    return said


def test_on_a_gpu_copies_run_beside_the_step_before_and_one_batch_is_ahead(clock, monkeypatch):
    gpu = Gpu(clock, monkeypatch)
    run(gpu, clock, [0.1] * 4)
    of_batch = [
        ["clips copied on side", "labels copied on side", "compute waits for side"]
        + ["clips kept for compute", "labels kept for compute", "step"]
    ] * 4
    expected = [
        word.replace("clips", f"clips {k}").replace("labels", f"labels {k}") for k in range(4) for word in of_batch[k]
    ]
    # events: 1 and 2 begin and end step 0, 3 and 4 step 1. Batch 2 is copied once step 0 has ended, during step 1.
    expected.insert(2 * 6, "host waits for 2")
    expected.insert(3 * 6 + 1, "host waits for 4")
    assert gpu.log == expected


class Made(RawClips):
    """Clips that a GPU makes and that say when."""

    def __init__(self, gpu):
        self.gpu = gpu

    def make(self, device):
        assert device == GPU
        self.gpu.log.append(f"clips made on {self.gpu.current}")
        return Mock(record_stream=lambda stream: self.gpu.log.append(f"clips kept for {stream.name}"))


def test_on_a_gpu_clips_are_made_beside_the_step_before(clock, monkeypatch):
    gpu = Gpu(clock, monkeypatch)
    for _ in prefetch([{"clips": Made(gpu)}] * 2, GPU, keys=("clips",)):
        gpu.step()
    assert gpu.log == ["clips made on side", "compute waits for side", "clips kept for compute", "step"] * 2


def test_on_the_cpu_clips_are_made_too():
    normalisation = Normalisation((1.0,) * 3, (0.0,) * 3, False)
    clip = RawClip(Stored(0, torch.float32, (3, 2, 4, 4)))
    buffer = torch.arange(96, dtype=torch.float32)
    raw = RawClips(buffer.view(torch.uint8), [clip], normalisation, (3, 2, 4, 4))
    ((batch, _),) = prefetch([{"clips": raw, "labels": torch.zeros(1)}], CPU)
    assert torch.equal(batch["clips"], buffer.view(1, 3, 2, 4, 4))


def test_on_a_gpu_waiting_is_the_time_without_work(clock, monkeypatch):
    """Known two steps later. A step takes 3 s, half a second of it to launch."""
    gpu = Gpu(clock, monkeypatch)
    assert run(gpu, clock, [1.0] * 8) == [1.0] + [0.0] * 7, "all but the first wait while the GPU computes"
    clock.seconds, gpu = 0.0, Gpu(clock, monkeypatch)
    found = run(gpu, clock, [1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0])
    assert found[:4] == [1.0, 0.0, 0.0, 0.0] and 0 < found[4] < 5.0 and found[5:] == [0.0, 0.0]


def test_with_gradient_accumulation_the_step_copies(clock, monkeypatch):
    gpu = Gpu(clock, monkeypatch)
    run(gpu, clock, [0.1], keys=())
    assert gpu.log == ["compute waits for side", "step"]
