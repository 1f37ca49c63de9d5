"""Damaged files of a run's folder: name, content, and what the error says."""

from slowfast_uniformer.runs.predictions import COLUMNS

HEAD = ",".join(COLUMNS) + "\n"
DAMAGED = [
    ("metrics.jsonl", "{\n{}\n", "metrics.jsonl, line 1: not valid JSON"),
    ("metrics.jsonl", '[1]\n{"step": 1, "split": "a"}\n', "metrics.jsonl, line 1: not a JSON object"),
    ("metrics.jsonl", '{"split": "val_epoch"}\n', "metrics.jsonl, line 1: no step or no split in this row"),
    ("starts.jsonl", "{\n{}\n", "starts.jsonl, line 1: not valid JSON"),
    ("config.yaml", "a: [\n", "config.yaml, line 2: not valid YAML"),
    ("config.yaml", "only text", "config.yaml: not a config"),
    ("class_balance.csv", "a,b\n", "class_balance.csv, line 1: expected the columns label"),
    ("predictions.csv", "", "predictions.csv, line 1: expected the columns video"),
    ("predictions.csv", HEAD + "a,0\n", "predictions.csv, line 2: 2 fields"),
    ("predictions.csv", HEAD + "a,x,n,0,n,1,0.5\n", "line 2: 'x' is no label"),
    ("predictions.csv", HEAD + "a,0,n,0,n,1,nan\n", "line 2: 'nan' is no probability"),
    ("class_scores.csv", "label,name\n", "class_scores.csv, line 1: expected the columns label, name, videos"),
    ("class_scores.csv", "label,name,videos,f1\n0,a,3,x\n", "class_scores.csv, line 2: could not convert"),
    ("predictions.csv", b"\xff\xfe", "predictions.csv: cannot be read"),
]
