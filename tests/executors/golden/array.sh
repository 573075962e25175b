#!/bin/bash
# Trains the sweep big; written by scalectl, which reads 00c0ffee.json beside this file.
#SBATCH --job-name=big.00c0ffee
#SBATCH --array=0-1
#SBATCH --output='/lab/50%% of all/results/sweeps/big/slurm/00c0ffee-%a.log'
#SBATCH --open-mode=append
#SBATCH --chdir='/lab x'
#SBATCH --partition=gpu,preempt
#SBATCH --qos=long
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:a100:2
#SBATCH --time=2-0
#SBATCH --signal=B:TERM@300
#SBATCH --requeue

module load cuda
export WANDB_MODE=offline
set +eu +o pipefail
export PYTHONPATH='/lab/my models'${PYTHONPATH:+:$PYTHONPATH}
apptainer exec --nv '--bind=/lab/50% of all/results' '--bind=/lab x' '--pwd=/lab x' '/lab/images/torch 2.sif' python3 -m scalectl.cli pilot '/lab/50% of all/results/sweeps/big/slurm/00c0ffee.json' &
pilot=$!
trap 'kill -TERM $pilot' TERM
while kill -0 $pilot 2>/dev/null; do wait $pilot; done  # a signal ends the wait, not the pilot
wait $pilot
code=$?
state=$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T)
if [ $code = 10 ] && [ "$state" = RUNNING ]; then
  exec scontrol requeue $SLURM_JOB_ID  # its time is up, and there is work left
fi
exit $code
