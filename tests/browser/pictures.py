"""Make the README's and the tour's pictures anew, in a real JupyterLab.

python -m tests.browser.pictures
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.jupyter import FLAGS, HIDES, PATIENCE_MS, Jupyter, opened
from tests.browser.pages import LINKED, PanelPage

IMAGES = Path(__file__).resolve().parents[2] / "notebooks" / "images"
RUNS = """import logging

import mlflow

logging.getLogger("mlflow").setLevel(logging.ERROR)
for depth, rate in enumerate((0.05, 0.15, 0.4, 0.1, 0.3)):
    with mlflow.start_run(run_name=f"run-{depth}"):
        mlflow.log_params({"depth": depth, "rate": rate, "seed": 7})
        for step in range(40):
            mlflow.log_metric("loss", 2.7 ** (-rate * step) + rate / 4, step=step)"""
TRACKED = """%%track boosting --params depth,rate,rounds --register wine
import mlflow
from sklearn.datasets import load_wine
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import log_loss

X, y = load_wine(return_X_y=True, as_frame=True)
X = X[["alcohol", "flavanoids", "proline"]]
bottles, depth, rate, rounds = X[:5], 2, 0.1, 40

model = GradientBoostingClassifier(max_depth=depth, learning_rate=rate, n_estimators=rounds)
model.fit(X[::2], y[::2])
for step, probabilities in enumerate(model.staged_predict_proba(X[1::2])):
    mlflow.log_metric("loss", log_loss(y[1::2], probabilities), step=step)

_ = mlflow.sklearn.log_model(
    model,
    name="model",
    signature=mlflow.models.infer_signature(X, model.predict(X)),
    serialization_format="cloudpickle",
    pip_requirements=["scikit-learn"],
)"""
LIVE = """%%track forest
import math, pathlib, time
import mlflow
mlflow.log_params({"depth": 3, "rate": 0.1})
step = 0
while not pathlib.Path("enough").exists():
    step += 1
    noise = math.sin(step * 1.7) / 40
    mlflow.log_metrics({
        "train_loss": math.exp(-step / 60) + noise,
        "test_loss": math.exp(-step / 90) + 0.1 + noise * 2,
        "accuracy": 1 - math.exp(-step / 80) / 2,
    }, step=step)
    time.sleep(0.02)"""


def main() -> int:
    """Make all of them."""
    folder = Path(tempfile.mkdtemp(prefix="dbml-pictures-"))
    jupyter = Jupyter(folder)
    try:
        with sync_playwright() as playwright:
            found = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS, ignore_default_args=HIDES)
            jupyter.wait()
            _panels(browser, jupyter)
            _live(browser, jupyter)
            browser.close()
    finally:
        jupyter.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _panels(browser: Browser, jupyter: Jupyter) -> None:
    cells = ["%load_ext dbml_magics\n%dbml link", RUNS, TRACKED, "%dbml panel runs", "%dbml panel register"]
    with opened(browser, jupyter, cells, width=1250) as notebook:
        notebook.look("light", 1250, 1500)
        notebook.run(0)
        panel = PanelPage(notebook, 0)
        link = panel.form("link")
        panel.fill(link, registry="both")
        panel.run(link)
        panel.done(link)
        panel.box.screenshot(path=IMAGES / "panel-link.png")
        notebook.run(1)

        notebook.run(2)
        expect(notebook.outputs(2)).to_contain_text("FINISHED Run boosting")
        notebook.cell(0).click()  # no frame round the cell that is shown
        notebook.cell(2).screenshot(path=IMAGES / "track.png")

        notebook.run(3)
        panel = PanelPage(notebook, 3)
        expect(panel.box.locator(".dbml-table")).to_contain_text("6 of 6 runs", timeout=PATIENCE_MS)
        panel.box.locator(".dbml-table").get_by_role("button", name="loss").click()
        panel.box.locator(".dbml-match input").fill("loss<0.17")
        panel.box.locator(".dbml-param select").select_option(label="rate")
        expect(panel.box.locator(".dbml-scatter")).to_contain_text("loss against rate")
        panel.box.locator(".dbml-runs").screenshot(path=IMAGES / "panel-runs.png")

        notebook.run(4)
        panel = PanelPage(notebook, 4)
        register = panel.form("register")
        panel.fill(register, run="last", name="bordeaux", to="both", alias="champion")
        panel.run(register)
        panel.done(register)
        panel.box.screenshot(path=IMAGES / "panel-register.png")
        deploy = panel.choose("deploy", "deploy")
        panel.fill(deploy, model="bordeaux/1", name="bordeaux", traffic="120")
        expect(deploy).to_contain_text("a percentage from 0 to 100")
        panel.box.screenshot(path=IMAGES / "panel-deploy.png")
        score = panel.choose("score")
        panel.fill(score, model="bordeaux/1", input="$bottles")
        panel.run(score)
        expect(panel.done(score)).to_contain_text("Scored 5 rows")
        panel.box.screenshot(path=IMAGES / "panel-score.png")


def _live(browser: Browser, jupyter: Jupyter) -> None:
    with opened(browser, jupyter, [LINKED, LIVE], width=1250) as notebook:
        notebook.run(0)
        notebook.begin(1)
        expect(notebook.cell(1).locator(".dbml-stop")).to_be_visible(timeout=PATIENCE_MS)
        expect(notebook.outputs(1)).to_contain_text("points")
        notebook.page.wait_for_function(
            "() => [...document.querySelectorAll('figcaption')]"
            ".some(each => /[1-9][0-9]{2} points/.test(each.textContent))",
            timeout=PATIENCE_MS,
        )
        notebook.cell(0).click()
        notebook.cell(1).screenshot(path=IMAGES / "live.png")
        (notebook.file.parent / "enough").touch()
        notebook.wait_for_end(1)


if __name__ == "__main__":
    sys.exit(main())
