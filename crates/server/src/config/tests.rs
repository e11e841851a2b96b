use super::*;

fn given(flags: &[(&str, &str)], environment: &[(&str, &str)], file: Option<PathBuf>) -> Given {
    let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    Given { flags: pairs(flags), environment: pairs(environment), file }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("martlet.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn the_defaults_in_the_table_are_the_defaults() {
    let mut config = Config::default();
    for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
        assert!((key.set)(&mut config, key.default).is_some(), "{}", key.name);
        assert_eq!(config, Config::default(), "{}", key.name);
    }
    assert_eq!(resolve(Given::default()).unwrap(), Config::default());
}

#[test]
fn the_flag_wins_over_the_environment_over_the_file() {
    let (_folder, path) = file("retention_hours = 1\nbroker_name = \"f\"\ncluster_name = \"f\"\n");
    let environment = [("MARTLET_BROKER_NAME", "e"), ("MARTLET_RETENTION_HOURS", "2"), ("HOME", "/root")];
    let config = resolve(given(&[("retention_hours", "3")], &environment, Some(path.clone()))).unwrap();
    assert_eq!((config.retention_hours, &*config.broker_name, &*config.cluster_name), (3, "e", "f"));
    let config = resolve(given(&[], &[("MARTLET_CONFIG", path.to_str().unwrap())], None)).unwrap();
    assert_eq!(config.retention_hours, 1);
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest() {
    let (_folder, path) = file("retention_hour = 1\n");
    let error = resolve(given(&[], &[], Some(path.clone()))).unwrap_err().to_string();
    let expected = format!(
        "file {}: there is no key retention_hour, did you mean retention_hours?; all keys: martlet --help",
        path.display()
    );
    assert_eq!(error, expected);
    let error = resolve(given(&[], &[("MARTLET_ADVERTIZE", "x")], None)).unwrap_err().to_string();
    assert!(error.contains("did you mean MARTLET_ADVERTISE?"), "{error}");
    let error = resolve(given(&[], &[("MARTLET_XYZZY", "x")], None)).unwrap_err().to_string();
    assert!(error.contains("no key MARTLET_XYZZY; all keys"), "{error}");
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_called_martlet_are_left_alone() {
    let environment = [
        ("MARTLET_SERVICE_HOST", "10.0.0.1"),
        ("MARTLET_PORT", "tcp://10.0.0.1:8081"),
        ("MARTLET_PORT_8081_TCP_ADDR", "10.0.0.1"),
        ("MARTLET_ENDPOINT", "127.0.0.1:8081"),
    ];
    assert_eq!(resolve(given(&[], &environment, None)).unwrap(), Config::default());
}

#[test]
fn a_bad_value_names_key_value_source_and_what_is_accepted() {
    let error = resolve(given(&[], &[("MARTLET_RETENTION_HOURS", "soon")], None)).unwrap_err().to_string();
    assert_eq!(
        error,
        "environment variable MARTLET_RETENTION_HOURS: retention_hours = \"soon\" is not accepted; it takes whole \
         hours from 1 to 87600"
    );
    for (key, value) in [
        ("retention_hours", "0"),
        ("grpc_listen", "here"),
        ("grpc_listen", "1.2.3.4:99999"),
        ("auto_create_topics", "yes"),
        ("durability", "page-cache"),
        ("broker_name", "a b"),
        ("advertise", "host:0"),
        ("advertise", "a b"),
        ("log_level", ""),
        ("segment_mib", "-1"),
        ("data", ""),
    ] {
        let error = resolve(given(&[(key, value)], &[], None)).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("it takes"), "{error}");
    }
    let (_folder, path) = file("retention_hours = [1]\n");
    assert!(matches!(resolve(given(&[], &[], Some(path))), Err(ConfigError::BadValue { .. })));
    let (_folder, path) = file("retention_hours = \n");
    assert!(matches!(resolve(given(&[], &[], Some(path))), Err(ConfigError::NotToml { .. })));
    assert!(matches!(resolve(given(&[("tls_cert", "c.pem")], &[], None)), Err(ConfigError::Incomplete { .. })));
}

#[test]
fn addresses_are_read_as_people_write_them() {
    assert_eq!(Listen::parse("9000").unwrap().to_string(), "0.0.0.0:9000");
    assert_eq!(Listen::parse("localhost:1").unwrap().to_string(), "127.0.0.1:1");
    assert_eq!(Listen::parse("[::]:8081").unwrap().to_string(), "[::]:8081");
    let shown = |text: &str| Advertise::parse(text).unwrap().to_string();
    assert_eq!(shown("mq.example.org"), "mq.example.org");
    assert_eq!(shown("mq.example.org:80"), "mq.example.org:80");
    assert_eq!(shown("::1"), "::1");
    assert_eq!(shown("[::1]:80"), "[::1]:80");
    assert_eq!(Advertise::parse(""), Some(Advertise::AsDialled));
    let config = resolve(given(&[("advertise", "a"), ("grpc_advertise", "b:1")], &[], None)).unwrap();
    assert_eq!(config.grpc_advertised().to_string(), "b:1");
}
