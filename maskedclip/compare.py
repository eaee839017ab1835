"""Is one run better than another? Every metric on the same test images, with p-values.

python -m maskedclip.compare RUN RUN
python -m maskedclip.compare A/seed0,A/seed1 B/seed0,B/seed1

Each RUN is a run directory, a folder of them, or several with commas: runs of one dataset, protocol
and fraction that differ in their seed count as their mean. Patients (images, where patients are
unknown, which is said) are drawn with replacement, 2,000 times, the same ones for both; with one
seed on each side DeLong's test stands below for each class.
"""

from maskedclip.command import CommandLine, Word, log_lines, one_line_errors

COMPARE = CommandLine(words=[Word("RUN", least=2, most=2)])

if __name__ == "__main__":  # before scikit-learn is imported: --help and mistakes answer at once
    import sys
    from pathlib import Path

    WORDS = COMPARE.read(__doc__).words

    from maskedclip.next_step import next_lines, report_command
    from maskedclip.report.compare_methods import compare

    log_lines()
    with one_line_errors():
        sides = [[Path(w)] if Path(w).exists() else list(map(Path, w.split(","))) for w in WORDS]
        sys.stdout.write(compare(*sides))
        sys.stdout.write(
            f"p-values are not adjusted for their number, as those of a report are\n"
            f"{next_lines(report_command([str(path) for side in sides for path in side]))}"
        )
