"""Search two settings of the CartPole example by Optuna.

    python examples/optuna_sweep.py --trials 8 --out ~/logdir/cartpole_sweep

Needs Optuna: pip install 'dreamerv2-torch[sweep]'. A trial trains an agent with a
learning rate of the world model and an entropy scale of the actor; its value is the
mean return of the last evaluation. Trials are kept in OUT/trials.db, runs beside it.
The same command goes on: a trial that was stopped with its run, and then with more of
them, up to --trials in all. Other flags, such as --steps 5000, are those of train.py.
"""

import argparse
import json
from pathlib import Path

import cartpole
import optuna
from optuna.trial import Trial, TrialState

import dreamerv2.api as dv2

# Minutes for each trial.
SHORT = {
    "steps": 3000,
    "prefill": 500,
    "pretrain": 50,
    "train_every": 10,
    "dataset": {"batch": 8, "length": 16},
    "replay.maxlen": 16,
    "imag_horizon": 10,
    "eval_eps": 10,
    "logger": "none",
}


def main() -> None:
    """Run what is left of the trials, and print all of them, the best first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=8, help="in all (8)")
    parser.add_argument("--out", type=Path, required=True)
    args, flags = parser.parse_known_args()
    out = args.out.expanduser()
    out.mkdir(parents=True, exist_ok=True)
    config = dv2.defaults.update(cartpole.SETTINGS).update(SHORT).parse_flags(flags)

    def value(trial: Trial) -> float:
        lr = trial.suggest_float("model_opt.lr", 1e-4, 3e-3, log=True)
        entropy = trial.suggest_float("actor_ent", 1e-4, 1e-1, log=True)
        logdir = out / f"lr_{lr:.3g}_ent_{entropy:.3g}"
        changes = {"model_opt.lr": lr, "actor_ent": entropy, "logdir": str(logdir)}
        dv2.train(cartpole.make_env, config.update(changes))
        lines = map(json.loads, (logdir / "metrics.jsonl").open())
        return [x["eval_return"] for x in lines if "eval_return" in x][-1]

    study = optuna.create_study(
        study_name="cartpole",
        storage=f"sqlite:///{out.absolute()}/trials.db",
        sampler=optuna.samplers.TPESampler(n_startup_trials=4),
        direction="maximize",
        load_if_exists=True,
    )
    done = study.get_trials(states=[TrialState.COMPLETE])
    for trial in study.get_trials(states=[TrialState.RUNNING, TrialState.FAIL]):
        if len(trial.params) == 2 and trial.params not in [x.params for x in done]:
            study.enqueue_trial(trial.params)  # Its run goes on.
            done.append(trial)  # Once is enough.
    done = study.get_trials(states=[TrialState.COMPLETE])
    study.optimize(value, n_trials=max(0, args.trials - len(done)))
    for trial in sorted(
        study.get_trials(states=[TrialState.COMPLETE]), key=lambda x: -x.value
    ):
        print(f"{trial.value:7.1f}  {trial.params}")


if __name__ == "__main__":
    main()
