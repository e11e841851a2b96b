package martlet;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.StaticSessionCredentialsProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Drives the published Java client on the harness's behalf. */
public final class Agent {
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    /** Between two tries of what fails while the broker is away: that it is back is no event this client reports. */
    private static final long RETRY_MILLIS = 200;
    private final Options options;
    private final Events events;
    private final ClientConfiguration configuration;
    private final long deadlineNanos;
    private final CountDownLatch ended = new CountDownLatch(1);

    private Agent(Options options, Events events) {
        this.options = options;
        this.events = events;
        this.deadlineNanos = System.nanoTime() + TimeUnit.SECONDS.toNanos(options.deadlineSecs());
        var builder = ClientConfiguration.newBuilder()
                .setEndpoints(options.endpoint()).enableSsl(options.tls()).setNamespace(options.instance());
        if (!options.accessKey().isEmpty()) {
            builder.setCredentialProvider(new StaticSessionCredentialsProvider(options.accessKey(), options.secretKey()));
        }
        this.configuration = builder.build();
    }

    public static void main(String[] args) throws Exception {
        Events events = new Events();
        Agent agent = new Agent(Options.parse(args), events);
        switch (agent.options.command()) {
            case "produce" -> agent.produce();
            case "simple" -> agent.simple();
            case "push" -> agent.push();
            case "lite" -> agent.lite();
            default -> throw new IllegalArgumentException("unknown command " + agent.options.command());
        }
        events.emit(Events.event("done"));
        // The client's own threads must not keep a finished agent alive.
        System.exit(0);
    }

    private boolean late() {
        return System.nanoTime() - deadlineNanos >= 0;
    }

    /** Whether to try again, once it is time to: not after the deadline, nor when standard input has ended, which ends the wait. */
    private boolean again() throws InterruptedException {
        return !late() && !ended.await(RETRY_MILLIS, TimeUnit.MILLISECONDS);
    }

    private interface Starter<T> {
        T start() throws ClientException;
    }

    /** Starting fails while the broker is away or a topic is not known yet: try until the deadline. */
    private <T> T start(Starter<T> starter) throws Exception {
        while (true) {
            try {
                T client = starter.start();
                events.emit(Events.event("ready"));
                return client;
            } catch (ClientException | RuntimeException e) {
                events.failed("start_failed", e);
                if (!again()) {
                    throw e;
                }
            }
        }
    }

