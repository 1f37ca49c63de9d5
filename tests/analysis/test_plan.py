"""A plan against real optimizers, checkpoints, loaders, metrics, DDP and FSDP2."""

import json
import os
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from tiny_models import V2
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slowfast_uniformer.analysis import memory_check, plan
from slowfast_uniformer.analysis.model_cost import cost, describe, step_cost
from slowfast_uniformer.analysis.rank_memory import peak_memory, rank_memory
from slowfast_uniformer.cli.common import finish
from slowfast_uniformer.cli.plan import duration, main
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.batch_size import batch_notes
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.distributed import parallel
from slowfast_uniformer.distributed.topology import planned
from slowfast_uniformer.engine.optim import build_optimizer
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints

RECIPE = str(ROOT / "configs/k400/uniformer_s.yaml")
RANKS = 4


def storages(values) -> int:
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def trained(tiny, *overrides):
    """A run after one step."""
    run = start_run(load_config(None, [*tiny, "SOLVER.WEIGHT_DECAY", 0.1, *overrides]), None)
    run.model.train()
    gradients = []
    for parameter in run.net.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad))
    training_step(run, torch.randn(8, 3, 4, 32, 32), torch.zeros(8, dtype=torch.int64))
    return run, gradients


METHODS = {
    "adamw": [],
    "adam": [],
    "sgd": [],
    "sgd without momentum": ["SOLVER.MOMENTUM", 0.0, "SOLVER.NESTEROV", False],
}


@pytest.mark.parametrize("method", METHODS)
def test_parameters_gradients_optimizer_and_average_are_the_real_ones(tiny, method):
    keys = ["SOLVER.OPTIMIZING_METHOD", method.split()[0], *METHODS[method]]
    run, gradients = trained(tiny, *keys, "MODEL.EMA_EPOCH", 0)
    planned = rank_memory(run.cfg, run.net, "ddp")
    assert planned["parameters"] == storages(run.net.state_dict().values())
    assert planned["gradients"] == storages(gradients) > 0
    assert planned["optimizer"] == storages(tree_leaves(run.optimizer.state_dict()["state"]))
    assert planned["moving_average"] == storages(run.ema.module.state_dict().values())


class Living(TorchDispatchMode):
    """The peak bytes of new tensors, by the lifetime of their storages."""

    def __init__(self):
        super().__init__()
        self.seen, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, made = (
            {t.untyped_storage()._cdata: t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)}
            for tree in ((args, kwargs), out)
        )
        for key in made.keys() - given.keys():
            self.seen[key] = StorageWeakRef(made[key].untyped_storage()), made[key].nbytes
        self.peak = max(self.peak, sum(size for ref, size in self.seen.values() if not ref.expired()))
        return out


@pytest.mark.parametrize("method", METHODS)
def test_an_optimizer_step_allocates_nothing(tiny, method):
    keys = ["SOLVER.OPTIMIZING_METHOD", method.split()[0], *METHODS[method]]
    cfg = load_config(None, [*tiny, *keys, "SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.ZERO_WD_1D_PARAM", True])
    model = build_model(cfg)
    optimizer = build_optimizer(model, cfg)
    for _ in range(2):  # the first creates its state
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with Living() as living:
            optimizer.step()
    assert living.peak == 0


def test_checkpoint_bytes_are_the_size_of_the_file(tiny, tmp_path):
    run, _ = trained(tiny, "MODEL.EMA_EPOCH", 0, "UNIFORMER.EMBED_DIM", [32, 64, 128, 128])
    checkpoints.write_checkpoint(str(tmp_path / "a.pyth"), run.state())
    planned = plan.checkpoints(run.cfg, run.net)
    assert planned["bytes"] == pytest.approx(os.path.getsize(tmp_path / "a.pyth"), rel=0.05)
    assert planned["total"] == 3 * planned["bytes"]  # of two epochs, and the best


