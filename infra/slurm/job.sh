# shellcheck shell=bash
# What the jobs of this folder share: they run a command, and end with its exit code or are queued again.
#
# The one decision: a job comes again if its command was stopped by SIGTERM, after which every command of this project goes on where it
# was, and if nobody has ended the job itself. So what was preempted or ran out of time comes again; what is done, has failed or was
# cancelled does not. `--requeue` lets Slurm do the same by itself for a node that failed, and for what it preempts without a grace time.
#
# time is nearly over        SIGUSR1 to this shell alone (--signal=B:…): it tells the command, which saves; queued again here
# preempted with GraceTime   SIGTERM to what srun started: it saves; queued again here
# preempted without, requeued, cancelled, time is over
#                            SIGTERM to all, and SIGKILL after KillWait: it saves; what becomes of the job is Slurm's decision

# The active virtual environment, which came along from where the job was submitted, else the project's.
PATH="${VIRTUAL_ENV:-$PWD/.venv}/bin:$PATH"

told="" running="" way_to_stop=""
trap 'told=yes; stop_command' USR1 TERM

# run_on NODES COMMAND...: once on each node, with all the cores that the job has there. A stop is told to all processes that it starts.
run_on() {
    local nodes=$1
    shift
    # --wait=0: a node that is done does not end one that still writes. --mpi=none: processes find each other by themselves.
    way_to_stop=stop_steps
    run_to_the_end srun --nodes="$nodes" --ntasks="$nodes" --cpu-bind=none --mpi=none --kill-on-bad-exit=0 --wait=0 "$@"
}

# run_here COMMAND...: on this node, without srun. A stop is told to the command alone, which stops what it has started.
run_here() {
    way_to_stop=stop_process
    run_to_the_end "$@"
}

run_to_the_end() {
    local code=$((128 + 15))
    if [[ ! $told ]]; then # else the job was stopped before it began
        set -m             # gives it a process group of its own: a SIGTERM to srun would be a SIGKILL to the command
        "$@" &
        running=$!
        set +m
        while true; do
            told=""
            wait "$running"
            code=$?
            [[ $told ]] || break # else it was a signal that ended `wait`
        done
    fi
    if ((code == 128 + 15)) && is_alive; then
        echo "stopped with what is done saved; the job is queued again and goes on from there"
        scontrol requeue "$SLURM_JOB_ID" # ends this shell too
    fi
    exit "$code"
}

# Let the command save and end. If Slurm ends the job, it has told the command, whom a second signal would keep from saving.
stop_command() {
    if [[ $running ]] && is_alive; then
        "$way_to_stop"
    fi
}

stop_steps() {
    scancel --signal=TERM "$SLURM_JOB_ID" # what srun has started, not this shell
}

stop_process() {
    kill -TERM "$running"
}

# Whether nobody has cancelled, requeued or otherwise ended this job.
is_alive() {
    [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]
}
