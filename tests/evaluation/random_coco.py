"""Random ground truth and detections in COCO format, for the tests of this folder."""

import numpy as np
from hypothesis import strategies as st


def random_ground_truth(rng, images=12, category_ids=(3, 7, 8, 20), side=400):
    annotations = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 9)):
            w, h = np.exp(rng.uniform(np.log(6), np.log(250), 2))
            x, y = rng.uniform(0, side - w), rng.uniform(0, side - h)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice(category_ids)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h * 0.7]],
                }
            )
    return {
        "images": [
            {"id": k, "file_name": f"{k}.png", "width": side, "height": side} for k in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in category_ids],
    }


def random_detections(rng, truth, noise=0.12):
    """Noisy copies of the objects, some with a wrong class, plus inventions; scores tie now and then."""
    category_ids = [category["id"] for category in truth["categories"]]
    detections = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            x, y, w, h = annotation["bbox"]
            dx, dy, dw, dh = rng.normal(0, noise, 4)
            wrong = rng.random() < 0.15
            detections.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(rng.choice(category_ids)) if wrong else annotation["category_id"],
                    "bbox": [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)],
                    "score": round(float(rng.random()), 2),
                }
            )
    for image in truth["images"]:
        for _ in range(rng.integers(0, 140)):
            detections.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice(category_ids)),
                    "bbox": rng.uniform(1, 200, 4).tolist(),
                    "score": round(float(rng.random()) * 0.6, 2),
                }
            )
    return detections


SIDES = (0, 1, 8, 16, 31.9, 32, 48, 96, 96.1, 128)  # 32 ** 2 and 96 ** 2 are the limits between sizes
CLASSES = (2, 5, 9)


@st.composite
def boxes(draw):
    """x, y, w, h on a coarse grid, so that overlaps are exactly equal now and then."""
    return [8.0 * draw(st.integers(0, 6)), 8.0 * draw(st.integers(0, 6)), *(draw(st.sampled_from(SIDES)) for _ in "wh")]


@st.composite
def cases(draw):
    """Ground truth (COCO and LVIS in one) and detections with few distinct scores; images and classes may be empty."""
    places = st.tuples(st.integers(1, 4), st.sampled_from(CLASSES))
    chosen = draw(st.lists(st.tuples(places, boxes(), st.sampled_from(["", "", "", "crowd", "ignore"])), max_size=14))
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": int(kind == "crowd")}
        | {"ignore": int(kind == "ignore"), "area": draw(st.sampled_from([box[2] * box[3], box[2] * box[3] / 2]))}
        for number, ((image, category), box, kind) in enumerate(chosen, 1)
    ]
    classes = st.lists(st.sampled_from(CLASSES), max_size=2)
    images = [
        {"id": number, "width": 200, "height": 200, "file_name": f"{number}.png"}
        | {"neg_category_ids": draw(classes), "not_exhaustive_category_ids": draw(classes)}
        for number in draw(st.permutations(range(1, 5)))
    ]
    categories = [{"id": number, "name": f"class {number}", "frequency": "rcf"[number % 3]} for number in CLASSES]
    # most detections copy or nearly copy an object
    objects = [(item["image_id"], item["category_id"], tuple(item["bbox"])) for item in annotations]
    own = st.sampled_from(objects or [(1, 2, (0, 0, 0, 0))])
    near = st.tuples(own, st.sampled_from([0, 0, 2, 5])).map(lambda d: (*d[0][:2], [v + d[1] for v in d[0][2]]))
    far = st.tuples(places, boxes()).map(lambda d: (*d[0], d[1]))
    found = draw(st.lists(st.tuples(near | far, st.sampled_from([0.1, 0.5, 0.5, 0.9])), min_size=1, max_size=30))
    detections = [
        {"image_id": image, "category_id": category, "bbox": list(box), "score": score}
        for (image, category, box), score in found
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, detections
