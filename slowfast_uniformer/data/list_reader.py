"""How a list is written: its separator, header line, quotes and index column, found by looking at all of its lines.

A list that has the usual form, fields counted from the end of the line and numbers after the path, is read so. Only
where some line does not have it, the other separators, a header line and csv's quotes are tried. What is found holds
for the whole list; a line that does not fit it is an error.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer.data.list_text import SPACES, split_lines, unquote
from slowfast_uniformer.errors import UserError

Lines = list[tuple[int, str]]  # number and text
Values = tuple[str, ...]  # of the columns, in their order
SEPARATORS = ("\t", ";", ",", " ", "|", "\xa0")
SEPARATOR_NAMES = {
    "\t": "a tab",
    ";": "a semicolon",
    ",": "a comma",
    " ": "a space",
    "|": "a vertical bar",
    "\xa0": "a no-break space",
}
# Names of columns in a header line. Of several that a list has, the first one here is taken.
HEADER_NAMES = {
    "path": "path video_path clip_path file_path filepath filename file_name file video video_file video_name clip "
    "clip_name vid name folder frame_folder frames_path frames_dir frame_dir".split(),
    "label": "label_id label_index label_idx class_id class_index class_idx category_id action_id target_id label "
    "labels class classes target targets category action cls y label_name class_name category_name action_name".split(),
    "frames": "frames num_frames n_frames nframes frame_count total_frames length".split(),
    "total": "total duration length".split(),
    "start": "start start_time time_start t_start begin".split(),
    "end": "end end_time time_end t_end stop".split(),
}
# Columns that a list with a header line may have besides: a segment in seconds, and the group of the video.
HEADER_NAMES["group"] = ["group"]
_ALL_NAMES = frozenset(name for names in HEADER_NAMES.values() for name in names)
# Columns of lists as data sets are distributed, and the name for which datasets/prepare.py reads them
_DISTRIBUTED = {("youtube_id", "time_start"): "k400", ("id", "scene", "actions"): "charades"}
_NUMBER = {"path": ".+", "frames": r"\s*[+-]?\d+\s*", "label": r"\s*[+-]?\d+\s*"}
_SECONDS = r"\s*[+-]?(?:\d+:){0,2}[\d.]+(?:[eE][+-]?\d+)?\s*"


def list_lines(text: str, exists: Callable[[str], bool]) -> tuple[Lines, str | None]:
    """The lines that hold something, and the separator that Excel's first line `sep=;` names.

    Lines of separators alone are empty rows of a spreadsheet. A line that begins with # is a comment, unless it is the
    path of a video (`exists`), or has no space after it and a label.
    """
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip(",;|\t ")]
    lines = [row for row in lines if row[1][0] != "#" or not _is_comment(row[1], exists)]
    if lines and (match := re.fullmatch(r"sep=(.)", lines[0][1])):
        return lines[1:], match[1]
    return lines, None


def _is_comment(line: str, exists: Callable[[str], bool]) -> bool:
    if re.fullmatch(r"#[^\s#].*[\s,;|](-?\d+|-)", line):
        return False
    return not exists(line) and not exists(re.sub(r"[\s,;|]+[\d,-]+$", "", line))


def separators_to_try(cfg: CfgNode, lines: Lines, columns: Sequence[str], named: str | None) -> list[str]:
    """DATA.PATH_LABEL_SEPARATOR; for auto all usual ones, and first the one that the first line has."""
    separator = cfg.DATA.PATH_LABEL_SEPARATOR
    if separator != "auto":
        words = {"tab": "\t", "space": " ", "comma": ",", "semicolon": ";"}
        if not separator:
            raise UserError("DATA.PATH_LABEL_SEPARATOR: is empty; set it to auto, or to the character between fields")
        return [words.get(separator.lower()) or re.sub(r"^\\+t$", "\t", separator)]  # shells leave \t two characters
    first = named or ("," if lines and not cfg.DATA.MULTI_LABEL and _has_commas(lines[0][1], len(columns)) else " ")
    return list(dict.fromkeys([first, *SEPARATORS]))


def _has_commas(line: str, columns: int) -> bool:
    """Whether commas separate the fields of a line: all fields but the path are numbers then."""
    path, *numbers = line.rsplit(",", columns - 1)
    if re.search(r"[;\t]\s*\d+$", path) and set(numbers) == {"0"}:  # "a.mp4;3,0"
        return False
    return len(numbers) == columns - 1 and all(re.fullmatch(r"\s*-?[\d.]+\s*", number) for number in numbers)


class Layout:
    """How the lines of a list are split into fields.

    Args:
        separator: Between fields.
        columns: Their names; the path comes first and the label last where no header says otherwise.
        is_label: Whether a text can be a label.
        multi_label: Whether a label is a list with commas.
        header: The columns of a header line by position (`find_header`).
    """

    def __init__(
        self,
        separator: str,
        columns: Sequence[str],
        is_label: Callable[[str], bool],
        multi_label: bool = False,
        header: Sequence[str] = (),
    ):
        self.separator, self.columns, self.is_label, self.header = separator, columns, is_label, header
        self._positions = [header.index(name) for name in columns] if header else []
        self.strict = multi_label and separator == ","  # commas outside quotes would be those of the label
        mark = re.escape(separator)
        patterns = {**{name: _SECONDS for name in columns}, **_NUMBER}
        if multi_label:
            between = "," if separator == " " else r"\s*,\s*"
            patterns["label"] = rf"\s*(?:-|[+-]?\d+(?:{between}[+-]?\d+)*)\s*"
        self._plain = re.compile(mark.join(f"({patterns[name]})" for name in columns), re.DOTALL)
        self._quoted = re.compile(
            mark.join([r'\s*("(?:[^"]|"")*"|[^"]+)\s*', *(f'\\s*"?({patterns[name]})"?\\s*' for name in columns[1:])]),
            re.DOTALL,
        )
        self._token = re.compile(rf'(\s*"(?:[^"]|"")*"\s*|.*?)({mark}|$)', re.DOTALL)
        self._numbers = {name: re.compile(patterns[name]) for name in columns[1:-1]}
        if "group" in self._numbers:
            self._numbers["group"] = re.compile(".*", re.DOTALL)
        if header and "total" not in columns:  # of the whole video: neither start nor end
            self._numbers |= {name: re.compile(rf"{_SECONDS}|\s*") for name in ("start", "end") if name in columns}

    def plain(self, line: str) -> Values | None:
        """The fields of a line of a path and numbers; None for another line. What is in quotes keeps them."""
        match = self._plain.fullmatch(line)
        return match.groups() if match else None

    def split(self, line: str) -> tuple[Values | None, bool]:
        """The fields of any line, and whether they can be what they are meant to be; None if there are too few."""
        if not self.header and not self.strict and (match := self._quoted.fullmatch(line)):
            return match.groups(), True
        if self.header and '"' not in line and len(parts := line.split(self.separator)) == len(self.header):
            return tuple(parts[at] for at in self._positions), True
        tokens = self._tokens(line)
        return self._by_header(line, tokens) if self.header else self._from_the_end(line, tokens)

    def _tokens(self, line: str) -> list[tuple[int, int]]:
        """First and last position of each part between separators that are not in quotes."""
        tokens, start = [], 0
        while True:
            match = self._token.match(line, start)
            if self.separator != " " or match[1]:  # several spaces are one separator
                tokens.append(match.span(1))
            if not match[2]:
                return tokens
            start = match.end()

    def _by_header(self, line: str, tokens: list[tuple[int, int]]) -> tuple[Values | None, bool]:
        """Fields of a line by the columns of the header. A path or a label may hold separators without quotes."""
        more = len(tokens) - len(self.header)
        while more > 0 and tokens[-1][0] == tokens[-1][1]:  # separators at the end of the line
            tokens, more = tokens[:-1], more - 1
        positions = self._positions
        if max(positions) >= len(tokens) or (more > 0 and self.strict):
            return None, False
        readings = []
        for wide in (positions[0], positions[-1]) if more > 0 else (None,):
            values = []
            for at in positions:
                first = at + more if wide is not None and at > wide else at
                last = first + more if at == wide else first
                values.append(line[tokens[first][0] : tokens[last][1]])
            readings.append((*values[:1], *map(unquote, values[1:])))
        good = [values for values in readings if self._fits(values)]
        return (good or readings)[0], len(good) == 1

    def _from_the_end(self, line: str, tokens: list[tuple[int, int]]) -> tuple[Values | None, bool]:
        """Fields of a line without a header: of several names that end it, the longest is the label's."""
        width = len(self.columns)
        while len(tokens) > width and tokens[-1][0] == tokens[-1][1]:
            tokens = tokens[:-1]
        has_index = len(tokens) == width + 1 and unquote(line[slice(*tokens[0])]).isdecimal()
        if len(tokens) < width or (self.strict and len(tokens) > width and not has_index):
            return None, False
        readings = []
        for words in range(1, 2 if self.strict else len(tokens) - width + 2):
            numbers = tokens[1 - width - words + 1 : -words] if width > 2 else ()
            path = line[tokens[0][0] : tokens[1 - width - words][1]]
            label = line[tokens[-words][0] : tokens[-1][1]]
            readings.append((path, *(unquote(line[slice(*span)]) for span in numbers), unquote(label)))
        good = [values for values in readings if self._fits(values)]
        return (good or readings[:1])[-1], bool(good)

    def _fits(self, values: Values) -> bool:
        numbers = zip(self._numbers.values(), values[1:-1], strict=True)
        return bool(values[0]) and self.is_label(values[-1]) and all(p.fullmatch(text) for p, text in numbers)


