package martlet;

import com.aliyun.openservices.ons.api.Action;
import com.aliyun.openservices.ons.api.Admin;
import com.aliyun.openservices.ons.api.Consumer;
import com.aliyun.openservices.ons.api.Message;
import com.aliyun.openservices.ons.api.MessageSelector;
import com.aliyun.openservices.ons.api.ONSFactory;
import com.aliyun.openservices.ons.api.PropertyKeyConst;
import com.aliyun.openservices.ons.api.PropertyValueConst;
import com.aliyun.openservices.ons.api.batch.BatchConsumer;
import com.aliyun.openservices.ons.api.order.OrderAction;
import com.aliyun.openservices.ons.api.order.OrderConsumer;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;

/**
 * Drives the product's client for Java on the harness's behalf. Compiles with 1.8.8.8, which speaks the remoting protocol to a name server,
 * and with 2.0.7, which speaks gRPC v1 over TLS.
 */
public final class OnsAgent {
    /** Between two tries of what fails while the broker is away: that it is back is no event these clients report. */
    private static final long RETRY_MILLIS = 200;
    final TcpOptions options;
    final TcpEvents events;
    private final long deadlineNanos;
    private final CountDownLatch ended = new CountDownLatch(1);
    private final Map<String, Integer> deliveries = new ConcurrentHashMap<>();
    private final AtomicInteger total = new AtomicInteger();
    private final Set<String> done = ConcurrentHashMap.newKeySet();

    private OnsAgent(TcpOptions options, TcpEvents events) {
        this.options = options;
        this.events = events;
        this.deadlineNanos = System.nanoTime() + TimeUnit.SECONDS.toNanos(options.number("deadline-secs", 60));
    }

    public static void main(String[] args) {
        TcpEvents events = new TcpEvents();
        int status = 0;
        try {
            OnsAgent agent = new OnsAgent(TcpOptions.parse(args), events);
            switch (agent.options.command()) {
                case "produce" -> new OnsProducers(agent).produce();
                case "push" -> agent.push();
                default -> throw new IllegalArgumentException("unknown command " + agent.options.command());
            }
            events.emit(TcpEvents.event("done"));
        } catch (Exception e) {
            e.printStackTrace();
            status = 1;
        }
        // The client's own threads must not keep a finished agent alive.
        Runtime.getRuntime().halt(status);
    }

    Properties settings(String group) {
        Properties settings = new Properties();
        settings.setProperty(PropertyKeyConst.NAMESRV_ADDR, options.text("endpoint", ""));
        settings.setProperty(PropertyKeyConst.GROUP_ID, options.text("group", group));
        // The client insists on both, whether or not the broker asks for them.
        settings.setProperty(PropertyKeyConst.AccessKey, options.text("access-key", "access"));
        settings.setProperty(PropertyKeyConst.SecretKey, options.text("secret-key", "secret"));
        if (options.has("instance")) {
            settings.setProperty(PropertyKeyConst.INSTANCE_ID, options.text("instance", ""));
        }
        if (options.has("no-trace")) {
            settings.setProperty(PropertyKeyConst.MsgTraceSwitch, "false");
        }
        return settings;
    }

    long leftNanos() {
        return Math.max(0, deadlineNanos - System.nanoTime());
    }

    /** Whether to try again, once it is time to: not after the deadline, nor when standard input has ended, which ends the wait. */
    boolean again() throws InterruptedException {
        return leftNanos() > 0 && !ended.await(RETRY_MILLIS, TimeUnit.MILLISECONDS);
    }

    /** A client that has started; one that could not start cannot try again, so each try makes another. */
    <T extends Admin> T start(Supplier<T> client) throws InterruptedException {
        while (true) {
            try {
                T started = client.get();
                started.start();
                return started;
            } catch (RuntimeException e) {
                events.failed("start_failed", e);
                if (!again()) {
                    throw e;
                }
            }
        }
    }

    interface Lines {
        void take(String line) throws InterruptedException;
    }

