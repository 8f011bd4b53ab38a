#!/usr/bin/env bash
# Three nodes of a cluster on this machine, with the keys of --dev, until they
# are interrupted. Their data go to ./kith-data-1 to -3, or below $1.
set -euo pipefail
set -m # each node is a group of its own: a Ctrl-C is this script's to pass on, once
kith=$(dirname "$0")/../bin/kith
data=${1:-./kith-data}
join=127.0.0.1:7946,127.0.0.1:7956,127.0.0.1:7966
nodes=()
stop() {
  trap '' INT TERM HUP
  kill "${nodes[@]}" 2>/dev/null || true
  wait
  exit 0
}
trap stop INT TERM HUP # HUP: a terminal that is closed
echo "three nodes look for one another: until all are there, some seconds, they warn that they cannot connect"
for i in 1 2 3; do
  "$kith" serve --dev --name "n$i" --data "$data-$i" --lanes 2 --cluster "127.0.0.1:79$((3 + i))6" --join "$join" \
    --public "127.0.0.1:$((8070 + 10 * i))" --service "127.0.0.1:$((8071 + 10 * i))" &
  nodes+=($!)
done
wait
