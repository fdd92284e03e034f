"""Inference: a model and pictures in, predictions, drawings and videos out.

- ``predictor``: ``Predictor``, pictures of any kind in, detections out, one, a list or an iterator
- ``images``: files, addresses, bytes, Pillow images, arrays and tensors into arrays
- ``batching``: pictures that are padded alike in one batch, results in their order
- ``network``: one forward pass, on tensors of fixed size or as the model wants it
- ``results``: ``Detections``, as COCO, supervision and pandas want them, drawn and saved
- ``thresholds``: one confidence threshold for every meta architecture
- ``weights``: trained weights into a model; what does not fit is said
- ``sources``: pictures, folders, globs, videos and webcams
- ``visualize``: class names, and drawing through detectron2's visualizers
- ``visualization_demo``: ``VisualizationDemo``, predict and draw in one call
- ``heatmap``: the first stage's P(object) as a picture
- ``tracking2d``: numbers for the objects of a video
- ``read_ahead``: an iterator in a thread of its own
- ``outputs``: where results go; never onto an input, never half-written
- ``result_files``: detections of many pictures and frames as JSON, COCO or CSV
- ``video``: frames into a file or a window
- ``sound``: the sound of a video into its copy
- ``runner``: many inputs through a model, with progress and a report
"""

from .predictor import Predictor
from .thresholds import filter_predictions, set_score_threshold
from .visualization_demo import VisualizationDemo

__all__ = ["Predictor", "VisualizationDemo", "filter_predictions", "set_score_threshold"]
