"""The kit from start to end: every step finds what is done already and goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lab.gpu import gather, setup
from lab.gpu.children import Command, OutOfTime, run_children
from lab.gpu.clock import Journal
from lab.gpu.plan import Pace, Plan, StagePlan, budget, choose_epochs
from lab.gpu.recipes import LITE0, Machine, recipe_here, taught, views_within
from lab.gpu.workplace import environment_in, take_lock
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, MienError
from mien.core.files import write_atomically
from mien.core.process import stderr
from mien.core.progress import format_duration
from mien.training.recipe import config_to_toml, load_config
from mien.training.run import RunFolder

_MODULE = "lab.gpu"
_ON_PROCESSOR = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
"""For the export: a GPU multiplies float32 less exactly than the proof of equality asks for."""

_TRIED_EPOCHS = 10
"""Of a recipe that is only tried: enough for both of its sizes."""


def run_kit(plan: Plan, pack: Path, work: Path, output: Path, *, workers: int) -> int:
    """Do what is left to do, for as long as a piece lasts.

    Args:
        plan: what to train, in how much time.
        pack: what `lab.gpu.pack.make_pack` made.
        work: the kit's folder, kept from piece to piece.
        output: folder of the results, filled at the end of every piece.
        workers: threads that make batches.

    Returns:
        `EXIT_DONE` if all is done, `EXIT_INTERRUPTED` if another piece has to go on.

    Raises:
        InputError: if the pack is missing or damaged, or the kit runs here already.
        MienError: if the student cannot be trained, exported or measured.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        take_lock(lock.fileno(), work)
        kit = _Kit(plan, pack, work, workers, lock.fileno())
        try:
            kit.go()
        except (OutOfTime, KeyboardInterrupt):
            kit.say("this piece is over, all is saved: run the same command again to go on")
            return EXIT_INTERRUPTED
        finally:
            kit.journal.save()
            gather.gather(kit.machine, plan, kit.journal.notes, output)
    return EXIT_DONE


