"""``demo.py --web`` as a user starts it: a process, its address, a page, Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from test_demo import CONFIG, ROOT, SMALL, weights

pytest.importorskip("gradio")
__all__ = ["weights"]  # a fixture


@pytest.mark.slow
def test_the_page_is_served_until_the_user_ends_it(weights: Path) -> None:
    words = ["--web", "--config-file", CONFIG, "--opts", *SMALL, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights)]
    command = [sys.executable, str(ROOT / "demo.py"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes) as page:
        try:
            said, address = "", None
            for line in page.stdout:
                said += line
                if address := re.search(r"the page is at (http://\S+)", line):
                    break
            assert address, said
            with urllib.request.urlopen(address[1], timeout=60) as answer:
                assert answer.status == 200
                assert "gradio" in answer.read().decode()
            page.send_signal(signal.SIGINT)
            rest = page.communicate(timeout=60)[0]
        finally:
            page.kill()
    assert "Traceback" not in rest
    assert page.returncode == 0  # for a page, Ctrl-C is the ordinary end
