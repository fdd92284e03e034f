"""Cases with few boxes whose judgement is known."""

from centernet.evaluation.report.matching import make_case


def hand_made(objects, found, *, images=3, classes=3, crowds=(), **image_fields):
    """A case.

    Args:
        objects: ``(image, class, (x0, y0, x1, y1))``, all numbered from 0.
        found: the same with a score at the end.
        crowds: which objects are crowds.
    """
    return make_case(*as_coco(objects, found, images=images, classes=classes, crowds=crowds, **image_fields))


def as_coco(objects, found, *, images=3, classes=3, crowds=(), **image_fields):
    """The same as content of an annotation file and of a result file."""
    truth = {
        "images": [
            {"id": k + 1, "file_name": f"{k}.png", "width": 100, "height": 100} | image_fields for k in range(images)
        ],
        "categories": [{"id": k + 1, "name": "abcdefgh"[k], "frequency": "f"} for k in range(classes)],
        "annotations": [
            _entry(image, label, box) | {"id": k + 1, "iscrowd": int(k in crowds), "area": _area(box)}
            for k, (image, label, box) in enumerate(objects)
        ],
    }
    return truth, [_entry(image, label, box) | {"score": score} for image, label, box, score in found]


def _entry(image, label, box):
    x0, y0, x1, y1 = box
    return {"image_id": image + 1, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])