def all_columns(columns: Sequence[str], header: Sequence[str]) -> tuple[str, ...]:
    """The columns of a format, and those that a header line names besides: a segment's start and end, and the group."""
    segment = () if "total" in columns or not {"start", "end"} <= {*header} else ("start", "end")
    return (*columns[:-1], *segment, *(("group",) if "group" in header else ()), columns[-1])


def find_header(
    path: str, row: tuple[int, str], separators: Sequence[str], columns: Sequence[str], optional: Sequence[str] = ()
) -> tuple[str, list[str]] | None:
    """The separator of a list's header line and its columns by position, those of `columns` by these names.

    A header line names the path, and no part of it is a number or a file's name.

    Args:
        path: Of the list, for error messages.
        row: Number and text of the first line.
        separators: To try.
        columns: Those that have to be there.
        optional: Further columns that may be there, besides those of `all_columns`.

    Returns:
        None where the line is no header.

    Raises:
        UserError: It is the header of a data set's own lists, or one without all columns.
    """
    where = f"{path}, line {row[0]}"
    for separator in separators:
        names = [unquote(part).lower().lstrip("#").strip() for part in row[1].split(separator)]
        names = [re.sub(r"[\s-]+", "_", name) for name in names if separator != " " or name]
        for its_own, data_set in _DISTRIBUTED.items():
            if set(its_own) <= set(names):
                others = " (or k600, k700)" if data_set == "k400" else ""
                raise UserError(
                    f"{where}: these are the columns of a data set's own list ({', '.join(names)}). `python "
                    f"datasets/prepare.py {data_set} --annotations FOLDER --out LISTS --videos VIDEOS`{others} makes "
                    "lists of it; see datasets/DATASET.md. For other classes or names of files write lists with the "
                    "columns path,label"
                )
        wanted = dict.fromkeys((*columns, *optional, "start", "end", "group"))
        found = {column: _first_of(HEADER_NAMES[column], names) for column in wanted}
        if separator == " " and not set(names) <= _ALL_NAMES:  # it may be the path of a video
            continue
        if found["path"] is None or any(re.fullmatch(r"[\d.+-]+|.*[/\\].*|.*\.\w{2,4}", name) for name in names):
            continue
        if missing := [column for column in columns if found[column] is None]:
            raise UserError(
                f"{where}: a header line ({', '.join(names)}) without the column {' or '.join(missing)}; name the "
                f"columns {' '.join(columns)}"
            )
        by_name = {name: column for column, name in found.items()}
        return separator, [by_name.get(name, "") for name in names]
    return None


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def read_table(
    path: str,
    lines: Lines,
    separators: Sequence[str],
    columns: Sequence[str],
    is_label: Callable[[str], bool],
    multi_label: bool,
    exists: Callable[[str], bool],
) -> Iterator[tuple[int, str, Values | None, str, Sequence[str]]]:
    """The number, text and fields of each line, and the list's separator and columns. Fields are None where there are
    too few; a header line can name more columns than `columns` (`all_columns`).

    Args:
        path: Of the list, for error messages.
        lines: Of `list_lines`.
        separators: To try, that of the usual form first.
        columns: Names of the fields; the first is the path, the last the label.
        is_label: Whether a text can be a label: a number, or a class name.
        multi_label: Whether a label is a list with commas.
        exists: Whether there is a video of this path: what looks like quotes or an index can be a part of names.

    Raises:
        UserError: See `find_header`.
    """
    layout = Layout(separators[0], columns, is_label, multi_label)
    if len(lines) > 1 and is_unnamed_header(lines[0][1], separators, columns) and not exists("0"):
        lines = lines[1:]
    values = [layout.plain(line) for _, line in lines]
    if None in values:
        if header := find_header(path, lines[0], separators, columns):
            columns = all_columns(columns, header[1])
            lines, layout = lines[1:], Layout(header[0], columns, is_label, multi_label, header[1])
            values = [layout.split(line)[0] for _, line in lines]
        else:
            layouts = [layout, *(Layout(mark, columns, is_label, multi_label) for mark in separators[1:])]
            layout, values = _best_layout(lines, layouts)
    values = _without_index(values, layout.separator, exists)
    values = _without_quotes(values, exists)
    if not layout.header and lines:
        _check_no_more_columns(path, lines, values, layout, exists)
    for (number, line), fields in zip(lines, values, strict=True):
        yield number, line, fields, layout.separator, layout.columns


