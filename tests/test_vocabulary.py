"""Code, pages and messages use the field's terms, not the words that earlier versions had for them.

Many of those words have other meanings, too: a pattern finds the former meaning only. Keys of files that must stay
readable, such as `"arithmetic"` in checkpoints, stand in quotes and are left out.
"""

import re

import pytest
from conftest import ROOT

PLACES = ("slowfast_uniformer", "tools", "datasets", "configs", "docs")
ENDINGS = {".py", ".yaml", ".html", ".css", ".js", ".sbatch", ".md", ".ipynb"}
# what finds a word, what to write instead, a sentence with it
WORDS = [
    (
        r"inner values|\brecompute (key|flag)|(?:layers|blocks) are recomputed",
        "activation checkpointing",
        "blocks are recomputed.",
    ),
    (
        r"\bwork(?:s|ed|ing)? (?!on\b)(?:\w+ ){0,3}off\b",
        "gradient accumulation, or process",
        "works the batch off in parts",
    ),
    (
        r"\b(?:plain|fast|straightforward) forms?\b|\bforms?\.plain\b|\bForms\b|\bformed\b",
        "implementations, reference implementation",
        "equal to the plain form",
    ),
    (r"\blay_out\b|\blay(?:s|ing)? (?:tensors?|weights|gradients|clips) out\b", "to_memory_format", "lays tensors out"),
    (r"\bby parts\b|\bPART\b", "chunked, chunk size", "an MLP by parts"),
    (r"\bfolding\b|fold_into|\bfold(?:s|ed)? (?:the )?(?:batch )?norms?\b", "fusing batch norm", "folding batch norm"),
    (r"\baccounts? (?:of|for) (?:the |all )?(?:weights|tensors)", "load summary", "an account of the weights"),
    (r"\bdialects?\b", "checkpoint format", "the dialect of a file"),
    (r"(?<![\"'`])\barithmetics?\b(?![\"'`])", "ViT variant", "the arithmetic of the ViT"),
    (
        r"\bwho_?am_?i\b|\bwho am I\b|\bwishes\b|\bdoing\(",
        "rank discovery, set_status, all-reduced flags",
        "doing('validation')",
    ),
    (r"\bwhole\(|\bown_part\b|\bpart_like\b", "full_tensor, local_shard, shard_like", "own_part(tensor)"),
    (
        r"\b(?:state|run|self)\.(?:shell|seen|closed)\b|\bshared? out\b",
        "unsharded eval model, samples_seen, epochs_validated, reshard",
        "state.seen += 1",
    ),
    (r"\bloading process(?:es)?\b|\bin[ _]hand\b", "DataLoader worker, current file", "a loading process died"),
    (r"\b(?:un)?answered\b|\btold\b(?! apart)", "predicted, failed, per-class accuracy", "240 videos, all answered"),
    (
        r"\bfarthest\b|\bpass(?:ed|es|ing) over\b|\bpass over (?:errors|files|videos|frames|packets|lines)",
        "latest, skipped",
        "two files were passed over",
    ),
    (r"\brivals?\b|\b(?:take|takes|took|taking) turns\b", "interleaved baselines", "rivals take turns"),
    (r"\bmend(?:s|ed|ing)?\b", "fixed", "a fault was mended"),
    (
        r"\b(?:mirror|film|maps|survey|small|trained)\.py\b|\b(?:inference|data|analysis|config)\.(?:mirror|film|maps|survey|small|trained)\b|\bfilms?\b",
        "flip_labels, video_writer, saliency, video_scan, smoke, predictor",
        "see data/mirror.py",
    ),
    (r"\bknows? (?:the |its |\d+ |other |all )*classes\b", "has N classes", "it knows 400 classes"),
    (
        r"(?:checkpoint|weights?|tensors?|shapes?|classifier|optimizer)\b[^.,;|]{0,30}\b(?:does|do) not fit\b"
        r"|\bnot fit (?:the|this) (?:config|model)\b",
        "shape mismatch, does not match",
        "its optimizer does not fit",
    ),
    (r"\bnothing is left\b", "training is complete", "nothing is left to train"),
]
FINE = """Frames cannot be told apart. Blocks recompute their activations. tests/ is laid out as the package.
Mirrored videos are turned. The checkpoint's key "arithmetic". Cross-validation over five folds. The shell waits.
Videos seen. DOES NOT FIT the GPU's memory. One pass over the list. Put data in parts. A form is posted. Saliency maps.
A plain value. The whole model trains. A page lays them out."""


def unbroken(text: str) -> str:
    """A text on one line: sentences go on over line ends and the marks of comments."""
    return re.sub(r"\s*\n\s*#?\s*", " ", text)


@pytest.mark.parametrize("pattern, instead, example", WORDS, ids=[row[1].split(",")[0] for row in WORDS])
def test_former_words_are_found_and_others_are_not(pattern, instead, example):
    assert re.search(pattern, example)
    assert not re.search(pattern, unbroken(FINE))


def test_code_pages_and_messages_use_the_terms_of_the_field():
    files = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.suffix in ENDINGS]
    files = [path for path in files if "_build" not in path.parts] + [*ROOT.glob("*.md"), ROOT / "setup.py"]
    assert len(files) > 300
    found = []
    for path in files:
        text = unbroken(path.read_text(encoding="utf-8"))
        for pattern, instead, _ in WORDS:
            for match in re.finditer(pattern, text):
                around = text[max(0, match.start() - 30) : match.end() + 30]
                found.append(f"{path.relative_to(ROOT)}: ...{around}...: write {instead}")
    assert not found, "\n".join(found)
