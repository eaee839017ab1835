"""Pre-train by a recipe, in this process or as one of torchrun's ranks.

python -m maskedclip.pretrain RECIPE --optim.base_lr=1e-4
"""

if __name__ == "__main__":  # a config first: --help and mistakes answer before torch is imported
    from maskedclip.command import one_line_errors, read_config

    CONFIG = read_config(__doc__, None, "maskedclip_vitl").config

    from maskedclip.jobs.job import Job

    with one_line_errors():
        Job(CONFIG)()