    private void produce() throws Exception {
        try (var producer = start(() -> {
            var builder = PROVIDER.newProducerBuilder().setClientConfiguration(configuration).setTopics(options.topic());
            return (options.transactional() ? builder.setTransactionChecker(this::check) : builder).build();
        })) {
            int index = 0;
            if (options.stdin()) {
                BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    JsonObject input = JsonParser.parseString(line).getAsJsonObject();
                    String transaction = input.has("transaction") ? input.get("transaction").getAsString() : "";
                    SendReceipt receipt = send(producer, index++, message(input), transaction);
                    if (input.has("recall") && input.get("recall").getAsBoolean()) {
                        recall(producer, receipt.getRecallHandle());
                    }
                }
            } else {
                for (; index < options.count(); index++) {
                    JsonObject input = new JsonObject();
                    input.addProperty("body", "message " + index);
                    send(producer, index, message(input), "");
                }
            }
        }
    }

    private void recall(Producer producer, String handle) {
        try {
            JsonObject event = Events.event("recalled");
            event.addProperty("id", producer.recallMessage(options.topic(), handle).getMessageId().toString());
            events.emit(event);
        } catch (ClientException | RuntimeException e) {
            events.failed("recall_failed", e);
        }
    }

    private SendReceipt send(Producer producer, int index, Message message, String end) throws Exception {
        while (true) {
            JsonObject event;
            try {
                SendReceipt receipt;
                if (end.isEmpty()) {
                    receipt = producer.send(message);
                } else {
                    Transaction transaction = producer.beginTransaction();
                    receipt = producer.send(message, transaction);
                    end(transaction, end);
                }
                event = Events.event("sent");
                event.addProperty("id", receipt.getMessageId().toString());
                event.addProperty("index", index);
                events.emit(event);
                return receipt;
            } catch (ClientException | RuntimeException e) {
                event = Events.event("send_failed");
                event.addProperty("index", index);
                event.addProperty("message", String.valueOf(e));
                events.emit(event);
                if (!again()) {
                    throw e;
                }
            }
        }
    }

    private void end(Transaction transaction, String end) {
        try {
            switch (end) {
                case "commit" -> transaction.commit();
                case "rollback" -> transaction.rollback();
                default -> { }
            }
        } catch (ClientException | RuntimeException e) {
            // The check will find out.
            events.failed("end_failed", e);
        }
    }

    /** What became of a transaction whose end the broker never heard: its message says so itself. */
    private TransactionResolution check(MessageView message) {
        JsonObject event = Events.event("checked");
        event.addProperty("id", message.getMessageId().toString());
        events.emit(event);
        return switch (message.getProperties().getOrDefault("outcome", "")) {
            case "commit" -> TransactionResolution.COMMIT;
            case "rollback" -> TransactionResolution.ROLLBACK;
            default -> TransactionResolution.UNKNOWN;
        };
    }

    private Message message(JsonObject input) {
        MessageBuilder builder = PROVIDER.newMessageBuilder().setTopic(options.topic());
        builder.setBody(input.has("body_hex")
                ? HexFormat.of().parseHex(input.get("body_hex").getAsString())
                : input.get("body").getAsString().getBytes(StandardCharsets.UTF_8));
        if (input.has("tag")) {
            builder.setTag(input.get("tag").getAsString());
        }
        if (input.has("keys")) {
            List<String> keys = new ArrayList<>();
            for (JsonElement key : input.getAsJsonArray("keys")) {
                keys.add(key.getAsString());
            }
            builder.setKeys(keys.toArray(String[]::new));
        }
        if (input.has("message_group")) {
            builder.setMessageGroup(input.get("message_group").getAsString());
        }
        if (input.has("lite_topic")) {
            builder.setLiteTopic(input.get("lite_topic").getAsString());
        }
        if (input.has("deliver_at_ms")) {
            builder.setDeliveryTimestamp(input.get("deliver_at_ms").getAsLong());
        }
        if (input.has("priority")) {
            builder.setPriority(input.get("priority").getAsInt());
        }
        if (input.has("properties")) {
            for (Map.Entry<String, JsonElement> property : input.getAsJsonObject("properties").entrySet()) {
                builder.addProperty(property.getKey(), property.getValue().getAsString());
            }
        }
        return builder.build();
    }

    private Map<String, FilterExpression> subscription() {
        String filter = options.filter();
        return Map.of(options.topic(), filter.startsWith("sql:")
                ? new FilterExpression(filter.substring(4), FilterExpressionType.SQL92)
                : new FilterExpression(filter, FilterExpressionType.TAG));
    }

    private void simple() throws Exception {
        endWithStandardInput();
        Set<String> done = new HashSet<>();
        Map<String, Integer> deliveries = new ConcurrentHashMap<>();
        try (var consumer = start(() -> PROVIDER.newSimpleConsumerBuilder()
                .setClientConfiguration(configuration).setConsumerGroup(options.group())
                .setAwaitDuration(Duration.ofSeconds(10)).setSubscriptionExpressions(subscription()).build())) {
            while (!late() && ended.getCount() > 0 && (options.count() == 0 || done.size() < options.count())) {
                List<MessageView> messages;
                try {
                    messages = consumer.receive(options.batch(), Duration.ofSeconds(options.invisibleSecs()));
                } catch (ClientException | RuntimeException e) {
                    events.failed("receive_failed", e);
                    if (!again()) {
                        break;
                    }
                    continue;
                }
                for (MessageView message : messages) {
                    events.emit(Events.received(message));
                    String id = message.getMessageId().toString();
                    int delivery = deliveries.merge(id, 1, Integer::sum);
                    JsonObject event;
                    try {
                        if (delivery == 1 && options.changeInvisibleSecs() > 0) {
                            consumer.changeInvisibleDuration(message, Duration.ofSeconds(options.changeInvisibleSecs()));
                            event = Events.event("changed");
                        } else if (fails(delivery)) {
                            continue;
                        } else {
                            consumer.ack(message);
                            event = Events.event("acked");
                            done.add(id);
                        }
                    } catch (ClientException | RuntimeException e) {
                        event = Events.event("ack_failed");
                        event.addProperty("message", String.valueOf(e));
                    }
                    event.addProperty("id", id);
                    events.emit(event);
                }
            }
        }
    }

    private boolean fails(int delivery) {
        return options.failAll() || delivery <= options.failFirst();
    }

    private void push() throws Exception {
        endWithStandardInput();
        Set<String> done = Collections.synchronizedSet(new HashSet<>());
        Map<String, Integer> deliveries = new ConcurrentHashMap<>();
        AtomicInteger total = new AtomicInteger();
        try (var consumer = start(() -> PROVIDER.newPushConsumerBuilder()
                .setClientConfiguration(configuration).setConsumerGroup(options.group())
                .setSubscriptionExpressions(subscription()).setMaxCacheMessageCount(options.cache())
                .setConsumptionThreadCount(4).setMessageListener(message -> {
                    String id = message.getMessageId().toString();
                    int delivery = deliveries.merge(id, 1, Integer::sum);
                    int number = total.incrementAndGet();
                    boolean failure = fails(delivery) || (options.failEvery() > 0 && number % options.failEvery() == 0);
                    JsonObject event = Events.received(message);
                    event.addProperty("result", failure ? "failure" : "success");
                    events.emit(event);
                    if (failure) {
                        return ConsumeResult.FAILURE;
                    }
                    done.add(id);
                    if (options.count() > 0 && done.size() >= options.count()) {
                        ended.countDown();
                    }
                    return ConsumeResult.SUCCESS;
                }).build())) {
            ended.await(Math.max(0, deadlineNanos - System.nanoTime()), TimeUnit.NANOSECONDS);
        }
    }

    /** A lite push consumer of the lite topics named, below the topic. */
    private void lite() throws Exception {
        endWithStandardInput();
        Set<String> done = Collections.synchronizedSet(new HashSet<>());
        try (var consumer = start(() -> PROVIDER.newLitePushConsumerBuilder()
                .setClientConfiguration(configuration).setConsumerGroup(options.group()).bindTopic(options.topic())
                .setMessageListener(message -> {
                    JsonObject event = Events.received(message);
                    event.addProperty("result", "success");
                    events.emit(event);
                    done.add(message.getMessageId().toString());
                    if (options.count() > 0 && done.size() >= options.count()) {
                        ended.countDown();
                    }
                    return ConsumeResult.SUCCESS;
                }).build())) {
            for (String name : options.liteTopics().split(",")) {
                while (true) {
                    try {
                        consumer.subscribeLite(name);
                        break;
                    } catch (ClientException | RuntimeException e) {
                        events.failed("receive_failed", e);
                        if (!again()) {
                            throw e;
                        }
                    }
                }
            }
            events.emit(Events.event("subscribed"));
            Set<String> held = consumer.getLiteTopicSet();
            while (!ended.await(100, TimeUnit.MILLISECONDS) && !late()) {
                // What the broker takes away is no event that this client reports; its set is smaller then.
                Set<String> left = consumer.getLiteTopicSet();
                for (String name : held) {
                    if (!left.contains(name)) {
                        JsonObject event = Events.event("taken_away");
                        event.addProperty("lite_topic", name);
                        events.emit(event);
                    }
                }
                held = left;
            }
        }
    }

    private void endWithStandardInput() {
        Thread watcher = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Nothing is expected; only the end matters.
                }
            } catch (IOException e) {
                System.err.println("standard input: " + e);
            }
            ended.countDown();
        }, "stdin");
        watcher.setDaemon(true);
        watcher.start();
    }
}
