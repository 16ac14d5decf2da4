"""How a file's category names differ from CLASSES, with a remedy for each case."""

import difflib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from detection.checks.records import CATEGORY, schema_error
from detection.utils.text import composed, folded, listed

SHOWN = 5  # names that a sentence lists
SHOWN_OF_LIST = 12  # where the list is the subject
CLOSE = 0.6  # difflib's ratio from which a name counts as another's new form


def compare_names(names: list[str], classes: list[str]) -> tuple[dict[str, str], list, list]:
    """
    Compare the names in a json with those in `classes`.

    Returns:
        {name in the json: the other name in `classes` that it seems to stand for}, the names that
        only `classes` has, and those that only the json has.
    """
    missing = [name for name in classes if name not in set(names)]
    extra = [name for name in names if name not in set(classes)]
    renamed = {}

    def pair(name: str, other: str) -> None:
        renamed[name] = other
        missing.remove(other)
        extra.remove(name)

    for name in extra.copy():  # first those that look the same
        twins = [other for other in missing if _folded(other) == _folded(name)]
        if len(twins) == 1:
            pair(name, twins[0])
    for name in extra.copy():
        if nearest := difflib.get_close_matches(name, missing, n=1, cutoff=CLOSE):
            pair(name, nearest[0])
        elif len(extra) == len(missing) == 1 and len(classes) > 1:
            pair(name, missing[0])  # all others are there: it can stand for nothing else
    return renamed, missing, extra


def spare_categories(
    categories: Sequence, used: Collection[int], classes: Collection[str]
) -> list[dict]:
    """
    The categories that are not classes, such as the root that Roboflow writes.

    No annotation uses them, and others name them as supercategory or have their name. A parent in
    `classes` is one, unless another category has its name.

    Args:
        categories: of a COCO file; malformed ones are ignored.
        used: ids that annotations have.
        classes: CLASSES.
    """
    sound = [c for c in categories if not schema_error(c, CATEGORY)]
    left = Counter(c["name"] for c in sound)
    used_names = {c["name"] for c in sound if c["id"] in used}
    children = children_of(sound)
    spare = []
    for category in sound:
        name = category["name"]
        if category["id"] in used:
            continue
        is_parent = any(child["id"] != category["id"] for child in children[name])
        is_repeated = left[name] > 1 and (is_parent or name in used_names)
        if is_repeated or (is_parent and name not in classes):
            spare.append(category)
            left[name] -= 1
    return spare if len(spare) < len(sound) else []


def children_of(categories: Sequence[dict]) -> dict[str, list[dict]]:
    """{name: the categories that name it as their supercategory}."""
    children = defaultdict(list)
    for category in categories:
        if isinstance(category.get("supercategory"), str):
            children[category["supercategory"]].append(category)
    return children


def alike_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, blanks or Unicode form."""
    first = {}
    for name in dict.fromkeys(names):
        first.setdefault(_folded(name), []).append(name)
    return [(same[0], other) for same in first.values() for other in same[1:]]


def only_spelling(name: str, other: str) -> str:
    """In what two names differ if they look alike: case, blanks or Unicode form; else empty."""
    if name == other or _folded(name) != _folded(other):
        return ""
    name, other = composed(name), composed(other)
    if name == other:
        return "in Unicode form (NFC, NFD), which no eye can see"
    if "".join(name.split()) == "".join(other.split()):
        return "in blanks"
    return "in upper and lower case or in width"


def describe_differences(names: list[str], classes: list[str], unused: set[str]) -> str:
    """
    One line that says what differs and what to do; empty for the same names in any order.

    Args:
        names: of the json's categories.
        classes: CLASSES.
        unused: names in the json that no annotation uses.
    """
    renamed, missing, extra = compare_names(names, classes)
    if len(extra) == len(names) and len(missing) == len(classes):
        return (
            f"none of its categories ({_list(names)}) is one of detection/classes.py "
            f"({_list(classes)}): is it another data set's file? If not, "
            "write its names into CLASSES"
        )
    parts = []
    for name, other in list(renamed.items())[:SHOWN]:
        spelling = only_spelling(name, other)
        how = f"they differ {spelling}" if spelling else "renamed, as it seems"
        parts.append(
            f"its category {name!r} is {other!r} in detection/classes.py ({how}): "
            "write it alike in both"
        )
    if missing:
        parts.append(
            f"it lacks {_list(missing)} of detection/classes.py: add the category to the json, "
            "or take the class out of CLASSES"
        )
    if superfluous := [name for name in extra if name in unused]:
        parts.append(
            f"its {_list(superfluous)} is not in detection/classes.py and no annotation uses it: "
            "take the category out of the json"
        )
    if used := [name for name in extra if name not in unused]:
        parts.append(
            f"its {_list(used)} is not in detection/classes.py: add the class at CLASSES' end, "
            "or take category and annotations out of the json"
        )
    return "; ".join(parts)


def describe_lists(recorded: Sequence[str], wanted: Sequence[str]) -> str:
    """
    The end of a sentence such as "the checkpoint's …": how the recorded classes differ from the
    project's; long lists are shown from where they differ.
    """
    pairs = enumerate(zip(recorded, wanted, strict=False))
    common = min(len(recorded), len(wanted))
    first = next((k for k, (one, other) in pairs if one != other), common)
    start = first if max(len(recorded), len(wanted)) > SHOWN_OF_LIST else 0
    renamed, _, _ = compare_names(list(recorded), list(wanted))
    spelling = next(filter(None, (only_spelling(*pair) for pair in renamed.items())), "")
    hint = f" (names differ {spelling})" if spelling else ""
    how = "in another order" if sorted(recorded) == sorted(wanted) else "others"
    return (
        f"{len(recorded)} classes are {how}: {list_names(recorded, start)}, where the project's "
        f"{len(wanted)} are {list_names(wanted, start)}{hint}"
    )


def list_names(names: Sequence[str], start: int = 0) -> str:
    """Names in quotes from position `start`, as many as a line has room for."""
    quoted = [repr(name[:60]) for name in names[start:]]
    return ("…, " if start else "") + listed(quoted, SHOWN_OF_LIST)


def _folded(name: str) -> str:
    return "".join(folded(unicodedata.normalize("NFKC", name)).split())


def _list(names: list[str]) -> str:
    return listed([repr(name[:60]) for name in names], SHOWN)
