"""Turn a downloaded dataset into shards; `python tools/make_shards.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.shards.make import ShardRequest, Summary
from maskedclip.shards.make_command import main


def submit(request: ShardRequest) -> Summary | None:
    """Share a build out to jobs."""
    from maskedclip.jobs.shard_builds import submit  # loads submitit

    return submit(request)


if __name__ == "__main__":
    main(submit=submit)
