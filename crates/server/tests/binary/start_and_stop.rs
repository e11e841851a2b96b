//! How a broker starts, refuses to start, and stops.

use crate::process::{Broker, martlet, refused_start};

#[test]
fn it_says_where_it_listens_where_its_data_is_and_what_it_creates_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Broker::start(&data);
    assert!(broker.said.contains(&data.display().to_string()), "{}", broker.said);
    for part in ["(new)", "broker broker-a, cluster DefaultCluster", "automatic creation  on", "there is no replica"] {
        assert!(broker.said.contains(part), "{part}: {}", broker.said);
    }
    assert!(!broker.said.contains("WARNING"), "loopback needs no warning: {}", broker.said);
    assert_eq!(broker.get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(broker.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(broker.get("/nothing").0, 404);
}

#[test]
fn a_port_that_others_can_reach_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_with(&folder.path().join("data"), &["--auto-create-topics", "false"]);
    assert!(broker.said.contains("off for topics, on for consumer groups"), "{}", broker.said);
    drop(broker);
    // A flag given twice is refused, so this one's addresses go by the environment.
    let mut command = martlet();
    command.env("MARTLET_GRPC_LISTEN", "0.0.0.0:0").env("MARTLET_ADMIN_LISTEN", "127.0.0.1:0");
    command.arg("--data").arg(folder.path().join("other")).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    while !said.contains("Ready after") {
        assert!(std::io::BufRead::read_line(&mut out, &mut said).unwrap() > 0, "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("WARNING  There is no access control"), "{said}");
    assert!(said.contains("can read, send and delete everything"), "{said}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("martlet.toml");
    std::fs::write(&file, "retention_hour = 24\n").unwrap();
    let error = refused_start(martlet().arg("--config").arg(&file));
    assert!(error.contains("there is no key retention_hour, did you mean retention_hours?"), "{error}");
    let error = refused_start(martlet().env("MARTLET_ADVERTIZE", "x"));
    assert!(error.contains("did you mean MARTLET_ADVERTISE?"), "{error}");
    let error = refused_start(martlet().args(["--retension-hours", "1"]));
    assert!(error.contains("--retention-hours"), "{error}");
    let error = refused_start(martlet().args(["--durability", "fast"]));
    assert!(
        error.contains("flag --durability: durability = \"fast\" is not accepted; it takes fdatasync or"),
        "{error}"
    );
}

#[test]
fn a_second_process_on_the_same_folder_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Broker::start(&data);
    let mut second = martlet();
    second.args(["--nameserver-listen", "off", "--remoting-listen", "off", "--http-listen", "off"]);
    second.args(["--grpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data"]).arg(&data);
    let error = refused_start(&mut second);
    let expected = format!("data folder {} is in use by another process (pid {})", data.display(), broker.id());
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("one"));
    let mut second = martlet();
    second.args(["--nameserver-listen", "off", "--remoting-listen", "off", "--http-listen", "off"]);
    second.args(["--grpc-listen", &broker.grpc, "--admin-listen", "127.0.0.1:0", "--data"]);
    let error = refused_start(second.arg(folder.path().join("two")));
    assert!(error.contains(&format!("cannot listen on {} (grpc_listen)", broker.grpc)), "{error}");
}

#[test]
fn sigterm_stops_it_cleanly_and_it_starts_again_on_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Broker::start(&data);
    broker.ok(&["topic", "create", "orders"]);
    let (success, said) = broker.terminate();
    assert!(success && said.ends_with("Stopped\n"), "{said}");
    let broker = Broker::start(&data);
    assert!(broker.said.contains("1 topic, 0 groups, "), "{}", broker.said);
    assert!(broker.ok(&["topic", "list"]).contains("orders"));
}

#[test]
fn a_waiting_poll_does_not_hold_up_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    broker.ok(&["topic", "create", "orders"]);
    let mut consumer = martlet()
        .args(["receive", "orders", "--group", "billing", "--follow", "--endpoint", &broker.grpc])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    let waiting =
        |text: &str| text.lines().any(|line| line.starts_with("martlet_grpc_polls{") && line.ends_with(" 1.0"));
    while !waiting(&broker.get("/metrics").1) {
        assert!(started.elapsed().as_secs() < 10, "the consumer does not poll");
    }
    let stopping = std::time::Instant::now();
    let (success, said) = broker.terminate();
    assert!(success, "{said}");
    assert!(stopping.elapsed().as_secs() < 8, "stopping waited for the poll: {:?}", stopping.elapsed());
    consumer.kill().unwrap();
    consumer.wait().unwrap();
}

#[test]
fn a_second_signal_during_the_drain_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start_with(&folder.path().join("data"), &["--drain-seconds", "600"]);
    // A connection that has begun a request and never ends it holds the drain up.
    let mut stuck = std::net::TcpStream::connect(&broker.grpc).unwrap();
    std::io::Write::write_all(&mut stuck, &unfinished_request()).unwrap();
    let mut answer = [0; 64];
    assert!(std::io::Read::read(&mut stuck, &mut answer).unwrap() > 0, "the server's settings");
    let started = std::time::Instant::now();
    while !broker
        .get("/metrics")
        .1
        .lines()
        .any(|line| line.starts_with("martlet_grpc_connections{") && line.ends_with(" 1.0"))
    {
        assert!(started.elapsed().as_secs() < 10, "the connection is not there");
    }
    broker.signal("TERM");
    broker.wait_until_it_says("Stopping");
    let signalled = std::time::Instant::now();
    broker.signal("INT");
    let (success, said) = broker.ended();
    assert!(!success, "cut short: {said}");
    assert!(!said.contains("Stopped"), "{said}");
    assert!(signalled.elapsed().as_secs() < 5, "{:?}", signalled.elapsed());
}

/// The preface of HTTP/2, empty settings, and headers of a gRPC call whose message never comes.
fn unfinished_request() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", "/apache.rocketmq.v2.MessagingService/SendMessage"),
        (":authority", "broker"),
        ("content-type", "application/grpc"),
        ("x-mq-client-id", "stuck"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    bytes.extend([0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

#[test]
fn an_advertised_host_goes_with_the_port_that_is_really_listened_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_with(&folder.path().join("data"), &["--advertise", "localhost"]);
    let port = broker.grpc.rsplit(':').next().unwrap();
    assert!(broker.said.contains(&format!("clients are told to dial localhost:{port}")), "{}", broker.said);
    // The route's address is what a client dials next: it must lead back here.
    broker.ok(&["topic", "create", "orders"]);
    broker.ok(&["send", "orders", "hello"]);
    assert!(broker.ok(&["receive", "orders", "--group", "billing"]).contains("hello"));
}
