//! What comes with every message: a PUBLISH and its PUBACK read and written, and the stored form of a message.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run shall say so and stop")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evermq::broker::message::{PayloadType, Qos};
use evermq::broker::rows::record::{Origin, Record};
use evermq::frontend::mqtt::fast::{self, AckKind, Delivery};
use evermq::frontend::mqtt::frame::{PACKET_BYTES_MAX, Version};
use evermq::frontend::mqtt::packet::{self, Next, QoS};
use evermq::frontend::mqtt::reason::ReasonCode;

const PAYLOAD: [u8; 64] = [b'x'; 64];
const PACKETS: u64 = 100;

fn publish(out: &mut Vec<u8>, version: Version, packet_id: u16) {
    let delivery = Delivery {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: b"plant/line-3/pump-7/pressure",
        packet_id,
        subscription_ids: &[],
        expiry: None,
        payload_utf8: false,
        topic_alias: None,
        raw: &[],
        payload: &PAYLOAD,
    };
    fast::encode_publish(out, version, black_box(&delivery), PACKET_BYTES_MAX).unwrap();
}

fn read_all(bytes: &[u8], version: Version, scratch: &mut Vec<u8>) -> u64 {
    let (mut at, mut packets) = (0, 0);
    while let Next::Packet(packet, length) =
        packet::next(bytes.get(at..).unwrap(), Some(version), PACKET_BYTES_MAX, scratch)
    {
        black_box(packet);
        at += length;
        packets += 1;
    }
    packets
}

fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packets");
    group.throughput(Throughput::Elements(PACKETS));
    let mut scratch = Vec::new();
    for (name, version) in [("3.1.1", Version::V311), ("5.0", Version::V5)] {
        let mut bytes = Vec::new();
        (1..=PACKETS).for_each(|id| publish(&mut bytes, version, id as u16));
        group.bench_function(format!("read PUBLISH {name}"), |bencher| {
            bencher.iter(|| assert_eq!(read_all(&bytes, version, &mut scratch), PACKETS));
        });
        group.bench_function(format!("write PUBLISH {name}"), |bencher| {
            bencher.iter(|| {
                bytes.clear();
                (1..=PACKETS).for_each(|id| publish(&mut bytes, version, id as u16));
            });
        });
        let mut acks = Vec::new();
        for id in 1..=PACKETS {
            let id = (id as u16).try_into().unwrap();
            fast::encode_ack(&mut acks, version, AckKind::Puback, id, ReasonCode::Success);
        }
        group.bench_function(format!("read PUBACK {name}"), |bencher| {
            bencher.iter(|| assert_eq!(read_all(&acks, version, &mut scratch), PACKETS));
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let record = Record {
        qos: Qos::AtLeastOnce,
        retain: false,
        payload_utf8: false,
        expiry: None,
        origin: Origin::Mqtt,
        payload_type: PayloadType::Binary,
        publisher: "pump-7",
        account: "ADMIN",
        properties: &[],
        extras: &[],
        payload: &PAYLOAD,
    };
    let bytes = record.parts(&record.head()).concat();
    let mut group = criterion.benchmark_group("record");
    group.bench_function("head", |bencher| bencher.iter(|| black_box(&record).head()));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| Record::parse(black_box(&bytes)).unwrap().payload.len());
    });
    group.finish();
}

criterion_group!(benches, packets, records);
criterion_main!(benches);
