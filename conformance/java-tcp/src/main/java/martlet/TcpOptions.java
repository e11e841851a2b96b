package martlet;

import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/** The agents' common command line, and more; `conformance/README.md` describes it. */
record TcpOptions(String command, Map<String, String> given) {

    private static final Set<String> SWITCHES = Set.of("tls", "stdin", "fail-all", "transactional", "vip", "orderly", "broadcasting", "pop",
            "trace", "no-trace");

    static TcpOptions parse(String[] args) {
        if (args.length == 0) {
            throw new IllegalArgumentException("usage: produce|push|lite-pull|pop-ordered|query|request|reply --endpoint HOST:PORT --topic T ...");
        }
        Map<String, String> given = new HashMap<>();
        for (int i = 1; i < args.length; i++) {
            String name = args[i].startsWith("--") ? args[i].substring(2) : args[i];
            if (SWITCHES.contains(name)) {
                given.put(name, "true");
            } else if (i + 1 < args.length) {
                given.put(name, args[++i]);
            } else {
                throw new IllegalArgumentException("missing value: " + args[i]);
            }
        }
        return new TcpOptions(args[0], given);
    }

    boolean has(String name) {
        return given.containsKey(name);
    }

    String text(String name, String otherwise) {
        return given.getOrDefault(name, otherwise);
    }

    int number(String name, int otherwise) {
        return given.containsKey(name) ? Integer.parseInt(given.get(name)) : otherwise;
    }
}