def is_unnamed_header(line: str, separators: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a line is the header that pandas writes for columns without names: their numbers."""
    names = [str(k) for k in range(len(columns))]
    return any(line.split(mark) in (names, ["", *names]) for mark in separators)


def _best_layout(lines: Lines, layouts: Sequence[Layout]) -> tuple[Layout, list[Values | None]]:
    """The layout that the most lines have, the first of several, and the fields of all lines in it.

    A sample says in which order to try them on all lines: with a million of them each takes a second or more. Where
    none fits a line, it is the one in which the most lines have all fields, for the message.
    """
    sample = lines[:: max(1, len(lines) // 500)]
    scores = {layout: _score([layout.split(line) for _, line in sample]) for layout in layouts}
    if max(scores.values()) > (0, 0) == (max(fits for fits, _ in scores.values()), 0):
        layouts = sorted(layouts, key=lambda layout: [*SEPARATORS, layout.separator].index(layout.separator))
    best, best_score, best_split = layouts[0], (-1, -1), []
    for layout in sorted(layouts, key=scores.__getitem__, reverse=True):
        split = [layout.split(line) for _, line in lines]
        if (score := _score(split)) > best_score:
            best, best_score, best_split = layout, score, split
        if score[0] == len(lines):
            break
    return best, [values for values, _ in best_split]


def _score(split: list[tuple[Values | None, bool]]) -> tuple[int, int]:
    return sum(fits for _, fits in split), sum(values is not None for values, _ in split)


def _without_index(values: list[Values | None], separator: str, exists: Callable[[str], bool]) -> list[Values | None]:
    """Without the index column that pandas writes before the path: different numbers, in order or before a video that
    is there. A path that is there with its number is left alone, and so are names such as "0 intro.mp4"."""
    pattern = re.compile(rf'("?)(\d+)\1\s*{re.escape(separator)}\s*(.+)', re.DOTALL)
    rows = [row for row in values if row]
    if not rows or not (first := pattern.fullmatch(rows[0][0])) or exists(rows[0][0]):
        return values
    matches = [pattern.fullmatch(row[0]) for row in rows]
    numbers = [int(match[2]) for match in matches if match]
    if len(set(numbers)) < len(rows):
        return values
    in_order = numbers in (list(range(len(rows))), list(range(1, len(rows) + 1)))
    if (separator == " " or len(rows) < 2 or not in_order) and not exists(unquote(first[3])):
        return values
    return [row and (pattern.fullmatch(row[0])[3], *row[1:]) for row in values]


def _without_quotes(values: list[Values | None], exists: Callable[[str], bool]) -> list[Values | None]:
    """Paths without csv's quotes, unless the first that is in quotes is there with them; and with slashes where the
    list was written on Windows."""
    quoted = next((row[0] for row in values if row and row[0][:1] == '"' and unquote(row[0]) != row[0]), None)
    if quoted is not None and not exists(quoted):
        values = [row and (unquote(row[0]), *row[1:]) for row in values]
    first = next((row[0].strip(SPACES) for row in values if row), "")
    if first[:1] == first[-1:] == "'" and not exists(first) and exists(first[1:-1]):
        values = [row and (row[0].strip(SPACES).removeprefix("'").removesuffix("'"), *row[1:]) for row in values]
    slashed = next((row[0] for row in values if row and "\\" in row[0]), None)
    if slashed is not None and not exists(slashed) and exists(slashed.replace("\\", "/")):
        values = [row and (row[0].replace("\\", "/"), *row[1:]) for row in values]
    return values


def _check_no_more_columns(
    path: str, lines: Lines, values: list[Values | None], layout: Layout, exists: Callable[[str], bool]
) -> None:
    """Refuse a list with more columns than a path and its label, whose order is not known: the first path is not
    there, but what is before the separator in it."""
    (number, line), fields = lines[0], values[0]
    if fields and layout.separator != " " and layout.separator in fields[0] and not exists(fields[0]):
        if exists(unquote(fields[0].split(layout.separator)[0])):
            raise UserError(
                f"{path}, line {number}: {len(layout.columns)} fields ({' '.join(layout.columns)}) are expected, found "
                f"{line!r}. Name the columns in a first line, such as {layout.separator.join(layout.columns)}"
            )
