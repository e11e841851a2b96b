package martlet;

import com.aliyun.mq.http.MQClient;
import com.aliyun.mq.http.MQConsumer;
import com.aliyun.mq.http.MQTransProducer;
import com.aliyun.mq.http.common.AckMessageException;
import com.aliyun.mq.http.common.ClientException;
import com.aliyun.mq.http.common.ServiceException;
import com.aliyun.mq.http.model.Message;
import com.aliyun.mq.http.model.TopicMessage;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Drives the vendor's HTTP client for Java on the harness's behalf; conformance/README.md describes the command line. */
public final class HttpAgent {
    private static final Set<String> SPECIAL = Set.of("KEYS", "__SHARDINGKEY", "__STARTDELIVERTIME", "__TransCheckT");
    private static final int WAIT_SECS = 10;
    private static final int RETRY_MILLIS = 200;
    private static final Gson GSON = new Gson();
    private static PrintStream out;

    private final Map<String, String> given = new HashMap<>();
    private final long deadline;
    private final MQClient client;
    /** Standard input has ended. */
    private final CountDownLatch ended = new CountDownLatch(1);

    private interface Poll {
        List<Message> consume(int count, int waitSecs);
    }

    private HttpAgent(String[] arguments) {
        for (int i = 1; i < arguments.length; i++) {
            boolean hasValue = i + 1 < arguments.length && !arguments[i + 1].startsWith("--");
            given.put(arguments[i].substring(2), hasValue ? arguments[++i] : "");
        }
        deadline = System.currentTimeMillis() + 1000L * number("deadline-secs", 60);
        client = new MQClient(text("endpoint", ""), text("access-key", "key"), text("secret-key", "secret"));
    }

    private String text(String name, String otherwise) {
        return given.getOrDefault(name, otherwise);
    }

    private int number(String name, int otherwise) {
        return Integer.parseInt(given.getOrDefault(name, String.valueOf(otherwise)));
    }

    private static void emit(String event, Object... fields) {
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("event", event);
        for (int i = 0; i < fields.length; i += 2) {
            all.put((String) fields[i], fields[i + 1]);
        }
        synchronized (GSON) {
            out.println(GSON.toJson(all));
        }
    }

    private boolean over() {
        return ended.getCount() == 0 || System.currentTimeMillis() >= deadline;
    }

