"""Pascal VOC: one XML file an image.

VOC counts pixels from 1 and includes both ends, so an object on the first pixel alone has xmin = xmax = 1. The box in
continuous coordinates is ``[xmin - 1, ymin - 1, xmax, ymax]``, one pixel wide and high here. Objects marked
``difficult`` become ``iscrowd``: they are not trained on, and a detection of one counts neither as right nor as
wrong, as in VOC's own evaluation.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ...errors import UserError
from .boxes import annotation, as_numbers, checked_box
from .images import Size, inspect_images, size_agrees
from .problems import Problems
from .source import Record, Source, check_class_names, part_of_folder, read_text, relative_name

__all__ = ["read_voc", "voc_parts"]

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_SPLIT_FILES = {"train": "train", "val": "val", "test": "test"}


class _Object(NamedTuple):
    name: str
    corners: list[str | None]
    difficult: bool
    where: str


def voc_parts(folder: Path) -> dict[str, list[Path]]:
    """Part -> XML files of a folder in one of VOC's layouts; {} if it is in none.

    Layouts: ``Annotations/*.xml`` with ``ImageSets/Main/{train,val,test}.txt`` if there;
    ``{train,valid,test}/*.xml``, or with ``Annotations/`` in each; ``*.xml`` beside the images.
    """
    for place in (folder / "Annotations", folder / "annotations"):
        files = _xml_files(place)
        if files:
            listed = _listed(folder, place)
            return listed or {"all": files}
    parts: dict[str, list[Path]] = {}
    for child in sorted(folder.iterdir()):
        part = part_of_folder(child.name) if child.is_dir() else None
        files = (_xml_files(child) or _xml_files(child / "Annotations")) if part else []
        if part and files:
            parts.setdefault(part, []).extend(files)
    own = _xml_files(folder)
    return parts or ({"all": own} if own else {})


def _xml_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))


def _listed(folder: Path, place: Path) -> dict[str, list[Path]]:
    """The parts of ImageSets/Main; a part that is not there is absent."""
    parts = {}
    for part, stem in _SPLIT_FILES.items():
        file = folder / "ImageSets" / "Main" / f"{stem}.txt"
        if file.is_file():
            names = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
            parts[part] = [place / f"{name}.xml" for name in dict.fromkeys(names)]
    trainval = folder / "ImageSets" / "Main" / "trainval.txt"
    if not {"train", "val"} & set(parts) and trainval.is_file():
        names = [line.split()[0] for line in read_text(trainval).splitlines() if line.strip()]
        parts["all"] = [place / f"{name}.xml" for name in dict.fromkeys(names)]
    return parts


def read_voc(folder: Path, problems: Problems) -> list[Source]:
    """Read a folder; see :func:`voc_parts` for its layouts.

    Classes are those of ``labels.txt`` or ``classes.txt`` in the folder, in this order, else the names of the
    objects, sorted.

    Raises:
        UserError: no object at all, or the list of classes is broken.
    """
    parts: dict[str, list[tuple[Path, Path, list[_Object], Size | None]]] = {}
    source = Source(folder, "Pascal VOC", [], declared=False)
    for part, files in voc_parts(folder).items():
        parts[part] = []
        for file in files:
            source.files.add(file)
            parsed = _parse(file, problems)
            if parsed is not None:
                root, objects = parsed
                parts[part].append((file, _image(folder, file, root.findtext("filename")), objects, _size(root)))
    source.classes, source.declared = _classes(folder, parts.values())
    images = [image for entries in parts.values() for _, image, _, _ in entries]
    sizes = inspect_images(images, problems)
    source.files.update(images)
    index_of = {name: index for index, name in enumerate(source.classes)}
    for part, entries in parts.items():
        source.parts[part] = []
        for file, image, objects, given in entries:
            size = sizes.get(image)
            if size is not None and size_agrees(given or (0, 0), size, file, problems):
                record = _record(folder, image, size)
                record["annotations"] = list(_annotations(objects, size, index_of, problems))
                source.parts[part].append(record)
    return [source]


def _parse(file: Path, problems: Problems) -> tuple[ElementTree.Element, list[_Object]] | None:
    if not file.is_file():
        problems.add("xml-missing", str(file))
        return None
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an odd encoding
        problems.add("xml-broken", f"{file}: {error}")
        return None
    objects = []
    for number, node in enumerate(root.iter("object"), start=1):
        where = f"{file}, object {number}"
        name = (node.findtext("name") or "").strip()
        box = node.find("bndbox")
        corners = [None if box is None else box.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")]
        difficult = (node.findtext("difficult") or "0").strip() == "1"
        objects.append(_Object(name, corners, difficult, where))
    return root, objects


def _size(root: ElementTree.Element) -> Size | None:
    """Width and height as the XML gives them, None if it does not."""
    try:
        return Size(int(root.findtext("size/width") or 0), int(root.findtext("size/height") or 0))
    except ValueError:
        return None


def _image(folder: Path, file: Path, name: str | None) -> Path:
    """The image of an XML file: the one that it names, else the one of the same stem, in a usual place."""
    stem = file.stem
    folders = [*(folder / place for place in _IMAGE_FOLDERS), file.parent, file.parent.parent / "images"]
    names = [Path(name.strip().replace("\\", "/")).name] if name and name.strip() else []
    names += [stem + suffix for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp")]
    for place in folders:
        for candidate in names:
            if (place / candidate).is_file():
                return place / candidate
    return folders[0] / names[0]


def _classes(
    folder: Path, parts: Iterable[list[tuple[Path, Path, list[_Object], Size | None]]]
) -> tuple[list[str], bool]:
    for name in ("labels.txt", "classes.txt"):
        if (folder / name).is_file():
            classes = [line.strip() for line in read_text(folder / name).splitlines() if line.strip()]
            check_class_names(classes, str(folder / name))
            return classes, True
    names = {entry.name for entries in parts for _, _, objects, _ in entries for entry in objects if entry.name}
    if not names:
        raise UserError(f"{folder} has no object in any of its XML files: there is nothing to train on")
    return sorted(names), False


def _record(folder: Path, image: Path, size: Size) -> Record:
    name = relative_name(image, folder)
    return {"file_name": str(image), "name": name, "height": size.height, "width": size.width}


def _annotations(
    objects: list[_Object], size: Size, index_of: dict[str, int], problems: Problems
) -> Iterable[dict[str, object]]:
    for entry in objects:
        if not entry.name:
            problems.add("xml-without-name", entry.where)
        elif entry.name not in index_of:
            problems.add("label-class-beyond", f"{entry.where}: {entry.name}")
        elif None in entry.corners:
            problems.add("xml-without-box", entry.where)
        else:
            # XML has nothing but text, so text is no oddity here
            numbers = as_numbers([_number(text) for text in entry.corners], entry.where, problems)
            if numbers is None:
                continue
            xmin, ymin, xmax, ymax = numbers
            box = checked_box((xmin - 1, ymin - 1, xmax, ymax), size, entry.where, problems)
            if box is not None:
                if entry.difficult:
                    problems.add("object-difficult", entry.where)
                yield annotation(box, index_of[entry.name], iscrowd=int(entry.difficult))


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
