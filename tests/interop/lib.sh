# Shared by the interop scripts: where things are, a broker that can be started, stopped and killed, and how a check is
# reported. Every check prints one line, `ok - NAME` or `FAILED - NAME: WHY`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
INTEROP_DIR=$ROOT/target/interop
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
EVERMQ=${EVERMQ:-$TARGET_DIR/debug/evermq}
BROKER_PID=
PORT=
HTTP_PORT=

ok() {
    echo "ok - $1"
}

failed() {
    echo "FAILED - $1: $2"
}

# same NAME EXPECTED ACTUAL
same() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        failed "$1" "expected [$(tr '\n' '|' <<<"$2")], got [$(tr '\n' '|' <<<"$3")]"
    fi
}

# eventually SECONDS COMMAND...: until the command succeeds.
eventually() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
        sleep 0.02
    done
}

# Starts the broker on free ports over $DATA and sets PORT and HTTP_PORT from its greeting.
start_broker() {
    : >"$SCRATCH/greeting"
    "$EVERMQ" --data-dir "$DATA" --mqtt 127.0.0.1:0 --mqtt-ws off --http 127.0.0.1:0 \
        >"$SCRATCH/greeting" 2>>"$SCRATCH/broker.log" </dev/null &
    BROKER_PID=$!
    if ! eventually 30 broker_answers; then
        echo "the broker did not start:" >&2
        tail -n 20 "$SCRATCH/broker.log" >&2
        return 1
    fi
    PORT=$(sed -n 's/^ *MQTT .*:\([0-9]*\)$/\1/p' "$SCRATCH/greeting")
    HTTP_PORT=$(sed -n 's/^ *HTTP .*:\([0-9]*\)\/api$/\1/p' "$SCRATCH/greeting")
    export PORT HTTP_PORT
}

broker_answers() {
    if ! kill -0 "$BROKER_PID" 2>/dev/null; then return 1; fi
    grep -q '^  start ' "$SCRATCH/greeting"
}

# end_broker TERM|KILL: sends the signal, waits, and leaves the exit code in BROKER_CODE.
end_broker() {
    if [ -z "$BROKER_PID" ]; then return 0; fi
    BROKER_CODE=0
    kill "-$1" "$BROKER_PID" 2>/dev/null || true
    wait "$BROKER_PID" 2>/dev/null || BROKER_CODE=$?
    BROKER_PID=
}
