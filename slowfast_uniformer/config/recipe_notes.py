"""Notes on where a config departs from the recipe that it names."""

from collections.abc import Iterator

from fvcore.common.config import CfgNode


def departures(recipe: CfgNode, cfg: CfgNode) -> Iterator[str]:
    """Sentences on what leaves the recipe of the first file without saying so."""
    batch, wanted = (c.TRAIN.BATCH_SIZE * c.NUM_SHARDS for c in (cfg, recipe))
    rate, scaled = (
        c.SOLVER.BASE_LR * (c.NUM_SHARDS if c.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1) for c in (cfg, recipe)
    )
    if abs(rate / batch - scaled / wanted) > 1e-6 * scaled / wanted:
        yield (
            f"{cfg.RECIPE} has a global batch of {wanted} videos at a learning rate of {scaled:g}; this "
            f"run has {batch} at {rate:g}. Scaled linearly, SOLVER.BASE_LR would be "
            f"{cfg.SOLVER.BASE_LR * scaled * batch / wanted / rate:g}; TRAIN.ACCUM_STEPS keeps the batch"
        )
    for key in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE"):
        if cfg.DATA.TRAIN_CROP_SIZE != cfg.DATA.TEST_CROP_SIZE and cfg.DATA[key] != recipe.DATA[key]:
            yield (
                f"DATA.{key}: {cfg.DATA[key]} where {cfg.RECIPE} has {recipe.DATA[key]}; training sees "
                f"{cfg.DATA.TRAIN_CROP_SIZE} pixels and the test {cfg.DATA.TEST_CROP_SIZE}"
            )
    views, published = ((c.TEST.NUM_ENSEMBLE_VIEWS, c.TEST.NUM_SPATIAL_CROPS) for c in (cfg, recipe))
    if views != published:
        yield (
            f"TEST.NUM_ENSEMBLE_VIEWS, NUM_SPATIAL_CROPS: {views[0]} x {views[1]} views where the published "
            f"figures of {cfg.RECIPE} are of {published[0]} x {published[1]}"
        )
    if cfg.TRAIN.DATASET == recipe.TRAIN.DATASET and cfg.TEST.DATASET != recipe.TEST.DATASET:
        yield (
            f"TEST.DATASET: {cfg.TEST.DATASET} where {cfg.RECIPE} has {recipe.TEST.DATASET}: validation and "
            "test choose frames in another way than training"
        )
