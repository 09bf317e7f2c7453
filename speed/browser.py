"""Chromium without a window, spoken to over its debugging pipe: nothing but the browser need be installed."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any


def find_browser() -> str | None:
    """Return the program's path, or None where there is none."""
    return next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)


class Browser:
    """One page. The pipe carries JSON that ends in a zero byte, on descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        flags = f"--headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir={profile} about:blank"
        shell = f'exec "$0" {flags} 3<&{theirs_in} 4>&{theirs_out} 2>/dev/null'
        self.process = subprocess.Popen(["bash", "-c", shell, program], pass_fds=(theirs_in, theirs_out))
        os.close(theirs_in)
        os.close(theirs_out)
        self.reader, self.writer, self.last, self.said = os.fdopen(ours_in, "rb", 0), ours_out, 0, list[str]()
        self.rest, self.session = b"", ""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, page: Path) -> None:
        """Open a file, afresh."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.querySelector('main h2') !== null")

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(10)
        self.reader.close()
        os.close(self.writer)

    def _read(self) -> bytes:
        block = self.reader.read(1 << 16)
        if not block:
            raise RuntimeError("the browser is gone")
        return block

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result; what the page says meanwhile is kept in `said`."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        os.write(
            self.writer, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while True:
            while b"\0" not in self.rest:
                self.rest += self._read()
            one, _, self.rest = self.rest.partition(b"\0")
            got = json.loads(one)
            if got.get("method") in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}:
                self.said.append(json.dumps(got["params"]))
            if got.get("id") == self.last:
                if "error" in got:
                    raise RuntimeError(f"{method}: {got['error']}")
                return got["result"]

    def run(self, script: str) -> Any:
        """Return the value of an expression on the page, awaited; an exception there is raised here."""
        got = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise RuntimeError(f"{script[:80]}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + 15
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)
