#!/usr/bin/env bash
# Three nodes of a cluster on this machine, with the keys of --dev, until they
# are interrupted. Their data go to ./kith-data-1 to -3, or below $1.
set -euo pipefail
kith=$(dirname "$0")/../bin/kith
data=${1:-./kith-data}
join=127.0.0.1:7946,127.0.0.1:7956,127.0.0.1:7966
trap 'trap - INT TERM; kill 0; wait' INT TERM EXIT
for i in 1 2 3; do
  "$kith" serve --dev --name "n$i" --data "$data-$i" --lanes 2 --cluster "127.0.0.1:79$((3 + i))6" --join "$join" \
    --public "127.0.0.1:$((8070 + 10 * i))" --service "127.0.0.1:$((8071 + 10 * i))" &
done
wait
