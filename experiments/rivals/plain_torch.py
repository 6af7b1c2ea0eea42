"""FedAvg as a loop over clients and steps in plain PyTorch, for `run.py`."""

import torch
from exchange import end_round, finish, given_work
from torch_model import Llama, train


def main() -> None:
    work = given_work()
    model = Llama(work)
    for cohort in torch.from_numpy(work.rows).long():
        start = [parameter.detach().clone() for parameter in model.parameters()]
        total = [torch.zeros_like(parameter) for parameter in start]
        for steps in cohort:
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), start, strict=True):
                    parameter.copy_(value)
            train(model, steps, work.rate)
            with torch.no_grad():
                for sum_, parameter in zip(total, model.parameters(), strict=True):
                    sum_.add_(parameter, alpha=1 / len(cohort))
        with torch.no_grad():
            for parameter, mean in zip(model.parameters(), total, strict=True):
                parameter.copy_(mean)
        end_round()
    finish(model.arrays(), "torch", "numpy")


if __name__ == "__main__":
    main()