@pytest.mark.parametrize("world", [1, 2])
def test_steps_per_epoch_are_the_loader_s(tiny, monkeypatch, world):
    cfg = load_config(None, [*tiny, "TRAIN.BATCH_SIZE", 3, "NUM_SHARDS", world])
    monkeypatch.setenv("WORLD_SIZE", str(world))
    steps = plan.count_steps(cfg, *plan.count_videos(cfg, None))
    assert steps["per_epoch"] == len(build_loader(cfg, "train"))
    assert steps["videos"] == 16 and steps["total"] == 2 * steps["per_epoch"]


def test_videos_from_the_list_the_option_or_the_data_set(tiny, demo, tmp_path):
    cfg = load_config(None, tiny)
    assert plan.count_videos(cfg, None) == (16, str(demo / "train.csv"))
    assert plan.count_videos(cfg, 1000) == (1000, "--videos")
    there = ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "sthv2")]
    assert plan.count_videos(load_config(None, [*tiny, *there]), None)[0] == 168_913
    with pytest.raises(UserError, match="mine/train.csv: there is no train list.* Give --videos"):
        plan.count_videos(load_config(None, [*tiny, *there[:1], str(tmp_path / "mine")]), None)
    with pytest.raises(UserError, match=r"the train list \(--videos\) has 5 videos, fewer than one batch of 8"):
        plan.count_steps(cfg, *plan.count_videos(cfg, 5))


def test_learning_rate_is_that_of_the_metrics(tiny, run_net, tmp_path):
    scaled = ["SOLVER.BASE_LR_SCALE_NUM_SHARDS", True]
    status, _, err = run_net([*tiny, *scaled, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False])
    assert status == 0, err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    cfg = load_config(None, [*tiny, *scaled])
    assert plan.learning_rate(cfg, cfg)["applied"] == next(r["lr"] for r in rows if r["split"] == "train_iter")
    four = load_config(None, [*tiny, *scaled, "NUM_SHARDS", 4])
    rate = plan.learning_rate(four, cfg)
    assert rate["applied"] == rate["linear"] == pytest.approx(4e-3)
    unscaled = plan.learning_rate(load_config(None, [*tiny, "NUM_SHARDS", 4]), cfg)
    assert unscaled["applied"] == pytest.approx(1e-3) and unscaled["linear"] == pytest.approx(4e-3)


@pytest.fixture
def fake_ranks():
    """A process group of RANKS ranks whose collectives do nothing."""
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield
    dist.destroy_process_group()


class Collectives(TorchDispatchMode):
    """Bytes of unsharded tensors in collectives and the number of calls, by name."""

    def __init__(self):
        super().__init__()
        self.bytes, self.count = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if func.namespace == "c10d":
            tensors = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
            self.bytes[name] += max(t.nbytes for t in tensors)
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accum_steps", [1, 2])
def test_ddp_gradients_are_views_into_its_buckets(tiny, fake_ranks, monkeypatch, accum_steps):
    """But micro-batches that exchange nothing accumulate beside the buckets: a second copy."""
    monkeypatch.setenv("WORLD_SIZE", str(RANKS))
    cfg = load_config(None, [*tiny, "NUM_SHARDS", RANKS, "TRAIN.ACCUM_STEPS", accum_steps])
    model, buckets, sent = build_model(cfg), {}, []

    def hook(_, bucket):
        buffer = bucket.buffer()
        buckets[buffer.untyped_storage().data_ptr()] = buffer.nbytes
        sent.append(buffer.nbytes)
        future = torch.futures.Future()
        future.set_result(buffer)
        return future

    wrapped = parallel.wrap_ddp(model, torch.device("cpu"), accum_steps == 1)
    wrapped.register_comm_hook(None, hook)

    def beside_buckets() -> int:
        gradients = (p.grad for p in model.parameters())
        return sum(g.nbytes for g in gradients if g.untyped_storage().data_ptr() not in buckets)

    for _ in range(2):  # DDP rebuilds its buckets after the first
        model.zero_grad(set_to_none=True)
        buckets.clear()
        sent.clear()
        most = 0
        for part in range(accum_steps):
            parallel.set_gradient_sync(wrapped, part == accum_steps - 1)
            wrapped(torch.randn(2, 3, 4, 32, 32)).sum().backward()
            most = max(most, beside_buckets())
    assert beside_buckets() == 0
    held = rank_memory(cfg, model, "ddp")
    assert held["buckets"] == sum(buckets.values()) == storages(model.parameters())
    assert held["gradients"] == most == (0 if accum_steps == 1 else held["buckets"])
    traffic = plan.communication(cfg, model, bandwidth=2.0)["ddp"]
    assert traffic["bytes"] == 2 * 3 / 4 * sum(sent) > 0
    assert traffic["seconds"] == traffic["bytes"] / 2e9


