"""Every key, its default and its meaning; loading is merge, validate, infer, freeze.

Names and defaults are those of the UniFormer releases and SlowFast, so that their YAML files load here. Keys
that have no meaning here stand in `RETIRED` with the reason. After `load_config` nobody writes the config.
"""

import ast
import difflib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from slowfast_uniformer import trackers
from slowfast_uniformer.errors import UserError

CN = CfgNode


def get_cfg() -> CfgNode:
    """Return a new config that holds every key at its default."""
    c = CN()

    c.TRAIN = CN()  # training, its checkpoints, and what ends it
    c.TRAIN.ENABLE = True  # train (when False, only test)
    c.TRAIN.DATASET = "kinetics"  # how lists are read and frames chosen: a name in data/annotations.py
    c.TRAIN.BATCH_SIZE = 64  # videos per optimizer step on one machine, divided among its devices
    c.TRAIN.ACCUM_STEPS = 1  # work each batch off in so many parts; the batch and its LR stay what they are
    c.TRAIN.EVAL_PERIOD = 10  # validate every so many epochs, and after the last
    c.TRAIN.CHECKPOINT_PERIOD = 10  # write a checkpoint every so many epochs, and after the last
    c.TRAIN.CHECKPOINT_STEPS = 0  # also every so many optimizer steps; 0 is never
    c.TRAIN.CHECKPOINT_MINUTES = 0.0  # also when the last is so many minutes old; 0 is never
    c.TRAIN.KEEP_CHECKPOINTS = 3  # keep so many of them, besides the best; 0 keeps all
    c.TRAIN.AUTO_RESUME = True  # continue from the newest checkpoint in OUTPUT_DIR, if there is one
    c.TRAIN.CHECKPOINT_FILE_PATH = ""  # a run's checkpoint to continue in every respect (AUTO_RESUME wins)
    c.TRAIN.MIXED_PRECISION = "none"  # none, bf16 or fp16 (fp16 with a gradient scaler)
    c.TRAIN.MAX_BAD_STEPS = 20  # stop after so many steps in a row whose loss or gradient is not finite
    c.TRAIN.MAX_BAD_VIDEOS = 10  # tries to replace an unreadable video in training before giving up

    c.TEST = CN()  # the test after training, or alone; its data set and batch serve validation too
    c.TEST.ENABLE = True  # multi-view test, after training if there is any
    c.TEST.DATASET = "kinetics"  # as TRAIN.DATASET, for validation and test
    c.TEST.BATCH_SIZE = 8  # clips in one forward pass on one machine, divided among its devices
    c.TEST.CHECKPOINT_FILE_PATH = ""  # weights to test; "" is the last (or best) checkpoint of OUTPUT_DIR
    c.TEST.NUM_ENSEMBLE_VIEWS = 10  # clips taken along the time of each video
    c.TEST.NUM_SPATIAL_CROPS = 3  # crops of each clip: 1 (centre) or 3 (left, centre, right)
    c.TEST.ADD_SOFTMAX = True  # softmax (MULTI_LABEL: sigmoid) of each view before they are put together
    c.TEST.MIN_COVERAGE = 100.0  # a test that could read fewer of the videos (per cent) ends with an error
    c.TEST.TEST_BEST = False  # test the checkpoint of best validation accuracy instead of the last

    c.DATA = CN()  # lists, and what becomes of videos before augmentation
    c.DATA.PATH_TO_DATA_DIR = ""  # folder of the lists (train.csv, val.csv, test.csv, classes.txt)
    c.DATA.PATH_LABEL_SEPARATOR = "auto"  # between the fields of a list's line; auto: a comma or a space
    c.DATA.PATH_PREFIX = ""  # folder that the paths in the lists are relative to
    c.DATA.CLASS_NAMES = ""  # file of class names in label order; "" is classes.txt beside the lists, if any
    c.DATA.LABEL_PATH_TEMPLATE = "somesomev1_rgb_{}_split.txt"  # name of a list of frame folders ({}: split)
    c.DATA.IMAGE_TEMPLATE = "{:05d}.jpg"  # frame folders: file name of frame n, counted from 1
    c.DATA.MAX_BAD_FRACTION = 0.2  # stop training when more of the train list cannot be read
    c.DATA.DECODER = "pyav"  # pyav, or torchcodec if it is installed (docs/decoding.md)
    c.DATA.READ_TIMEOUT = 60.0  # seconds to open a video, or to read of it, before giving it up; 0: no limit
    c.DATA.NUM_FRAMES = 8  # frames of a clip
    c.DATA.SAMPLING_RATE = 8  # dense sampling: frames from one sampled frame to the next
    c.DATA.USE_OFFSET_SAMPLING = False  # dense sampling: whole-number starts, test views from end to end
    c.DATA.SAMPLE_BY_FPS = False  # dense sampling: stretch the window by the video's fps / TARGET_FPS
    c.DATA.TARGET_FPS = 30  # see SAMPLE_BY_FPS
    c.DATA.MEAN = [0.45, 0.45, 0.45]  # subtracted from each channel (of values 0 to 1)
    c.DATA.STD = [0.225, 0.225, 0.225]  # divides each channel
    c.DATA.REVERSE_INPUT_CHANNEL = False  # feed BGR instead of RGB
    c.DATA.TRAIN_CROP_SIZE = 224  # side of the square that training and validation see
    c.DATA.TEST_CROP_SIZE = 256  # the same in the multi-view test
    c.DATA.TRAIN_JITTER_SCALES = [256, 320]  # short side before a random crop, when the two below are empty
    c.DATA.TRAIN_JITTER_SCALES_RELATIVE = []  # random resized crop: smallest and largest part of the area
    c.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []  # random resized crop: smallest and largest aspect ratio
    c.DATA.RANDOM_FLIP = True  # flip half of the training clips left to right
    c.DATA.FLIP_LABELS = ""  # what flipping makes of the classes: "" nothing, auto (by name), or a JSON file
    c.DATA.MULTI_LABEL = False  # several labels a video ("path 3,17"): binary cross-entropy, sigmoid and mAP
    c.DATA.ENSEMBLE_METHOD = "sum"  # views of a video: sum or max

    c.AUG = CN()  # augmentation of training clips
    c.AUG.ENABLE = False  # the augmentations of this section
    c.AUG.NUM_SAMPLE = 1  # differently augmented clips of each decoded video
    c.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"  # RandAugment, AutoAugment or AugMix as timm writes it; "" is none
    c.AUG.INTERPOLATION = "bicubic"  # of AA_TYPE's geometric operations
    c.AUG.RE_PROB = 0.25  # probability of random erasing
    c.AUG.RE_MODE = "pixel"  # what is put in: pixel (noise), rand (a colour for each frame), const (zeros)
    c.AUG.RE_COUNT = 1  # largest number of erased boxes

    c.MIXUP = CN()  # mixing of training batches
    c.MIXUP.ENABLE = False  # mixup, cutmix and label smoothing on the batch
    c.MIXUP.ALPHA = 0.8  # of mixup's beta distribution; 0 is no mixup
    c.MIXUP.CUTMIX_ALPHA = 1.0  # of cutmix's beta distribution; 0 is no cutmix
    c.MIXUP.PROB = 1.0  # probability that a batch is mixed at all
    c.MIXUP.SWITCH_PROB = 0.5  # probability of cutmix where both are on
    c.MIXUP.LABEL_SMOOTH_VALUE = 0.1  # label smoothing

    c.BN = CN()  # batch norms
    c.BN.WEIGHT_DECAY = 0.0  # weight decay of batch norms' parameters

    c.SOLVER = CN()  # optimizer and learning rate
    c.SOLVER.OPTIMIZING_METHOD = "sgd"  # sgd, adam or adamw
    c.SOLVER.BASE_LR = 0.1  # learning rate after warm-up
    c.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False  # multiply the three learning rates by the number of machines
    c.SOLVER.LR_POLICY = "cosine"  # cosine or steps_with_relative_lrs
    c.SOLVER.COSINE_END_LR = 0.0  # learning rate at the end
    c.SOLVER.COSINE_AFTER_WARMUP = False  # the cosine starts where the warm-up ends, not at epoch 0
    c.SOLVER.STEPS = []  # steps policy: epochs at which an entry of LRS begins, the first of them 0
    c.SOLVER.LRS = []  # steps policy: factors of BASE_LR
    c.SOLVER.MAX_EPOCH = 300  # epochs
    c.SOLVER.WARMUP_EPOCHS = 0.0  # epochs of linear warm-up
    c.SOLVER.WARMUP_START_LR = 0.01  # learning rate where warm-up begins
    c.SOLVER.MOMENTUM = 0.9  # sgd
    c.SOLVER.DAMPENING = 0.0  # sgd
    c.SOLVER.NESTEROV = True  # sgd
    c.SOLVER.WEIGHT_DECAY = 1e-4  # of everything but batch norms (and see the next key)
    c.SOLVER.ZERO_WD_1D_PARAM = False  # no weight decay on one-dimensional parameters and biases
    c.SOLVER.LAYER_DECAY = 1.0  # learning-rate factor from one layer down to the one before it
    c.SOLVER.BACKBONE_LR_RATIO = 1.0  # learning-rate factor of UniFormerV2's image ViT; 0: it does not train
    c.SOLVER.SPECIAL_LIST = []  # parts of parameter names whose learning rate SPECIAL_RATIO multiplies
    c.SOLVER.SPECIAL_RATIO = 1.0  # see SPECIAL_LIST
    c.SOLVER.CLIP_GRADIENT = 20.0  # largest norm of the gradient; 0 is no limit

    c.MODEL = CN()  # which model, where its weights come from, how it is run
    c.MODEL.MODEL_NAME = "Uniformer"  # a name in the model registry
    c.MODEL.NUM_CLASSES = 400  # classes of the data set
    c.MODEL.INIT_FROM = ""  # weights to start from: a file, or its name in $SLOWFAST_UNIFORMER_WEIGHTS
    c.MODEL.INIT_HEAD = "keep"  # INIT_FROM's classifier: keep, map:FILE (rows to take of it), new, or probe
    c.MODEL.PROBE_EPOCHS = 2  # how often a probe, a new classifier fitted before training, sees each video
    c.MODEL.INIT_ALLOW = []  # names, as in "*.lmhra*", that INIT_FROM may lack or have besides
    c.MODEL.PARALLEL = "ddp"  # several GPUs: ddp (all have the whole model) or fsdp (each a part of it)
    c.MODEL.COMPILE = False  # compile the model's blocks by torch.compile
    c.MODEL.USE_CHECKPOINT = False  # recompute blocks in the backward pass to save memory
    c.MODEL.CHECKPOINT_NUM = [0, 0, 0, 0]  # how many blocks of each stage, from its first
    c.MODEL.CHECKPOINT_POLICY = "full"  # full, or selective: keep matrix products, recompute the rest
    c.MODEL.DW_CONV = "auto"  # depth-wise convolutions: conv3d, unrolled over time, or auto (by device)
    c.MODEL.LAYOUT = "auto"  # of volumes in memory: contiguous, channels_last, or auto (by device)
    c.MODEL.EMA_DECAY = 0.9999  # decay of the moving average of the weights
    c.MODEL.EMA_EPOCH = -1  # epoch at which the average begins; -1 is never. It is what is then tested
    c.MODEL.IMPORT = ""  # a Python module to import first, so that it registers your own models
    c.MODEL.ARGS = CN(new_allowed=True)  # free keys for your own models

    c.UNIFORMER = CN()  # sizes of UniFormer (V1) and the light models; the defaults are UniFormer-S's
    c.UNIFORMER.EMBED_DIM = [64, 128, 320, 512]  # channels of the four stages
    c.UNIFORMER.DEPTH = [3, 4, 8, 3]  # blocks of the four stages
    c.UNIFORMER.HEAD_DIM = 64  # channels of an attention head
    c.UNIFORMER.MLP_RATIO = 4.0  # hidden over outer channels of the MLPs (light models: one per stage)
    c.UNIFORMER.QKV_BIAS = True  # bias in the query, key and value projection
    c.UNIFORMER.QKV_SCALE = None  # attention scale; null is HEAD_DIM ** -0.5
    c.UNIFORMER.REPRESENTATION_SIZE = None  # width of a layer before the classifier; null is none
    c.UNIFORMER.DROPOUT_RATE = 0.0  # dropout in MLPs and after attention
    c.UNIFORMER.ATTENTION_DROPOUT_RATE = 0.0  # dropout of attention weights
    c.UNIFORMER.DROP_DEPTH_RATE = 0.1  # stochastic depth of the last block, rising from 0 in the first
    c.UNIFORMER.SPLIT = False  # stages 3 and 4 attend over time, then space, instead of both at once
    c.UNIFORMER.STD = False  # stages 2 to 4 embed with kernels that overlap in time
    c.UNIFORMER.PRUNE_RATIO = [[], [], [1] + [0.5] * 7, [0.5] * 3]  # light models: tokens kept, by block
    c.UNIFORMER.TRADE_OFF = [[], [], [1] + [0.5] * 7, [0.5] * 3]  # light models: weight of new token scores
    c.UNIFORMER.INIT_VALUE = 0.1  # Uniformer_light_ls_fp32: where layer scale starts

    c.UNIFORMERV2 = CN()  # sizes of UniFormerV2; the defaults are those of B/16
    c.UNIFORMERV2.BACKBONE = "uniformerv2_b16"  # uniformerv2_b16, _l14, _l14_336 (CLIP's), or vit: the next 5
    c.UNIFORMERV2.WIDTH = 768  # vit: channels
    c.UNIFORMERV2.LAYERS = 12  # vit: layers
    c.UNIFORMERV2.HEADS = 12  # vit: attention heads
    c.UNIFORMERV2.PATCH_SIZE = 16  # vit: side of a patch in pixels
    c.UNIFORMERV2.INPUT_RESOLUTION = 224  # vit: crop size that the position embedding is made for
    c.UNIFORMERV2.ACTIVATION = "auto"  # of the ViT: quick_gelu, gelu; auto is what INIT_FROM's weights need
    c.UNIFORMERV2.LAYER_SCALE = "auto"  # scale each branch of the ViT: True, False or auto
    c.UNIFORMERV2.LN_PRE = "auto"  # normalize before the ViT's first layer: True, False or auto
    c.UNIFORMERV2.NORM_EPS = "auto"  # of the ViT's layer norms: a number or auto
    c.UNIFORMERV2.TEMPORAL_DOWNSAMPLE = True  # embed three frames at a time, every second frame
    c.UNIFORMERV2.NO_LMHRA = False  # no local blocks
    c.UNIFORMERV2.DOUBLE_LMHRA = True  # a second local block in each layer, after attention
    c.UNIFORMERV2.DW_REDUCTION = 1.5  # channels over hidden channels of local blocks
    c.UNIFORMERV2.RETURN_LIST = [8, 9, 10, 11]  # layers (from 0) with a global block after them
    c.UNIFORMERV2.N_LAYERS = 4  # global blocks
    c.UNIFORMERV2.N_DIM = 768  # channels of global blocks, as many as the ViT's
    c.UNIFORMERV2.N_HEAD = 12  # attention heads of global blocks
    c.UNIFORMERV2.MLP_FACTOR = 4.0  # hidden over outer channels of global blocks' MLPs
    c.UNIFORMERV2.MLP_DROPOUT = [0.5, 0.5, 0.5, 0.5]  # dropout in each global block's MLP
    c.UNIFORMERV2.CLS_DROPOUT = 0.5  # dropout before the classifier
    c.UNIFORMERV2.BACKBONE_DROP_PATH_RATE = 0.0  # stochastic depth of the last layer, from 0 in the first
    c.UNIFORMERV2.DROP_PATH_RATE = 0.0  # the same of global blocks
    c.UNIFORMERV2.FUSION = "sequential"  # or parallel, hierarchical_kv, hierarchical_q (paper, section 3.3)
    c.UNIFORMERV2.FOLD_PROJECTIONS = True  # no keys and values in global attention; equal but for rounding
    c.UNIFORMERV2.FROZEN = False  # the image ViT does not train

    c.DATA_LOADER = CN()  # processes that read videos
    c.DATA_LOADER.NUM_WORKERS = 8  # loading processes of each device; 0 loads in the training process
    c.DATA_LOADER.TIMEOUT = 600  # seconds to wait for a batch before giving up; 0 waits for ever
    c.DATA_LOADER.PIN_MEMORY = True  # page-locked batches for faster copies to a GPU

    c.TENSORBOARD = CN()  # what TensorBoard is given
    c.TENSORBOARD.ENABLE = True  # write OUTPUT_DIR/tensorboard
    c.TENSORBOARD.PROJECTOR = False  # show features of up to 2,000 validation clips after the last epoch

    c.TRACKER = ""  # also send figures to wandb or mlflow, whose variables say where to; "" is neither
    c.NUM_GPUS = 1  # GPUs used on each machine; 0 is the CPU
    c.NUM_SHARDS = 1  # machines
    c.SHARD_ID = 0  # which of them this one is, from 0
    c.DIST_BACKEND = "nccl"  # of the process group on GPUs; the CPU always uses gloo
    c.DIST_TIMEOUT = 1800.0  # seconds to wait for other ranks, at the start and in every exchange
    c.RNG_SEED = 1  # every random draw of a run follows from it
    c.RECIPE = ""  # name of the released recipe that the values are those of (docs/recipes.md); "" is none
    c.OUTPUT_DIR = "./tmp"  # where the run's files go
    c.LOG_PERIOD = 10  # optimizer steps from one log line to the next
    return c


