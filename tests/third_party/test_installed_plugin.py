"""Outside plugins, installed for real by pip, then found, listed, checked, built, trained and run: the packages of the
tutorials, and one with a tracker and a module that cannot be imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TUTORIALS = HERE.parents[1] / "docs" / "tutorial"
SOURCES = (TUTORIALS / "sslx-denoise", TUTORIALS / "sslx-video", HERE / "sslx-demo-notes")
MAIN = "from ssl_core.cli.app import main; main()"

SCRIPT = """
import json, torch
from ssl_core import Learner, plugins
from ssl_core.nn import EncoderOptions, TransformerEncoder
torch.set_num_threads(1)
torch.manual_seed(0)
catalogue = plugins.load()
theirs = {
    f"{kind} {entry.name}": [str(entry.origin), entry.summary]
    for kind in plugins.KINDS for entry in catalogue.entries(kind) if entry.origin.plugin.startswith("sslx-")
}
dataset_class = catalogue.default_dataset("video")
dataset = dataset_class(dataset_class.Options(), "train")
tokenizer_class, objective_class = catalogue.tokenizer("video"), catalogue.objective("denoise")
tokenizer = tokenizer_class(tokenizer_class.Options(), dataset.fields, 32)
encoder = TransformerEncoder(EncoderOptions(dim=32, depth=2, heads=4), tokenizer.layout)
learner = Learner(tokenizer, encoder, objective_class(objective_class.Options(), tokenizer.layout, 32, {}))
batch = {"clip": torch.stack([torch.from_numpy(dataset[i]["inputs"]["clip"]) for i in range(16)])}
optimiser = torch.optim.AdamW(learner.parameters(), lr=2e-3)
losses = []
for step in range(20):
    draws = learner.draw(16, torch.Generator().manual_seed(step))
    loss = learner(batch, draws).loss
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
print(json.dumps({
    "theirs": theirs, "problems": catalogue.problems, "metamae": "metamae" in catalogue.objectives,
    "grid": tokenizer.layout.segments[0].grid, "losses": losses, "features": learner.embed(batch).shape,
}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python where the plugins are installed: python("-c", code)."""
    for tool in ("pip", "setuptools", "hatchling"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"installing the plugins needs {tool} in this environment")
    folder = tmp_path_factory.mktemp("third_party")
    copies = [shutil.copytree(source, folder / source.name) for source in SOURCES]  # building writes beside the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(folder / "site"), *map(str, copies)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"} | environment,
        )

    return run


@pytest.fixture(scope="module")
def found(python) -> dict:
    """What a script finds and does with the installed plugin."""
    done = python("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_found_with_origin_and_version(found):
    assert found["theirs"] == {
        "objective denoise": [
            "sslx-denoise:objectives.denoise 0.1.0",
            "Rebuild every token from noisy embeddings (Vincent et al. 2010, on tokens instead of pixels).",
        ],
        "tokenizer video": [
            "sslx-video:tokenizers.video 0.1.0",
            "Boxes of a clip: a few frames of a few pixels each are one token.",
        ],
        "dataset synthetic": [
            "sslx-video:datasets.synthetic-video 0.1.0",
            "Clips of shapes that all move left, right, up or down over a still ground; made on the fly, no download.",
        ],
        "preset demo-video": [
            "sslx-video:datasets.synthetic-video 0.1.0",
            "a small encoder and a short run for the embedded data",
        ],
    }
    assert found["metamae"]


def test_its_broken_entry_is_set_aside(found):
    problem = next(one for one in found["problems"] if "sslx-demo" in one)
    assert problem.startswith(
        "plugin 'sslx-demo-notes:broken' was set aside: it cannot be imported: "
        "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'"
    )


def test_built_and_trained(found):
    assert found["grid"] == [4, 4, 4]
    assert found["features"] == [16, 32]
    assert len(found["losses"]) == 20
    assert sum(found["losses"][-3:]) < 0.9 * sum(found["losses"][:3])


def test_their_own_tests_pass(python):
    """Those of the objective on one layout; test_tutorials_installed.py runs all."""
    tests = ["sslx-denoise/tests", "sslx-video/tests"]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
                  "-k", "video or conformance and continuous_3d or draws_follow", *tests)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_command_line_lists_them(python):
    block = ("--block", "sslx-video:tokenizers.video")
    listed = python("-c", MAIN, "list", *block, SSLX_BLOCK="sslx-demo-notes:tracker")
    assert listed.returncode == 0, listed.stderr
    line = next(line for line in listed.stdout.splitlines() if "denoise" in line)
    assert "Rebuild every token from noisy embeddings" in line
    assert "sslx-denoise:objectives.denoise 0.1.0" in line
    assert "sslx-video:tokenizers.video" not in listed.stdout
    assert "sslx-demo-notes:broken" in listed.stderr


def test_whole_run_with_objective_modality_and_notices_from_outside(python, tmp_path):
    out = tmp_path / "run"
    settings = ("train.steps=6", "train.batch_size=8", "encoder.dim=32", "encoder.depth=1", "encoder.heads=4",
                "dataset.n_train=48", "dataset.n_test=24")  # fmt: skip
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = python(
        "-c", MAIN, "run", "--objective", "denoise", "--modality", "video", "--device", "cpu", "--out", str(out),
        *arguments, SSLX_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert {row["features"] for row in report["scores"]} == {"trained", "random_init", "raw_input"}
    assert "sslx-denoise:objectives.denoise 0.1.0" in json.dumps(report)
    notices = (out / "notices.txt").read_text().splitlines()
    assert notices[0] == "started denoise"
    assert notices[-1] == "finished"
    assert any(line.startswith("step 6: ") and "train/loss" in line for line in notices)
