"""What can be wrong with somebody's data: every kind with its own words, collected with names and counts.

Readers add what they find to a :class:`Problems` and go on; the caller then refuses the data or goes on without
the broken parts. Nothing is left out without being counted and named.
"""

from typing import NamedTuple

from ...errors import UserError

__all__ = ["KINDS", "Kind", "Problems"]

_NAMED = 3  # examples in a sentence


class Kind(NamedTuple):
    """One way in which data can be wrong.

    Attributes:
        what: the words before ``: 3 (a.jpg, ...)``.
        remedy: what is done about it when the data are used nevertheless.
        error: False for what is harmless or mended without loss; it is told, and never a reason to refuse.
    """

    what: str
    remedy: str
    error: bool = True


_IMAGE = "the image is left out with its boxes"
_BOX = "the box is left out"

KINDS = {
    # images
    "image-missing": Kind("image files that are not there", _IMAGE),
    "image-empty": Kind("image files of zero bytes", _IMAGE),
    "image-unreadable": Kind("files that are not an image that Pillow can read", _IMAGE),
    "image-truncated": Kind("image files that end too early", _IMAGE),
    "image-size-invalid": Kind("images whose width or height in the annotations is not above 0", _IMAGE),
    "image-size-differs": Kind("images of another size than the annotations say", _IMAGE),
    "image-size-absent": Kind("images without a size in the annotations", "the file's size is taken", error=False),
    "image-entry-broken": Kind("entries of 'images' without id or file_name", _IMAGE),
    "image-id-twice": Kind("image ids that several entries of 'images' have", "the first entry counts"),
    "image-file-twice": Kind("image files that are listed more than once", "the first entry counts"),
    "image-in-both-parts": Kind("images that are in training and in validation", "they stay in validation only"),
    "image-without-label": Kind("images without a label file", "they count as images without objects", error=False),
    # boxes
    "box-nan": Kind("boxes with NaN or infinity", _BOX),
    "box-negative": Kind("boxes whose width or height is below 0", _BOX),
    "box-empty": Kind("boxes without area", _BOX),
    "box-outside": Kind("boxes wholly outside their image", _BOX),
    "box-clipped": Kind("boxes partly outside their image", "they are clipped to it", error=False),
    "box-not-four-numbers": Kind("boxes that are not four numbers", _BOX),
    "box-text": Kind("boxes whose numbers are written as text", "they are read as numbers", error=False),
    # COCO
    "annotation-broken": Kind("entries of 'annotations' that are no objects with image_id and category_id", _BOX),
    "annotation-unknown-image": Kind("annotations of an image_id that no image has", _BOX),
    "annotation-unknown-category": Kind("annotations of a category_id that no category has", _BOX),
    "annotation-id-twice": Kind("annotation ids that are used again", "annotations are renumbered", error=False),
    "category-parent": Kind("categories without boxes that are only the parent of others", "left out", error=False),
    "json-unused": Kind("annotation files beside the chosen ones", "they are not used", error=False),
    # VOC
    "xml-broken": Kind("annotation files that are not XML", _IMAGE),
    "xml-without-box": Kind("objects without a bndbox of xmin, ymin, xmax, ymax", _BOX),
    "xml-without-name": Kind("objects without a class name", _BOX),
    "xml-missing": Kind("images of ImageSets that have no annotation file", _IMAGE),
    "object-difficult": Kind("objects marked difficult", "neither trained on nor counted in scores", error=False),
    # YOLO
    "label-not-text": Kind("label files that are not UTF-8 text", _IMAGE),
    "label-class-beyond": Kind("class numbers that no class name has", _BOX),
    "label-class-broken": Kind("lines that do not begin with a class number", _BOX),
    "label-line-length": Kind("lines that are neither class + 4 numbers nor class + a polygon", _BOX),
    "label-not-normalised": Kind("lines with coordinates outside 0..1", _BOX),
    "label-without-image": Kind("label files without an image", "their boxes are left out"),
    "names-absent": Kind("YOLO folders without class names", "classes are called by their number", error=False),
    # classes
    "classes-differ": Kind("sources whose lists of classes differ", "the union of the classes is used"),
    "classes-alike": Kind("class names that differ in upper case or spaces only", "they stay different classes"),
    "classes-reordered": Kind("sources with the same classes in another order", "matched by name", error=False),
    "class-without-box": Kind("classes without a single box", "they stay, with nothing to learn", error=False),
    "class-not-in-training": Kind("classes with boxes in validation only", "they cannot be learnt", error=False),
    "part-unused": Kind("test parts", "held out: neither trained on nor scored", error=False),
}


class Problems:
    """Names of what is wrong, by kind, in the order in which they were found."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        """Note that ``where`` (a file, or a file and a line or an entry in it) has a problem of ``kind``."""
        assert kind in KINDS, kind
        self.found.setdefault(kind, []).append(where)

    def count(self, kind: str) -> int:
        """How many there are of one kind."""
        return len(self.found.get(kind, ()))

    def errors(self) -> list[str]:
        """Kinds found for which data are refused."""
        return [kind for kind in self.found if KINDS[kind].error]

    def notes(self) -> list[str]:
        """Kinds found that are told only."""
        return [kind for kind in self.found if not KINDS[kind].error]

    def sentence(self, kind: str) -> str:
        """``boxes without area: 3 (a.json, annotation 7; ...)``."""
        names = self.found[kind]
        more = "; ..." if len(names) > _NAMED else ""
        return f"{KINDS[kind].what}: {len(names):,} ({'; '.join(names[:_NAMED])}{more})"

    def refuse(self, what: str) -> None:
        """Raise :class:`UserError` if there is an error of any kind; ``what`` names the data."""
        errors = self.errors()
        if errors:
            raise UserError(
                f"{what} cannot be used as it is - {', '.join(self.sentence(kind) for kind in errors)} - mend "
                "this (tools/check_dataset.py --data lists everything) or leave the broken parts out with "
                "--bad-data skip"
            )

    def lines(self) -> list[str]:
        """A line for each kind: what is wrong, how often, the first names, what is done about it."""
        return [
            *(f"Left out: {self.sentence(kind)}; {KINDS[kind].remedy}" for kind in self.errors()),
            *(f"Note: {self.sentence(kind)}; {KINDS[kind].remedy}" for kind in self.notes()),
        ]

    def listing(self) -> str:
        """Everything, one name a line, for a file; '' if there is nothing."""
        blocks = []
        for kind in (*self.errors(), *self.notes()):
            names = "".join(f"    {name}\n" for name in self.found[kind])
            blocks.append(f"{KINDS[kind].what}: {len(self.found[kind])}; {KINDS[kind].remedy}\n{names}")
        return "\n".join(blocks)