# Keys that take a value of another type than their default's: (key, types accepted besides)
_FREE_TYPES = {
    "UNIFORMER.MLP_RATIO": (int, float, list),
    "TRAIN.MIXED_PRECISION": (bool, str),
    "UNIFORMERV2.LAYER_SCALE": (bool, str),
    "UNIFORMERV2.LN_PRE": (bool, str),
    "UNIFORMERV2.NORM_EPS": (float, str),
}

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
_SECTION_SWITCHES = (
    "ENABLE",
    "SHORT_CYCLE",
    "LONG_CYCLE",
)  # of a retired section, the keys that give it effect

# The image weights that UniFormerV2's release starts from unless its file names others, by BACKBONE
CLIP = {"uniformerv2_b16": "ViT-B-16", "uniformerv2_l14": "ViT-L-14", "uniformerv2_l14_336": "ViT-L-14-336px"}


def flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("SECTION.KEY", value) of every leaf."""
    for key, value in node.items():
        if isinstance(value, dict) and prefix + key != "MODEL.ARGS":
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def _read_yaml(path: str) -> dict:
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such config file. Configs are in configs/<dataset>/<model>.yaml")
    try:
        content = CN.load_yaml_with_base(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else path
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except FileNotFoundError as error:
        raise UserError(f"{path}: its _BASE_ {error.filename} does not exist") from None
    except (AttributeError, TypeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config; expected sections such as TRAIN: with keys below them")
    return content


def _retired(key: str, value: Any, source: str) -> str | None:
    """The note on a released key that does nothing here, or None; an error if it asks for something."""
    parts = key.split(".")
    sections = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    name = next((section for section in sections if section in RETIRED), None)
    if name is None:
        return None
    harmless, sentence = RETIRED[name]
    in_effect = name == key or key.removeprefix(f"{name}.") in _SECTION_SWITCHES
    if (
        harmless is not None
        and in_effect
        and value not in harmless
        and value != harmless
        and value != list(harmless)
    ):
        raise UserError(f"{source}: {key}: {value} is not supported: {sentence}")
    return f"{key} ignored: {sentence}"


def _coerce(key: str, value: Any, default: Any, source: str) -> Any:
    """`value` in the type of the key's default, or an error that says what the key takes."""
    wanted = type(default)
    if default is None:
        return value
    if key in _FREE_TYPES and isinstance(value, _FREE_TYPES[key]):
        return value
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    try:
        if wanted is float and not isinstance(value, bool):
            return float(value)  # also "1e-4", which YAML reads as a string
        if wanted is int and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    if wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    takes = {bool: "True or False", int: "a whole number", float: "a number", str: "text", list: "a list"}[
        wanted
    ]
    raise UserError(f"{source}: {key}: {value!r} does not fit; it takes {takes} (default {default!r})")


