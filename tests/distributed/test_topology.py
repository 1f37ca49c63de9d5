"""What follows from the number of machines and ranks."""

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.distributed.topology import Topology

OPTIONS = {
    "TRAIN.BATCH_SIZE": 16,
    "TEST.BATCH_SIZE": 8,
    "AUG.ENABLE": True,
    "AUG.NUM_SAMPLE": 2,
    "SOLVER.BASE_LR": 0.5,
    "SOLVER.BASE_LR_SCALE_NUM_SHARDS": True,
}


def test_batch_and_learning_rate_of_two_machines_with_four_ranks():
    cfg = load_config(None, ["NUM_GPUS", 0, *(item for pair in OPTIONS.items() for item in pair)])
    ranks = Topology(machines=2, ranks_per_machine=4)
    assert ranks.ranks == 8 and ranks.videos_per_rank(cfg) == 4 and ranks.videos_per_step(cfg) == 32
    assert ranks.clips_per_rank(cfg) == 8 and ranks.clips_per_step(cfg) == 64
    assert ranks.test_clips_per_rank(cfg) == 2 and Topology(1, 16).test_clips_per_rank(cfg) == 1
    assert ranks.lr_scale(cfg) == 2 and ranks.learning_rate(cfg) == 1.0
    assert topology.planned(cfg) == Topology(1, 1)


def test_the_environment_of_a_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    topology.set_rank_env(local=1, local_size=2, machines=3, machine=2)
    assert (topology.rank(), topology.world_size(), topology.local_rank(), topology.local_world_size()) == (5, 6, 1, 2)
    assert topology.current() == Topology(3, 2) and not topology.is_main() and topology.has_launcher()
