"""Makes the documentation's pictures from real runs, which it trains in `outputs/` where they are not there yet.

    python -m docs.pictures                     # all: a few minutes
    python -m docs.pictures compare page        # some

What is seen on a terminal is taken with tmux, pages with Chromium; without these, their pictures stay as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
SCENES: tuple[str, ...] = ()  # the default run
SWEEP = ("data=digits", "model=cnn", "optimizer=adam,sgd,rmsprop", "seed=0,1,2", "epochs=5")
COLUMNS, LINES = 110, 30
BROWSER_SECONDS = 20


def predictions() -> None:
    """Test scenes, their masks, and what the default run's exported model makes of them."""
    import tensorflow as tf

    from src.common.pictures import examples_sheet
    from src.data.digit_scenes.scenes import CLASS_NAMES
    from src.data.sources import digit_scenes

    model = tf.saved_model.load(str(_scenes_run() / "saved_model" / "1"))
    batches = digit_scenes(batch_size=8, seed=0).raw("test")
    images, masks = (tensor.numpy() for tensor in batches.next(batches.open(0, 0), 0))
    predicted = model.signatures["serving_default"](image=tf.constant(images))["class"].numpy()
    _write("predictions", Image.fromarray(examples_sheet(images, masks, predicted, class_names=CLASS_NAMES)))


def training() -> None:
    """A terminal while a run trains."""
    command = f"{_python()} -m src.train name=pictures rerun=true"
    screen = _terminal(command, until=lambda text: re.search(r"epoch +6/15", text) is not None)
    _write("training", _render(screen))


def compare() -> None:
    """A terminal with the comparison of a sweep."""
    _sweep()
    command = f"{_python()} -m src.compare outputs/digits; {_python()} -m src.compare outputs/digits --effects"
    _write("compare", _render(_printed(command)))


def page() -> None:
    """The page of the same comparison."""
    _sweep()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "comparison.html"
        _run("src.compare", "outputs/digits", "--format", "html", "--output", str(file))
        _write("page", _browse(file.as_uri(), width=1300, height=1750))


def tensorboard() -> None:
    """TensorBoard's table of hyperparameters."""
    _sweep()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "outputs/digits", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/"
        _wait_for(lambda: len(urllib.request.urlopen(f"{address}data/runs", timeout=5).read()) > 2)
        _write("tensorboard", _browse(f"{address}#hparams", width=2000, height=560))
    finally:
        server.terminate()
        server.wait()


def evaluation() -> None:
    """What evaluating the default run on the test split draws: the confusion matrix, and the worst examples."""
    run = _scenes_run()
    _run("src.evaluate", str(run), "split=test")
    for name in ("confusion", "worst"):
        _write(name, Image.open(run / "evaluation" / "test" / f"{name}.png"))


PICTURES: dict[str, Callable[[], None]] = {
    made.__name__: made for made in (predictions, training, compare, page, tensorboard, evaluation)
}
NEEDED = {"training": ("tmux", "chromium"), "compare": ("tmux", "chromium"), "page": ("chromium",)}
NEEDED["tensorboard"] = ("chromium",)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all by default")
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; there is {', '.join(PICTURES)}")
    for name in names:
        if missing := [program for program in NEEDED.get(name, ()) if not shutil.which(program)]:
            print(f"{name} is left as it is: it needs {' and '.join(missing)}", file=sys.stderr)
        else:
            PICTURES[name]()


def _scenes_run() -> Path:
    return Path(_run("src.train", *SCENES).splitlines()[-1])


def _sweep() -> None:
    _run("src.train", "--multirun", *SWEEP)


def _run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _terminal(command: str, *, until: Callable[[str], bool], seconds: float = 300) -> str:
    """What stands on a terminal, with its colours, as soon as it looks as wanted; the command is then interrupted."""
    session = ["-t", "=pictures"]
    tmux = ["tmux", "-L", "pictures"]
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    subprocess.run([*tmux, "new-session", "-d", "-s", "pictures", *size, command], check=True)
    screen = ""
    try:

        def wanted() -> bool:
            nonlocal screen
            capture = [*tmux, "capture-pane", "-e", "-p", "-t", "=pictures:"]
            screen = subprocess.run(capture, check=True, capture_output=True, text=True).stdout
            return until(Text.from_ansi(screen).plain)

        _wait_for(wanted, seconds=seconds)
        subprocess.run([*tmux, "send-keys", "-t", "=pictures:", "C-c"], check=True)
        _wait_for(lambda: subprocess.run([*tmux, "has-session", *session], capture_output=True).returncode != 0)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)
    return screen


def _printed(command: str) -> str:
    """Commands and what they print."""
    shown = []
    for part in command.split("; "):
        done = subprocess.run(shlex.split(part), check=True, capture_output=True, text=True)
        shown += [f"$ {part.replace(_python(), 'python')}", done.stdout]
    return "\n".join(shown)


def _render(screen: str) -> Image.Image:
    """A terminal's text as a picture."""
    text = Text.from_ansi(screen.rstrip())
    width = max(map(len, text.plain.splitlines()))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(text, soft_wrap=True)
    svg = console.export_svg(title="")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size, "rich writes the size"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "screen.html"
        file.write_text(f'<body style="margin:0">{svg}</body>')
        return _browse(file.as_uri(), width=round(float(size[1])) + 1, height=round(float(size[2])) + 1)


def _browse(address: str, *, width: int, height: int) -> Image.Image:
    """A page as Chromium shows it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options += [f"--virtual-time-budget={BROWSER_SECONDS * 1000}", f"--window-size={width},{height}"]
        command = ["chromium", *options, f"--user-data-dir={folder}/profile", f"--screenshot={file}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(file) as picture:
            return picture.convert("RGB")


def _wait_for(done: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if done():
                return
        time.sleep(0.1)
    raise TimeoutError(f"not as wanted after {seconds:.0f} s")


def _python() -> str:
    return shlex.quote(sys.executable)


def _write(name: str, picture: Image.Image) -> None:
    path = HERE / f"{name}.png"
    picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