class _Kit:
    """One piece of the kit's work."""

    def __init__(self, plan: Plan, pack: Path, work: Path, workers: int, lock: int) -> None:
        self.plan = plan
        self.pack = pack
        self.journal = Journal(work / "journal.json")
        self.notes = self.journal.notes
        self.machine = Machine(work, "", False, workers)
        self.environment = environment_in(work, lock)

    def go(self) -> None:
        """Do every step."""
        setup.unpack(self.pack, self.machine.work)
        if "backend" not in self.notes:
            self.notes["backend"], self.notes["gpu"] = setup.find_backend(self.environment)
            self.say(f"backend {self.notes['backend']}, GPU: {self.notes['gpu']}")
        self.machine = Machine(
            self.machine.work, self.notes["backend"], self.notes["gpu"], self.machine.workers
        )
        self.environment["KERAS_BACKEND"] = (
            "torch" if self.machine.asks_live else self.machine.backend
        )
        if not self.machine.asks_live:
            # Views differ from student to student, and there is time to ask about one's.
            self.plan = replace(self.plan, others=())
        self._make_start()
        self._try_all()
        for stage in self.plan.teachers:
            self._train(stage)
        if not self.machine.asks_live:
            self._ask_teachers()
        for stage in self.plan.students:
            self._train(stage)
        self._finish()
        self.say("done")

    def say(self, what: str) -> None:
        """Tell what happens, and when, and keep it for the report."""
        line = f"[{format_duration(self.journal.spent)}] {what}"
        stderr().write(f"kit {line}\n")
        stderr().flush()
        self.notes.setdefault("told", []).append(line)
        self.journal.save()

    # ------------------------------------------------------------ before training
    def _make_start(self) -> None:
        recipes = {stage: load_config(stage.recipe) for stage in self.plan.stages}
        needing = [stage for stage in recipes if recipes[stage].model.weights == LITE0]
        if needing and not self.machine.start.is_file():
            places = (str(self.pack), str(self.machine.start), str(needing[0].recipe))
            self._must({"start": Command((_MODULE, "start", *places))})

    def _try_all(self) -> None:
        """Try every network, all at once on a GPU: compiling takes longer than trying."""
        paces = self.notes.setdefault("paces", {})
        commands = {}
        for stage in self.plan.stages:
            if stage.name not in paces and not self._pace_file(stage).is_file():
                config = recipe_here(self.machine, stage, _TRIED_EPOCHS)
                if stage in self.plan.students:
                    views = 0 if self.machine.asks_live else 1
                    config = taught(self.machine, config, self.plan.teachers, views)
                recipe = self._write_recipe(f"{stage.name}-tried", config_to_toml(config))
                places = (recipe, self._pace_file(stage), self.machine.work / "turn")
                # Side by side they must not each take most of the memory.
                commands[f"{stage.name}-tried"] = Command(
                    (_MODULE, "trial", *map(str, places)),
                    {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                )
        if commands:
            self._run(commands, parallel=len(commands) if self.machine.has_gpu else 1)
        for stage in self.plan.stages:
            file = self._pace_file(stage)
            if stage.name not in paces and file.is_file():
                paces[stage.name] = json.loads(file.read_text(encoding="utf-8"))
                pace = self._pace(stage)
                asked = f", {pace.predictions:,.0f} as a teacher" if pace.predictions else ""
                self.say(
                    f"{stage.name}: {pace.batch_size / pace.seconds:,.0f} images/s, "
                    f"{pace.batch_size / pace.large_seconds:,.0f} at the larger size{asked}"
                )
            elif stage.name not in paces:
                self.say(
                    f"{stage.name} does not train here: see {self._log(stage.name + '-tried')}"
                )
        if self.plan.student.name not in paces:
            raise MienError(f"the student does not train here: see {self.machine.work / 'logs'}")

    def _pace_file(self, stage: StagePlan) -> Path:
        return self.machine.work / "paces" / f"{stage.name}.json"

    def _pace(self, stage: StagePlan) -> Pace:
        return Pace(**self.notes["paces"][stage.name])

    # ------------------------------------------------------------ training
    def _train(self, stage: StagePlan) -> None:
        """Train a network, or go on with it; any but the student is left out if it fails."""
        run = RunFolder(self.machine.run(stage))
        if run.summary.is_file() or self._is_out(stage):
            return
        recipe = self._recipe_file(stage)
        if not recipe.is_file():
            self._choose(stage, recipe)
        began = self.notes.setdefault("seconds", {}).setdefault(stage.name, 0.0)
        started = self.journal.spent
        start = [_MODULE] if self.machine.asks_live else ["mien"]
        words = [*start, "train", "--config", str(recipe), "--run", str(run.path)]
        if run.config.is_file():
            words = [*start, "train", "--resume", str(run.path)]
        try:
            codes = self._run({stage.name: Command(tuple(words))})
        finally:
            self.notes["seconds"][stage.name] = began + self.journal.spent - started
        if codes[stage.name] == EXIT_DONE:
            best = json.loads(run.summary.read_text(encoding="utf-8"))["best"]
            self.say(f"{stage.name}: PublicTest {best['val_accuracy']:.2%}")
        elif stage == self.plan.student:
            raise MienError(f"the student cannot be trained: see {self._log(stage.name)}")
        else:
            self.notes.setdefault("failed", []).append(stage.name)
            self.say(f"{stage.name} failed and is left out: see {self._log(stage.name)}")

    def _is_out(self, stage: StagePlan) -> bool:
        return stage.name not in self.notes["paces"] or stage.name in self.notes.get("failed", [])

    def _choose(self, stage: StagePlan, recipe: Path) -> None:
        """Choose a network's epochs by the time that is left, and write its recipe."""
        place = self.plan.stages.index(stage)
        later = [each for each in self.plan.stages[place + 1 :] if not self._is_out(each)]
        asks_later = stage in self.plan.teachers and not self.machine.asks_live
        kept = self.plan.finish_seconds + (self.plan.logits_seconds if asks_later else 0)
        kept += self.plan.start_seconds * (1 + len(later))
        left = self.plan.minutes * 60 - self.journal.spent - kept
        seconds = budget(stage, later, left)
        self._write_chosen(stage, recipe, seconds)

    def _write_chosen(self, stage: StagePlan, recipe: Path, seconds: float) -> None:
        pace, slower = self._pace(stage), self._slower()
        every = load_config(stage.recipe).training.validate_every
        teachers = self._teachers() if stage in self.plan.students else []
        paces = [self._pace(teacher) for teacher in teachers]
        live = paces if self.machine.asks_live else []
        each = pace.epoch_seconds(stage, validate_every=every, teachers=live)
        epochs = choose_epochs(stage, each * slower, seconds)
        self.notes.setdefault("expected", {})[stage.name] = epochs * each
        self.say(
            f"{stage.name}: {epochs} epochs of {each * slower:.1f} s in {format_duration(seconds)} "
            f"(from {stage.least} to {stage.most})"
        )
        config = recipe_here(self.machine, stage, epochs)
        if stage in self.plan.students:
            views = 0
            if teachers and not self.machine.asks_live:
                allowed = self.plan.logits_seconds - self.plan.start_seconds
                views = views_within(config, paces, pace.images, seconds=allowed)
            config = taught(self.machine, config, teachers, views)
            about = f"{views} views" if views else "what it sees"
            self.say(f"{len(teachers)} teachers are asked about {about}")
        write_atomically(recipe, config_to_toml(config).encode())

    def _slower(self) -> float:
        """Return how much slower than tried the networks trained so far were."""
        seconds, expected = self.notes.get("seconds", {}), self.notes.get("expected", {})
        done = [stage.name for stage in self._teachers() if stage.name in expected]
        if not done:
            return 1.0
        taken = sum(seconds[name] - self.plan.start_seconds for name in done)
        ratio = taken / max(1e-9, sum(expected[name] for name in done))
        return float(min(2.0, max(0.7, ratio)))

    def _teachers(self) -> list[StagePlan]:
        return self._done(self.plan.teachers)

    def _done(self, stages: Sequence[StagePlan]) -> list[StagePlan]:
        runs = {stage: RunFolder(self.machine.run(stage)) for stage in stages}
        return [stage for stage, run in runs.items() if run.summary.is_file()]

    def _ask_teachers(self) -> None:
        student = self.plan.student
        recipe = self._recipe_file(student)
        if not recipe.is_file():
            left = self.plan.minutes * 60 - self.journal.spent
            kept = self.plan.finish_seconds + self.plan.logits_seconds + self.plan.start_seconds
            self._write_chosen(student, recipe, left - kept)
        if self._teachers() and not self.notes.get("asked"):
            words = ("mien", "train", "--config", str(recipe), "--teacher-logits")
            self._must({"logits": Command(words)})
            self.notes["asked"] = True
            self.say("the teachers have been asked")

    # ------------------------------------------------------------ the end
    def _finish(self) -> None:
        run, work = self.machine.run(self.plan.student), self.machine.work
        data = str(work / "faces.npz")
        commands = {}
        if not (work / "probabilities.npz").is_file():
            done = [*self.plan.others, *self.plan.teachers]
            runs = [str(self.machine.run(stage)) for stage in self._done(done)]
            target = str(work / "probabilities.npz")
            words = (_MODULE, "probabilities", data, target, str(run), *runs)
            commands["probabilities"] = Command(words)
        if not self.notes.get("exported"):
            export = ("mien", "export", str(run), "--calibrate", data)
            commands["export"] = Command(export, _ON_PROCESSOR)
        self._must(commands)
        self.notes["exported"] = True
        model = ("--model", str(run / "export"), "--data", data, "--split", "val")
        report = ("mien", "evaluate", *model)
        commands = {}
        if not (work / "report" / "report.md").is_file():
            commands["report"] = Command((*report, "--output", str(work / "report")))
        if not (work / "report-tta" / "report.md").is_file():
            folder = str(work / "report-tta")
            commands["report-tta"] = Command((*report, "--tta", "--output", folder))
        self._must(commands)

    # ------------------------------------------------------------ processes and files
    def _run(self, commands: Mapping[str, Command], *, parallel: int = 1) -> dict[str, int]:
        return run_children(
            commands,
            logs=self.machine.work / "logs",
            environment=self.environment,
            is_late=self._is_late,
            watch=self.journal.beat,
            parallel=parallel,
        )

    def _must(self, commands: Mapping[str, Command]) -> None:
        parallel = len(commands) if self.machine.has_gpu else 1
        for name, code in self._run(commands, parallel=parallel).items():
            if code != EXIT_DONE:
                raise MienError(f"{name} failed with exit code {code}: see {self._log(name)}")

    def _is_late(self) -> bool:
        return self.journal.in_piece >= self.plan.piece_minutes * 60

    def _log(self, name: str) -> Path:
        return self.machine.work / "logs" / f"{name}.log"

    def _recipe_file(self, stage: StagePlan) -> Path:
        return self.machine.work / "recipes" / f"{stage.name}.toml"

    def _write_recipe(self, name: str, text: str) -> Path:
        path = self.machine.work / "recipes" / f"{name}.toml"
        write_atomically(path, text.encode())
        return path
