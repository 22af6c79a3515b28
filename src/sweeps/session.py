"""One command's part of a study: its trials, each a job of a sweep.

session = Session(study, sweep)
session.add(trial, job)
while session.pending:
    session.poll(timeout_seconds=0.2)
"""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import FrozenTrial, Trial, TrialState

from src.runs.record import Record
from src.runs.record_schema import EMPTY
from src.sweeps.job_state import JobState, JobStatus
from src.sweeps.plan import Job
from src.sweeps.study import PRUNED_AT, Study
from src.sweeps.sweep import Sweep

STATUS_OF_TRIAL: dict[TrialState, JobStatus] = {
    TrialState.COMPLETE: "reused",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of an earlier command as the study has it, its job, and the trial to resume where it is unfinished."""

    trial: FrozenTrial
    unfinished: Trial | None
    job: Job


class Session:
    """The trials of one command; `pending` are those that run or wait, by the number of their job."""

    def __init__(self, study: Study, sweep: Sweep) -> None:
        self._study, self._sweep = study, sweep
        self._pruned: set[int] = set()
        self._failed = False
        self.pending: dict[int, Trial] = {}

    @property
    def exit_code(self) -> int:
        """The sweep's; 1 where a trial has failed for want of a value."""
        return self._sweep.exit_code or int(self._failed)

    def add_earlier(self, earlier: EarlierTrial) -> None:
        """A trial of an earlier command: shown or measured where it is finished, resumed where it is not."""
        trial, unfinished, job = earlier.trial, earlier.unfinished, earlier.job
        if trial.state == TrialState.COMPLETE and job.action == "measure":
            self._sweep.add(job)  # of which the study knows all that it asks
        elif unfinished is None:
            state = self._sweep.add(job, earlier=STATUS_OF_TRIAL[trial.state])
            if state.value is None and trial.state == TrialState.COMPLETE:  # its run is not there any more
                state.value = trial.value
            if trial.state == TrialState.FAIL:
                error = (Record(job.directory).read() or EMPTY)["error"]
                state.reason = f"{error['type']}: {error['message']}" if error else None
        elif PRUNED_AT in trial.user_attrs and job.action in ("start", "resume"):
            self.add(unfinished, job, earlier="pruned")
        else:
            self.add(unfinished, job)

    def add(self, trial: Trial, job: Job, *, earlier: JobStatus | None = None) -> None:
        """A trial to run, or one whose end, `earlier`, the study does not know."""
        trial.set_user_attr("id", job.id)
        trial.set_user_attr("directory", str(job.directory))
        self.pending[self._sweep.add(job, earlier=earlier).number] = trial

    def fail(self, trial: Trial) -> None:
        """A trial has failed in this command."""
        self._study.tell(trial, "failed")
        self._failed = True

    def poll(self, *, timeout_seconds: float) -> None:
        """Wait a moment; tell the study which trials have ended, and prune those that are not worth continuing."""
        for state in self._sweep.poll(timeout_seconds):
            if trial := self.pending.pop(state.number, None):
                self._tell(trial, state)
        for number, trial in self.pending.items():
            self._report(trial, self._sweep.states[number - 1])

    def _report(self, trial: Trial, state: JobState) -> None:
        if not self._sweep.writes_record(state, state.read()):
            return  # what is recorded is an earlier process's, and this one does not listen yet
        record = Record(state.job.directory)
        if state.number not in self._pruned and self._study.report(trial, measured_epochs(record, state.job.monitor)):
            trial.set_user_attr(PRUNED_AT, record.history()[-1]["epoch"])
            self._pruned.add(state.number)
        if state.number in self._pruned:
            self._sweep.prune(state)

    def _tell(self, trial: Trial, state: JobState) -> None:
        if state.status in ("interrupted", "not started"):
            return  # unfinished: the next command resumes it
        self._study.report(trial, measured_epochs(Record(state.job.directory), state.job.monitor))
        if state.status == "pruned":
            self._study.tell(trial, "pruned")
        elif state.status in ("completed", "reused") and state.value is not None:
            self._study.tell(trial, "complete", state.value)
        elif state.same_as:
            self._study.tell(trial, "failed")
        else:
            self.fail(trial)


def measured_epochs(record: Record, monitor: str) -> list[tuple[int, float]]:
    """The epochs of a run so far that have a value, and these."""
    return [(values["epoch"], values[monitor]) for values in record.history() if values.get(monitor) is not None]
