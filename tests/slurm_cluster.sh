#!/usr/bin/env bash
# A SLURM of its own on this machine's loopback, for tests: slurm_cluster.sh install | start DIR [NODES] | stop DIR
# Everything is in DIR: configuration, keys, sockets, state and logs. Afterwards SLURM_CONF=DIR/slurm.conf makes
# sbatch and the others talk to it. It has eight pretended cores a node, and neither systemd nor root is needed.
[ -z "${SLURM_CONF:-}" ] || exec env --unset=SLURM_CONF bash "$0" "$@"
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

install_packages() {
    type slurmctld slurmd munged sbatch >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] || { echo "slurm-wlm and munge are not installed, and installing them needs root" >&2; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -qq --no-install-recommends slurm-wlm munge
}

configure() {
    local dir=$1 nodes=$2 user ports
    user=$(id -un)
    ports=($(python3 -c '
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(1 + int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))' "$nodes"))
    mkdir -p "$dir"/{state,spool,log}
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
    touch "$dir/cgroup.conf"
    cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=${KILL_WAIT:-30}
END
    for ((n = 1; n <= nodes; n++)); do
        echo "NodeName=n$n NodeHostname=localhost NodeAddr=127.0.0.1 Port=${ports[n]} CPUs=8 RealMemory=8000"
    done >>"$dir/slurm.conf"
    echo "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$dir/slurm.conf"
}

start() {
    local dir=$1 nodes=${2:-1}
    configure "$dir" "$nodes"
    export SLURM_CONF=$dir/slurm.conf
    # --force: pytest's folders are closed to other users, who have no business here
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/log/munged.log"
    slurmctld
    for ((n = 1; n <= nodes; n++)); do slurmd -N "n$n"; done
    for ((n = 0; n < 100; n++)); do
        [ "$(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l)" = "$nodes" ] && return
        sleep 0.2
    done
    echo "the nodes did not come up" >&2
    tail -n 20 "$dir"/log/* >&2
    exit 1
}

stop() {
    local n pids
    for ((n = 0; n < 50; n++)); do  # daemons, steps and tasks, which may start others meanwhile
        pids=$(processes "$1" || true)
        [ -n "$pids" ] || return 0
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    echo "still there: $pids" >&2
    exit 1
}

# Those that were started with this SLURM's configuration, as all of its are (not this script: see the top)
processes() {
    grep -lzxF "SLURM_CONF=$1/slurm.conf" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3
}

case ${1:-} in
    install) install_packages ;;
    start | stop) "$1" "${@:2}" ;;
    *) sed -n 2,4p "$0" >&2; exit 2 ;;
esac
