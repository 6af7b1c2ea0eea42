"""A headless Chromium, driven by its DevTools protocol over two pipes."""

import base64
import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def command():
    """The browser's path; `CHROMIUM` names another one."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise SystemExit(
            f"browser: expected one of {', '.join(NAMES)} on the path, got none; "
            "apt-get install chromium, or name one in CHROMIUM."
        )
    return found


class Browser:
    """One page. What it logs, raises and requests is kept in `messages` and `requests`."""

    def __init__(self, folder):
        self.messages, self.requests, self.number = [], [], 0
        theirs_in, self.write = os.pipe()
        self.read, theirs_out = os.pipe()

        def pipes():
            first, second = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        self.process = subprocess.Popen(  # noqa: S603 - our own browser
            [command(), *flags, "--remote-debugging-pipe", f"--user-data-dir={folder}"],
            preexec_fn=pipes,  # noqa: PLW1509 - no threads yet
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.session = b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.session = None
        self.call("Browser.close")
        self.process.wait(timeout=20)

    def call(self, method, **params):
        self.number += 1
        wanted = {"id": self.number, "method": method, "params": params}
        if self.session:
            wanted["sessionId"] = self.session
        os.write(self.write, json.dumps(wanted).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.read, 2**16)
                assert part, "the browser ended"
                self.rest += part
            line, self.rest = self.rest.split(b"\0", 1)
            said = json.loads(line)
            if said.get("id") == self.number:
                assert "error" not in said, (method, said["error"])
                return said["result"]
            self._heard(said)

    def _heard(self, said):
        name, params = said.get("method"), said.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif name in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(params)[:600])

    def js(self, expression):
        """The value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def open(self, url):
        """Go to a page; the seconds until it is loaded and drawn."""
        started = time.monotonic()
        self.call("Page.navigate", url=url)
        while self.js("document.readyState + location.href.slice(0, 4)") != "completefile":
            time.sleep(0.01)
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.call("Runtime.evaluate", expression=frames, awaitPromise=True)
        return time.monotonic() - started

    def look(self, width, height, *, dark=False, media="screen"):
        """Set the window's size, the colour scheme and the medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def picture(self, path):
        """Write the whole page as PNG."""
        took = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(took["data"]))

    def hover(self, selector):
        """Move the pointer onto the middle of the first element that the selector finds."""
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for shift in (3, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + shift, y=box[1])

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)
