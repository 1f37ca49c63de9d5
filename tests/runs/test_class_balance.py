"""class_balance.csv, and the table of it in the log."""

import pytest

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.class_balance import (
    ClassBalance,
    read_class_balance,
    remove_class_balance,
    table_lines,
    write_class_balance,
)

ROWS = [ClassBalance(0, 'left, "quoted"', 200, 69.375, 0.3469), ClassBalance(1, "右", 0, 0.0, 0.0)]


def test_what_is_written_is_read(tmp_path):
    assert read_class_balance(str(tmp_path)) == []
    write_class_balance(str(tmp_path), ROWS)
    assert read_class_balance(str(tmp_path)) == [ROWS[0]._replace(draws=69.38), ROWS[1]]
    remove_class_balance(str(tmp_path))
    remove_class_balance(str(tmp_path))
    assert read_class_balance(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,name\n", "line 1: expected the columns label, name, videos, draws, weight"),
        ("label,name,videos,draws,weight\n0,a,1,1.0,1\n1,b,x,1.0,1\n", "line 3: invalid literal"),
        ("label,name,videos,draws,weight\n0,a\n", "line 2: not enough values"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_line(tmp_path, text, message):
    (tmp_path / "class_balance.csv").write_text(text)
    with pytest.raises(UserError, match=f"class_balance.csv, {message}.*Remove the file"):
        read_class_balance(str(tmp_path))


def test_a_table_is_of_few_lines_for_many_classes():
    assert [line.split() for line in table_lines(ROWS[::-1])] == [
        ["videos", "draws", "weight", "class"],
        ["0", "0.0", "0", "右"],
        ["200", "69.4", "0.347", "left,", '"quoted"'],
    ]
    many = [ClassBalance(label, f"class {label}", 1000 - label, 500.0, 1.0) for label in range(400)]
    lines = list(table_lines(many))
    assert len(lines) == 22 and lines[1].endswith("class 399") and lines[-1].endswith("class 0")
    assert lines[11].split() == ["...", "380", "more", "in", "class_balance.csv"]
