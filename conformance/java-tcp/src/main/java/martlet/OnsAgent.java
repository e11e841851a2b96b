package martlet;

import com.aliyun.openservices.ons.api.Action;
import com.aliyun.openservices.ons.api.Consumer;
import com.aliyun.openservices.ons.api.Message;
import com.aliyun.openservices.ons.api.ONSFactory;
import com.aliyun.openservices.ons.api.Producer;
import com.aliyun.openservices.ons.api.PropertyKeyConst;
import com.aliyun.openservices.ons.api.PropertyValueConst;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.HexFormat;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Drives the product's TCP client for Java of the first generation on the harness's behalf. */
public final class OnsAgent {
    private final TcpOptions options;
    private final TcpEvents events;
    private final CountDownLatch ended = new CountDownLatch(1);
    private final Map<String, Integer> deliveries = new ConcurrentHashMap<>();

    private OnsAgent(TcpOptions options, TcpEvents events) {
        this.options = options;
        this.events = events;
    }

    public static void main(String[] args) throws Exception {
        TcpEvents events = new TcpEvents();
        OnsAgent agent = new OnsAgent(TcpOptions.parse(args), events);
        switch (agent.options.command()) {
            case "produce" -> agent.produce();
            case "push" -> agent.push();
            default -> throw new IllegalArgumentException("unknown command " + agent.options.command());
        }
        events.emit(TcpEvents.event("done"));
        // The client's own threads must not keep a finished agent alive.
        Runtime.getRuntime().halt(0);
    }

    private Properties settings(String group) {
        Properties settings = new Properties();
        settings.setProperty(PropertyKeyConst.NAMESRV_ADDR, options.text("endpoint", ""));
        settings.setProperty(PropertyKeyConst.GROUP_ID, group);
        // The client insists on them.
        settings.setProperty(PropertyKeyConst.AccessKey, "access");
        settings.setProperty(PropertyKeyConst.SecretKey, "secret");
        return settings;
    }

    private void produce() throws IOException {
        Producer producer = ONSFactory.createProducer(settings("producers"));
        producer.start();
        events.emit(TcpEvents.event("ready"));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int index = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String id = producer.send(message(JsonParser.parseString(line).getAsJsonObject())).getMessageId();
            JsonObject event = TcpEvents.event("sent");
            event.addProperty("id", id);
            event.addProperty("index", index++);
            events.emit(event);
        }
        producer.shutdown();
    }

    private Message message(JsonObject input) {
        String tag = input.has("tag") ? input.get("tag").getAsString() : "";
        Message message =
                new Message(options.text("topic", ""), tag, HexFormat.of().parseHex(input.get("body_hex").getAsString()));
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

    private void push() throws InterruptedException {
        Thread watcher = new Thread(this::awaitStandardInput, "standard input");
        watcher.setDaemon(true);
        watcher.start();
        Properties settings = settings(options.text("group", ""));
        settings.setProperty(PropertyKeyConst.ConsumeThreadNums, "4");
        if (options.has("broadcasting")) {
            settings.setProperty(PropertyKeyConst.MessageModel, PropertyValueConst.BROADCASTING);
        }
        Consumer consumer = ONSFactory.createConsumer(settings);
        consumer.subscribe(options.text("topic", ""), options.text("filter", "*"), (message, context) -> consume(message));
        consumer.start();
        events.emit(TcpEvents.event("ready"));
        ended.await(options.number("deadline-secs", 60), TimeUnit.SECONDS);
        consumer.shutdown();
    }

    private void awaitStandardInput() {
        try {
            while (System.in.read() >= 0) {
                // Only its end matters.
            }
        } catch (IOException e) {
            events.failed("input_failed", e);
        }
        ended.countDown();
    }

    private Action consume(Message message) {
        int delivery = deliveries.merge(message.getMsgID(), 1, Integer::sum);
        boolean fails = options.has("fail-all") || delivery <= options.number("fail-first", 0);
        JsonObject event = TcpEvents.event("received");
        event.addProperty("id", message.getMsgID());
        event.addProperty("topic", message.getTopic());
        event.addProperty("at_us", ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()));
        event.addProperty("body_hex", HexFormat.of().formatHex(message.getBody()));
        JsonArray keys = new JsonArray();
        for (String key : message.getKey() == null || message.getKey().isEmpty() ? new String[0] : message.getKey().split(" ")) {
            keys.add(key);
        }
        event.add("keys", keys);
        event.addProperty("tag", message.getTag());
        JsonObject properties = new JsonObject();
        message.getUserProperties().forEach((key, value) -> properties.addProperty(key.toString(), value.toString()));
        event.add("properties", properties);
        event.addProperty("attempt", message.getReconsumeTimes() + 1);
        event.addProperty("result", fails ? "failure" : "success");
        events.emit(event);
        return fails ? Action.ReconsumeLater : Action.CommitMessage;
    }
}