def test_plan_and_model_cost_agree_on_ddp_buckets(tiny):
    """With one rank there are none; with several they replace the gradients unless these are accumulated."""
    few, several = [*tiny, "TRAIN.BATCH_SIZE", 2], ["NUM_SHARDS", 2]
    model = build_model(load_config(None, few))
    size = storages(model.parameters())
    alone = rank_memory(load_config(None, few), model, "ddp")
    assert (alone["buckets"], alone["gradients"]) == (0, size)
    for accum_steps, gradients in ((1, 0), (2, size)):
        cfg = load_config(None, [*few, *several, "TRAIN.ACCUM_STEPS", accum_steps])
        held, cost, memory = rank_memory(cfg, model, "ddp"), step_cost(cfg), describe(cfg)["memory"]
        assert (held["buckets"], held["gradients"]) == (size, gradients)
        assert memory["ddp_buckets"] == size and memory["train_peak"] == peak_memory(held, cost, "ddp")
        others = memory["weights"] + memory["optimizer"] + memory["ema"]
        in_step = cost.peak if gradients else cost.peak_without_gradients
        assert memory["train_peak"] == others + size + in_step
        assert rank_memory(cfg, model, "fsdp")["buckets"] == 0
    sharded = describe(load_config(None, [*few, *several, "MODEL.PARALLEL", "fsdp"]))["memory"]
    assert sharded["ddp_buckets"] == 0 and sharded["weights"] < memory["weights"]


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of blocks that return a view
@pytest.mark.parametrize("accum_steps", [1, 2])
def test_fsdp_gathers_twice_per_micro_batch_and_scatters_once(tiny, fake_ranks, accum_steps):
    """Widths that four ranks divide; of others FSDP also sends the padding."""
    keys = ["UNIFORMER.EMBED_DIM", [16, 16, 16, 16], "NUM_SHARDS", RANKS, "TRAIN.ACCUM_STEPS", accum_steps]
    cfg = load_config(None, [*tiny, *keys])
    model, mesh = build_model(cfg), init_device_mesh("cpu", (RANKS,))
    planned, held = plan.communication(cfg, model, 1.0)["fsdp"], rank_memory(cfg, model, "fsdp")
    unsharded = storages(model.parameters())
    modules = [*model.blocks1, *model.blocks2, *model.blocks3, *model.blocks4, model]
    for module in modules:
        fully_shard(module, mesh=mesh)
    with Collectives() as seen:
        for part in range(accum_steps):
            parallel.set_gradient_sync(model, part == accum_steps - 1)
            model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
            if part < accum_steps - 1:  # nothing is reduced yet: gradients are unsharded
                groups = [module._get_fsdp_state()._fsdp_param_group for module in modules]
                parameters = [p._unsharded_param for group in groups for p in group.fsdp_params]
                assert held["gradients"] == unsharded == storages(p.grad for p in parameters)
    shards = [p.to_local() for p in model.parameters()]
    assert storages(shards) == storages(p.grad.to_local() for p in model.parameters())
    assert held["gradients"] == (storages(shards) if accum_steps == 1 else unsharded)
    assert held["parameters"] == storages(shards) + storages(model.buffers())
    # the root's parameters are gathered once per micro-batch
    assert seen.count == {"_allgather_base_": 9 * accum_steps, "_reduce_scatter_base_": 5}
    # The patch embeddings belong to the blocks in the plan, and here to the root, which is gathered only once
    once = accum_steps * sum(
        p.nbytes * RANKS
        for n, p in zip(dict(model.named_parameters()), shards, strict=True)
        if n.startswith(("patch_embed2", "patch_embed3", "patch_embed4"))
    )
    assert planned["bytes"] == pytest.approx(3 / 4 * (sum(seen.bytes.values()) + once), rel=0.02)


