"""The pages that tools/config_reference.py writes are as it would write them now."""

from conftest import ROOT, load_script

from slowfast_uniformer.config.compat import RENAMED, RETIRED
from slowfast_uniformer.config.keys import flatten, get_cfg

reference = load_script("tools/config_reference.py")
REMEDY = "run python tools/config_reference.py"


def test_the_page_of_keys_is_up_to_date():
    assert reference.page() == (ROOT / "docs/config.md").read_text(), REMEDY


def test_the_table_for_migration_is_up_to_date():
    text = (ROOT / "docs/migration.md").read_text()
    assert text.count(reference.MARK) == 1
    assert reference.guide(text) == text, REMEDY


def test_every_key_and_section_has_one_line_of_meaning():
    keys = [key for key, _ in flatten(get_cfg())]
    sections = {key.partition(".")[0] for key in keys if "." in key}
    assert sorted(reference.meanings()) == sorted([*keys, *sections])


def test_every_key_of_other_programs_has_its_row():
    rows = reference.table()
    for key in [*RENAMED, *RETIRED]:
        assert rows.count(f"`{key}`") + rows.count(f"`{key}.*`") == 1, key
