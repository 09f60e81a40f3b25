#!/usr/bin/env bash
# Start a Slurm of one machine for tests, in the folder given; needs Debian's packages
# slurm-wlm and munge. It has its own key, ports and configuration, and leaves a Slurm of
# the system alone. Then, in the same shell:
#     export SLURM_CONF=FOLDER/slurm.conf
# and at the end: scontrol shutdown; kill $(cat FOLDER/munged.pid)
set -eu
folder=$(realpath -m "$1")
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"
chmod 755 "$folder"

cat > "$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# A job that was requeued waits until its old credentials are over.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
# No cgroups, which containers do not have.
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=3,sched_interval=3
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=30
ReturnToService=2
# As many as are written here, whatever the machine has.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF

if [ ! -s "$folder/munge.key" ]; then
  (umask 077; head -c 1024 /dev/urandom > "$folder/munge.key")
fi
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
  --seed-file="$folder/munged.seed"
export SLURM_CONF="$folder/slurm.conf"
slurmctld
slurmd -N "$host"
for _ in $(seq 30); do
  if sinfo --noheader --format=%t | grep -q idle; then
    exit 0
  fi
  sleep 1
done
echo "Slurm did not come up; $folder has its logs." >&2
exit 1
