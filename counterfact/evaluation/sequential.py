"""A sequential run: each group is edited on the model as it was edited before, and measured right after and later.

It is one chain of steps, and every pass that measures is a folder of lines which grows unit by unit:

- `immediate/`: each group right after its own edit;
- `after-<edits>/`: records that were edited so far, after so many edits, and what has become of the model;
- the run's own folder: all records after the last edit.

Killed at any moment, it goes on from the last checkpoint: steps that were measured already are made again, unmeasured.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from counterfact.contracts.editors import Edited, Finishing, edit_together
from counterfact.core.errors import BadInput
from counterfact.core.files import disk_full, read_json, read_jsonl, write_json
from counterfact.core.records import BadRecord, Record, Request
from counterfact.core.seeds import derive_seed
from counterfact.evaluation.asking import Job
from counterfact.evaluation.checkpoint import Checkpoints, Progressed
from counterfact.evaluation.chunks import Attempt, Outcome, reason_of, run_under
from counterfact.evaluation.condition import Watch
from counterfact.evaluation.environment import Account
from counterfact.evaluation.folder import Computed, Unit, units_of, walk
from counterfact.evaluation.retention import CONDITION, IMMEDIATE, after, has_fallen
from counterfact.evaluation.store import CASES
from counterfact.lm.edits.apply import merged
from counterfact.lm.edits.edit import Edit
from counterfact.lm.edits.totals import NOTHING, added, is_finite
from counterfact.lm.forward.products import packed_products

MOST = 500
"""Records that are measured at a checkpoint, at most; each of them was measured at every one before, once edited."""
Tell = Callable[[int, int], None]


class SequentialRun:
    """The walk through one run.

    Args:
        job: what is measured, and the prepared editor.
        most_at_once: how many requests the editor takes in one edit; `None`: any number. A group that is larger is
            edited part by part, each on top of the one before.
        known: records that are not edited, whose facts the unedited model knows.
        unedited: folder of what the unedited model says about the same records.
        account: is told what units cost.
    """

    def __init__(
        self, job: Job, most_at_once: int | None, known: Sequence[Record], unedited: Path, account: Account
    ) -> None:
        if job.editor is None:
            raise ValueError("expected an editor")
        self._job, self._editor, self._account = job, job.editor, account
        self._watch, self._unedited = Watch(job.lm, known, job.plan), unedited
        self._schedule, self._seed = job.task.options.schedule, job.task.options.seed
        self._folder, self._records = job.task.folder, self._schedule.ordered(job.records, job.task.options.seed)
        self._units = units_of(len(self._records), self._schedule.edits_at_once)
        self._due = set(self._schedule.checkpoints(len(self._records)))
        self._part = most_at_once or len(self._records)
        self._checkpoints = Checkpoints(self._folder / "edits", job.lm, [r.case_id for r in self._records])
        self._now = Progressed()

    def run(self, progress: Tell) -> None:
        """Make all edits and measure, or go on where an earlier call stopped.

        Raises:
            BadInput: what is there cannot be gone on with.
            OSError: the disk is full; what was finished stays.
        """
        total = len(self._records)
        self._walk(self._folder / IMMEDIATE, self._records, self._schedule.edits_at_once, self._steps, progress)
        self._finish()
        self._condition()
        self._retained(self._folder, self._job.records, lambda done, _: progress(total + done, 2 * total))

    def _steps(self, missing: Sequence[Unit]) -> Iterator[Computed]:
        """Make the edits, and yield what is measured right after each, of those units that are missing."""
        wanted, self._now = set(missing), self._checkpoints.load()
        if missing and min(missing).start < self._edits:
            raise BadInput(f"{self._folder / IMMEDIATE} lacks lines of steps that were made; restart the run")
        collapsed = self._look()
        for unit in self._units[self._now.step :]:
            group = self._records[unit.start : unit.stop]
            if collapsed and not self._schedule.keep_going:
                if unit in wanted:
                    yield Computed(unit, self._passed_over(group))
                continue
            attempt = self._edit(group)
            if unit in wanted:
                yield self._measure(unit, group, attempt)
            self._checkpoints.save(self._now, at_once=unit == self._units[-1] or self._now.step in self._due)
            collapsed = self._look()

    def _edit(self, group: Sequence[Record | BadRecord]) -> Attempt:
        """Make the next step."""
        errors: dict[int, dict[str, str]] = {}
        made: dict[int, Edit] = {}
        seconds: dict[int, float] = {}
        requests = [record.request for record in group if not isinstance(record, BadRecord)]
        now = replace(self._now, step=self._now.step + 1)
        for part in (requests[i : i + self._part] for i in range(0, len(requests), self._part)):
            start = perf_counter()
            edited, reasons = self._edited(part, now)
            if edited is not None and (edit := edited.edit) is not None:
                now = replace(now, total=added(now.total, edit), memory=edited.state or now.memory)
                made |= dict.fromkeys(edit.request_ids, edit)
            missed = [request.id for request in part if request.id not in made]
            unsaid = "the editor said nothing of this request"
            errors |= {i: {"stage": "edit", "reason": reasons.get(i, unsaid)} for i in missed}
            seconds |= {request.id: (perf_counter() - start) / len(part) for request in part}
        self._now = now
        return Attempt(errors, made, seconds)

    def _edited(self, part: Sequence[Request], now: Progressed) -> tuple[Edited | None, dict[int, str]]:
        """Edit some requests on the model as it is now; return what came of it, and why the others failed."""
        lm = self._job.lm
        try:
            with packed_products(lm), merged(lm, [replace(now.total, context="")]):
                edited = edit_together(self._editor, part, self._seed, now.memory or None)
        except Exception as error:
            if disk_full(error):
                raise
            return None, {request.id: reason_of(error) for request in part}
        if edited.edit is not None and not is_finite(edited.edit):
            return None, {request.id: "the edit is not finite" for request in part}
        return edited, {failure.id: failure.reason for failure in edited.failures}

    def _passed_over(self, group: Sequence[Record | BadRecord]) -> list[Outcome]:
        error = {"stage": "edit", "reason": f"not edited: the model had collapsed after {self._edits:,} edits"}
        return [Outcome({"case_id": i, "error": error}, {"case_id": i}) for i in (r.case_id for r in group)]

    def _measure(self, unit: Unit, group: Sequence[Record | BadRecord], attempt: Attempt) -> Computed:
        splits, chunk = len(self._job.plan.splits), self._job.plan.chunk
        edit = self._shared()
        parts = (group[i : i + chunk] for i in range(0, len(group), chunk))
        outcomes = [outcome for part in parts for outcome in run_under(self._job, part, edit, attempt)]
        return Computed(unit, outcomes, self._job.plan.splits[splits:])

    @property
    def _edits(self) -> int:
        """How many records were passed, whether they could be edited or not."""
        return min(self._now.step * self._schedule.edits_at_once, len(self._records))

    def _shared(self) -> Edit:
        """Return the whole edit, which all rows of a batch share, with its size."""
        return replace(self._now.total, diagnostics={"update_frobenius": self._now.total.frobenius()})

    def _look(self) -> bool:
        """Measure at a checkpoint, if one is due; return whether the model has collapsed."""
        step = self._now.step
        if step not in self._due or step == len(self._units):
            return False
        records, folder = self._sample(self._records[: self._edits]), self._folder / after(self._edits)
        self._retained(folder, records, lambda *_: None)
        ruined = bool(self._condition()["ruined"])
        return ruined or has_fallen(list(read_jsonl(folder / CASES)), self._unedited, self._job.benchmark)

    def _condition(self) -> dict[str, Any]:
        """Return what has become of the model, looked up or measured."""
        path = self._folder / after(self._edits) / CONDITION
        if not path.exists():
            found = self._watch.look(self._now.total)
            write_json(path, {"edits": self._edits, "step": self._now.step, **found})
        read: dict[str, Any] = read_json(path)
        return read

    def _sample(self, records: Sequence[Record | BadRecord]) -> list[Record | BadRecord]:
        def place(record: Record | BadRecord) -> int:
            return derive_seed(self._seed, "measured later", record.case_id)

        chosen = {record.case_id for record in sorted(records, key=place)[:MOST]}
        return [record for record in records if record.case_id in chosen]

    def _retained(self, folder: Path, records: Sequence[Record | BadRecord], progress: Tell) -> None:
        """Measure records that were edited, under the whole edit."""
        lines = read_jsonl(self._folder / IMMEDIATE / CASES)
        failed = {line["case_id"]: line["error"] for line in lines if line.get("error", {}).get("stage") == "edit"}
        edit, attempt = self._shared(), Attempt(failed)

        def run(units: Sequence[Unit]) -> Iterator[Computed]:
            for unit in units:
                splits = len(self._job.plan.splits)
                outcomes = run_under(self._job, records[unit.start : unit.stop], edit, attempt)
                yield Computed(unit, outcomes, self._job.plan.splits[splits:])

        self._walk(folder, records, self._job.plan.chunk, run, progress)

    def _walk(
        self,
        folder: Path,
        records: Sequence[Record | BadRecord],
        chunk: int,
        run: Callable[[Sequence[Unit]], Iterator[Computed]],
        progress: Tell,
    ) -> None:
        walk(folder, CASES, records, chunk, lambda units: self._account.watch(run(units)), progress)

    def _finish(self) -> None:
        """Take the editor's last step, if it has one."""
        if self._now.finished or not isinstance(self._editor, Finishing):
            return
        total, name = self._now.total, self._job.task.editor
        last = self._editor.finish([total])
        if not is_finite(last):
            raise BadInput(f"the last step of {name} gave an edit that is not finite")
        if left_out := set(total.modules) - set(last.modules):
            raise BadInput(f"the last step of {name} left out what was edited of {', '.join(sorted(left_out))}")
        self._now = replace(self._now, total=added(NOTHING, last), finished=True)
        self._checkpoints.save(self._now, at_once=True)