def _merge(cfg: CfgNode, given: dict, source: str, notes: list[str]) -> None:
    known = dict(flatten(cfg))
    for key, value in flatten(given):
        key = RENAMED.get(key, key)
        if key == "MODEL.ARGS" or key.startswith("MODEL.ARGS."):
            cfg.MODEL.ARGS.update(value if isinstance(value, dict) else {key.split(".", 2)[2]: value})
            continue
        if key not in known:
            note = _retired(key, value, source)
            if note is None:
                close = difflib.get_close_matches(key, [*known, *RETIRED], n=1, cutoff=0.0)[0]
                raise UserError(f"{source}: unknown key {key}; the nearest known one is {close}")
            if note not in notes:
                notes.append(note)
            continue
        *path, leaf = key.split(".")
        node = cfg
        for name in path:
            node = node[name]
        if key == "MODEL.INIT_FROM" and value is None:
            value = ""
        node[leaf] = _coerce(key, value, known[key], source)


def _decode(text: Any) -> Any:
    """A command-line value as Python reads it, or the text itself."""
    if not isinstance(text, str):
        return text
    literal = {"true": True, "false": False, "null": None}.get(text, text)
    try:
        return ast.literal_eval(literal) if isinstance(literal, str) else literal
    except (ValueError, SyntaxError):
        return text


