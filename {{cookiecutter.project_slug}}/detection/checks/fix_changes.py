"""Keeps count of what fixing a COCO json changes and takes out, so that no data set is emptied."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from detection.checks.annotations import IMAGE, complaint, has_id

SMALL_SHARE = 0.05  # of a file's annotations or images, which may go without being asked for
# an image that is there once more is not lost
STAYS_ELSEWHERE = {"repeated_images", "shared_images"}


class Removal(NamedTuple):
    """
    What goes from a file: so many of its annotations and images.

    `emptied` are images that lose all their annotations or go themselves.
    """

    annotations: int
    of_annotations: int
    images: int
    of_images: int
    emptied: int

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
        may_remove: whether records that nothing can be done with are taken out.
    """

    may_remove: bool
    _fixed: dict[str, dict[int, dict]] = field(default_factory=lambda: defaultdict(dict))
    _removed: Counter = field(default_factory=Counter)
    _gone: dict[int, dict] = field(default_factory=dict)
    _annotations: int = 0
    _images: int = 0
    _lost_from: set[int] = field(default_factory=set)

    def fix(self, kind: str, records: Iterable[dict]) -> None:
        """Note that these records had the oddity `kind`, and have it no more."""
        self._fixed[kind] |= {id(record): record for record in records}

    def remove_annotations(self, coco: dict, kind: str, is_odd: Sequence[bool]) -> None:
        """Take out the odd ones, if that is allowed; repeated ones always are."""
        is_loss = kind != "repeated_annotations"
        if is_loss and not self.may_remove:
            return
        pairs = list(zip(coco["annotations"], is_odd, strict=True))
        odd = [a for a, odd in pairs if odd]
        coco["annotations"] = [a for a, odd in pairs if not odd]
        self._removed[kind] += len(odd)
        self._forget(odd)
        if is_loss:
            self._annotations += len(odd)
            self._lost_from |= {a["image_id"] for a in odd if has_id(a, "image_id")}

    def remove_images(self, coco: dict, kind: str, odd: list[dict]) -> None:
        """Take out images and their annotations, if that is allowed and any would be left."""
        refused = set(map(id, odd))
        kept = [i for i in coco["images"] if id(i) not in refused]
        if not self.may_remove or not odd or not kept:
            return
        coco["images"] = kept
        # an id that another record has too is still in use
        ids = {i["id"] for i in kept if not complaint(i, IMAGE)}
        ids = {i["id"] for i in odd if has_id(i, "id")} - ids
        annotations = coco.get("annotations") or []
        gone = [a for a in annotations if has_id(a, "image_id") and a["image_id"] in ids]
        self._forget(odd + gone)
        coco["annotations"] = [a for a in annotations if id(a) not in self._gone]
        self._removed[kind] += len(odd)
        self._images += len(odd)
        self._annotations += len(gone)
        if kind not in STAYS_ELSEWHERE:
            self._lost_from |= {a["image_id"] for a in gone}

    def counts(self) -> Counter:
        """Records by kind, each once; those that are gone only as such."""
        fixed = {kind: len(records.keys() - self._gone) for kind, records in self._fixed.items()}
        return +(Counter(fixed) + self._removed)

    def removal(self, before: dict, after: dict) -> Removal:
        """What has gone from the parsed json, as it was before and is now."""
        annotations = after.get("annotations") or []
        left = {a["image_id"] for a in annotations if has_id(a, "image_id")}
        listed = {i["id"] for i in after["images"] if has_id(i, "id")}
        listed |= {r["id"] for r in self._gone.values() if "image_id" not in r and has_id(r, "id")}
        return Removal(
            self._annotations,
            len(before.get("annotations") or []),
            self._images,
            len(before["images"]),
            len((self._lost_from & listed) - left),
        )

    def _forget(self, records: list) -> None:
        self._gone |= {id(record): record for record in records if isinstance(record, dict)}