def test_all_figures_of_a_plan(tiny):
    own = {**V2, "SOLVER.OPTIMIZING_METHOD": "adamw", "NUM_GPUS": 2, "NUM_SHARDS": 3, "TRAIN.BATCH_SIZE": 8}
    cfg = load_config(None, [*tiny, *(item for pair in own.items() for item in pair)], runs_here=False)
    facts = plan.plan(cfg, cfg, videos=100, seconds=0.5)
    memory, ddp = facts["memory"], facts["memory"]["peak"]["ddp"]
    assert facts["gpus"] == 6 and facts["batch"] == {"videos": 24, "videos_per_gpu": 4, "clips_at_once": 4}
    assert facts["steps"]["per_epoch"] == 4  # 16 videos per rank
    assert facts["notes"] == list(batch_notes(cfg, planned(cfg), 100)) != []
    assert facts["learning_rate"]["applied_by"] == "0.1"
    scaled = load_config(None, [*tiny, "NUM_SHARDS", 3, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", True], runs_here=False)
    by = "0.003 (SOLVER.BASE_LR 0.001 x 3 machines, by SOLVER.BASE_LR_SCALE_NUM_SHARDS)"
    assert plan.learning_rate(scaled, scaled)["applied_by"] == by
    assert facts["decoding"]["videos_per_second"] == 16 and facts["time"]["hours"] == 8 * 0.5 / 3600
    assert ddp["all"] < ddp["none"] == memory["plan"] and memory["saved"]["all"] < memory["saved"]["none"]
    parts = memory["parts"]
    assert parts["fsdp"]["optimizer"] < 0.3 * parts["ddp"]["optimizer"]  # six ranks, uneven rows
    assert memory["saved"]["none"] < ddp["none"] < sum(parts["ddp"].values()) + 2 * memory["saved"]["none"]


def test_accumulation_holds_gradients_and_halves_the_clips(tiny):
    whole, halves = (step_cost(load_config(None, [*tiny, "TRAIN.ACCUM_STEPS", n])) for n in (1, 2))
    saved = [sum(cost.saved.values()) for cost in (whole, halves)]
    assert saved[1] == pytest.approx(saved[0] / 2, rel=0.1)
    held = rank_memory(load_config(None, tiny), build_model(load_config(None, tiny)), "ddp")
    assert halves.peak >= saved[1] + held["gradients"]
    assert halves.peak - halves.peak_without_gradients <= held["gradients"]


def test_time_by_compute_and_communication(tiny):
    checkpointing = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [1, 1, 1, 1]]
    without, configured = (load_config(None, [*tiny, "NUM_SHARDS", 2, *extra]) for extra in ([], checkpointing))
    costs = {"none": step_cost(without), "configured": step_cost(configured)}
    traffic = plan.communication(without, build_model(without), bandwidth=1e-3)
    once, twice = (plan.duration(cfg, costs, traffic, 3600, 1e-3, None) for cfg in (without, configured))
    forward, sending = 8e9 * cost(without, crop=without.DATA.TRAIN_CROP_SIZE)[1], traffic["ddp"]["seconds"]
    assert once["flops"] == 6 * forward and 7 * forward < twice["flops"] < 8.2 * forward
    assert once["compute"] == once["flops"] / 1e9 and once["without_overlap"] == once["compute"] + sending
    assert once["hours"] == pytest.approx(once["seconds_per_step"])  # of 3600 steps
    assert once["seconds_per_step"] == max(once["compute"], sending)
    unknown = plan.duration(without, costs, traffic, 3600, None, None)
    assert (unknown["compute"], unknown["hours"], unknown["seconds_per_step"]) == (None, None, 1.0)


def test_the_smallest_remedy(tiny):
    """Activations dominate this model: activation checkpointing helps first, then accumulation, then nothing."""
    cfg = load_config(None, [*tiny, "NUM_SHARDS", 2])
    model = build_model(cfg)
    costs = {name: step_cost(cfg, plan.CHECKPOINTED[name]) for name in plan.checkpointing_choices(cfg, model)}
    peaks = plan.memory(cfg, model, costs)["peak"]["ddp"]

    def remedy(peak: float) -> dict:
        return plan.fit(cfg, model, costs, (peak + 1) / 0.9e9)

    roomy, tight, tighter, hopeless = map(remedy, (peaks["none"], peaks["all"], 0.6 * peaks["all"], 1e4))
    assert roomy["fits"] and roomy["remedy"] is None
    assert not tight["fits"] and "MODEL.CHECKPOINT_NUM" in tight["remedy"]["keys"]
    assert "TRAIN.ACCUM_STEPS" in tighter["remedy"]["keys"]
    assert tighter["remedy"]["peak"] <= 0.6 * peaks["all"]
    assert not hopeless["fits"] and hopeless["remedy"] is None


def test_peak_growth_is_what_is_allocated_at_once():
    def work() -> None:
        for _ in range(2):
            bytearray(b"x" * 10**8)

    assert 0.9e8 < memory_check.peak_growth(work) < 2.5e8


@pytest.mark.slow  # in a new process
def test_planned_memory_is_near_the_measured_peak():
    """docs/planning.md has three models."""
    small = ["UNIFORMER.DEPTH", [1, 1, 2, 1], "DATA.NUM_FRAMES", 4, "TRAIN.BATCH_SIZE", 2]
    cfg = load_config(memory_check.CHECKED["common"], small)
    (row,) = memory_check.check({"small": cfg})
    assert row["measured"] > 100e6 and abs(row["ratio"] - 1) < 0.15


def test_configs_that_are_checked_by_default():
    configs = memory_check.small_configs()
    assert len(configs) == 6
    for name, cfg in configs.items():
        assert cfg.MODEL.USE_CHECKPOINT == name.endswith(", activation checkpointing")
        assert (cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.DATA.TRAIN_CROP_SIZE) == (0, 4, 112)


def test_the_command(capsys, tiny):
    def command(*arguments) -> None:
        finish(lambda: main(list(map(str, arguments))))

    own = ["--nodes", 2, "--gpus-per-node", 4, "--videos", 100, "--gpu-memory", 80, "--gpu-tflops", 50]
    command("--cfg", RECIPE, *own, *tiny)
    out, errors = capsys.readouterr()
    assert errors == "counting memory and operations of a step; this may take a minute or two ...\n"
    assert (
        "\nnote: 100 videos in batches of 16 are only 6 steps an epoch" in out
        and "learning rate 0.002 (SOLVER.BASE_LR 0.001 x 2" in out
    )
    assert "Uniformer on 8 GPUs of 2 machines, ddp" in out and "peak of a step" in out
    assert out.splitlines()[-1].startswith("FITS the GPU's memory")
    command("--json", "--cfg", RECIPE, *own, *tiny)
    assert json.loads(capsys.readouterr().out)["gpus"] == 8
    with pytest.raises(SystemExit) as stop:
        command("--cfg", RECIPE, "--gpus-per-node", 3)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: TRAIN.BATCH_SIZE: 32 videos cannot be divided among 3")


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "0.5 s"), (90, "90 s"), (1800, "30 min"), (86400, "24.0 h")])
def test_times_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "gpus, accum_steps, device, clips",
    [(0, 1, "auto", 0), (1, 1, "auto", 8), (1, 1, "cpu", 8), (2, 1, "auto", 4), (1, 2, "cpu", 0), (1, 2, "auto", 12)],
)
def test_the_batch_ahead_of_a_gpu_is_counted(tiny, gpus, accum_steps, device, clips):
    """One is copied beside the step; with accumulation none is, unless clips are made there (engine/prefetch.py)."""
    options = ["NUM_GPUS", gpus, "TRAIN.BATCH_SIZE", 8, "TRAIN.ACCUM_STEPS", accum_steps, "AUG.DEVICE", device]
    cfg = load_config(None, [*tiny, *options], runs_here=False)
    size = 3 * cfg.DATA.NUM_FRAMES * cfg.DATA.TRAIN_CROP_SIZE**2 * torch.float32.itemsize
    assert rank_memory(cfg, plan.meta_model(cfg), "ddp")["next_batch"] == clips * size
