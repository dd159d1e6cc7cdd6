"""Checks with paho-mqtt: `live`; `before HOW` and `after HOW` an end of the broker. The port is in PORT."""

import os
import queue
import sys
import time
import warnings

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

warnings.simplefilter("ignore", DeprecationWarning)
PORT = int(os.environ["PORT"])
WAIT = 10
V311, V5 = mqtt.MQTTv311, mqtt.MQTTv5
NAMES = {V311: "MQTT 3.1.1", V5: "MQTT 5"}
APIS = {1: mqtt.CallbackAPIVersion.VERSION1, 2: mqtt.CallbackAPIVersion.VERSION2}


def check(name, expected, actual):
    if expected == actual:
        print(f"ok - {name}", flush=True)
    else:
        print(f"FAILED - {name}: expected {expected!r}, got {actual!r}", flush=True)


class Client:
    """A client with its network thread; what arrives is queued."""

    def __init__(self, client_id, version, api=2, lasting=False, will=None):
        arguments = {} if version == V5 else {"clean_session": not lasting}
        self.client = mqtt.Client(APIS[api], client_id, protocol=version, **arguments)
        self.version = version
        self.connected, self.done, self.inbox = queue.Queue(), queue.Queue(), queue.Queue()
        if api == 1 and version == V311:
            self.client.on_connect = lambda _c, _u, flags, code: self.connected.put((flags["session present"], code))
            self.client.on_subscribe = lambda _c, _u, _mid, granted: self.done.put(list(granted))
        elif api == 1:
            self.client.on_connect = lambda _c, _u, flags, code, _p: self.connected.put(
                (flags["session present"], code.value)
            )
            self.client.on_subscribe = lambda _c, _u, _mid, codes, _p: self.done.put([code.value for code in codes])
        else:
            self.client.on_connect = lambda _c, _u, flags, code, _p: self.connected.put(
                (int(flags.session_present), code.value)
            )
            self.client.on_subscribe = lambda _c, _u, _mid, codes, _p: self.done.put([code.value for code in codes])
        self.client.on_message = lambda _c, _u, message: self.inbox.put(message)
        if will:
            self.client.will_set(*will)
        options = {}
        if version == V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if lasting else 0
            options = {"clean_start": not lasting, "properties": properties}
        self.client.connect("127.0.0.1", PORT, **options)
        self.client.loop_start()
        self.session_present, self.code = self.connected.get(timeout=WAIT)

    def subscribe(self, topic_filter, qos):
        self.client.subscribe(topic_filter, qos)
        return self.done.get(timeout=WAIT)

    def publish(self, topic, payload, qos, retain=False, properties=None):
        self.client.publish(topic, payload, qos, retain, properties).wait_for_publish(WAIT)

    def next(self, timeout=WAIT):
        return self.inbox.get(timeout=timeout)

    def take(self, count):
        return [self.next() for _ in range(count)]

    def silent(self, seconds=0.3):
        try:
            return self.next(seconds).payload
        except queue.Empty:
            return None

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """Ends the connection without a DISCONNECT."""
        self.client.on_disconnect = None
        self.client.reconnect_delay_set(600, 600)
        self.client.socket().shutdown(2)


def live():
    for api in (1, 2):
        for version in (V311, V5):
            who = f"paho, callback API {api}, {NAMES[version]}"
            for qos in (0, 1, 2):
                topic = f"p/{api}/{version}/{qos}"
                reader, writer = Client("", version, api), Client("", version, api)
                check(f"{who}, SUBACK grants QoS {qos}", [qos], reader.subscribe(topic, qos))
                for text in ("one", "two", "three"):
                    writer.publish(topic, text, qos)
                got = [(m.qos, m.retain, m.payload) for m in reader.take(3)]
                check(f"{who}, publish and subscribe with QoS {qos}", [(qos, False, t) for t in (b"one", b"two", b"three")], got)
                reader.close()
                writer.close()
    for version in (V311, V5):
        who = f"paho, {NAMES[version]}"
        retained(who, version)
        will(who, version)
        shared(who, version)
    properties()
    no_local()
    session_is_discarded()


def retained(who, version):
    topic = f"p/kept/{version}"
    writer = Client("", version)
    writer.publish(topic, "kept", 2, retain=True)
    reader = Client("", version)
    reader.subscribe(topic, 2)
    message = reader.next()
    check(f"{who}, a retained message greets a subscriber", (b"kept", True, 2), (message.payload, message.retain, message.qos))
    writer.publish(topic, b"", 1, retain=True)
    reader.next()
    later = Client("", version)
    later.subscribe(topic, 1)
    check(f"{who}, a cleared retained message greets nobody", None, later.silent())
    for client in (writer, reader, later):
        client.close()


