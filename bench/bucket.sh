#!/usr/bin/env bash
# Figures of a broker on a bucket, the bucket a server of the S3 protocol on the same machine:
#
#     bench/bucket.sh local             the local engine, for comparison
#     bench/bucket.sh put [MS …]        sends, with so many milliseconds added to each PUT (0 10 50 100)
#     bench/bucket.sh idle              requests and memory of a broker that does nothing
#     bench/bucket.sh takeover          another process takes over a shard with 1,000,000 unconsumed messages
#
# FLUSH_MS: store_flush_ms (50). Needs curl, and what this builds:
#     cargo build --release -p martlet -p martlet-bench -p martlet-s3-server
set -euo pipefail
self=$(realpath "$0")
programs=${CARGO_TARGET_DIR:-$(cd "$(dirname "$0")/.." && pwd)/target}/release
flush=${FLUSH_MS:-50}
home=$(mktemp -d)
cd "$home"
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$home"' EXIT
export AWS_ENDPOINT=http://127.0.0.1:19000 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=a-key-for-tests AWS_SECRET_ACCESS_KEY='and its secret'

bucket() { # milliseconds of a PUT
    rm -rf bucket
    mkdir bucket
    "$programs/martlet-s3-server" --listen 127.0.0.1:19000 --folder bucket --put-delay-ms "$1" >bucket.log 2>&1 &
    bucket=$!
}

broker() { # name, arguments; its ports follow from the name's length, so that two can run
    local name=$1 port=$((18080 + 10 * ${#1}))
    shift
    "$programs/martlet" --data "$name" --grpc-listen 127.0.0.1:$port --admin-listen 127.0.0.1:$((port + 1)) --http-listen off \
        --nameserver-listen off --remoting-listen off "$@" >"$name.log" 2>&1 &
    broker=$! endpoint=127.0.0.1:$port admin=127.0.0.1:$((port + 1))
    until curl -sf "$admin/readyz" >/dev/null; do
        kill -0 $broker || { cat "$name.log" >&2; exit 1; }
        sleep 0.02
    done
}

cpu() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
requests() { curl -s "$admin/metrics" | awk '/^martlet_bucket_requests_total/ { sum += $NF } END { print sum + 0 }'; }
memory() { awk '/^Vm(HWM|RSS)/ { printf "%s %d MB  ", $1, $2 / 1000 } END { print "" }' "/proc/$broker/status"; }

sends() { # what, senders, messages per second if not as many as they can
    local before=0 after=0
    [ -z "${bucket:-}" ] || before=$(cpu "$bucket")
    "$programs/bench" send --endpoint "$endpoint" --senders "$2" ${3:+--rate "$3"} --seconds 8 --pid "$broker" --json >figures.json
    [ -z "${bucket:-}" ] || after=$(cpu "$bucket")
    python3 - "$1${3:+ at $3/s}" "$2" $((after - before)) <<'P'
import json, sys
figures = {one["name"]: one["value"] for one in json.load(open("figures.json"))["figures"]}
what, senders, ticks = sys.argv[1], sys.argv[2], int(sys.argv[3])
print(f"{what}, {senders} senders: {figures['rate']:.0f} messages/s, {figures['server CPU']:.1f} CPU-s per million, of the bucket "
      f"{ticks * 1e4 / figures['messages']:.1f}, p50 {figures['p50']:.0f} p99 {figures['p99']:.0f} ms, at most {figures['server RSS peak']:.0f} MB, "
      f"{figures['written per message byte']:.2f} bytes written per message byte, {figures['failed']:.0f} failed")
P
}

receive_one() { "$programs/martlet" receive bench --group readers --count 1 --endpoint "$endpoint" >/dev/null; }

taken_over() { # what; since $began
    local ready
    ready=$(date +%s.%N)
    receive_one
    echo "$1: ready after $(echo "$ready - $began" | bc) s, first message after $(echo "$(date +%s.%N) - $began" | bc) s"
}

on_bucket=(--store s3://orders/bench --store-flush-ms "$flush")
case ${1:-} in
local)
    broker data
    sends "local engine" 256
    sends "local engine" 8192
    ;;
put)
    shift
    [ $# -gt 0 ] || set -- 0 10 50 100
    for delay in "$@"; do
        bucket "$delay"
        broker data "${on_bucket[@]}"
        sends "PUT + $delay ms, flush $flush ms" 256 1000
        sends "PUT + $delay ms, flush $flush ms" 256
        sends "PUT + $delay ms, flush $flush ms" 8192
        kill -9 $broker $bucket
        wait $broker $bucket 2>/dev/null || true
        rm -rf data
    done
    ;;
idle)
    bucket 0
    broker data "${on_bucket[@]}"
    for what in "never used" "after load"; do
        before=$(requests)
        sleep 30
        echo "$what: $(($(requests) - before)) requests in 30 s; $(memory)"
        [ "$what" = "after load" ] || { sends "load" 256 && sleep 20; }
    done
    ;;
takeover)
    bucket 0
    broker data "${on_bucket[@]}"
    "$programs/bench" send --endpoint "$endpoint" --senders 8192 --count 1000000 --size 1024 --json >figures.json
    receive_one
    kill -9 $broker
    wait $broker 2>/dev/null || true
    rm -rf data
    began=$(date +%s.%N)
    broker data "${on_bucket[@]}"
    taken_over "after a kill"
    memory
    began=$(date +%s.%N)
    broker another "${on_bucket[@]}"
    taken_over "from one that lives"
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$self" >&2
    exit 2
    ;;
esac