def _nest(pairs: Sequence[Any]) -> dict:
    if len(pairs) % 2:
        raise UserError(f"command line: {pairs[-1]!r} has no value; overrides are KEY VALUE pairs")
    nested, defaults = {}, dict(flatten(get_cfg()))
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        *path, leaf = str(key).split(".")
        node = nested
        for name in path:
            node = node.setdefault(name, {})
        decoded = _decode(value)
        is_name = type(decoded) in (int, float) and isinstance(defaults.get(key), str)  # 2022_01 is no number
        node[leaf] = value if is_name else decoded
    return nested


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


def _fill_in_as_released(c: CfgNode, given: dict[str, Any]) -> str | None:
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


def _infer(c: CfgNode) -> None:
    """Derive what follows from other keys."""
    amp = {True: "fp16", False: "none"}.get(c.TRAIN.MIXED_PRECISION, c.TRAIN.MIXED_PRECISION)
    c.TRAIN.MIXED_PRECISION = str(amp).lower()
    if c.NUM_GPUS == 0:
        c.DIST_BACKEND = "gloo"
    eps = c.UNIFORMERV2.NORM_EPS
    if eps != "auto":  # YAML reads 1e-6 as text
        c.UNIFORMERV2.NORM_EPS = _coerce("UNIFORMERV2.NORM_EPS as a number", eps, 1e-5, "config")


