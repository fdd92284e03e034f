"""What all tests share: caches in a folder of their own, so that no test reads or leaves anything in the user's."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CENTERNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
