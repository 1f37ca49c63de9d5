"""docs/config.md and the table in docs/migration.md are what tools/config_reference.py generates."""

from conftest import ROOT, load_script

from slowfast_uniformer.config.compat import RENAMED, RETIRED
from slowfast_uniformer.config.keys import flatten, get_cfg

reference = load_script("tools/config_reference.py")
REMEDY = "run python tools/config_reference.py"


def assert_up_to_date(name, generated):
    text = (ROOT / f"docs/{name}.md").read_text()
    assert text.count(reference.MARK) == 1
    assert reference.updated(text, generated) == text, REMEDY


def test_the_page_of_keys_is_up_to_date():
    assert_up_to_date("config", reference.sections())


def test_the_migration_table_is_up_to_date():
    assert_up_to_date("migration", reference.table())


def test_every_key_and_section_has_one_line_of_meaning():
    keys = [key for key, _ in flatten(get_cfg())]
    sections = {key.partition(".")[0] for key in keys if "." in key}
    assert sorted(reference.meanings()) == sorted([*keys, *sections])


def test_every_key_of_other_programs_has_its_row():
    rows = reference.table()
    for key in [*RENAMED, *RETIRED]:
        assert rows.count(f"`{key}`") + rows.count(f"`{key}.*`") == 1, key


def test_what_keys_accept_and_which_recipes_set_them():
    assert reference.accepted("DATA.SAMPLER", "uniform") == "`uniform`, `balanced`, `sqrt`"
    assert reference.accepted("TRAIN.BATCH_SIZE", 64) == "integer from 1"
    assert reference.accepted("DATA.MEAN", [0.45] * 3) == "list of 3"
    setters = reference.setters()
    assert setters["DATA.IMAGE_TEMPLATE"].split(", ") == ["hmdb51", "sthv2"] and "TRACKER" not in setters
    assert setters["TRAIN.BATCH_SIZE"].endswith(" recipes")
