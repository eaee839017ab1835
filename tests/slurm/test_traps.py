"""What SLURM and submitit do to a run that nobody expects, and where each of it is tried.

- Every process of a step gets SIGUSR2, and what a rank has forked inherits submitit's handler, and
  would queue the job again: test_job.py, a_process_that_is_forked_by_a_job.
- Started (not forked) children are killed by SIGUSR2: a run starts none, its readers are threads.
- A warning that comes before submitit has its handler, and one while the controller is silent:
  test_warned_at_bad_moments.py.
- TERM is logged and ignored by submitit: test_pretrain_on_slurm.py, a_cancelled_run_saves.
- A signal in the middle of a collective call: it is noted, and obeyed by all ranks at a step's end;
  test_pretrain_on_slurm.py, a_run_that_is_warned.
- In a job of ten minutes or less every warning counts as a time limit, and their number is limited:
  not submitit queues a run again, but we; test_attempts.py, a_short_job_is_started_three_times.
- SLURM has queued an evicted job again before we ask, which leaves a false failure or ends the next
  attempt: test_pretrain_on_slurm.py, an_evicted_run_goes_on[hard].
- The pickle of a job is lost when a kill breaks off its rewriting: it is never rewritten.
- Half a result of a killed attempt (.save_tmp) keeps the next from writing its own: test_job.py,
  half_a_result_of_a_killed_attempt; half a checkpoint: test_attempts.py, a_run_that_cannot_save.
- Two attempts at once, after a node was cut off: engine/test_run_lease.py, and test_attempts.py,
  an_attempt_on_a_node_that_is_cut_off.
- A job that has ended is run again after the controller was lost: test_job.py,
  a_finished_run_is_left_as_it_is.
- `scontrol requeue` and a lost node give no warning: test_attempts.py, requeued_from_outside and
  whose_node_is_lost.
- The job's number can stand for a whole array, when it is queued again: test_job.py,
  an_element_of_an_array.
- One rank fails and the others wait for it: --kill-on-bad-exit=1 ends them; below.
- The first rank's result hides the traceback of the one that failed: each rank has its own log, and
  grid/diagnosis.py reads all of them: grid/test_diagnosis.py.
- The same port in every attempt, taken by the one before: test_job.py, ranks_meet_at_another_port.
- submitit writes the local rank over CUDA_VISIBLE_DEVICES: test_job.py, a_rank_keeps_the_gpus; and
  numbers local GPUs from 0: jobs/test_gpus_of_a_run.py.
- srun forgets --cpus-per-task: SRUN_CPUS_PER_TASK is set in every script.
- Later edits of the code reach a queued job, and `python -m` looks into the working directory
  first: test_code_on_slurm.py.
- A folder with %j is made after the job may have started: ours is made before, and has no %j.
- Dependencies that never resolve: every one is afterany, which resolves however a job ends.
- Polls that lag by up to ten minutes, and words for states that submitit takes for an end: nobody
  waits for a job on SLURM by submitit; jobs/slurm_queue.py asks, and files decide what is done.
- A limit on submitted jobs refuses an array whole, and sbatch waits minutes where the cluster is
  full: test_limits_on_slurm.py, and grid/test_grid.py, a_cluster_that_is_full.
- A job submitted from within a job: nothing does that.
"""

import os
import signal
from collections.abc import Callable

import pytest

from maskedclip.config import Config
from tests.slurm.attempts import processes, state, submitted

pytestmark = pytest.mark.slurm


def test_a_rank_that_dies_takes_the_others_with_it_at_once(
    run: Config, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run)
    os.kill(processes(run)[1], signal.SIGKILL)
    until_idle(30)
    assert "JobState=FAILED" in state(job)
    assert not processes(run)