    /** Hands on each line of standard input, and notes its end. */
    void read(Lines lines, Runnable end) {
        Thread reader = new Thread(() -> {
            try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    lines.take(line);
                }
            } catch (IOException | InterruptedException e) {
                System.err.println("standard input: " + e);
            }
            ended.countDown();
            end.run();
        }, "standard input");
        reader.setDaemon(true);
        reader.start();
    }

    private void push() throws InterruptedException {
        read(line -> { }, () -> { });
        Properties settings = settings("");
        settings.setProperty(PropertyKeyConst.ConsumeThreadNums, "4");
        if (options.has("broadcasting")) {
            settings.setProperty(PropertyKeyConst.MessageModel, PropertyValueConst.BROADCASTING);
        }
        if (options.has("max-reconsume")) {
            settings.setProperty(PropertyKeyConst.MaxReconsumeTimes, options.text("max-reconsume", ""));
        }
        if (options.has("batch")) {
            settings.setProperty(PropertyKeyConst.ConsumeMessageBatchMaxSize, options.text("batch", ""));
        }
        Admin consumer = start(() -> consumer(settings));
        events.emit(TcpEvents.event("ready"));
        ended.await(leftNanos(), TimeUnit.NANOSECONDS);
        consumer.shutdown();
    }

    private Admin consumer(Properties settings) {
        String topic = options.text("topic", "");
        String filter = options.text("filter", "*");
        MessageSelector selector =
                filter.startsWith("sql:") ? MessageSelector.bySql(filter.substring(4)) : MessageSelector.byTag(filter);
        if (options.has("orderly")) {
            OrderConsumer consumer = ONSFactory.createOrderedConsumer(settings);
            consumer.subscribe(topic, selector, (message, context) ->
                    consumed(List.of(message)) ? OrderAction.Success : OrderAction.Suspend);
            return consumer;
        }
        if (options.has("batch")) {
            BatchConsumer consumer = ONSFactory.createBatchConsumer(settings);
            // It knows tags alone.
            consumer.subscribe(topic, filter, (messages, context) -> action(consumed(messages)));
            return consumer;
        }
        Consumer consumer = ONSFactory.createConsumer(settings);
        consumer.subscribe(topic, selector, (message, context) -> action(consumed(List.of(message))));
        return consumer;
    }

    private static Action action(boolean consumed) {
        return consumed ? Action.CommitMessage : Action.ReconsumeLater;
    }

    /** Whether the listener says that messages were consumed: one answer for all that came together. */
    private boolean consumed(List<Message> messages) {
        boolean fails = options.has("fail-all");
        for (Message message : messages) {
            int delivery = deliveries.merge(message.getMsgID(), 1, Integer::sum);
            int number = total.incrementAndGet();
            int every = options.number("fail-every", 0);
            fails |= delivery <= options.number("fail-first", 0) || every > 0 && number % every == 0;
        }
        for (Message message : messages) {
            received(message, fails ? "failure" : "success", messages.size());
            if (!fails) {
                done.add(message.getMsgID());
            }
        }
        if (options.has("count") && done.size() >= options.number("count", 0)) {
            ended.countDown();
        }
        return !fails;
    }

    private void received(Message message, String result, int together) {
        JsonObject event = TcpEvents.event("received");
        event.addProperty("id", message.getMsgID());
        event.addProperty("topic", message.getTopic());
        event.addProperty("at_us", ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()));
        event.addProperty("body_hex", HexFormat.of().formatHex(message.getBody()));
        event.addProperty("offset", message.getOffset());
        JsonArray keys = new JsonArray();
        for (String key : message.getKey() == null ? new String[0] : message.getKey().split(" ")) {
            if (!key.isEmpty()) {
                keys.add(key);
            }
        }
        event.add("keys", keys);
        event.addProperty("tag", orNull(message.getTag()));
        event.addProperty("message_group", orNull(message.getShardingKey()));
        JsonObject properties = new JsonObject();
        message.getUserProperties().forEach((key, value) -> properties.addProperty(key.toString(), value.toString()));
        event.add("properties", properties);
        event.addProperty("born_ms", message.getBornTimestamp());
        event.addProperty("born_host", message.getBornHost());
        if (message.getStartDeliverTime() > 0) {
            event.addProperty("deliver_at_ms", message.getStartDeliverTime());
        }
        event.addProperty("attempt", message.getReconsumeTimes() + 1);
        event.addProperty("together", together);
        event.addProperty("result", result);
        events.emit(event);
    }

    /** These clients show an empty text where there is none. */
    private static String orNull(String text) {
        return text == null || text.isEmpty() ? null : text;
    }
}
