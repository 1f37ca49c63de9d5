"""Options of tiny models of several families, for the tiny configs of conftest.py."""

V2 = {
    "MODEL.MODEL_NAME": "Uniformerv2",
    "UNIFORMERV2.BACKBONE": "vit",
    "UNIFORMERV2.WIDTH": 32,
    "UNIFORMERV2.LAYERS": 4,
    "UNIFORMERV2.HEADS": 4,
    "UNIFORMERV2.PATCH_SIZE": 8,
    "UNIFORMERV2.N_DIM": 32,
    "UNIFORMERV2.INPUT_RESOLUTION": 32,
    "UNIFORMERV2.N_HEAD": 4,
    "UNIFORMERV2.RETURN_LIST": [0, 1, 2, 3],
    "SOLVER.OPTIMIZING_METHOD": "sgd",
    "SOLVER.MOMENTUM": 0.0,
    "SOLVER.NESTEROV": False,
    "SOLVER.CLIP_GRADIENT": 0.0,
    "SOLVER.WEIGHT_DECAY": 0.0,
    "SOLVER.BASE_LR": 0.1,
}
LIGHT = {
    "MODEL.MODEL_NAME": "Uniformer_light",
    "UNIFORMER.PRUNE_RATIO": "[[],[],[1],[0.5]]",
    "UNIFORMER.TRADE_OFF": "[[],[],[1],[0.5]]",
}
PTV = {"MODEL.MODEL_NAME": "PTVSlow", "MODEL.ARGS.STEM_DIM_OUT": 8, "DATA.NUM_FRAMES": 4}