def will(who, version):
    topic = f"p/will/{version}"
    watcher = Client("", version)
    watcher.subscribe(topic, 1)
    Client(f"p-mortal-{version}", version, will=(topic, "gone", 1, False)).vanish()
    check(f"{who}, the will of a lost connection", b"gone", watcher.next().payload)
    Client(f"p-polite-{version}", version, will=(topic, "gone", 1, False)).close()
    check(f"{who}, no will after DISCONNECT", None, watcher.silent())
    watcher.close()


def shared(who, version):
    topic = f"p/work/{version}"
    members = [Client("", version) for _ in range(3)]
    for member in members:
        member.subscribe(f"$share/crew/{topic}", 1)
    writer = Client("", version)
    for number in range(30):
        writer.publish(topic, str(number), 1)
    got, deadline = [], time.monotonic() + WAIT
    while len(got) < 30 and time.monotonic() < deadline:
        for member in members:
            payload = member.silent(0.01)
            if payload is not None:
                got.append(int(payload))
    got.extend(int(payload) for payload in (member.silent() for member in members) if payload is not None)
    check(f"{who}, three members of a shared subscription get each message once", list(range(30)), sorted(got))
    for client in (*members, writer):
        client.close()


def properties():
    reader, writer = Client("", V5), Client("", V5)
    reader.subscribe("p/properties", 2)
    given = Properties(PacketTypes.PUBLISH)
    given.UserProperty = [("b", "2"), ("a", "1"), ("b", "3")]
    given.MessageExpiryInterval = 500
    given.ResponseTopic = "p/answers"
    given.CorrelationData = b"\x00\x01\xff"
    given.ContentType = "application/json"
    given.PayloadFormatIndicator = 1
    writer.publish("p/properties", "{}", 2, properties=given)
    got = reader.next().properties
    check("paho, MQTT 5, user properties keep their order", [("b", "2"), ("a", "1"), ("b", "3")], got.UserProperty)
    check(
        "paho, MQTT 5, response topic, correlation data, content type and format are passed on",
        ("p/answers", b"\x00\x01\xff", "application/json", 1),
        (got.ResponseTopic, got.CorrelationData, got.ContentType, got.PayloadFormatIndicator),
    )
    check("paho, MQTT 5, the expiry passed on is what is left", True, 495 <= got.MessageExpiryInterval <= 500)
    reader.close()
    writer.close()


def no_local():
    client = Client("", V5)
    client.client.subscribe("p/mine", options=SubscribeOptions(qos=1, noLocal=True))
    client.done.get(timeout=WAIT)
    client.publish("p/mine", "echo", 1)
    check("paho, MQTT 5, No Local keeps a client's own messages away", None, client.silent())
    client.close()


def session_is_discarded():
    for version in (V311, V5):
        name = f"p-discard-{version}"
        first = Client(name, version, lasting=True)
        first.subscribe("p/discard", 1)
        first.close()
        again = Client(name, version, lasting=True)
        check(f"paho, {NAMES[version]}, a lasting session is present on return", 1, again.session_present)
        again.close()
        Client(name, version).close()
        fresh = Client(name, version, lasting=True)
        check(f"paho, {NAMES[version]}, a clean start discards the session", 0, fresh.session_present)
        fresh.close()


def before(how):
    for version in (V311, V5):
        for qos in (1, 2):
            client = Client(f"p-{how}-{version}-{qos}", version, lasting=True)
            client.subscribe(f"away/{how}/#", qos)
            client.close()


def after(how):
    for version in (V311, V5):
        for qos in (1, 2):
            who = f"paho, {NAMES[version]}, QoS {qos}"
            client = Client(f"p-{how}-{version}-{qos}", version, lasting=True)
            check(f"{who}, the session is present after SIG{how}", 1, client.session_present)
            got = [(int(m.payload), m.qos) for m in client.take(10)]
            expected = [(n, min(qos, 2 - n % 2)) for n in range(1, 11)]
            if qos == 2:  # A client shows a QoS 2 message when it is released: order is per QoS of the delivery.
                got.sort(key=lambda message: message[1])
                expected.sort(key=lambda message: message[1])
            check(f"{who}, messages of the time away arrive in order after SIG{how}", expected, got)
            check(f"{who}, and none twice after SIG{how}", None, client.silent())
            client.close()


if __name__ == "__main__":
    {"live": live, "before": before, "after": after}[sys.argv[1]](*sys.argv[2:])
