package martlet;

import com.aliyun.openservices.ons.api.Message;
import com.aliyun.openservices.ons.api.ONSFactory;
import com.aliyun.openservices.ons.api.Producer;
import com.aliyun.openservices.ons.api.order.OrderProducer;
import com.aliyun.openservices.ons.api.transaction.TransactionProducer;
import com.aliyun.openservices.ons.api.transaction.TransactionStatus;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * The product's three producers: plain, ordered, transactional. Each is started when a message first needs it: of producers in one group
 * the transactional ones alone can answer checks, and a broker may ask any of them.
 */
final class OnsProducers {
    /** Lines read ahead of what is sent. */
    private static final int LINES_WAITING_MAX = 1_000;
    private final OnsAgent agent;
    private final Properties settings;
    private Producer plain;
    private OrderProducer ordered;
    private TransactionProducer transactional;

    OnsProducers(OnsAgent agent) {
        this.agent = agent;
        this.settings = agent.settings("producers");
    }

    void produce() throws InterruptedException {
        if (agent.options.has("transactional")) {
            transactional();
        } else {
            plain();
        }
        agent.events.emit(TcpEvents.event("ready"));
        if (agent.options.has("stdin")) {
            BlockingQueue<Optional<String>> lines = new ArrayBlockingQueue<>(LINES_WAITING_MAX);
            agent.read(line -> lines.put(Optional.of(line)), () -> {
                try {
                    lines.put(Optional.empty());
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
            });
            for (int index = 0; ; index++) {
                Optional<String> line = lines.poll(agent.leftNanos(), TimeUnit.NANOSECONDS);
                if (line == null || line.isEmpty()) {
                    break;
                }
                send(index, JsonParser.parseString(line.get()).getAsJsonObject());
            }
        } else {
            for (int index = 0; index < agent.options.number("count", 1) && agent.leftNanos() > 0; index++) {
                JsonObject input = new JsonObject();
                input.addProperty("body", "message " + index);
                send(index, input);
            }
        }
        if (plain != null) {
            plain.shutdown();
        }
        if (ordered != null) {
            ordered.shutdown();
        }
        if (transactional != null) {
            transactional.shutdown();
        }
    }

    private Producer plain() throws InterruptedException {
        if (plain == null) {
            plain = agent.start(() -> ONSFactory.createProducer(settings));
        }
        return plain;
    }

    private OrderProducer ordered() throws InterruptedException {
        if (ordered == null) {
            ordered = agent.start(() -> ONSFactory.createOrderProducer(settings));
        }
        return ordered;
    }

    private TransactionProducer transactional() throws InterruptedException {
        if (transactional == null) {
            transactional = agent.start(() -> ONSFactory.createTransactionProducer(settings, this::check));
        }
        return transactional;
    }

    private void send(int index, JsonObject input) throws InterruptedException {
        while (true) {
            try {
                JsonObject event = TcpEvents.event("sent");
                event.addProperty("id", accepted(input));
                event.addProperty("index", index);
                agent.events.emit(event);
                return;
            } catch (RuntimeException e) {
                JsonObject event = TcpEvents.event("send_failed");
                event.addProperty("index", index);
                // What the broker said is at the bottom.
                event.addProperty("message", e + "; " + root(e));
                agent.events.emit(event);
                if (!agent.again()) {
                    throw e;
                }
            }
        }
    }

    private static Throwable root(Throwable failure) {
        return failure.getCause() == null ? failure : root(failure.getCause());
    }

    /** Id of the message once the broker has accepted it. */
    private String accepted(JsonObject input) throws InterruptedException {
        Message message = message(input);
        if (input.has("transaction")) {
            return inTransaction(message, input.get("transaction").getAsString());
        }
        if (input.has("message_group")) {
            return ordered().send(message, input.get("message_group").getAsString()).getMessageId();
        }
        return plain().send(message).getMessageId();
    }

    private String inTransaction(Message message, String end) throws InterruptedException {
        TransactionProducer producer = transactional();
        // The local transaction runs once the half message is accepted.
        AtomicReference<String> accepted = new AtomicReference<>();
        try {
            return producer.send(message, (half, wanted) -> {
                accepted.set(half.getMsgID());
                return status(end);
            }, end).getMessageId();
        } catch (RuntimeException e) {
            if (accepted.get() == null) {
                throw e;
            }
            // To its sender a rollback is an exception.
            if (!end.equals("rollback")) {
                agent.events.failed("end_failed", e);
            }
            return accepted.get();
        }
    }

    private TransactionStatus check(Message message) {
        JsonObject event = TcpEvents.event("checked");
        event.addProperty("id", message.getMsgID());
        agent.events.emit(event);
        return status(message.getUserProperties("outcome"));
    }

    private static TransactionStatus status(String outcome) {
        return switch (outcome == null ? "" : outcome) {
            case "commit" -> TransactionStatus.CommitTransaction;
            case "rollback" -> TransactionStatus.RollbackTransaction;
            default -> TransactionStatus.Unknow;
        };
    }

    private Message message(JsonObject input) {
        byte[] body = input.has("body_hex")
                ? HexFormat.of().parseHex(input.get("body_hex").getAsString())
                : input.get("body").getAsString().getBytes(StandardCharsets.UTF_8);
        Message message =
                new Message(agent.options.text("topic", ""), input.has("tag") ? input.get("tag").getAsString() : "", body);
        StringBuilder keys = new StringBuilder();
        for (JsonElement key : input.has("keys") ? input.getAsJsonArray("keys") : new JsonArray()) {
            keys.append(keys.length() > 0 ? " " : "").append(key.getAsString());
        }
        message.setKey(keys.toString());
        if (input.has("deliver_at_ms")) {
            message.setStartDeliverTime(input.get("deliver_at_ms").getAsLong());
        }
        if (input.has("properties")) {
            for (Map.Entry<String, JsonElement> property : input.getAsJsonObject("properties").entrySet()) {
                message.putUserProperties(property.getKey(), property.getValue().getAsString());
            }
        }
        return message;
    }
}