def _validate(c: CfgNode, runs_here: bool) -> None:
    """Refuse values that cannot work, by key, before anything is started."""
    gpus = torch.cuda.device_count()
    _check(
        c.NUM_GPUS >= 0 and (c.NUM_GPUS <= gpus or not runs_here),
        f"NUM_GPUS: {c.NUM_GPUS}, but this machine has {gpus} usable GPU(s). Set NUM_GPUS {gpus}"
        + (" (0 runs on the CPU)" if gpus == 0 else ""),
    )
    for key in ("TRAIN.BATCH_SIZE", "TEST.BATCH_SIZE"):
        size, devices = dict(flatten(c))[key], max(c.NUM_GPUS, 1)
        _check(
            size >= 1 and size % devices == 0, f"{key}: {size} cannot be divided among {devices} device(s)"
        )
    choices = {
        "TRAIN.MIXED_PRECISION": ("none", "bf16", "fp16"),
        "MODEL.PARALLEL": ("ddp", "fsdp"),
        "DATA.ENSEMBLE_METHOD": ("sum", "max"),
        "DATA.DECODER": ("pyav", "torchcodec"),
        "SOLVER.LR_POLICY": ("cosine", "steps_with_relative_lrs"),
        "SOLVER.OPTIMIZING_METHOD": ("sgd", "adam", "adamw"),
        "AUG.RE_MODE": ("pixel", "rand", "const"),
        "MODEL.CHECKPOINT_POLICY": ("full", "selective"),
        "MODEL.DW_CONV": ("auto", "conv3d", "unrolled"),
        "MODEL.LAYOUT": ("auto", "contiguous", "channels_last"),
        "UNIFORMERV2.ACTIVATION": ("auto", "quick_gelu", "gelu"),
        "UNIFORMERV2.LAYER_SCALE": ("auto", True, False),
        "UNIFORMERV2.LN_PRE": ("auto", True, False),
        "TEST.NUM_SPATIAL_CROPS": (1, 3),
        "TRACKER": ("", *trackers.TRACKERS),
    }
    values = dict(flatten(c))
    for key, allowed in choices.items():
        _check(
            values[key] in allowed, f"{key}: {values[key]!r} is not one of {', '.join(map(repr, allowed))}"
        )
    _check(
        not (runs_here and trackers.missing(c.TRACKER)),
        f"TRACKER: {c.TRACKER} is not installed: pip install 'slowfast_uniformer[{c.TRACKER}]'",
    )
    positive = (
        "TRAIN.ACCUM_STEPS TRAIN.EVAL_PERIOD TRAIN.CHECKPOINT_PERIOD TRAIN.MAX_BAD_STEPS "
        "TRAIN.MAX_BAD_VIDEOS TEST.NUM_ENSEMBLE_VIEWS "
        "DATA.NUM_FRAMES DATA.SAMPLING_RATE DATA.TRAIN_CROP_SIZE DATA.TEST_CROP_SIZE "
        "AUG.NUM_SAMPLE SOLVER.MAX_EPOCH MODEL.NUM_CLASSES MODEL.PROBE_EPOCHS NUM_SHARDS LOG_PERIOD"
    )
    for key in positive.split():
        _check(values[key] >= 1, f"{key}: {values[key]} must be 1 or more")
    _check(0 <= c.SHARD_ID < c.NUM_SHARDS, f"SHARD_ID: {c.SHARD_ID} must be from 0 to NUM_SHARDS - 1")
    for key in (
        "DATA.READ_TIMEOUT DATA_LOADER.NUM_WORKERS TRAIN.CHECKPOINT_STEPS TRAIN.CHECKPOINT_MINUTES "
        "TRAIN.KEEP_CHECKPOINTS"
    ).split():
        _check(values[key] >= 0, f"{key}: {values[key]} must be 0 or more")
    _check(c.DIST_TIMEOUT > 0, f"DIST_TIMEOUT: {c.DIST_TIMEOUT} must be above 0")
    _check(
        c.MODEL.INIT_HEAD in ("keep", "new", "probe") or c.MODEL.INIT_HEAD.startswith("map:"),
        f"MODEL.INIT_HEAD: {c.MODEL.INIT_HEAD!r} is not keep, new, probe or map:FILE",
    )
    _check(
        c.MODEL.INIT_HEAD != "probe" or c.MODEL.INIT_FROM,
        "MODEL.INIT_HEAD: probe fits a classifier to what weights say of the videos; set MODEL.INIT_FROM",
    )
    same = len(c.SOLVER.STEPS) == len(c.SOLVER.LRS) > 0 and c.SOLVER.STEPS[0] == 0
    _check(
        c.SOLVER.LR_POLICY == "cosine" or same,
        "SOLVER.STEPS and SOLVER.LRS must be equally long, and STEPS begin with 0, for this SOLVER.LR_POLICY",
    )
    _check(
        not (c.DATA.MULTI_LABEL and c.MIXUP.ENABLE),
        "MIXUP.ENABLE: mixup and label smoothing are for one label a video; not with DATA.MULTI_LABEL",
    )
    _check(
        not (c.DATA.MULTI_LABEL and c.DATA.PATH_LABEL_SEPARATOR == ","),
        "DATA.PATH_LABEL_SEPARATOR: with DATA.MULTI_LABEL ',' stands between labels; take another",
    )
    _check(
        c.DATA.RANDOM_FLIP or not c.DATA.FLIP_LABELS,
        "DATA.FLIP_LABELS says what flipping does to labels, but DATA.RANDOM_FLIP is False: set it True",
    )
    relative = (bool(c.DATA.TRAIN_JITTER_SCALES_RELATIVE), bool(c.DATA.TRAIN_JITTER_ASPECT_RELATIVE))
    _check(
        relative[0] == relative[1],
        "DATA.TRAIN_JITTER_SCALES_RELATIVE and DATA.TRAIN_JITTER_ASPECT_RELATIVE: set both or neither",
    )


