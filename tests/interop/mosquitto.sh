# Checks with mosquitto_pub and mosquitto_sub; sourced by run, after lib.sh.

pub() {
    mosquitto_pub -h 127.0.0.1 -p "$PORT" "$@"
}

sub() {
    mosquitto_sub -h 127.0.0.1 -p "$PORT" -W 10 "$@"
}

# listen FILE ARGS...: a subscriber in the background; returns when it is subscribed. Its pid is in LISTENER.
listen() {
    local file=$1
    shift
    : >"$file"
    stdbuf -oL mosquitto_sub -h 127.0.0.1 -p "$PORT" -W 10 -d "$@" >>"$file" 2>&1 &
    LISTENER=$!
    eventually 10 grep -q '^Subscribed' "$file"
}

# heard FILE: what a subscriber with a format that begins with `> ` has received.
heard() {
    sed -n 's/^> //p' "$1"
}

mosquitto_checks() {
    local version qos sub_version out=$SCRATCH/mosquitto.out
    for version in mqttv311 mqttv5; do
        for sub_version in mqttv311 mqttv5; do
            for qos in 0 1 2; do
                listen "$out" -V "$sub_version" -q "$qos" -t "m/$version/$sub_version/$qos" -C 3 -F '> %q %r %t %p'
                for text in one two three; do
                    pub -V "$version" -q "$qos" -t "m/$version/$sub_version/$qos" -m "$text"
                done
                wait "$LISTENER"
                same "mosquitto $version to $sub_version, QoS $qos" \
                    "$(printf "$qos 0 m/$version/$sub_version/$qos %s\n" one two three)" "$(heard "$out")"
            done
        done
        listen "$out" -V "$version" -q 2 -t 'mix/+/x' -C 3 -F '> %q %t'
        for qos in 0 1 2; do pub -V "$version" -q "$qos" -t "mix/$qos/x" -m x; done
        wait "$LISTENER"
        same "mosquitto $version, a wildcard filter and the lower QoS" \
            "$(printf '0 mix/0/x\n1 mix/1/x\n2 mix/2/x')" "$(heard "$out")"

        pub -V "$version" -q 1 -r -t "kept/$version" -m first
        pub -V "$version" -q 1 -r -t "kept/$version" -m second
        same "mosquitto $version, the last retained message greets a subscriber" "1 second" \
            "$(sub -V "$version" -q 1 -t "kept/$version" -C 1 -F '%r %p')"
        pub -V "$version" -q 1 -r -t "kept/$version" -n
        listen "$out" -V "$version" -q 1 -t "kept/$version" -C 1 -F '> %r %p'
        pub -V "$version" -q 1 -t "kept/$version" -m live
        wait "$LISTENER"
        same "mosquitto $version, an empty retained message clears it" "0 live" "$(heard "$out")"

        listen "$out" -V "$version" -q 1 -t "gone/$version" -C 1 -F '> %q %r %p'
        local watcher=$LISTENER
        listen "$out.will" -V "$version" -i "dies-$version" -t none/at/all \
            --will-topic "gone/$version" --will-payload farewell --will-qos 1
        kill -KILL "$LISTENER"
        wait "$LISTENER" 2>/dev/null
        wait "$watcher"
        same "mosquitto $version, the will of a client that was killed" "1 0 farewell" "$(heard "$out")"

        listen "$out.a" -V "$version" -q 1 -t "\$share/group/work/$version" -F '> %p'
        local member=$LISTENER
        listen "$out.b" -V "$version" -q 1 -t "\$share/group/work/$version" -F '> %p'
        seq 1 20 | pub -V "$version" -q 1 -t "work/$version" -l
        eventually 5 both_have 20 "$out.a" "$out.b"
        kill "$member" "$LISTENER"
        wait "$member" "$LISTENER" 2>/dev/null
        same "mosquitto $version, a shared subscription hands each message to one member" "$(seq 1 20)" \
            "$(cat "$out.a" "$out.b" | sed -n 's/^> //p' | sort -n)"
        if [ -n "$(heard "$out.a")" ] && [ -n "$(heard "$out.b")" ]; then
            ok "mosquitto $version, both members of a shared subscription work"
        else
            failed "mosquitto $version, both members of a shared subscription work" "one got nothing"
        fi
    done

    listen "$out" -V mqttv5 -q 1 -t props -C 1 -F '> %p;%R;%C;%D;%P;%E'
    pub -V mqttv5 -q 1 -t props -m body -D publish response-topic answer/here -D publish content-type text/plain \
        -D publish correlation-data c-17 -D publish user-property one 1 -D publish user-property two 2 \
        -D publish message-expiry-interval 1000
    wait "$LISTENER"
    same "mosquitto mqttv5, properties are passed on" "body;answer/here;text/plain;c-17;one:1 two:2;1000" \
        "$(heard "$out" | sed 's/;999$/;1000/')"

    sub -V mqttv5 -c -i late -x 600 -q 1 -t expiring -E
    pub -V mqttv5 -q 1 -t expiring -m short -D publish message-expiry-interval 1
    pub -V mqttv5 -q 1 -t expiring -m long -D publish message-expiry-interval 1000
    sleep 1.5
    same "mosquitto mqttv5, a message that expired while its subscriber was away is not delivered" long \
        "$(sub -V mqttv5 -c -i late -x 600 -q 1 -t expiring -C 1)"

    listen "$out" -V mqttv5 -q 1 -t big -C 1 -F '> %l'
    head -c 1000000 /dev/zero | tr '\0' x | pub -V mqttv5 -q 1 -t big -s
    wait "$LISTENER"
    same "mosquitto mqttv5, a payload of a million bytes" 1000000 "$(heard "$out")"

    pub -u ADMIN -P wrong -t any -m x 2>/dev/null
    same "mosquitto, a wrong password is refused" 4 "$?"
}

both_have() {
    [ "$(cat "$2" "$3" | grep -c '^> ')" -ge "$1" ]
}

mosquitto_before() {
    local version
    for version in mqttv311 mqttv5; do
        for qos in 1 2; do
            sub -V "$version" $(lasting "$version") -i "m-$1-$version-$qos" -q "$qos" -t "away/$1/#" -E || return
        done
    done
    pub -q 1 -r -t "state/$1" -m "before the end"
}

lasting() {
    if [ "$1" = mqttv5 ]; then echo -c -x 3600; else echo -c; fi
}

# mosquitto_while_away HOW FROM TO: numbered messages, odd ones with QoS 1, even ones with QoS 2.
mosquitto_while_away() {
    local number
    for ((number = $2; number <= $3; number++)); do
        pub -q $((2 - number % 2)) -t "away/$1/n" -m "$number" || return
    done
}

mosquitto_after() {
    local version qos got
    for version in mqttv311 mqttv5; do
        for qos in 1 2; do
            got=$(sub -V "$version" $(lasting "$version") -i "m-$1-$version-$qos" -q "$qos" -t "away/$1/#" -C 10)
            # A client shows a QoS 2 message when it is released: order is per QoS of the delivery.
            if [ "$qos" = 2 ]; then got=$(grep '[13579]$' <<<"$got"; grep '[02468]$' <<<"$got"); fi
            same "mosquitto $version, QoS $qos, a session over SIG$1 keeps what came while it was away" \
                "$(if [ "$qos" = 2 ]; then seq 1 2 9; seq 2 2 10; else seq 1 10; fi)" "$got"
        done
    done
    same "mosquitto, a retained message stands after SIG$1" "before the end" "$(sub -q 1 -t "state/$1" -C 1)"
}
