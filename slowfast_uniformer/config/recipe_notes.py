"""Notes on where a run departs from the recipe that its config names."""

from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode

from slowfast_uniformer.wording import counted

if TYPE_CHECKING:
    from slowfast_uniformer.distributed.topology import Topology


def recipe_notes(cfg: CfgNode, recipe: CfgNode, topology: "Topology", recipe_topology: "Topology") -> list[str]:
    """Return a note on each departure from the recipe that may change the accuracy unnoticed.

    Args:
        cfg: the run's config.
        recipe: the config of the first file after --cfg alone.
        topology: the run's real topology, also under torchrun and srun.
        recipe_topology: the one that `recipe` asks for.

    Returns:
        Notes on the ratio of learning rate and global batch, crop sizes, views and frame sampling; none if the
        config names no RECIPE.
    """
    if not cfg.RECIPE:
        return []
    notes = []
    batch, recipe_batch = topology.videos_per_step(cfg), recipe_topology.videos_per_step(recipe)
    rate, recipe_rate = topology.learning_rate(cfg), recipe_topology.learning_rate(recipe)
    wanted = recipe_rate * batch / recipe_batch  # by the linear scaling rule (Goyal et al., arXiv 1706.02677)
    if abs(rate - wanted) > 1e-6 * wanted:
        notes.append(
            f"{cfg.RECIPE} has a global batch of {counted(recipe_batch, 'video')} at a learning rate of "
            f"{recipe_rate:g}; this run has {batch} at {rate:g}. Scaled linearly, SOLVER.BASE_LR would be "
            f"{wanted / topology.lr_scale(cfg):g}; gradient accumulation (TRAIN.ACCUM_STEPS) keeps the batch"
        )
    for key in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE"):
        if cfg.DATA.TRAIN_CROP_SIZE != cfg.DATA.TEST_CROP_SIZE and cfg.DATA[key] != recipe.DATA[key]:
            notes.append(
                f"DATA.{key}: {cfg.DATA[key]} where {cfg.RECIPE} has {recipe.DATA[key]}; training uses "
                f"{cfg.DATA.TRAIN_CROP_SIZE} pixels and the test {cfg.DATA.TEST_CROP_SIZE}"
            )
    views, published = ((c.TEST.NUM_ENSEMBLE_VIEWS, c.TEST.NUM_SPATIAL_CROPS) for c in (cfg, recipe))
    if views != published:
        notes.append(
            f"TEST.NUM_ENSEMBLE_VIEWS, NUM_SPATIAL_CROPS: {views[0]} x {views[1]} views where the published "
            f"figures of {cfg.RECIPE} are of {published[0]} x {published[1]}"
        )
    if cfg.TRAIN.DATASET == recipe.TRAIN.DATASET and cfg.TEST.DATASET != recipe.TEST.DATASET:
        notes.append(
            f"TEST.DATASET: {cfg.TEST.DATASET} where {cfg.RECIPE} has {recipe.TEST.DATASET}: validation and "
            "test sample frames in another way than the recipe's training"
        )
    return notes


def may_have_batch_norms(cfg: CfgNode) -> bool:
    """By the name of the model, without building it: a model of the user's own may have them."""
    name = cfg.MODEL.MODEL_NAME
    return not (name == "Uniformerv2" and cfg.UNIFORMERV2.NO_LMHRA) and not name.lower().startswith("mvit")
