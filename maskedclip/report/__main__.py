"""Tables 1 and 2 and Figure 2 of finished runs, a page a result, and the curves of any runs.

python -m maskedclip.report RUNS... [--out DIR] [--protocol finetune]

RUNS are run directories, or folders that hold some. DIR gets curves.html, the curves of TensorBoard
in one file that needs no server, also of runs that are going on. Of results it gets table1 and
table2 as .md, .tex and .csv, figure2.png and .svg, index.html with all of it and a link behind
every number, and runs/ with a page a result. Without --out DIR is report/ in the run or folder.
"""

if __name__ == "__main__":  # options first: --help and mistakes answer before torch is imported
    import logging
    import sys

    from maskedclip.command import one_line_errors
    from maskedclip.report.command import read_report

    RUNS, OPTIONS = read_report(__doc__)

    from maskedclip.next_step import next_lines, report_command
    from maskedclip.report.build import how_to_open, report

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        WRITTEN = report(RUNS, OPTIONS)
    sys.stdout.write(f"{WRITTEN.text}\n")
    for page in dict.fromkeys((WRITTEN.page, WRITTEN.curves)):
        sys.stdout.write(f"{page}\n" if page else "")
    sys.stdout.write(f"{how_to_open(WRITTEN.page)}\n")
    for line in WRITTEN.problems:
        sys.stderr.write(line + "\n")
    if not OPTIONS.protocol:  # one that was asked for has been led to: "next" ends there
        commands = (
            report_command(RUNS, f"{OPTIONS.out}_{protocol}", protocol)
            for protocol in WRITTEN.other_protocols
        )
        sys.stdout.write(next_lines(*commands))
    sys.exit(1 if WRITTEN.problems else 0)
