#!/usr/bin/env bash
# What the nodes of a cluster have in common, into a new directory DIR:
#   deploy/cluster-secrets.sh DIR HOST...
# DIR/nodes is for the nodes: secret for secret_file; ca.pem, cert.pem and key.pem
# for cluster.ca, cert and key. One certificate is for all: the HOSTs are those that
# cluster.join names, and may be addresses or *.example. DIR/ca.key signs further
# ones, and no node needs it. Keep a copy of DIR: without secret nobody can read the
# data or a backup.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 DIR HOST..." >&2
  exit 2
fi
dir=$1
shift
umask 077
mkdir "$dir" "$dir/nodes" # fails if it is there: a secret is never replaced
names=
for host; do
  if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then kind=IP; else kind=DNS; fi
  names=${names:+$names,}$kind:$host
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
new() { # KEY NAME: a key, and a request for a certificate with it
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=$2" -keyout "$dir/$1" -out "$work/csr" 2>"$work/said" ||
    { cat "$work/said" >&2; exit 1; }
}
sign() { # CERTIFICATE DAYS EXTENSIONS OPTION...
  printf '%s\n' "$3" >"$work/ext"
  openssl x509 -req -sha256 -in "$work/csr" -days "$2" -extfile "$work/ext" -out "$dir/nodes/$1" "${@:4}" 2>"$work/said" ||
    { cat "$work/said" >&2; exit 1; }
}
new ca.key "kith cluster"
sign ca.pem 3650 'basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash' -signkey "$dir/ca.key"
new nodes/key.pem "kith node"
# Each node is a server to the others and their client.
sign cert.pem 825 "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=$names" -CA "$dir/nodes/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -CAserial "$work/serial"
openssl rand -hex 16 >"$dir/nodes/secret"
