"""Modules in place of wandb and trackio that record the calls of their documented functions."""

import importlib.machinery
import types


def module(name, **members):
    found = types.ModuleType(name)
    found.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(found).update(members)
    return found


def fake_wandb(calls, run_id="abc123"):
    class Error(Exception):
        pass

    class Run:
        id = run_id

        def define_metric(self, name, *, step_metric):
            calls.append(("define_metric", name, step_metric))

        def log(self, values):
            calls.append(("log", values))

        def finish(self):
            calls.append(("finish",))

    def init(*, project, name, dir, config, id, resume):  # noqa: A002 - wandb's own names
        calls.append(("init", project, name, dir, config["uplink"], id, resume))
        if project == "nowhere":
            raise Error("no API key")
        return Run()

    return module("wandb", init=init, errors=types.SimpleNamespace(Error=Error))


def fake_trackio(calls):
    def init(*, project, name, config, resume):
        calls.append(("init", project, name, config["uplink"], resume))
        return types.SimpleNamespace(name=name or "made-up-0")

    return module(
        "trackio",
        init=init,
        log=lambda values, step: calls.append(("log", step, values)),
        finish=lambda: calls.append(("finish",)),
    )