    private void endWithStandardInput() {
        Thread watch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Only its end says something.
                }
            } catch (java.io.IOException e) {
                // As good as an end.
            }
            ended.countDown();
        });
        watch.setDaemon(true);
        watch.start();
    }

    private MQTransProducer transProducer() {
        return client.getTransProducer(text("instance", ""), text("topic", ""), text("group", "GID_producers"));
    }

    private static TopicMessage draft(JsonObject line) {
        TopicMessage message = new TopicMessage(HexFormat.of().parseHex(line.get("body_hex").getAsString()));
        if (line.has("tag")) {
            message.setMessageTag(line.get("tag").getAsString());
        }
        if (line.has("properties")) {
            line.getAsJsonObject("properties").entrySet()
                .forEach(pair -> message.getProperties().put(pair.getKey(), pair.getValue().getAsString()));
        }
        if (line.has("keys") && line.getAsJsonArray("keys").size() > 0) {
            List<String> keys = new ArrayList<>();
            line.getAsJsonArray("keys").forEach(key -> keys.add(key.getAsString()));
            message.setMessageKey(String.join(" ", keys));
        }
        if (line.has("message_group")) {
            message.setShardingKey(line.get("message_group").getAsString());
        }
        if (line.has("deliver_at_ms")) {
            message.setStartDeliverTime(line.get("deliver_at_ms").getAsLong());
        }
        if (line.has("transaction")) {
            message.setTransCheckImmunityTime(10);
        }
        return message;
    }

    private void produce() throws Exception {
        MQTransProducer transactional = transProducer();
        var plain = client.getProducer(text("instance", ""), text("topic", ""));
        emit("ready");
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (int index = 0; ; index++) {
            JsonObject line;
            if (given.containsKey("stdin")) {
                String next = lines.readLine();
                if (next == null) {
                    return;
                }
                line = GSON.fromJson(next, JsonObject.class);
            } else if (index < number("count", 0)) {
                line = new JsonObject();
                line.addProperty("body_hex", HexFormat.of().formatHex(("message " + index).getBytes(StandardCharsets.UTF_8)));
            } else {
                return;
            }
            try {
                String end = line.has("transaction") ? line.get("transaction").getAsString() : null;
                TopicMessage sent = (end == null ? plain : transactional).publishMessage(draft(line));
                if ("commit".equals(end)) {
                    transactional.commit(sent.getReceiptHandle());
                } else if ("rollback".equals(end)) {
                    transactional.rollback(sent.getReceiptHandle());
                }
                emit("sent", "id", sent.getMessageId(), "index", index);
            } catch (ServiceException | ClientException e) {
                emit("send_failed", "index", index, "message", e.toString());
            }
        }
    }

    private List<Message> poll(Poll poll) throws InterruptedException {
        try {
            List<Message> found = poll.consume(number("batch", 16), WAIT_SECS);
            return found == null ? List.of() : found;
        } catch (ServiceException | ClientException e) {
            emit("receive_failed", "message", e.toString());
            ended.await(RETRY_MILLIS, TimeUnit.MILLISECONDS);
            return List.of();
        }
    }

    private static void received(Message message) {
        Map<String, String> properties = new HashMap<>();
        message.getProperties().forEach((key, value) -> {
            if (!SPECIAL.contains(key)) {
                properties.put(key, value);
            }
        });
        String keys = message.getMessageKey();
        String group = message.getShardingKey();
        emit("received", "id", message.getMessageId(), "at_us", System.currentTimeMillis() * 1000,
            "body_hex", HexFormat.of().formatHex(message.getMessageBodyBytes()),
            "keys", keys == null || keys.isEmpty() ? List.of() : Arrays.asList(keys.split(" ")),
            "tag", message.getMessageTag(), "message_group", group == null || group.isEmpty() ? null : group,
            "attempt", message.getConsumedTimes(), "properties", properties);
    }

    private void consume() throws Exception {
        endWithStandardInput();
        String filter = text("filter", "");
        MQConsumer consumer =
            client.getConsumer(text("instance", ""), text("topic", ""), text("group", ""), filter.isEmpty() ? null : filter);
        Poll poll = given.containsKey("orderly") ? consumer::consumeMessageOrderly : consumer::consumeMessage;
        emit("ready");
        Set<String> done = new HashSet<>();
        Map<String, Integer> deliveries = new HashMap<>();
        while (!over() && !(number("count", 0) > 0 && done.size() >= number("count", 0))) {
            for (Message message : poll(poll)) {
                received(message);
                if (deliveries.merge(message.getMessageId(), 1, Integer::sum) <= number("fail-first", 0)) {
                    continue;
                }
                ack(consumer, message);
                done.add(message.getMessageId());
            }
        }
    }

    private void ack(MQConsumer consumer, Message message) {
        String handle = message.getReceiptHandle();
        List<String> handles = new ArrayList<>(List.of(handle));
        if (given.containsKey("ack-twice")) {
            // One handle that is none, beside a good one.
            handles.add(handle.substring(0, handle.length() - 4) + "AAAA");
        }
        try {
            consumer.ackMessage(handles);
            emit("acked", "id", message.getMessageId());
        } catch (AckMessageException e) {
            var refused = e.getErrorMessages();
            boolean other = refused.keySet().equals(Set.of(handles.get(1)));
            String code = refused.values().iterator().next().getErrorCode();
            emit("ack_failed", "id", message.getMessageId(), "message", code + ": " + (other ? "the other one" : refused));
        }
    }

    private void halves() throws Exception {
        endWithStandardInput();
        MQTransProducer producer = transProducer();
        emit("ready");
        while (!over()) {
            for (Message half : poll(producer::consumeHalfMessage)) {
                emit("checked", "id", half.getMessageId());
                String outcome = half.getProperties().get("outcome");
                try {
                    if ("commit".equals(outcome)) {
                        producer.commit(half.getReceiptHandle());
                    } else if ("rollback".equals(outcome)) {
                        producer.rollback(half.getReceiptHandle());
                    }
                } catch (ServiceException | ClientException e) {
                    emit("end_failed", "message", e.toString());
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        // Whatever else prints must not mix with the events.
        out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        HttpAgent agent = new HttpAgent(arguments);
        switch (arguments[0]) {
            case "produce" -> agent.produce();
            case "consume" -> agent.consume();
            case "halves" -> agent.halves();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        emit("done");
        System.exit(0);
    }
}
