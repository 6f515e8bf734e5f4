"""``mien evaluate --robustness``: the accuracy that a model loses on images that were changed."""

from __future__ import annotations

import argparse
from dataclasses import replace

from mien.cli.output import json_text, note, write_stdout
from mien.cli.targets import check_target_folder, check_targets, read_files
from mien.core.errors import EXIT_DONE


def evaluate_robustness(args: argparse.Namespace, *, data: str, command: str) -> int:
    """Measure, write what is asked for and return the exit code.

    Args:
        args: the words of ``mien evaluate``.
        data: what to call the data set.
        command: the command line that gives these figures.
    """
    from mien.core.manifest import load_manifest
    from mien.core.models import find_model
    from mien.data.loading import load_split
    from mien.data.trained_on import find_record, seen_masks
    from mien.evaluation.exported import find_exported, home_of
    from mien.evaluation.report import versions
    from mien.evaluation.report_place import report_place
    from mien.evaluation.robustness import (
        check_robustness_section,
        measure_robustness,
        robustness_text,
        update_robustness,
        write_robustness,
    )
    from mien.inference.classifier import Classifier

    check_robustness_section(args.update)
    folder, run = find_exported(args.model)
    reading = args.labels or load_manifest(find_model(folder), labels=None).reading
    classifier = Classifier.open(folder, reading=reading)
    output = args.output or home_of(run, classifier.manifest.name) / "report"
    reads = [args.data, *read_files(args)]
    names = ("robustness.json", "robustness.md")
    if not args.no_report:
        check_target_folder("--output", output, names, reads=reads, force=args.force)
        check_targets([("--update", path) for path in args.update], reads=reads, force=True)
    split = load_split(args.data, args.split or "val", quiet=args.quiet)
    record = find_record(folder, run)
    if record is not None:
        trained, _ = seen_masks(split, record)
        note(
            f"the model was trained on {trained.sum():,} of the {len(split):,} images, which are "
            "left out",
            quiet=args.quiet,
        )
        split = split.take(~trained)
    measured = measure_robustness(
        lambda faces: classifier.classify(faces, augment=args.tta, batch_size=args.batch_size),
        split.images,
        split.labels,
        model=classifier.manifest.info,
        split=split.name,
        tta=args.tta,
        quiet=args.quiet,
    )
    result = replace(measured, data=data, command=command, versions=versions())
    if not args.no_report:
        output = report_place(
            output, result.model, data, given=args.output is not None, force=args.force
        )
        check_target_folder("--output", output, names, reads=reads, force=args.force)
        page = write_robustness(result, output)
        for path in args.update:
            update_robustness(path, result)
        note(f"report: {page}", quiet=args.quiet)
    write_stdout(json_text(result.to_dict()) + "\n" if args.json else robustness_text(result))
    return EXIT_DONE
