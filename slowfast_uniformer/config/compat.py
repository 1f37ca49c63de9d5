"""Keys of the UniFormer releases and of SlowFast: renamed, ignored with a note, or refused with the reason."""

import os
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.errors import UserError

RENAMED = {"UNIFORMER.PRETRAIN_NAME": "MODEL.INIT_FROM", "UNIFORMERV2.PRETRAIN": "MODEL.INIT_FROM"}

# Released keys without meaning here: key or section -> (values that change nothing or None for all, reason).
RETIRED: dict[str, tuple[tuple | None, str]] = {
    "TRAIN.CHECKPOINT_TYPE": (("pytorch",), "Caffe2 files cannot be read; convert them to PyTorch first"),
    "TRAIN.CHECKPOINT_INFLATE": (None, "2-D weights are recognised and inflated by themselves"),
    "TRAIN.CHECKPOINT_EPOCH_RESET": ((False,), "to start anew from weights, set MODEL.INIT_FROM instead"),
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": ((), "prefixes of parameter names are recognised by themselves"),
    "TRAIN.SAVE_LATEST": (None, "the last checkpoint is always written"),
    "TEST.CHECKPOINT_TYPE": (("pytorch",), "Caffe2 files cannot be read; convert them to PyTorch first"),
    "TEST.SAVE_RESULTS_PATH": (None, "results are in predictions.csv of OUTPUT_DIR"),
    "TEST.INTERVAL": (None, "scores are kept as they arrive"),
    "DATA.TRAIN_PCA_EIGVAL": (None, "no recipe uses PCA lighting"),
    "DATA.TRAIN_PCA_EIGVEC": (None, "no recipe uses PCA lighting"),
    "DATA.PATH_TO_PRELOAD_IMDB": (None, "nothing reads it"),
    "DATA.INPUT_CHANNEL_NUM": (([3], [3, 3]), "clips have three channels"),
    "DATA.TRAIN_JITTER_MOTION_SHIFT": ((False,), "the crop does not move within a clip"),
    "DATA.DECODING_BACKEND": (
        None,
        "DATA.DECODER chooses the decoder; windows counted in seconds are chosen by DATA.SAMPLE_BY_FPS",
    ),
    "DATA.INV_UNIFORM_SAMPLE": ((False,), "training lengths are uniform"),
    "DATA.MC": (None, "there is no such reader; files are read through the path they have"),
    "DATA.EXTRA_PATH_TO_DATA_DIR": (("",), "one list per run; join the lists"),
    "DATA.PATH_TO_DATA_DIR_LIST": (([""], []), "one list per run; join the lists"),
    "DATA.PATH_PREFIX_LIST": (([""], []), "one list per run; join the lists"),
    "AUG.COLOR_JITTER": (None, "the releases read it nowhere; AUG.AA_TYPE is the colour augmentation"),
    "AUG.RE_SPLIT": ((False,), "all clips of a batch may be erased"),
    "BN.USE_PRECISE_STATS": ((False,), "batch norms keep running statistics"),
    "BN.NUM_BATCHES_PRECISE": (None, "batch norms keep running statistics"),
    "BN.NORM_TYPE": (("batchnorm",), "batch norms are ordinary ones"),
    "BN.NUM_SPLITS": ((1,), "batch norms are ordinary ones"),
    "BN.NUM_SYNC_DEVICES": ((1,), "batch norms are ordinary ones"),
    "SOLVER.GAMMA": (None, "no policy here reads it"),
    "SOLVER.STEP_SIZE": (None, "no policy here reads it"),
    "SOLVER.WARMUP_FACTOR": (None, "warm-up begins at WARMUP_START_LR"),
    "MODEL.ARCH": (None, "MODEL.MODEL_NAME chooses the model"),
    "MODEL.LOSS_FUNC": (("cross_entropy", "soft_cross_entropy"), "the loss follows from MIXUP.ENABLE"),
    "MODEL.SINGLE_PATHWAY_ARCH": (None, "every model takes one clip"),
    "MODEL.MULTI_PATHWAY_ARCH": (None, "every model takes one clip"),
    "MODEL.DROPOUT_RATE": (None, "it belongs to SlowFast's own heads"),
    "MODEL.DROPCONNECT_RATE": (None, "it belongs to SlowFast's own models; see UNIFORMER.DROP_DEPTH_RATE"),
    "MODEL.FC_INIT_STD": (None, "it belongs to SlowFast's own heads"),
    "MODEL.HEAD_ACT": (("softmax",), "models return logits; TEST.ADD_SOFTMAX"),
    "MODEL.NUM_CLASSES_LIST": (None, "one data set per run"),
    "UNIFORMER.STAGE_TYPE": (([0, 0, 1, 1],), "stages 1 and 2 are local, 3 and 4 global"),
    "UNIFORMER.HEAD_DROPOUT_RATE": ((0, 0.0), "there is no dropout before the classifier"),
    "UNIFORMERV2.DELETE_SPECIAL_HEAD": (None, "MODEL.INIT_HEAD says what becomes of the head"),
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": (None, "each loading process decodes on one thread"),
    "MULTIGRID": ((False,), "multigrid training is not part of this program; remove the section"),
    "DETECTION": ((False,), "detection is not part of this program; remove the section"),
    "AVA": (None, "AVA is a detection data set"),
    "BENCHMARK": (None, "benchmarks have their own command"),
    "DEMO": ((False,), "there is no live demo in the training program; remove the section"),
    "LOG_MODEL_INFO": (None, "the model's size is always logged"),
    "RESNET": (None, "it belongs to SlowFast's own models"),
    "X3D": (None, "it belongs to SlowFast's own models"),
    "NONLOCAL": (None, "it belongs to SlowFast's own models"),
    "MVIT": (None, "it belongs to SlowFast's own models"),
    "SLOWFAST": (None, "it belongs to SlowFast's own models"),
    "TENSORBOARD.LOG_DIR": (None, "it is OUTPUT_DIR/tensorboard"),
    "TENSORBOARD.PREDICTIONS_PATH": (None, "predictions are in predictions.csv of OUTPUT_DIR"),
    "TENSORBOARD.CLASS_NAMES_PATH": (None, "DATA.CLASS_NAMES names the classes"),
    "TENSORBOARD.CATEGORIES_PATH": (None, "classes have no parents"),
    "TENSORBOARD.CONFUSION_MATRIX": (None, "it is always drawn"),
    "TENSORBOARD.HISTOGRAM": ((False,), "accuracies by class are drawn, but no histograms"),
    "TENSORBOARD.MODEL_VIS": ((False,), "weights and activations are not drawn"),
    "TENSORBOARD.WRONG_PRED_VIS": (None, "some clips are always drawn with their answers"),
}
SECTION_SWITCHES = ("ENABLE", "SHORT_CYCLE", "LONG_CYCLE")  # of a retired section, the keys that give it effect

