"""A page in the browser: drop pictures or a video, move the threshold, see what each stage thinks.

- ``server``: :func:`start_page`, :func:`serve_page`
- ``layout``: the parts of the page (gradio) and which function each one calls
- ``callbacks``: those functions, without gradio
- ``models``: models by name, shared by all visitors
- ``pictures``: uploads and examples; ``findings``: detections; ``drawing``, ``markup``: how they look
"""

from .models import ModelShelf
from .server import serve_page, start_page

__all__ = ["ModelShelf", "serve_page", "start_page"]
