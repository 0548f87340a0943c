"""Whether a trial is worth going on with: Optuna's pruners, asked after each validation about its bits per byte.

They are asked anew each time, about what the trials' files say, so that a sweep that was killed prunes as one that was not.
Validation decides, whatever the metric: it is measured on the way, and lower is better.
"""

from collections.abc import Sequence

from gpt.sweeps.records import COMPLETE, PRUNED, RUNNING, Trial
from gpt.sweeps.settings import Median, NoPruner, SuccessiveHalving


def judge(pruner: NoPruner | Median | SuccessiveHalving, trial: Trial, others: Sequence[Trial]) -> str:
    """Return why a trial should end after its last validation, "" if it should go on. Notes in `trial.rungs` what it reached."""
    if isinstance(pruner, NoPruner) or not trial.curve:
        return ""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, RUNNING: TrialState.RUNNING}
    for each in (*others, trial):
        if each.state in states and each.curve:
            study.add_trial(
                create_trial(
                    state=states[each.state],
                    value=each.curve[-1][1] if each.state == COMPLETE else None,
                    intermediate_values=dict(each.curve),
                    system_attrs=dict(each.rungs),
                )
            )
    this = study.get_trials(deepcopy=False)[-1]
    if isinstance(pruner, Median):
        asked = optuna.pruners.MedianPruner(pruner.startup_trials, pruner.warmup_steps)
        rule = f"worse than the median of {sum(each.state == COMPLETE for each in others)} complete trials"
    else:
        asked = optuna.pruners.SuccessiveHalvingPruner(pruner.min_steps, pruner.reduction_factor)
        rule = f"not among the best 1 in {pruner.reduction_factor} that came so far"
    ends = asked.prune(study, this)
    trial.rungs = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
    step, value = trial.curve[-1]
    return f"{value:.4f} bits per byte after step {step}: {rule}" if ends else ""
