"""Registering classes with detectron2 so that importing this package twice does no harm.

Clients vendor the package under other parents (``third_party.CenterNet2.centernet``), and a process can end up
importing it under two names. The first import registers; later ones keep what is there.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from fvcore.common.registry import Registry

T = TypeVar("T", bound=Callable)
logger = logging.getLogger(__name__)


def register_once(registry: Registry, name: str | None = None) -> Callable[[T], T]:
    """Decorator: register under ``name`` (default: the object's own name) unless the name is taken."""

    def decorate(obj: T) -> T:
        key = name or obj.__name__
        if key in registry:
            logger.debug("%s is registered already; %s.%s is not", key, obj.__module__, obj.__qualname__)
        else:
            registry._do_register(key, obj)  # Registry.register() knows no name but the object's own
        return obj

    return decorate
