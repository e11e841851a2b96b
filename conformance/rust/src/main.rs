//! Drives the published Rust client on the harness's behalf.

mod options;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read, Write};
use std::time::{Duration, SystemTime};

use options::Options;
use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::error::ClientError;
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{Message, MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use serde_json::{json, Value};
use tokio::sync::watch;

/// Between two tries of what fails while the broker is away: that it is back is no event this client reports.
const RETRY: Duration = Duration::from_millis(200);

type Failure = Box<dyn std::error::Error>;

fn emit(event: Value) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{event}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1); // the harness is gone
    }
}

fn main() {
    let outcome = Options::parse(std::env::args().skip(1))
        .map_err(Failure::from)
        .and_then(run);
    match outcome {
        Ok(()) => emit(json!({"event": "done"})),
        Err(e) => {
            eprintln!("{e:?}");
            std::process::exit(1);
        }
    }
    // The client's own threads must not keep a finished agent alive.
    std::process::exit(0);
}

fn run(options: Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match options.command.as_str() {
            "produce" => produce(&options).await,
            "simple" => simple(&options).await,
            "push" => {
                emit(json!({"event": "unsupported", "message": "rocketmq 5.0.0 for Rust has no push consumer"}));
                Ok(())
            }
            other => Err(format!("unknown command {other}").into()),
        }
    })
}

fn client_option(options: &Options) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(options.text("endpoint"));
    option.set_enable_tls(options.tls);
    option
}

/// Whether standard input has ended, where only its end matters.
#[derive(Clone)]
struct Ended(watch::Receiver<bool>);

impl Ended {
    /// Reads standard input to its end, on a thread of its own.
    fn with_standard_input() -> Ended {
        let (ended, end) = watch::channel(false);
        std::thread::spawn(move || {
            let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
            let _ = ended.send(true);
        });
        Ended(end)
    }

    /// Never: the messages come from there.
    fn never() -> Ended {
        Ended(watch::channel(false).1)
    }

    fn is(&self) -> bool {
        *self.0.borrow()
    }

    /// Whether to try again, once it is time to: not after the deadline, nor when standard input has ended, which ends the wait.
    async fn again(&mut self, options: &Options) -> bool {
        let end = async {
            if self.0.wait_for(|&ended| ended).await.is_err() {
                std::future::pending::<()>().await; // it never will
            }
        };
        !options.late() && tokio::time::timeout(RETRY, end).await.is_err()
    }

    /// What to do about a start that failed: starting fails while the broker is away or a topic is not known yet.
    async fn start_failed(&mut self, options: &Options, error: ClientError) -> Result<(), Failure> {
        emit(json!({"event": "start_failed", "message": format!("{error:?}")}));
        if self.again(options).await {
            Ok(())
        } else {
            Err(error.into())
        }
    }
}

async fn produce(options: &Options) -> Result<(), Failure> {
    let mut ended = Ended::never();
    let producer = loop {
        let mut option = ProducerOption::default();
        option.set_topics(vec![options.text("topic")]);
        let mut producer = match options.transactional {
            true => {
                Producer::new_transaction_producer(option, client_option(options), Box::new(check))?
            }
            false => Producer::new(option, client_option(options))?,
        };
        match producer.start().await {
            Ok(()) => break producer,
            Err(e) => ended.start_failed(options, e).await?,
        }
    };
    emit(json!({"event": "ready"}));
    if options.stdin {
        let (lines, mut arriving) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let mut index = 0;
        while let Some(line) = arriving.recv().await {
            send(options, &producer, index, &serde_json::from_str(&line)?).await?;
            index += 1;
        }
    } else {
        for index in 0..options.number("count", 0) {
            send(
                options,
                &producer,
                index,
                &json!({"body": format!("message {index}")}),
            )
            .await?;
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(3), producer.shutdown()).await;
    Ok(())
}

/// What became of a transaction whose end the broker never heard: its message says so itself.
fn check(_transaction_id: String, message: MessageView) -> TransactionResolution {
    emit(json!({"event": "checked", "id": message.message_id()}));
    match message.properties().get("outcome").map(String::as_str) {
        Some("commit") => TransactionResolution::COMMIT,
        Some("rollback") => TransactionResolution::ROLLBACK,
        _ => TransactionResolution::UNKNOWN,
    }
}

async fn send(
    options: &Options,
    producer: &Producer,
    index: u64,
    line: &Value,
) -> Result<(), Failure> {
    loop {
        let topic = options.text("topic");
        let mut builder = match line["deliver_at_ms"].as_i64() {
            // This client takes seconds.
            Some(millis) => {
                MessageBuilder::delay_message_builder(topic, body(line)?, millis / 1_000)
            }
            None => MessageBuilder::builder()
                .set_topic(topic)
                .set_body(body(line)?),
        };
        if let Some(tag) = line["tag"].as_str() {
            builder = builder.set_tag(tag);
        }
        if let Some(group) = line["message_group"].as_str() {
            builder = builder.set_message_group(group);
        }
        if let Some(keys) = line["keys"].as_array() {
            builder = builder.set_keys(keys.iter().filter_map(Value::as_str).collect());
        }
        if let Some(properties) = line["properties"].as_object() {
            let pairs = properties
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string()));
            builder = builder.set_properties(pairs.collect::<HashMap<String, String>>());
        }
        let sent = match line["transaction"].as_str() {
            None => producer
                .send(builder.build()?)
                .await
                .map(|receipt| receipt.message_id().to_string()),
            Some(end) => send_half(producer, builder.enable_transaction().build()?, end).await,
        };
        match sent {
            Ok(id) => {
                emit(json!({"event": "sent", "id": id, "index": index}));
                return Ok(());
            }
            Err(e) => {
                emit(json!({"event": "send_failed", "index": index, "message": format!("{e:?}")}));
                if !Ended::never().again(options).await {
                    return Err(e.into());
                }
            }
        }
    }
}

