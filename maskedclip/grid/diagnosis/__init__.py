"""What SLURM says of jobs, why they failed, and the code that they run."""
