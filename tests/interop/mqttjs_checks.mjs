// Checks with mqtt.js: `live`; `before HOW` and `after HOW` an end of the broker. The port is in PORT.

import { createRequire } from 'node:module';
import { once } from 'node:events';

const mqtt = createRequire(`${process.env.INTEROP_DIR}/`)('mqtt');
const url = `mqtt://127.0.0.1:${process.env.PORT}`;
const WAIT = 10_000;
const names = { 4: 'MQTT 3.1.1', 5: 'MQTT 5' };

function check(name, expected, actual) {
    const [want, got] = [JSON.stringify(expected), JSON.stringify(actual)];
    console.log(want === got ? `ok - ${name}` : `FAILED - ${name}: expected ${want}, got ${got}`);
}

// A connected client; what arrives is queued.
async function connect(version, { clientId, lasting = false, will } = {}) {
    const options = { protocolVersion: version, clean: !lasting, reconnectPeriod: 0, will };
    if (clientId) options.clientId = clientId;
    if (version === 5) options.properties = { sessionExpiryInterval: lasting ? 3600 : 0 };
    const client = mqtt.connect(url, options);
    const inbox = [];
    let wake = () => {};
    client.on('message', (topic, payload, packet) => {
        inbox.push({ topic, payload: payload.toString(), packet });
        wake();
    });
    const [connack] = await once(client, 'connect', { signal: AbortSignal.timeout(WAIT) });
    return {
        client,
        present: connack.sessionPresent,
        async next(ms = WAIT) {
            const end = Date.now() + ms;
            while (inbox.length === 0 && Date.now() < end) {
                await new Promise((resolve) => {
                    wake = resolve;
                    setTimeout(resolve, Math.max(1, end - Date.now()));
                });
            }
            return inbox.shift();
        },
        async take(count) {
            const taken = [];
            for (let i = 0; i < count; i += 1) taken.push(await this.next());
            return taken;
        },
        close: () => client.endAsync(),
    };
}

async function live() {
    for (const version of [4, 5]) {
        const who = `mqtt.js, ${names[version]}`;
        for (const qos of [0, 1, 2]) {
            const [reader, writer] = [await connect(version), await connect(version)];
            const topic = `j/${version}/${qos}`;
            const granted = await reader.client.subscribeAsync(topic, { qos });
            check(`${who}, SUBACK grants QoS ${qos}`, [qos], granted.map((grant) => grant.qos));
            for (const text of ['one', 'two', 'three']) await writer.client.publishAsync(topic, text, { qos });
            const got = (await reader.take(3)).map((m) => [m?.payload, m?.packet.qos]);
            check(`${who}, publish and subscribe with QoS ${qos}`, ['one', 'two', 'three'].map((text) => [text, qos]), got);
            await Promise.all([reader.close(), writer.close()]);
        }
        await retained(who, version);
        await will(who, version);
        await shared(who, version);
    }
    await properties();
}

async function retained(who, version) {
    const [writer, reader] = [await connect(version), await connect(version)];
    await writer.client.publishAsync(`j/kept/${version}`, 'kept', { qos: 1, retain: true });
    await reader.client.subscribeAsync('j/kept/#', { qos: 1 });
    const message = await reader.next();
    check(`${who}, a retained message greets a subscriber`, ['kept', true], [message?.payload, message?.packet.retain]);
    await writer.client.publishAsync(`j/kept/${version}`, '', { qos: 1, retain: true });
    await Promise.all([writer.close(), reader.close()]);
}

async function will(who, version) {
    const watcher = await connect(version);
    await watcher.client.subscribeAsync(`j/will/${version}`, { qos: 2 });
    const mortal = await connect(version, { will: { topic: `j/will/${version}`, payload: Buffer.from('gone'), qos: 2 } });
    mortal.client.on('error', () => {});
    mortal.client.stream.destroy();
    const message = await watcher.next();
    check(`${who}, the will of a lost connection`, ['gone', 2], [message?.payload, message?.packet.qos]);
    await watcher.close();
}

async function shared(who, version) {
    const members = [await connect(version), await connect(version)];
    for (const member of members) await member.client.subscribeAsync(`$share/team/j/work/${version}`, { qos: 1 });
    const writer = await connect(version);
    const numbers = Array.from({ length: 20 }, (_, number) => number);
    await Promise.all(numbers.map((number) => writer.client.publishAsync(`j/work/${version}`, `${number}`, { qos: 1 })));
    const got = [];
    const end = Date.now() + WAIT;
    while (got.length < 20 && Date.now() < end) {
        for (const member of members) {
            const message = await member.next(10);
            if (message) got.push(Number(message.payload));
        }
    }
    for (const member of members) {
        const message = await member.next(300);
        if (message) got.push(Number(message.payload));
    }
    check(`${who}, two members of a shared subscription get each message once`, numbers, got.sort((a, b) => a - b));
    await Promise.all([...members, writer].map((each) => each.close()));
}

async function properties() {
    const [reader, writer] = [await connect(5), await connect(5)];
    await reader.client.subscribeAsync('j/properties', { qos: 1, properties: { subscriptionIdentifier: 77 } });
    await writer.client.publishAsync('j/properties', 'x', {
        qos: 1,
        properties: {
            messageExpiryInterval: 300,
            responseTopic: 'j/answer',
            correlationData: Buffer.from([0, 200]),
            userProperties: { plant: 'north', line: ['1', '2'] },
            contentType: 'text/plain',
        },
    });
    const got = (await reader.next())?.packet.properties ?? {};
    check('mqtt.js, MQTT 5, user properties are passed on', { plant: 'north', line: ['1', '2'] }, got.userProperties);
    check(
        'mqtt.js, MQTT 5, response topic, correlation data and content type are passed on',
        ['j/answer', [0, 200], 'text/plain'],
        [got.responseTopic, [...(got.correlationData ?? [])], got.contentType],
    );
    check('mqtt.js, MQTT 5, the expiry passed on is what is left', true, got.messageExpiryInterval > 295 && got.messageExpiryInterval <= 300);
    check('mqtt.js, MQTT 5, the subscription identifier comes along', 77, got.subscriptionIdentifier);
    await Promise.all([reader.close(), writer.close()]);
}

async function before(how) {
    for (const version of [4, 5]) {
        const one = await connect(version, { clientId: `j-${how}-${version}`, lasting: true });
        await one.client.subscribeAsync(`away/${how}/#`, { qos: 2 });
        await one.close();
    }
}

async function after(how) {
    for (const version of [4, 5]) {
        const one = await connect(version, { clientId: `j-${how}-${version}`, lasting: true });
        check(`mqtt.js, ${names[version]}, the session is present after SIG${how}`, true, one.present);
        const got = (await one.take(10)).map((message) => Number(message?.payload));
        // A client shows a QoS 2 message when it is released: order is per QoS of the delivery.
        got.sort((a, b) => (b % 2) - (a % 2));
        const more = await one.next(300);
        check(
            `mqtt.js, ${names[version]}, messages of the time away arrive once and in order after SIG${how}`,
            [1, 3, 5, 7, 9, 2, 4, 6, 8, 10],
            more ? [...got, Number(more.payload)] : got,
        );
        await one.close();
    }
}

const [, , phase, ...rest] = process.argv;
await { live, before, after }[phase](...rest);
process.exit(0);
