"""Fine-tuning on one screen: labels on an encoder, by a named recipe.

python -m maskedclip.finetune RUN_OR_WEIGHTS --dataset shards/idrid --fraction 0.1 --seed 1
python -m maskedclip.finetune RUN_OR_WEIGHTS --dataset shards/idrid --folds 5
"""

if __name__ == "__main__":  # a config first: --help and mistakes answer before torch is imported
    import sys
    from pathlib import Path

    from maskedclip.command import log_lines, one_line_errors
    from maskedclip.finetune.command import read_finetune

    CONFIG, FOLDS, DRY_RUN = read_finetune(__doc__)

    from maskedclip.engine.device_settings import grow_segments

    grow_segments()  # before torch is imported

    from maskedclip.finetune.cross_validation import cross_validate
    from maskedclip.finetune.loop import finetune, planned_memory
    from maskedclip.finetune.measured_rows import measured_rows
    from maskedclip.metrics import results
    from maskedclip.next_step import next_lines, report_command, tuned_commands

    log_lines()
    with one_line_errors():
        if DRY_RUN:
            sys.stdout.write(f"{planned_memory(CONFIG)}\n")
            sys.exit()
        directory = cross_validate(CONFIG, FOLDS) if FOLDS else finetune(CONFIG)
        sys.stdout.write(results.table(measured_rows(directory)))
        use = tuned_commands(directory, Path(CONFIG.dataset))
        sys.stdout.write(next_lines(report_command([directory]), *use))