async fn send_half(
    producer: &Producer,
    message: impl Message,
    end: &str,
) -> Result<String, ClientError> {
    let transaction = producer.send_transaction_message(message).await?;
    let id = transaction.message_id().to_string();
    let ended = match end {
        "commit" => transaction.commit().await,
        "rollback" => transaction.rollback().await,
        _ => Ok(()),
    };
    if let Err(e) = ended {
        // The check will find out.
        emit(json!({"event": "end_failed", "message": format!("{e:?}")}));
    }
    Ok(id)
}

fn body(line: &Value) -> Result<Vec<u8>, Failure> {
    match line["body_hex"].as_str() {
        None => Ok(line["body"].as_str().unwrap_or_default().into()),
        Some(hex) => {
            let digits = hex
                .as_bytes()
                .chunks(2)
                .map(|pair| std::str::from_utf8(pair).map_err(Failure::from));
            digits
                .map(|pair| Ok(u8::from_str_radix(pair?, 16)?))
                .collect()
        }
    }
}

fn received(message: &MessageView) {
    let at = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let hex: String = message
        .body()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    emit(json!({
        "event": "received", "id": message.message_id(), "topic": message.topic(),
        "at_us": at.as_micros() as u64, "body_hex": hex,
        "keys": message.keys(), "tag": message.tag(), "message_group": message.message_group(), "properties": message.properties(),
        "attempt": message.delivery_attempt(),
    }));
}

async fn simple(options: &Options) -> Result<(), Failure> {
    if options.number("change-invisible", 0) > 0 {
        emit(
            json!({"event": "unsupported", "message": "rocketmq 5.0.0 for Rust cannot change an invisible duration"}),
        );
        return Ok(());
    }
    let mut ended = Ended::with_standard_input();
    let topic = options.text("topic");
    let consumer = loop {
        let mut option = SimpleConsumerOption::default();
        option.set_consumer_group(options.text("group"));
        option.set_topics(vec![topic.clone()]);
        let mut client = client_option(options);
        client.set_long_polling_timeout(Duration::from_secs(10));
        let mut consumer = SimpleConsumer::new(option, client)?;
        match consumer.start().await {
            Ok(()) => break consumer,
            Err(e) => ended.start_failed(options, e).await?,
        }
    };
    emit(json!({"event": "ready"}));
    let given = options.text("filter");
    let filter = match given.strip_prefix("sql:") {
        Some(condition) => FilterExpression::new(FilterType::Sql, condition),
        None => FilterExpression::new(FilterType::Tag, if given.is_empty() { "*" } else { &given }),
    };
    let count = options.number("count", 0) as usize;
    let (mut deliveries, mut done) = (HashMap::<String, u64>::new(), HashSet::new());
    while !options.late() && !ended.is() && (count == 0 || done.len() < count) {
        let invisible = Duration::from_secs(options.number("invisible-secs", 30));
        let batch = options.number("batch", 16) as i32;
        let messages = match consumer
            .receive_with(&topic, &filter, batch, invisible)
            .await
        {
            Ok(messages) => messages,
            Err(e) => {
                emit(json!({"event": "receive_failed", "message": format!("{e:?}")}));
                if !ended.again(options).await {
                    break;
                }
                continue;
            }
        };
        for message in messages {
            received(&message);
            let id = message.message_id().to_string();
            let delivery = deliveries.entry(id.clone()).or_default();
            *delivery += 1;
            if options.fail_all || *delivery <= options.number("fail-first", 0) {
                continue;
            }
            match consumer.ack(&message).await {
                Ok(()) => {
                    emit(json!({"event": "acked", "id": id}));
                    done.insert(id);
                }
                Err(e) => {
                    emit(json!({"event": "ack_failed", "id": id, "message": format!("{e:?}")}))
                }
            }
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(3), consumer.shutdown()).await;
    Ok(())
}
