"""Train and test from a config, with SlowFast's arguments; the same as `uniformer train`.

python tools/run_net.py --cfg configs/k400/uniformer_s.yaml [KEY VALUE ...]
"""

from functools import partial

from slowfast_uniformer.cli import train
from slowfast_uniformer.cli.common import finish

parse_args = partial(train.parse_args, prog="run_net.py")
main = partial(train.main, prog="run_net.py")

if __name__ == "__main__":
    finish(main)
