package martlet;

import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/** The agents' common command line; `conformance/README.md` describes it. */
record Options(
        String command, String endpoint, String topic, String group, String filter, boolean tls, boolean stdin,
        int count, int deadlineSecs, int invisibleSecs, int changeInvisibleSecs, int batch, int cache,
        int failFirst, int failEvery, boolean failAll, boolean transactional, String liteTopics, String instance,
        String accessKey, String secretKey) {

    private static final Set<String> SWITCHES = Set.of("tls", "stdin", "fail-all", "transactional");
    private static final Set<String> VALUES = Set.of(
            "endpoint", "topic", "group", "filter", "count", "deadline-secs", "invisible-secs",
            "change-invisible", "batch", "cache", "fail-first", "fail-every", "lite-topics", "instance",
            "access-key", "secret-key");

    static Options parse(String[] args) {
        if (args.length == 0) {
            throw new IllegalArgumentException("usage: produce|simple|push|lite --endpoint HOST:PORT --topic T ...");
        }
        Map<String, String> given = new HashMap<>();
        for (int i = 1; i < args.length; i++) {
            String name = args[i].startsWith("--") ? args[i].substring(2) : args[i];
            if (SWITCHES.contains(name)) {
                given.put(name, "true");
            } else if (VALUES.contains(name) && i + 1 < args.length) {
                given.put(name, args[++i]);
            } else {
                throw new IllegalArgumentException("unknown option or missing value: " + args[i]);
            }
        }
        return new Options(
                args[0], given.get("endpoint"), given.get("topic"), given.getOrDefault("group", ""),
                given.getOrDefault("filter", "*"), given.containsKey("tls"), given.containsKey("stdin"),
                number(given, "count", 0), number(given, "deadline-secs", 60), number(given, "invisible-secs", 30),
                number(given, "change-invisible", 0), number(given, "batch", 16), number(given, "cache", 64),
                number(given, "fail-first", 0), number(given, "fail-every", 0), given.containsKey("fail-all"),
                given.containsKey("transactional"), given.getOrDefault("lite-topics", ""), given.getOrDefault("instance", ""),
                given.getOrDefault("access-key", ""), given.getOrDefault("secret-key", ""));
    }

    private static int number(Map<String, String> given, String name, int otherwise) {
        return given.containsKey(name) ? Integer.parseInt(given.get(name)) : otherwise;
    }
}
