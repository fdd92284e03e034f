"""The page on the network: at an address of this machine; nothing is sent elsewhere unless a public link is wanted."""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from detectron2.config import CfgNode

from ...errors import UserError
from ..thresholds import check_threshold
from .callbacks import PageActions
from .markup import STYLE
from .models import ModelShelf

__all__ = ["serve_page", "start_page"]

logger = logging.getLogger(__name__)

_LARGEST_FILE = "500mb"
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # else gradio reports to its makers, and asks them for newer versions
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def start_page(
    configs: Mapping[str, Callable[[], CfgNode]],
    *,
    threshold: float = 0.3,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    optimize: bool = False,
) -> Any:
    """Serve the page in threads of its own.

    Args:
        configs: the models, see :class:`~.models.ModelShelf`.
        threshold: the score at which the slider stands at first, in [0, 1].
        host: address to listen at; ``"127.0.0.1"`` is this machine alone, ``"0.0.0.0"`` every network it is in.
        port: None: the first free one from 7860 on.
        share: also a public link through gradio's own servers, for a week: everybody who knows it can use the page.
        optimize: see :class:`~..predictor.Predictor`.

    Returns:
        The running ``gradio.Blocks``: ``local_url``, ``share_url``, ``close()``.

    Raises:
        UserError: gradio is not installed, no model, no such threshold, or a host or port that cannot be had.
    """
    check_threshold(threshold)
    os.environ.update(_QUIET)
    try:
        import gradio

        from .layout import build_page
    except ImportError as error:
        raise UserError(f"the page needs gradio ({error}): pip install -e '.[web]'") from error
    _check_address(host, port)
    page = build_page(PageActions(ModelShelf(configs, optimize)), threshold)
    fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the visitor's machine: none is fetched
    theme = gradio.themes.Base(primary_hue="indigo", neutral_hue="slate", font=fonts[0], font_mono=fonts[1])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=theme,
            css=STYLE,
            max_file_size=_LARGEST_FILE,
            footer_links=[],
            ssr_mode=False,
            prevent_thread_lock=True,
            inbrowser=False,
            quiet=True,
        )
    except OSError as error:
        raise UserError(f"no page at {host}: {error}; give another --port") from error
    return page


def serve_page(configs: Mapping[str, Callable[[], CfgNode]], *, share: bool = False, **where: Any) -> None:
    """:func:`start_page`, until the user interrupts it (Ctrl-C)."""
    page = start_page(configs, share=share, **where)
    logger.info("the page is at %s (Ctrl-C ends it)", page.local_url)
    if share:
        logger.info("public link: %s", page.share_url or "none, gradio's servers could not be reached")
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)


def _check_address(host: str, port: int | None) -> None:
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port {port} does not exist: give 1 to 65535, or none for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise UserError(f"--host {host} is no address of this machine: {error.strerror}") from error
    except OSError as error:
        where = f"--port {port}" if port else f"--host {host}"
        hint = "give another one" if port else "give 127.0.0.1 or an address of this machine"
        raise UserError(f"{where} cannot be used ({error.strerror}): {hint}") from error
