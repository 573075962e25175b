#!/bin/bash
# Trains the sweep ladder; written by scalectl, which reads 0badcafe.json beside this file.
#SBATCH --job-name=ladder.0badcafe
#SBATCH --array=0-2
#SBATCH --output=/lab/results/sweeps/ladder/slurm/0badcafe-%a.log
#SBATCH --open-mode=append
#SBATCH --chdir=/lab
#SBATCH --account=physics
#SBATCH --partition=cpu
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=4:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

/lab/venv/bin/python -m scalectl.cli pilot /lab/results/sweeps/ladder/slurm/0badcafe.json &
pilot=$!
trap 'kill -TERM $pilot' USR1 TERM
while kill -0 $pilot 2>/dev/null; do wait $pilot; done  # a signal ends the wait, not the pilot
wait $pilot
code=$?
state=$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T)
if [ $code = 10 ] && [ "$state" = RUNNING ]; then
  exec scontrol requeue $SLURM_JOB_ID  # its time is up, and there is work left
fi
exit $code
