"""Writes down every notice of a run."""

from ssl_core import hookimpl


def note(folder, text):
    with open(folder / "notices.txt", "a", encoding="utf-8") as file:
        file.write(text + "\n")


@hookimpl
def run_started(config, folder):
    note(folder, f"started {config.objective.name}")


@hookimpl
def metrics_logged(folder, step, metrics):
    note(folder, f"step {step}: {' '.join(sorted(metrics))}")


@hookimpl
def run_finished(folder, report):
    note(folder, "finished")
