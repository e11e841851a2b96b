//! The broker without a protocol: what a message costs below gRPC. Closed loop, `SENDERS` tasks on one thread.
//!
//! `cargo run --release -p martlet-broker --example core_load -- [senders] [messages] [bytes]`

#![allow(clippy::unwrap_used, missing_docs)]

use martlet_broker::*;
use martlet_model::record::{Field, RecordWriter};
use martlet_model::{Filter, MessageType};
use std::sync::Arc;
use std::time::Instant;

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

fn message(id: &str, body: &[u8]) -> NewMessage {
    let mut writer = RecordWriter::with_capacity(128);
    writer.field(Field::MessageId(id)).field(Field::Tag("t")).field(Field::Key("key-1")).field(Field::BornTimestamp(1));
    NewMessage {
        message_type: MessageType::Normal,
        message_id: id.into(),
        keys: vec![id.into()],
        deliver_at: None,
        immunity_millis: None,
        polled: false,
        record: writer.finish(body),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let (senders, messages, bytes) = (
        args.first().copied().unwrap_or(32),
        args.get(1).copied().unwrap_or(500_000),
        args.get(2).copied().unwrap_or(1024),
    );
    let dir = tempfile::TempDir::new_in(".").unwrap();
    let (broker, _) = Broker::open(BrokerOptions::new(dir.path())).unwrap();
    broker.topic("load").await.unwrap();
    let body = vec![7u8; bytes];
    let (start, cpu, wrote) = (Instant::now(), cpu_seconds(), written());
    let tasks: Vec<_> = (0..senders)
        .map(|sender| {
            let (broker, body) = (broker.clone(), body.clone());
            tokio::spawn(async move {
                for n in 0..messages / senders {
                    let id = format!("01ABCDEF{sender:08X}{n:018X}");
                    broker
                        .send(SendRequest { topic: "load".into(), messages: vec![message(&id, &body)], deadline: None })
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let report = |what: &str, start: Instant, cpu: f64, wrote: u64| {
        let (seconds, used, out) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu, written() - wrote);
        let million = messages as f64 / 1e6;
        println!(
            "{what}: {:.0} messages/s, {:.2} CPU s per million, {:.1} bytes written per message",
            messages as f64 / seconds,
            used / million,
            out as f64 / messages as f64
        );
    };
    report("send", start, cpu, wrote);
    let (start, cpu, wrote) = (Instant::now(), cpu_seconds(), written());
    for (batch, what) in [(32, "receive and ack in 32s")] {
        let tasks: Vec<_> = (0..8)
            .map(|client| {
                let broker = broker.clone();
                tokio::spawn(async move {
                    let mut got = 0;
                    loop {
                        let received = broker
                            .receive(ReceiveRequest {
                                client_id: format!("client-{client}").into(),
                                group: "g".into(),
                                topic: "load".into(),
                                queue: None,
                                filter: Arc::new(Filter::ALL),
                                batch_size: batch,
                                invisible_millis: 60_000,
                                renew_for_millis: Some(martlet_model::limits::AUTO_RENEW_TOTAL_MILLIS),
                                poll_millis: 0,
                                message_group_max: 32,
                                attempt_id: None,
                            })
                            .await
                            .unwrap();
                        if received.messages.is_empty() {
                            return got;
                        }
                        got += received.messages.len();
                        let acks = received.messages.iter().map(|message| {
                            let broker = broker.clone();
                            let handle = message.handle.clone();
                            async move { broker.ack("g", "load", vec![handle]).await.unwrap() }
                        });
                        let acks: Vec<_> = acks.map(tokio::spawn).collect();
                        for ack in acks {
                            ack.await.unwrap();
                        }
                    }
                })
            })
            .collect();
        let mut got = 0;
        for task in tasks {
            got += task.await.unwrap();
        }
        println!("{what}: {got} messages");
    }
    report("receive and ack one by one", start, cpu, wrote);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{}",
        status
            .lines()
            .filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    broker.close();
}
