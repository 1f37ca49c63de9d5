"""Every config key, its default and its meaning (names and defaults of the UniFormer releases and SlowFast)."""

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

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


def flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("SECTION.KEY", value) of every leaf."""
    for key, value in node.items():
        if isinstance(value, dict) and prefix + key != "MODEL.ARGS":
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value