# The image weights that UniFormerV2's release starts from unless its file names others, by BACKBONE
CLIP = {"uniformerv2_b16": "ViT-B-16", "uniformerv2_l14": "ViT-L-14", "uniformerv2_l14_336": "ViT-L-14-336px"}


def retired_note(key: str, value: Any, source: str) -> str | None:
    """The note on a released key that does nothing here, or None; an error if it asks for something."""
    parts = key.split(".")
    sections = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    name = next((section for section in sections if section in RETIRED), None)
    if name is None:
        return None
    harmless, sentence = RETIRED[name]
    in_effect = name == key or key.removeprefix(f"{name}.") in SECTION_SWITCHES
    if harmless is not None and in_effect and value not in harmless and value != harmless and value != list(harmless):
        raise UserError(f"{source}: {key}: {value} is not supported: {sentence}")
    return f"{key} ignored: {sentence}"


def apply_released_defaults(c: CfgNode, given: dict[str, Any]) -> str | None:
    """What the releases' programs do unasked, where `given` (what files and command line say, by key) does
    not say otherwise; the note on it, or None if these are no released files: such name MODEL.ARCH."""
    arch, source = given.get("MODEL.ARCH"), c.MODEL.INIT_FROM
    if arch == "uniformer":
        values = {"TEST.ADD_SOFTMAX": False, "MODEL.INIT_HEAD": "new"}
    elif arch == "uniformerv2":
        values = {"SOLVER.BACKBONE_LR_RATIO": 0.1, "MODEL.INIT_HEAD": "new"}
        if not source:
            values["MODEL.INIT_FROM"] = CLIP.get(c.UNIFORMERV2.BACKBONE, "")
        elif not given.get("UNIFORMERV2.DELETE_SPECIAL_HEAD"):
            from_k710 = os.path.basename(source).removeprefix("frozen_").startswith("k710_")
            mapped = from_k710 and c.MODEL.NUM_CLASSES in (400, 600, 700)
            values["MODEL.INIT_HEAD"] = f"map:k710_to_k{c.MODEL.NUM_CLASSES}" if mapped else "keep"
    else:
        return None
    values = {key: value for key, value in values.items() if key not in given}
    for key, value in values.items():
        section, leaf = key.split(".")
        c[section][leaf] = value
    filled = ", ".join(f"{key} {value}" for key, value in values.items())
    return f"MODEL.ARCH: {arch} is a released file's; what it leaves open is as there: {filled or 'nothing'}"
