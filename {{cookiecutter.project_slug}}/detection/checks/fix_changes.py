"""Keeps count of what fixing a COCO file changes and removes, so that no data set is emptied."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from detection.checks.annotations import sound
from detection.checks.records import IMAGE, has_id

SMALL_SHARE = 0.05  # of a file's annotations or images, which may be removed without being asked
# what is there once more is not lost
REPEATED = "repeated_annotations"
STAYS_ELSEWHERE = {"repeated_images", "shared_images"}


class Removal(NamedTuple):
    """
    What is removed from a file: so many of its annotations and images.

    `emptied` are images that lose all their annotations or are removed themselves; `kinds` are
    {kind of problem: records removed because of it}.
    """

    annotations: int
    of_annotations: int
    images: int
    of_images: int
    emptied: int
    kinds: dict[str, int]

    @property
    def is_small(self) -> bool:
        """Whether it may be done unasked."""
        return (
            not self.emptied
            and self.annotations <= SMALL_SHARE * self.of_annotations
            and self.images <= SMALL_SHARE * self.of_images
        )

    @property
    def is_all(self) -> bool:
        """Whether no annotation would be left."""
        return 0 < self.of_annotations == self.annotations

    def joined(self, other: "Removal") -> "Removal":
        """This and another removal from the same file."""
        return self._replace(
            annotations=self.annotations + other.annotations,
            images=self.images + other.images,
            emptied=self.emptied + other.emptied,
            kinds=self.kinds | other.kinds,
        )

    def __str__(self) -> str:
        parts = [f"{self.annotations} of {self.of_annotations} annotations"]
        if self.images:
            parts.append(f"{self.images} of {self.of_images} images")
        return "removes " + " and ".join(parts)


@dataclass
class Changes:
    """
    What has been done to one file.

    Attributes:
        refused: kinds of problems whose records stay, though nothing else helps.
    """

    refused: Collection[str]
    _fixed: dict[str, dict[int, dict]] = field(default_factory=lambda: defaultdict(dict))
    # {kind: (annotations, images)}
    _removed: dict[str, tuple] = field(default_factory=lambda: defaultdict(lambda: ([], [])))

    def fix(self, kind: str, records: Iterable[dict]) -> None:
        """Note that these records had the problem `kind` and no longer have it."""
        self._fixed[kind] |= {id(record): record for record in records}

    def remove_annotations(self, coco: dict, kind: str, is_odd: Sequence[bool]) -> None:
        """Remove the odd ones, unless that is refused."""
        odd = [a for a, odd in zip(coco["annotations"], is_odd, strict=True) if odd]
        if odd and kind not in self.refused:
            self._remove(coco, kind, odd, [])

    def remove_images(self, coco: dict, kind: str, odd: list[dict]) -> None:
        """Remove images and their annotations, unless that is refused or no image would be left."""
        removed = set(map(id, odd))
        kept = [i for i in coco["images"] if id(i) not in removed]
        if odd and kept and kind not in self.refused:
            # an id that another record has too is still in use
            ids = {i["id"] for i in odd if has_id(i, "id")} - {i["id"] for i in sound(kept, IMAGE)}
            annotations = [a for a in coco["annotations"] if has_id(a, "image_id")]
            self._remove(coco, kind, [a for a in annotations if a["image_id"] in ids], odd)

    def _remove(self, coco: dict, kind: str, annotations: list, images: list) -> None:
        removed = set(map(id, annotations + images))
        for section, records in (("annotations", annotations), ("images", images)):
            coco[section] = [r for r in coco[section] if id(r) not in removed]
            self._removed[kind][section == "images"].extend(records)

    def counts(self) -> Counter:
        """Records by kind, each once; removed ones are not counted as fixed."""
        gone = {id(r) for lists in self._removed.values() for records in lists for r in records}
        counts = Counter({kind: len(fixed.keys() - gone) for kind, fixed in self._fixed.items()})
        counts.update({k: len(images or records) for k, (records, images) in self._removed.items()})
        return +counts

    def removal(self, before: dict, after: dict, only: str | None = None) -> Removal:
        """What has been removed from the parsed file, or only because of one kind of problem."""
        removed = {k: r for k, r in self._removed.items() if k != REPEATED and only in (None, k)}
        left = {a["image_id"] for a in after.get("annotations") or [] if has_id(a, "image_id")}
        images = [*after["images"], *(i for _, gone in self._removed.values() for i in gone)]
        listed = {i["id"] for i in images if has_id(i, "id")}
        lost = [a for k, (gone, _) in removed.items() if k not in STAYS_ELSEWHERE for a in gone]
        emptied = listed.intersection(a["image_id"] for a in lost if has_id(a, "image_id")) - left
        return Removal(
            sum(len(annotations) for annotations, _ in removed.values()),
            len(before.get("annotations") or []),
            sum(len(images) for _, images in removed.values()),
            len(before["images"]),
            len(emptied),
            {kind: len(images or annotations) for kind, (annotations, images) in removed.items()},
        )

    def too_large(self, before: dict, after: dict, drop: bool) -> dict[str, Removal]:
        """
        The kind of problem whose removal has to be refused next, and what it would remove.

        With `drop`, everything may be removed except the last annotation.
        """

        def is_too_large(removal: Removal) -> bool:
            return removal.is_all or not (drop or removal.is_small)

        whole = self.removal(before, after)
        if not is_too_large(whole):
            return {}
        of_kinds = {kind: self.removal(before, after, kind) for kind in whole.kinds}
        worst = {kind: r for kind, r in of_kinds.items() if is_too_large(r)} or of_kinds
        kind = max(worst, key=lambda kind: worst[kind].annotations + worst[kind].images)
        return {kind: worst[kind]}
