"""Random ground truth and detections in COCO format, for the tests of this folder."""

import numpy as np


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