def _departures(recipe: CfgNode, cfg: CfgNode) -> Iterator[str]:
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


def load_config(
    path: str | dict | Sequence[str | dict] | None, overrides: Sequence[Any] = (),
    notes: list[str] | None = None, runs_here: bool = True,
) -> CfgNode:  # fmt: skip
    """Read, merge, validate, infer and freeze a config.

    `path` is a YAML file or several, later ones winning, or what `to_plain` has made of a config; `overrides`
    is a flat KEY, VALUE, ... list that wins over all. Sentences on released keys that have no meaning here,
    and on what makes a run another than the RECIPE it names, are appended to `notes`. Unless it `runs_here`,
    the config may ask for GPUs this machine lacks. Raises UserError, naming file and key, for a missing file,
    an unknown key or a value that does not fit.
    """
    cfg, notes = get_cfg(), [] if notes is None else notes
    recipe, given = None, {}
    for file in [path] if isinstance(path, str | dict) else path or []:
        stored = isinstance(file, dict)
        content = file if stored else _read_yaml(file)
        _merge(cfg, content, "stored config" if stored else file, notes)
        given |= flatten(content)
        recipe = recipe or cfg.clone()
    nested = _nest(list(overrides))
    _merge(cfg, nested, "command line", notes)
    given |= flatten(nested)
    if note := _fill_in_as_released(cfg, given):
        notes.append(note)
    _infer(cfg)
    _validate(cfg, runs_here)
    solver = cfg.SOLVER
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        notes.append(
            f"SOLVER.WARMUP_EPOCHS: {solver.WARMUP_EPOCHS:g} of SOLVER.MAX_EPOCH {solver.MAX_EPOCH}, so that "
            "the learning rate is still rising when the run ends and does not reach SOLVER.BASE_LR"
        )
    if recipe and cfg.RECIPE:
        notes.extend(_departures(recipe, cfg))
    cfg.freeze()
    return cfg


def files_and_overrides(cfg: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take apart what a command was given: of the words after --cfg, the YAML files and, with `opts`, the KEY
    VALUE pairs that follow them."""
    files = [cfg[0], *itertools.takewhile(lambda text: text.endswith((".yaml", ".yml")), cfg[1:])]
    return files, [*cfg[len(files) :], *opts]


def difference(cfg: CfgNode) -> dict[str, Any]:
    """The keys whose value is not the default, with their values."""
    defaults = dict(flatten(get_cfg()))
    return {key: value for key, value in flatten(cfg) if defaults.get(key) != value}


def to_plain(cfg: CfgNode) -> dict:
    """The config as nested dicts, as a checkpoint carries it."""
    return {key: to_plain(value) if isinstance(value, dict) else value for key, value in cfg.items()}
