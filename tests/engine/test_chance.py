"""Accuracy at chance is recognised, without false alarms."""

import numpy as np
import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.chance import MIN_STEPS, chance_note, log_chance_note, training_losses
from slowfast_uniformer.engine.scores import Outcome
from slowfast_uniformer.runs.files import append_json_lines
from slowfast_uniformer.runs.recorder import Recorder

NAMES = [f"name{k}" for k in range(8)]


def noted(truth, predicted, classes=8, names=NAMES, losses=(), groups=None):
    return chance_note(Outcome(np.asarray(truth), np.asarray(predicted), classes, groups=groups), names, losses)


def draws(videos, classes, accuracy, seed):
    """Labels, and predictions of which this share is right, the others drawn at random."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=videos)
    return truth, np.where(rng.random(videos) < accuracy, truth, rng.integers(classes, size=videos))


def test_random_predictions_are_at_chance():
    """The level of the test is 5 %: about so many evaluations at chance pass for better ones."""
    found = [noted(*draws(240, 8, 0.0, seed)) for seed in range(100)]
    assert 90 <= sum(map(bool, found)) <= 99
    assert all("no better than chance (12." in note or "no better than chance (13." in note for note in found if note)


@pytest.mark.parametrize("videos, classes, accuracy", [(240, 8, 0.2), (32, 8, 0.5), (1000, 400, 0.05), (100, 2, 0.5)])
def test_accuracy_above_chance_needs_no_note(videos, classes, accuracy):
    """A right share of `accuracy` before what is right by luck."""
    names = [str(k) for k in range(classes)]
    found = [noted(*draws(videos, classes, accuracy, seed), classes, names) for seed in range(30)]
    assert sum(map(bool, found)) <= 1


def test_few_videos_say_nothing():
    """Of 4 videos of two classes 2 right ones are chance or luck."""
    assert noted([0, 1, 0, 1], [0, 1, 1, 0], 2) == ""
    assert noted([3] * 30, [1] * 30) == "", "with a single class in the list chance is not defined"
    assert noted([0] * 9 + [1], [0] * 10) == "", "nine of ten is what a good model may get, too"


def test_one_class_for_all_videos():
    note = noted(np.arange(40) % 8, [3] * 40)
    assert "top-1 is 12.50 % of 40 videos, no better than chance (12.50 %), and all are predicted as name3." in note
    assert "docs/faq.md, 'Accuracy is 1/N'" in note
    unbalanced = noted([0] * 190 + [1] * 10, [0] * 200, 2)
    assert "top-1 is 95.00 % of 200 videos, no better than chance (95.00 %)" in unbalanced


@pytest.mark.parametrize(
    "losses, cause",
    [
        ([2.436, 2.566, 3.387, 2.112], "up to 3.39, above that of a guess (2.08): the learning rate is too high"),
        (
            [2.15, 2.09, 2.08, 2.08],
            "stayed near that of a guess (2.08). Likely causes: a learning rate that is too low",
        ),
        ([2.2, 1.9, 1.1, 0.6], "fell to 0.60, below that of a guess (2.08): the labels of this list"),
        ([], "Likely causes: wrong labels"),
        ([2.9, 1.2, 0.3, 0.06], "fell to 0.06, below that of a guess (2.08)"),
    ],
)
def test_the_training_loss_tells_causes_apart(losses, cause):
    """The first run was one of AdamW at a learning rate of 0.3, without clipping; a loss that has fallen counts more
    than what it was before."""
    assert cause in noted(np.arange(240) % 8, [3] * 240, losses=losses)


def test_losses_of_a_run_that_can_be_compared_with_those_of_a_guess(tmp_path):
    rows = [("train_iter", 9.0), ("train_epoch", 2.5), ("val_epoch", 8.0), ("train_epoch", None), ("train_epoch", 2.0)]
    append_json_lines(str(tmp_path / "metrics.jsonl"), *({"split": split, "loss": loss} for split, loss in rows))
    for overrides, losses in (
        ([], [2.5, 2.0]),
        (["SOLVER.FOCAL_GAMMA", 2.0], []),
        (["SOLVER.CLASS_WEIGHTS", "inverse"], []),
    ):
        assert training_losses(load_config(None, ["NUM_GPUS", 0, "OUTPUT_DIR", str(tmp_path), *overrides])) == losses


def test_losses_are_of_the_checkpoint_that_is_tested(tmp_path):
    out = tmp_path / "run"
    checkpoint, other = out / "checkpoints/best.pyth", tmp_path / "run/earlier/checkpoints/best.pyth"
    for path in (checkpoint, other):
        path.parent.mkdir(parents=True)
        path.touch()
    append_json_lines(str(out / "metrics.jsonl"), {"split": "train_epoch", "loss": 2.5}, {"loss": 1.0})
    cfg = load_config(None, ["NUM_GPUS", 0, "OUTPUT_DIR", str(out)])
    assert training_losses(cfg) == training_losses(cfg, str(checkpoint)) == [2.5]
    assert training_losses(cfg, str(other)) == training_losses(cfg, "k400/uniformer_s") == []


def test_a_note_of_a_run_waits_for_some_steps_and_its_faults_end_nothing(tmp_path, caplog):
    cfg, recorder = load_config(None, ["NUM_GPUS", 0, "OUTPUT_DIR", str(tmp_path)]), Recorder(str(tmp_path), False, 0)
    outcome = Outcome(np.arange(240) % 8, np.full(240, 3), 8)

    def logged(steps):
        return log_chance_note(recorder, "test", cfg, outcome, NAMES, steps)

    assert logged(MIN_STEPS - 1) == "" and not caplog.messages
    note = logged(MIN_STEPS)
    assert "no better than chance" in note and logged(None) == note, "of published weights the steps are not known"
    assert caplog.messages == [f"test: {note}"] * 2
    (tmp_path / "metrics.jsonl").write_text('{"split": "train_epoch"\n{"split": "train_epoch", "loss": 1}\n')
    assert logged(MIN_STEPS) == "" and "the note on chance cannot be written (UserError" in caplog.messages[-1]


def test_failed_videos_are_left_out_and_names_are_not_needed():
    note = noted([*(np.arange(40) % 8), 1, 2], [*[3] * 40, -1, -1], 8, None)
    assert "of 40 videos" in note and "all are predicted as class 3" in note
    assert noted([], []) == ""


@pytest.mark.parametrize("classes, videos", [(2, 40), (8, 48), (100, 2000)])
def test_labels_in_another_order(classes, videos):
    """Labels that are shifted by one against those of training: the accuracy is below chance, and the order shows."""
    truth, predicted = draws(videos, classes, 0.9, seed=1)
    note = noted(truth, (predicted + 1) % classes, classes, [f"name{k}" for k in range(classes)])
    share = 100 * np.mean(truth == predicted)
    assert f"but would be {share:.2f} % with the classes in another order: most videos of name0 as name1" in note
    assert (", of name2 as name3 and so on are predicted. This list" in note) == (classes > 3)


def test_two_mistaken_classes_are_no_other_order():
    """Two classes of eight that are always taken for each other may really look alike."""
    truth = np.arange(80) % 8
    assert noted(truth, np.where(truth < 2, 1 - truth, truth)) == ""


def test_other_orders_are_not_found_by_chance():
    """Among 8! orders of 24 random predictions some order fits many of them."""
    assert not any("another order" in noted(*draws(24, 8, 0.0, seed)) for seed in range(50))


def people(number, alike, seed):
    """Two classes, ten videos of each person, and of each person's predictions this share alike; labels alternate."""
    rng, groups = np.random.default_rng(seed), np.repeat(np.arange(number), 10)
    own = rng.integers(2, size=number)[groups]
    return groups % 2, np.where(rng.random(len(groups)) < alike, own, 1 - own), groups


def test_videos_of_few_persons_show_no_other_order():
    """Videos of a person are predicted alike: by luck the predictions of few persons look like another order."""
    found = [noted(*people(6, 0.95, seed)[:2], 2) for seed in range(200)]
    assert sum("another order" in note for note in found) >= 3, "if each video stood for itself"
    for seed in range(200):
        truth, predicted, groups = people(6, 0.95, seed)
        assert "another order" not in noted(truth, predicted, 2, groups=groups)
    truth, groups = np.arange(200) % 20 % 2, np.arange(200) % 20
    assert "another order" in noted(truth, 1 - truth, 2, groups=groups), "20 groups suffice"
    assert "another order" not in noted(truth, 1 - truth, 2, groups=groups % 19)


@pytest.mark.parametrize("right, found", [(0.75, False), (0.85, True)])
def test_another_order_of_few_classes_must_explain_most_videos(right, found):
    truth = np.arange(400) % 2
    predicted = np.where(np.arange(400) < 400 * right, 1 - truth, truth)
    assert ("this list most likely numbers the classes in another order" in noted(truth, predicted, 2).lower()) == found


def test_several_labels_have_no_top1():
    hot = np.zeros((30, 4), bool)
    assert noted(hot, hot, 4) == ""
